"""wav2vec 2.0's objective (Baevski et al. 2020): find the quantized frame that was masked among distractors of the same clip.

All of it is inside the jitted step with static shapes. Only the masked frames are quantized and compared: similarities of all
pairs of a clip's masked frames are one matrix product, from which each frame takes its negatives.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax import models
from sacjax.augment.draws import example_keys
from sacjax.errors import UserError
from sacjax.layers.masking import most_masked, span_mask
from sacjax.layers.quantizer import Quantizer, perplexity
from sacjax.models.base import valid
from sacjax.models.wav2vec2 import Wav2Vec2, drop
from sacjax.objectives.base import Objective, Sums
from sacjax.train import metrics


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.<stage>.objective.options`; the defaults are those published for base."""

    codebook_groups: int = 2  # G
    codebook_entries: int = 320  # V, of each group
    codebook_dim: int = 256  # of a quantized vector, over all groups
    projection_dim: int = 256  # in which predictions and targets are compared
    mask_probability: float = (
        0.065  # that a frame starts a span; with mask_exact the share of frames masked
    )
    mask_span: int = 10  # frames
    mask_minimum: int = 2  # spans of a clip at the least
    mask_exact: bool = False
    negatives: int = 100  # distractors of each masked frame
    logit_temperature: float = 0.1  # of the cosine similarities
    diversity_weight: float = 0.1
    feature_penalty: float = (
        0.0  # weight of the mean square of the convolutions' frames; fairseq: 10
    )
    feature_dropout: float = 0.0  # of the frames that are quantized; fairseq: 0.1
    temperature_start: float = 2.0  # of the Gumbel softmax: start · decay^step, not below end
    temperature_end: float = 0.5
    temperature_decay: float = 0.999995
    collapse_patience: int = (
        10  # log lines in a row that look collapsed before the run stops; 0 = never
    )
    probe_examples: int = (
        0  # > 0: a k-nearest-neighbour probe at each evaluation, on so many labelled training clips
    )
    probe_neighbours: int = 10

    def spans(self) -> dict[str, Any]:
        """Returns the arguments of `span_mask` and `most_masked`."""
        return dict(
            probability=self.mask_probability, span=self.mask_span, minimum=self.mask_minimum, exact=self.mask_exact
        )  # fmt: skip


HUGGINGFACE_OPTIONS = {  # ours: the key in config.json of transformers' Wav2Vec2ForPreTraining
    "codebook_groups": "num_codevector_groups",
    "codebook_entries": "num_codevectors_per_group",
    "codebook_dim": "codevector_dim",
    "projection_dim": "proj_codevector_dim",
    "negatives": "num_negatives",
    "logit_temperature": "contrastive_logits_temperature",
    "diversity_weight": "diversity_loss_weight",
    "feature_dropout": "feat_quantizer_dropout",
}


class Pretraining(nnx.Module):
    """Encoder, quantizer and the two projections that are compared."""

    def __init__(self, encoder: Wav2Vec2, options: Options, rngs: nnx.Rngs):
        self.encoder, self.options = encoder, options
        self.quantizer = Quantizer(
            encoder.conv_features, groups=options.codebook_groups, entries=options.codebook_entries,
            dim=options.codebook_dim, rngs=rngs,
        )  # fmt: skip
        self.project_hidden = nnx.Linear(encoder.features, options.projection_dim, rngs=rngs)
        self.project_quantized = nnx.Linear(options.codebook_dim, options.projection_dim, rngs=rngs)


class Contrastive(Objective):
    """Pretrains `model.name = 'wav2vec2'` without labels."""

    Options = Options
    needs_labels = False

    def __init__(
        self, stage: ConfigDict, class_names: tuple[str, ...] = (), class_counts: Any = None
    ):
        self.stage = stage
        self.options = Options(**stage.objective.options)
        self.collapse_patience = self.options.collapse_patience

    @property
    def features(self) -> int:
        """D of the clip embeddings that `predict` gives."""
        return models.width(self.stage.model)

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for values out of range, another encoder, or crops with no room for masks and negatives."""
        self = cls(stage)
        o, where = self.options, "objective.options"
        if self.stage.model.name != "wav2vec2":
            raise UserError(
                f"objective.name=contrastive needs model.name=wav2vec2, not '{self.stage.model.name}'"
            )
        for name in (
            "mask_span",
            "negatives",
            "projection_dim",
            "logit_temperature",
            "temperature_end",
            "probe_neighbours",
        ):
            if not getattr(o, name) > 0:
                raise UserError(f"{where}.{name} is {getattr(o, name)}: it must be greater than 0")
        for name in (
            "mask_minimum",
            "diversity_weight",
            "feature_penalty",
            "collapse_patience",
            "probe_examples",
        ):
            if getattr(o, name) < 0:
                raise UserError(f"{where}.{name} is {getattr(o, name)}: it must not be negative")
        if not o.mask_probability and not o.mask_minimum:
            raise UserError(
                f"{where}.mask_probability and mask_minimum are 0: nothing would be masked, and nothing learned"
            )
        for name in ("mask_probability", "feature_dropout", "temperature_decay"):
            if not 0 <= getattr(o, name) <= 1:
                raise UserError(
                    f"{where}.{name} is {getattr(o, name)}: it must lie between 0 and 1"
                )
        if o.feature_dropout == 1:
            raise UserError(f"{where}.feature_dropout is 1: it must be below 1")
        if not o.temperature_start >= o.temperature_end:
            raise UserError(
                f"{where}.temperature_start {o.temperature_start} is below temperature_end {o.temperature_end}"
            )
        model: Any = nnx.eval_shape(lambda: self.build(nnx.Rngs(0)))
        size = round(self.stage.data.seconds * self.stage.data.sample_rate)
        frames = int(model.encoder.frame_lengths(size))
        if frames < o.mask_span + 1:
            raise UserError(
                f"data.seconds={self.stage.data.seconds} gives {frames} frames a clip: a masked span of {where}.mask_span={o.mask_span} "
                "leaves none to tell it from; raise the one or lower the other"
            )

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the model with fresh parameters."""
        return Pretraining(
            models.build_encoder(self.stage.model, num_features=1, rngs=rngs), self.options, rngs
        )

    def temperature(self, progress: Any) -> Any:
        """Returns the Gumbel softmax's temperature after so many steps of the schedule."""
        o = self.options
        return jnp.maximum(o.temperature_start * o.temperature_decay**progress, o.temperature_end)

    def loss(
        self, model: Any, batch: dict, rngs: nnx.Rngs | None = None
    ) -> tuple[tuple[Any, Any], Sums]:
        """Returns ((sum, count) of the loss over masked frames, metrics).

        Masks and negatives are keyed by the example's row, or, without `rngs`, by its place in the data set; the quantizer then
        takes its most probable entries.

        Args:
          batch: `inputs` [B, T], `input_length` [B], `mask` [B], `index` [B], and `progress` [], steps of the schedule so far.
        """
        o = self.options
        features, lengths = model.encoder.convolve(batch["inputs"], batch["input_length"])
        key = jax.random.key(0) if rngs is None else rngs.dropout()
        rows = batch["index"] if rngs is None else jnp.arange(len(lengths))
        keys = jax.vmap(jax.random.split)(example_keys(key, rows))
        lengths = jnp.where(batch["mask"] > 0, lengths, 0)
        mask = masks(keys[:, 0], lengths, features.shape[1], o)
        positions, used = masked_positions(mask, most_masked(features.shape[1], **o.spans()))
        negatives = draw_negatives(keys[:, 1], used.sum(-1), positions.shape[1], o.negatives)
        return self.loss_of(
            model,
            features,
            lengths,
            mask,
            positions,
            used,
            negatives,
            batch.get("progress", 0.0),
            rngs,
        )

    def loss_of(
        self, model: Any, features: Any, lengths: Any, mask: Any, positions: Any, used: Any, negatives: Any, progress: Any,
        rngs: nnx.Rngs | None,
    ) -> tuple[tuple[Any, Any], Sums]:  # fmt: skip
        """The loss for given masks and negatives.

        Args:
          features, lengths: of `encoder.convolve`.
          mask: bool [B, T'].
          positions, used: [B, K], the masked frames' places and which of the K there are.
          negatives: [B, K, N], places among the K.
        """
        o = self.options
        output, normed = model.encoder.contextualize(features, lengths, mask, rngs=rngs)
        take = lambda x: jnp.take_along_axis(x, positions[..., None], 1)  # noqa: E731
        gumbel, feature_key = (None, None) if rngs is None else (rngs.dropout(), rngs.dropout())
        quantized = model.quantizer(
            drop(take(normed), o.feature_dropout, feature_key), self.temperature(progress), gumbel
        )
        targets = unit(model.project_quantized(quantized.vectors))
        predictions = unit(model.project_hidden(take(output.frames).astype(jnp.float32)))
        similarity = (
            jnp.einsum("bkp,bjp->bkj", predictions, targets, preferred_element_type=jnp.float32)
            / o.logit_temperature
        )
        same = (quantized.codes[:, :, None] == quantized.codes[:, None]).all(-1)
        counted = used & (
            used.sum(-1, keepdims=True) > 1
        )  # a lone masked frame has nothing to be told from
        count = counted.sum().astype(jnp.float32)

        positive = jnp.diagonal(similarity, axis1=1, axis2=2)
        coincide = jnp.take_along_axis(same, negatives, -1)
        negative = jnp.where(coincide, -1e30, jnp.take_along_axis(similarity, negatives, -1))
        highest = negative.max(-1)
        everything = jnp.concatenate([positive[..., None], negative], -1)
        contrastive = jnp.where(counted, jax.nn.logsumexp(everything, -1) - positive, 0).sum()

        entries = o.codebook_groups * o.codebook_entries
        weight = counted[..., None, None].astype(jnp.float32)
        chosen = jax.nn.one_hot(quantized.codes, o.codebook_entries) * weight
        shares = quantized.probabilities * weight if rngs is not None else chosen
        soft = perplexity(shares.sum((0, 1)) / jnp.maximum(count, 1)).sum()
        diversity = (entries - soft) / entries * count
        inside = valid(features, lengths)
        valid_frames = inside.sum().astype(jnp.float32)
        square = jnp.where(inside, jnp.square(features.astype(jnp.float32)), 0).sum() / jnp.maximum(
            valid_frames, 1
        )
        penalty = square / features.shape[-1] * count
        total = contrastive + o.diversity_weight * diversity + o.feature_penalty * penalty

        # The control: as if the target were that of another masked frame of the clip.
        places = jnp.arange(positions.shape[1])
        number = jnp.maximum(used.sum(-1, keepdims=True), 1)
        other_place = ((places + jnp.maximum(number // 2, 1)) % number)[..., None]
        other = jnp.take_along_axis(similarity, other_place, -1)[..., 0]
        same_other = jnp.take_along_axis(jnp.take_along_axis(same, other_place, 1), negatives, -1)
        highest_other = jnp.where(same_other, -1e30, negative).max(-1)
        one = jnp.ones([])
        right = lambda value, top: ((counted & (value > top)).sum().astype(jnp.float32), count)  # noqa: E731
        # Chance: frames of equal codes are one candidate, and so is a negative drawn twice; how many different ones to expect.
        alike = same & used[:, None]
        share = jnp.minimum(alike.sum(-1) / jnp.maximum(number - 1, 1), 1)
        drawn = jnp.where(
            used & (jnp.argmax(alike, -1) == places), 1 - (1 - share) ** o.negatives, 0
        )
        candidates = 1 + jnp.where(same, 0, drawn[:, None]).sum(-1)
        sums = {
            "loss": (total, count),
            "contrastive_loss": (contrastive, count),
            "diversity_loss": (diversity, count),
            "feature_penalty": (penalty, count),
            "contrastive_accuracy": right(positive, highest),
            "chance_accuracy": (jnp.where(counted, 1 / candidates, 0).sum(), count),
            "shuffled_accuracy": right(other, highest_other),
            "identical_negatives": (
                (coincide & counted[..., None]).sum().astype(jnp.float32),
                count * o.negatives,
            ),
            "softmax_perplexity": (soft / o.codebook_groups, one),
            "codes": (chosen.sum((0, 1)), count),
            "temperature": (self.temperature(progress) * one, one),
            "mask_share": (mask.sum().astype(jnp.float32), valid_frames),
            "masked_frames": (count, one),
            "target_variance": _variance(targets, counted, count),
            "prediction_variance": _variance(predictions, counted, count),
            "feature_norm": (jnp.sqrt(square), one),
        }
        return (total, count), jax.lax.stop_gradient(sums)

    def predict(self, model: Any, batch: dict) -> Any:
        """Returns clip embeddings float32 [B, D]: the mean of the last layer's frames."""
        output = model.encoder(batch["inputs"], batch["input_length"])
        return output.frames.astype(jnp.float32).sum(1) / jnp.maximum(output.lengths, 1)[:, None]

    def probabilities(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns them as they are: there are no classes."""
        return embeddings

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Returns the metrics on the host: means, and of the code counts each group's perplexity and the share of codes used."""
        host = jax.device_get(sums)
        codes, count = host.pop("codes")
        values = metrics.means(host)
        if count > 0:
            for group, share in enumerate(codes / count, 1):
                values[f"code_perplexity_{group}"] = float(
                    np.exp(-(share * np.log(share + 1e-10)).sum())
                )
            values["codes_used"] = float((codes > 0).mean())
        return values

    def collapse(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''."""
        o = self.options
        perplexities = [
            value for name, value in values.items() if name.startswith("code_perplexity_")
        ]
        if perplexities and max(perplexities) < 1.5 and o.codebook_entries > 1:
            return f"code perplexity {max(perplexities):.2f} of {o.codebook_entries}: one code for nearly all frames"
        if values.get("identical_negatives", 0.0) > 0.95:
            return (
                f"{100 * values['identical_negatives']:.0f} % of the negatives equal their positive"
            )
        if values.get("target_variance", 1.0) < 1e-4:
            return (
                f"target variance {values['target_variance']:.1e}: all frames have the same target"
            )
        if values.get("prediction_variance", 1.0) < 1e-5:
            return f"prediction variance {values['prediction_variance']:.1e}: the features are constant"
        return ""

    advice = (
        "what usually helps: a higher objective.options.diversity_weight or temperature_end, a larger batch or "
        "optimizer.accumulation, a lower optimizer.learning_rate with a longer warm-up, model.encoder.feature_gradient_scale=0.1"
    )


def unit(x: jax.Array) -> jax.Array:
    """Returns vectors of length 1; a vector of zeros stays one, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-16))


def _variance(x: jax.Array, counted: jax.Array, count: jax.Array) -> tuple[Any, Any]:
    """Returns (variance of unit vectors [B, K, P] about their mean, from 0 when all are equal to 1; 1)."""
    mean = jnp.where(counted[..., None], x, 0).sum((0, 1)) / jnp.maximum(count, 1)
    return jnp.where(count > 0, 1 - jnp.square(mean).sum(), 0.0), (count > 0).astype(jnp.float32)


def masks(keys: jax.Array, lengths: jax.Array, size: int, options: Options) -> jax.Array:
    """Returns the masks bool [B, size] of clips of so many frames, one key each."""
    return jax.vmap(lambda key, n: span_mask(key, n, size, **options.spans()))(keys, lengths)


def masked_positions(mask: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Returns (places of the masked frames in their order, int32 [B, most]; which of them there are, bool [B, most])."""
    frames = jnp.arange(mask.shape[1])
    order = jnp.argsort(jnp.where(mask, frames, mask.shape[1] + frames), axis=-1)[:, :most]
    return order, jnp.arange(most) < mask.sum(-1, keepdims=True)


def draw_negatives(keys: jax.Array, counts: jax.Array, size: int, number: int) -> jax.Array:
    """Returns int32 [B, size, number]: for each masked frame, others of its clip's `counts`, never itself, with repeats."""

    def draw(key: jax.Array, count: jax.Array) -> jax.Array:
        uniform = jax.random.uniform(key, [size, number])
        others = jnp.maximum(count - 1, 1)
        place = jnp.minimum((uniform * others).astype(jnp.int32), others - 1)
        return jnp.minimum(place + (place >= jnp.arange(size)[:, None]), size - 1)

    return jax.vmap(draw)(keys, counts)
