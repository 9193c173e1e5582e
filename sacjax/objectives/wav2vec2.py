"""wav2vec 2.0's objective (Baevski et al. 2020): tell a masked frame's code from distractors.

All of it is inside the jitted step with static shapes. Only masked frames are quantized and
compared: the similarities of all pairs of a clip's masked frames are one matrix product, from which
each frame takes its positive and its negatives.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key
from ml_collections import ConfigDict

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.conv import valid
from sacjax.layers.dropout import drop
from sacjax.layers.masking import masked_positions
from sacjax.layers.quantizer import Quantized, Quantizer, perplexity
from sacjax.layers.similarity import NEVER, unit
from sacjax.models.base import Tokens
from sacjax.objectives.base import (
    LOSS,
    NEIGHBOURS,
    NORMS,
    Display,
    Loss,
    Objective,
    Sums,
    build_encoder,
)
from sacjax.objectives.masked import (
    MaskOptions,
    check_tokens,
    example_keys_of,
    feature_penalty,
    tokens_of,
)
from sacjax.train import metrics

HEALTHY = Path(__file__).with_name("wav2vec2_healthy.csv")


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Options(MaskOptions):
    """`objective.options` of wav2vec 2.0; the defaults are those published for base."""

    codebook_groups: int = 2  # G
    codebook_entries: int = 320  # V, of each group
    codebook_dim: int = 256  # of a quantized vector, over all groups
    projection_dim: int = 256  # in which predictions and targets are compared
    negatives: int = 100  # distractors of each masked frame
    logit_temperature: float = 0.1  # of the cosine similarities
    diversity_weight: float = 0.1
    feature_penalty: float = 0.0  # weight of the mean square of the token features; fairseq: 10
    feature_dropout: float = 0.0  # of the frames that are quantized; fairseq: 0.1
    temperature_start: float = 2.0  # of the Gumbel softmax: start · decay^step, at least end
    temperature_end: float = 0.5
    temperature_decay: float = 0.999995

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("negatives", "projection_dim", "logit_temperature", "temperature_end")
        self.require_not_negative("diversity_weight", "feature_penalty")
        self.require_shares("temperature_decay")
        self.require_rates("feature_dropout")
        if not self.temperature_start >= self.temperature_end:
            raise UserError(
                f"objective.options.temperature_start {self.temperature_start} is below "
                f"temperature_end {self.temperature_end}"
            )


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

    def __init__(self, encoder: Any, options: Wav2Vec2Options, rngs: nnx.Rngs):
        """Takes an encoder of tokens."""
        self.encoder, self.options = encoder, options
        self.quantizer = Quantizer(
            encoder.token_features,
            groups=options.codebook_groups,
            entries=options.codebook_entries,
            dim=options.codebook_dim,
            rngs=rngs,
        )
        self.project_hidden = nnx.Linear(encoder.features, options.projection_dim, rngs=rngs)
        self.project_quantized = nnx.Linear(options.codebook_dim, options.projection_dim, rngs=rngs)


class Masked(NamedTuple):
    """Which frames of a batch are masked, and what each is told from."""

    mask: Bool[Array, "batch frames"]
    """Whether a frame is masked."""

    positions: Int[Array, "batch masked"]
    """The masked frames in their order."""

    used: Bool[Array, "batch masked"]
    """Which of them there are."""

    negatives: Int[Array, "batch masked negatives"]
    """Numbers of other masked frames, as `positions` counts them."""


class Compared(NamedTuple):
    """Predictions beside targets, of the masked frames."""

    similarity: Float[Array, "batch masked masked"]
    """Of prediction k with target j, over the temperature."""

    same: Bool[Array, "batch masked masked"]
    """Whether two frames have equal codes."""

    quantized: Quantized
    """Of the masked frames."""

    predictions: Float[Array, "batch masked projection"]
    """Of length 1."""

    targets: Float[Array, "batch masked projection"]
    """Of length 1."""

    counted: Bool[Array, "batch masked"]
    """Frames that have another one to be told from."""

    count: Float[Array, ""]  # type: ignore[assignment]
    """Their number."""


class Wav2Vec2Objective(Objective):
    """wav2vec 2.0: tell a masked frame's quantized code from distractors of the same clip."""

    hears_targets = True
    Options = Wav2Vec2Options
    options: Wav2Vec2Options
    advice = (
        "what usually helps: a higher objective.options.diversity_weight or temperature_end, a "
        "larger batch or optimizer.accumulation, a lower optimizer.learning_rate with a longer "
        "warm-up, model.encoder.feature_gradient_scale=0.1"
    )

    @property
    def display(self) -> Display:  # type: ignore[override]
        """Its accuracy against chance, how many codes are in use, what a collapse shows in."""
        groups = range(1, self.options.codebook_groups + 1)
        perplexities = {f"train/code_perplexity_{k}": f"group {k}" for k in groups}
        return Display(
            bar={
                "loss": "train/loss",
                "contrastive": "train/contrastive_accuracy",
                "perplexity": "train/code_perplexity_1",
            },
            panels={
                "contrastive accuracy": {
                    "train/contrastive_accuracy": "train",
                    "validation/contrastive_accuracy": "validation",
                    "train/shuffled_accuracy": "shuffled targets",
                    "train/chance_accuracy": "chance",
                },
                "code perplexity, share of the entries": perplexities,
                "variance": {
                    "train/target_variance": "targets",
                    "train/prediction_variance": "predictions",
                },
                "loss": LOSS | {"train/diversity_loss": "diversity"},
                "nearest neighbours' accuracy": NEIGHBOURS,
                "norms": NORMS,
            },
            scales=dict.fromkeys(perplexities, 1 / self.options.codebook_entries),
            reference=HEALTHY,
        )

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for another encoder, or crops with no room for masks and negatives."""
        self = cls(stage)
        check_tokens(stage, self.options)
        nnx.eval_shape(lambda: self.build(nnx.Rngs(0)))

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters."""
        return Pretraining(build_encoder(self.stage, rngs), self.options, rngs)

    def temperature(self, progress: Float[Array, ""] | float) -> Float[Array, ""]:
        """Returns the Gumbel softmax's temperature after so many steps of the schedule."""
        o = self.options
        return jnp.maximum(o.temperature_start * o.temperature_decay**progress, o.temperature_end)

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over masked frames.

        In training, masks and negatives are keyed by the example's row. Otherwise they are keyed by
        its index in the data set, and the quantizer takes its most probable entries.
        """
        tokens = tokens_of(model.encoder, batch["views"][0], batch["mask"])
        keys = jax.vmap(jax.random.split)(example_keys_of(batch, ctx))
        masked = self.draw(keys, tokens.lengths, tokens.features.shape[1])
        return self.loss_of(model, tokens, masked, ctx)

    def draw(self, keys: Key[Array, "batch 2"], lengths: Int[Array, " batch"], size: int) -> Masked:
        """Draws masks and negatives for clips of `lengths` of `size` frames."""
        o = self.options
        mask = o.masks(keys[:, 0], lengths, size)
        positions, used = masked_positions(mask, o.most_masked(size))
        counts = used.sum(-1)
        return Masked(
            mask,
            positions,
            used,
            draw_negatives(keys[:, 1], counts, positions.shape[1], o.negatives),
        )

    def loss_of(self, model: Any, tokens: Tokens, masked: Masked, ctx: Context) -> Loss:
        """Returns the loss for given tokens, masks and negatives."""
        o = self.options
        compared = self.compare(model, tokens, masked, ctx)
        contrastive, positive, drawn = contrast(compared, masked)
        diversity, soft, chosen = self.diversity(compared, ctx)
        penalty, square = feature_penalty(tokens, compared.count)
        total = contrastive + o.diversity_weight * diversity + o.feature_penalty * penalty
        one = jnp.ones([])
        sums = {
            "loss": (total, compared.count),
            "contrastive_loss": (contrastive, compared.count),
            "diversity_loss": (diversity, compared.count),
            "feature_penalty": (penalty, compared.count),
            "softmax_perplexity": (soft / o.codebook_groups, one),
            "codes": (chosen.sum((0, 1)), compared.count),
            "temperature": (self.temperature(ctx.progress) * one, one),
            "feature_norm": (jnp.sqrt(square), one),
            **diagnostics(compared, masked, positive, drawn, tokens, o.negatives),
        }
        return Loss(total, compared.count, jax.lax.stop_gradient(sums))

    def compare(self, model: Any, tokens: Tokens, masked: Masked, ctx: Context) -> Compared:
        """Encodes the masked clip and compares its masked frames with all quantized ones."""
        o = self.options

        def take(x: Float[Array, "batch frames dim"]) -> Float[Array, "batch masked dim"]:
            return jnp.take_along_axis(x, masked.positions[..., None], 1)

        output = model.encoder.context(tokens, ctx.child(1), mask=masked.mask)
        heard = take(model.encoder.normalize(tokens.features))
        quantized = model.quantizer(
            drop(heard, o.feature_dropout, ctx.rng(3)),
            self.temperature(ctx.progress),
            ctx.rng(2),
        )
        targets = unit(model.project_quantized(quantized.vectors))
        predictions = unit(model.project_hidden(take(output.frames).astype(jnp.float32)))
        similarity = jnp.einsum(
            "bkp,bjp->bkj", predictions, targets, preferred_element_type=jnp.float32
        )
        same = (quantized.codes[:, :, None] == quantized.codes[:, None]).all(-1)
        # A lone masked frame has nothing to be told from.
        counted = masked.used & (masked.used.sum(-1, keepdims=True) > 1)
        count = counted.sum().astype(jnp.float32)
        return Compared(
            similarity / o.logit_temperature, same, quantized, predictions, targets, counted, count
        )

    def diversity(
        self, compared: Compared, ctx: Context
    ) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, "batch masked groups entries"]]:
        """Returns (sum of the diversity loss, softmax perplexity, one-hot codes)."""
        o = self.options
        entries = o.codebook_groups * o.codebook_entries
        weight = compared.counted[..., None, None].astype(jnp.float32)
        chosen = jax.nn.one_hot(compared.quantized.codes, o.codebook_entries) * weight
        shares = compared.quantized.probabilities * weight if ctx.train else chosen
        soft = perplexity(shares.sum((0, 1)) / jnp.maximum(compared.count, 1)).sum()
        return (entries - soft) / entries * compared.count, soft, chosen

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Returns means, and of the code counts each group's perplexity and the share in use."""
        host = jax.device_get(sums)
        codes, count = host.pop("codes")
        values = metrics.means(host)
        if count > 0:
            for group, share in enumerate(codes / count, 1):
                entropy = -(share * np.log(share + 1e-10)).sum()
                values[f"code_perplexity_{group}"] = float(np.exp(entropy))
            values["codes_used"] = float((codes > 0).mean())
        return values

    def describe(self, values: dict[str, float]) -> str:
        """Returns the accuracy beside chance, and how many codes are in use."""
        return (
            f"contrastive accuracy {100 * values['contrastive_accuracy']:.1f} % (chance "
            f"{100 * values['chance_accuracy']:.1f} %), code perplexity "
            f"{values.get('code_perplexity_1', 0.0):.1f}"
        )

    def health(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''."""
        o = self.options
        groups = [v for name, v in values.items() if name.startswith("code_perplexity_")]
        if groups and max(groups) < 1.5 and o.codebook_entries > 1:
            return (
                f"code perplexity {max(groups):.2f} of {o.codebook_entries}: one code for nearly "
                "all frames"
            )
        if values.get("identical_negatives", 0.0) > 0.95:
            share = 100 * values["identical_negatives"]
            return f"{share:.0f} % of the negatives equal their positive"
        if values.get("target_variance", 1.0) < 1e-4:
            return f"target variance {values['target_variance']:.1e}: all frames have one target"
        if values.get("prediction_variance", 1.0) < 1e-5:
            return f"prediction variance {values['prediction_variance']:.1e}: constant features"
        return ""

    def verdict(self, values: dict[str, float]) -> str:
        """Returns a warning where masked frames are found no more often than by chance."""
        chance = max(values["chance_accuracy"], values["shuffled_accuracy"])
        if values["contrastive_accuracy"] >= 1.1 * chance:
            return ""
        return (
            "has not learned to tell frames apart; what usually helps: more steps, and "
            "optimizer.freeze=(('encoder/conv', N),), which holds the convolutions still until the "
            "Transformer can predict"
        )


def contrast(
    compared: Compared, masked: Masked
) -> tuple[Float[Array, ""], Float[Array, "batch masked"], Float[Array, "batch masked masked"]]:
    """Compares each masked frame's prediction with its target and its negatives.

    A negative whose codes are those of the positive does not count.

    Returns:
      (sum of the contrastive loss, similarities of positives, how often each frame is drawn as a
      negative of each).
    """
    size = masked.positions.shape[1]
    drawn = times_drawn(masked.negatives, size)
    own = jnp.eye(size)
    positive = (compared.similarity * own).sum(-1)
    weights = own + jnp.where(compared.same, 0, drawn)
    everything = jax.nn.logsumexp(compared.similarity, -1, b=weights)
    return jnp.where(compared.counted, everything - positive, 0).sum(), positive, drawn


def times_drawn(
    negatives: Int[Array, "batch masked negatives"], size: int
) -> Float[Array, "batch masked {size}"]:
    """Returns how often each of `size` frames is drawn as a negative of each.

    All pairs are compared already: to pick them by number would be a gather of single numbers,
    and a scatter in the backward pass, which a TPU does one by one.
    """
    return (negatives[..., None] == jnp.arange(size)).sum(-2).astype(jnp.float32)


def diagnostics(
    compared: Compared,
    masked: Masked,
    positive: Float[Array, "batch masked"],
    drawn: Float[Array, "batch masked masked"],
    tokens: Tokens,
    negatives: int,
) -> Sums:
    """Returns what tells a healthy run from a collapsed one.

    `shuffled_accuracy` is the control: as if a frame's target were that of another masked frame.
    `chance_accuracy` counts frames of equal codes as one candidate, and a negative that is drawn
    twice once: it is 1 over how many different candidates to expect of so many `negatives`.
    """
    similarity, same = compared.similarity, compared.same
    counted, count, used = compared.counted, compared.count, masked.used
    numbers = jnp.arange(masked.positions.shape[1])
    total = jnp.maximum(used.sum(-1, keepdims=True), 1)
    other = ((numbers + jnp.maximum(total // 2, 1)) % total)[..., None]
    shuffled = jnp.where(other == numbers, similarity, 0).sum(-1)
    candidate = (drawn > 0) & ~same
    highest = jnp.where(candidate, similarity, NEVER).max(-1)
    of_other = jnp.take_along_axis(same, other, 1)
    highest_other = jnp.where(candidate & ~of_other, similarity, NEVER).max(-1)

    alike = same & used[:, None]
    share = jnp.minimum(alike.sum(-1) / jnp.maximum(total - 1, 1), 1)
    first = used & (jnp.argmax(alike, -1) == numbers)
    expected = jnp.where(first, 1 - (1 - share) ** negatives, 0)
    candidates = 1 + jnp.where(same, 0, expected[:, None]).sum(-1)

    def right(
        value: Float[Array, "batch masked"], top: Float[Array, "batch masked"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return (counted & (value > top)).sum().astype(jnp.float32), count

    coincide = jnp.where(same & counted[..., None], drawn, 0)
    frames = valid(tokens.features, tokens.lengths).sum().astype(jnp.float32)
    return {
        "contrastive_accuracy": right(positive, highest),
        "chance_accuracy": (jnp.where(counted, 1 / candidates, 0).sum(), count),
        "shuffled_accuracy": right(shuffled, highest_other),
        "identical_negatives": (coincide.sum(), count * negatives),
        "mask_share": (masked.mask.sum().astype(jnp.float32), frames),
        "masked_frames": (count, jnp.ones([])),
        "target_variance": _variance(compared.targets, counted, count),
        "prediction_variance": _variance(compared.predictions, counted, count),
    }


def _variance(
    x: Float[Array, "batch masked dim"], counted: Bool[Array, "batch masked"], count: jax.Array
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns (variance of unit vectors about their mean, 1), as a sum and its count.

    The variance is 0 when all vectors are equal, and at most 1.
    """
    mean = jnp.where(counted[..., None], x, 0).sum((0, 1)) / jnp.maximum(count, 1)
    return jnp.where(count > 0, 1 - jnp.square(mean).sum(), 0.0), (count > 0).astype(jnp.float32)


def draw_negatives(
    keys: Key[Array, " batch"], counts: Int[Array, " batch"], size: int, number: int
) -> Int[Array, "batch {size} {number}"]:
    """Returns the negatives of each masked frame.

    They are drawn with replacement from the other masked frames of its clip, which has `counts` of
    them.
    """

    def draw(key: Key[Array, ""], count: Int[Array, ""]) -> Int[Array, "masked negatives"]:
        uniform = jax.random.uniform(key, [size, number])
        others = jnp.maximum(count - 1, 1)
        drawn = jnp.minimum((uniform * others).astype(jnp.int32), others - 1)
        return jnp.minimum(drawn + (drawn >= jnp.arange(size)[:, None]), size - 1)

    return jax.vmap(draw)(keys, counts)
