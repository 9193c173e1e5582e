"""What objectives over masked tokens share: which are masked, and the loss of fixed codes."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from ml_collections import ConfigDict

from sacjax import models
from sacjax.augment.draws import example_keys, fold_in
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers import masking
from sacjax.layers.conv import valid
from sacjax.models.base import Tokens
from sacjax.objectives.base import LOSS, NEIGHBOURS, NORMS, Display, Loss, Objective, Options, Sums
from sacjax.objectives.tokens import is_token_encoder, token_number
from sacjax.train import metrics
from sacjax.views import View


@dataclasses.dataclass(frozen=True)
class MaskOptions(Options):
    """Which tokens an objective masks; the base of its `objective.options`."""

    mask_probability: float = 0.065  # of starting a span at a token; mask_exact: share masked
    mask_span: int = 10  # tokens
    mask_minimum: int = 2  # spans of a clip at the least
    mask_exact: bool = False

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("mask_span")
        self.require_not_negative("mask_minimum")
        self.require_shares("mask_probability")
        if not self.mask_probability and not self.mask_minimum:
            raise UserError(
                "objective.options.mask_probability and mask_minimum are 0: nothing would be "
                "masked, and nothing learned"
            )

    def spans(self) -> dict[str, Any]:
        """Returns the arguments of `span_mask` and `most_masked`."""
        return dict(
            probability=self.mask_probability,
            span=self.mask_span,
            minimum=self.mask_minimum,
            exact=self.mask_exact,
        )

    def masks(
        self, keys: Key[Array, " batch"], lengths: Int[Array, " batch"], size: int
    ) -> Bool[Array, "batch {size}"]:
        """Returns the masks of clips of so many valid tokens of `size`, one key each."""
        draw = lambda key, n: masking.span_mask(key, n, size, **self.spans())
        return jax.vmap(draw)(keys, lengths)

    def most_masked(self, size: int) -> int:
        """Returns the most tokens that `masks` can mask in a clip of `size`."""
        return masking.most_masked(size, **self.spans())


def check_tokens(stage: ConfigDict, options: MaskOptions) -> None:
    """Raises UserError for an encoder without tokens, or crops with no room for a masked span."""
    if not is_token_encoder(stage.model):
        good = (name for name, kind in models.ENCODERS.items() if _is_tokens(kind))
        raise UserError(
            f"objective.name={stage.objective.name} needs model.name={' or '.join(good)}, "
            f"not '{stage.model.name}'"
        )
    number = token_number(stage)
    if number < options.mask_span + 1:
        seconds = min(stage.data.seconds, stage.augment.crop_seconds or stage.data.seconds)
        raise UserError(
            f"data.seconds={seconds} gives {number} frames a clip: a masked span of "
            f"objective.options.mask_span={options.mask_span} leaves none to tell it "
            "from; raise the one or lower the other"
        )


def _is_tokens(kind: type) -> bool:
    return issubclass(kind, models.TokenEncoder)


def tokens_of(encoder: Any, view: View, mask: jax.Array) -> Tokens:
    """Returns the tokens of a view; rows of mask [B] 0 have none."""
    tokens = encoder.tokens(view.inputs, view.lengths)
    return tokens._replace(lengths=jnp.where(mask > 0, tokens.lengths, 0))


def example_keys_of(batch: dict[str, Any], ctx: Context) -> jax.Array:
    """Returns a key of each example [B]: in training by its row, else by its place in the data."""
    key = ctx.rng(0)
    rows = jnp.arange(len(batch["mask"])) if ctx.train else batch["index"]
    return example_keys(jax.random.key(0) if key is None else key, rows)


def take(
    x: Float[Array, "batch tokens ..."] | Int[Array, "batch tokens ..."],
    positions: Int[Array, "batch taken"],
) -> Float[Array, "batch taken ..."] | Int[Array, "batch taken ..."]:
    """Returns the tokens of each clip at its positions."""
    return jnp.take_along_axis(x, positions.reshape(positions.shape + (1,) * (x.ndim - 2)), 1)


def feature_penalty(tokens: Tokens, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (fairseq's penalty as a sum over `count`, mean square over a frame's features)."""
    features = tokens.features
    inside = valid(features, tokens.lengths)
    number = jnp.maximum(inside.sum().astype(jnp.float32), 1)
    square = jnp.where(inside, jnp.square(features.astype(jnp.float32)), 0).sum() / number
    return square / features.shape[-1] * count, square


@dataclasses.dataclass(frozen=True)
class CodeOptions(MaskOptions):
    """Options of an objective that predicts fixed codes of masked tokens."""

    targets_from: Literal["source", "view"] = "source"  # the crop before or after augmentation
    feature_penalty: float = 0.0  # weight of the mean square of the token features; fairseq: 10

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_not_negative("feature_penalty")


class MaskedCodes(Objective):
    """Base of objectives that tell the codes of masked tokens, which do not learn.

    A subclass gives `codes` and `logits`.
    """

    hears_targets = True
    options: Any
    advice = (
        "what usually helps: frontend.normalize=band, fewer codes, clips that are not silent for "
        "the most part"
    )
    display = Display(
        bar={"loss": "train/loss", "accuracy": "train/masked_accuracy"},
        panels={
            "loss": LOSS,
            "masked tokens whose code is told": {
                "train/masked_accuracy": "train",
                "validation/masked_accuracy": "validation",
                "train/chance_accuracy": "the commonest code",
            },
            "perplexity of codes": {
                "train/target_perplexity": "targets",
                "train/prediction_perplexity": "predictions",
            },
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        },
    )

    def codes(self, model: Any, view: View, tokens: Tokens, positions: jax.Array) -> jax.Array:
        """Returns the codes of the tokens at positions [B, K] of a view, int32 [B, K, G]."""
        raise NotImplementedError

    def logits(self, model: Any, frames: jax.Array) -> jax.Array:
        """Returns the logits of codes, float32 [B, K, G, V], of frames [B, K, D]."""
        raise NotImplementedError

    def corrupt(self, view: View, mask: jax.Array, keys: jax.Array) -> View | None:
        """Returns the view with noise where tokens are masked; None: by the mask embedding."""
        return None

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean cross-entropy of the masked tokens' codes.

        In training, masks are keyed by the example's row, else by its index in the data set.
        """
        view, keys = batch["views"][0], example_keys_of(batch, ctx)
        tokens = tokens_of(model.encoder, view, batch["mask"])
        size = tokens.features.shape[1]
        mask = self.options.masks(keys, tokens.lengths, size)
        corrupted = self.corrupt(view, mask, fold_in(keys, 1))
        embedded = mask
        if corrupted is not None:
            tokens = tokens_of(model.encoder, corrupted, batch["mask"])
            embedded = jnp.zeros_like(mask)
        output = model.encoder.context(tokens, ctx.child(1), mask=embedded)
        positions, used = masking.masked_positions(mask, self.options.most_masked(size))
        source = batch["source"] if self.options.targets_from == "source" else view
        codes = jax.lax.stop_gradient(self.codes(model, source, tokens, positions))
        logits = self.logits(model, take(output.frames, positions).astype(jnp.float32))
        total, sums = cross_entropy(logits, codes, used)
        count = used.sum().astype(jnp.float32)
        penalty, _ = feature_penalty(tokens, count)
        total = total + self.options.feature_penalty * penalty
        sums["loss"] = total, count
        number = valid(tokens.features, tokens.lengths).sum().astype(jnp.float32)
        sums["mask_share"] = count, number
        return Loss(total, count, jax.lax.stop_gradient(sums))

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Returns means, and of the counts of codes their perplexity, use and commonest share."""
        host = jax.device_get(sums)
        (codes, count), (told, _) = host.pop("codes"), host.pop("told")
        values = metrics.means(host)
        if count > 0:
            values["target_perplexity"] = _perplexity(codes / count)
            values["prediction_perplexity"] = _perplexity(told / count)
            values["codes_used"] = float((codes > 0).mean())
            values["chance_accuracy"] = float((codes / count).max(-1).mean())
        return values

    def describe(self, values: dict[str, float]) -> str:
        """Returns the accuracy beside that of always telling the commonest code."""
        return (
            f"masked accuracy {100 * values['masked_accuracy']:.1f} % (commonest code "
            f"{100 * values.get('chance_accuracy', 0.0):.1f} %)"
        )

    def health(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''."""
        perplexity = values.get("target_perplexity", 2.0)
        if perplexity < 1.2:
            return f"perplexity of the targets {perplexity:.2f}: one code for nearly all tokens"
        return ""

    def verdict(self, values: dict[str, float]) -> str:
        """Returns a warning where codes are told no better than the commonest one would be."""
        if values["masked_accuracy"] >= 1.05 * values.get("chance_accuracy", 0.0):
            return ""
        return (
            "tells masked tokens no better than by always naming the commonest code; what usually "
            "helps: more steps, a higher optimizer.learning_rate, fewer codes"
        )


def cross_entropy(
    logits: Float[Array, "batch taken books codes"],
    targets: Int[Array, "batch taken books"],
    used: Bool[Array, "batch taken"],
) -> tuple[Float[Array, ""], Sums]:
    """Returns (sum over the tokens of the mean over codebooks of the cross-entropy; metrics).

    Args:
      logits: of each codebook's codes.
      targets: the right codes.
      used: which tokens count.
    """
    log = jax.nn.log_softmax(logits, -1)
    right = jnp.take_along_axis(log, targets[..., None], -1)[..., 0]
    total = -jnp.where(used[..., None], right, 0).sum() / targets.shape[-1]
    told = logits.argmax(-1)
    count = used.sum().astype(jnp.float32)
    hits = jnp.where(used[..., None], told == targets, False).sum() / targets.shape[-1]
    return total, {
        "masked_accuracy": (hits.astype(jnp.float32), count),
        "codes": (_counts(targets, used, logits.shape[-1]), count),
        "told": (_counts(told, used, logits.shape[-1]), count),
    }


def _counts(codes: jax.Array, used: jax.Array, number: int) -> jax.Array:
    """Returns how often each code comes, float32 [G, number]."""
    books = jnp.arange(codes.shape[-1])
    weight = jnp.broadcast_to(used[..., None].astype(jnp.float32), codes.shape)
    return jnp.zeros([len(books), number]).at[books, codes].add(weight)


def _perplexity(shares: np.ndarray) -> float:
    """Returns e to the entropy of shares [G, V], as a mean over the codebooks."""
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return float(np.exp(-(shares * logs).sum(-1)).mean())
