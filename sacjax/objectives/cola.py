"""COLA (Saeed et al. 2021, "Contrastive Learning of General-Purpose Audio Representations").

Two crops of each clip: an anchor and a positive. A bilinear form compares every anchor with every
positive of the batch, and a softmax must choose the anchor's own. The batch is the global one:
under sharding, the negatives are those of all devices.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.norm import LayerNorm
from sacjax.layers.similarity import NEVER, spread, unit
from sacjax.objectives.base import LOSS, NEIGHBOURS, NORMS, Display, Loss, Options, build_encoder
from sacjax.objectives.clips import ClipContrast, ClipModel
from sacjax.views import join


@dataclasses.dataclass(frozen=True)
class ColaOptions(Options):
    """`objective.options` of COLA; the defaults are those published."""

    projection_dim: int = 512  # in which crops are compared
    similarity: Literal["bilinear", "cosine"] = "bilinear"
    temperature: float = 0.2  # of the cosine; the bilinear form learns its own scale

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("projection_dim", "temperature")


class ColaModel(ClipModel):
    """Encoder, pooling, projection and the bilinear form."""

    def __init__(self, encoder: Any, pooling: str, options: ColaOptions, rngs: nnx.Rngs):
        """Takes any encoder, and how its frames are pooled."""
        super().__init__(encoder, pooling, rngs)
        self.options, p = options, options.projection_dim
        self.projection = nnx.Linear(self.pooling.features, p, rngs=rngs)
        if options.similarity == "bilinear":
            self.norm = LayerNorm(p, dtype=jnp.float32, rngs=rngs)
            values = nnx.initializers.normal(p**-0.5)(rngs.params(), (p, p))
            self.bilinear = nnx.Param(values)

    def project(self, vectors: Float[Array, "batch pooled"]) -> Float[Array, "batch projected"]:
        """Returns the projections that are compared."""
        x = self.projection(vectors)
        return jnp.tanh(self.norm(x)) if self.options.similarity == "bilinear" else unit(x)

    def similarities(
        self, anchors: Float[Array, "batch projected"], positives: Float[Array, "batch projected"]
    ) -> Float[Array, "batch batch"]:
        """Returns the logit of each anchor (row) with each positive (column)."""
        if self.options.similarity == "bilinear":
            return anchors @ self.bilinear[...] @ positives.T
        return anchors @ positives.T / self.options.temperature


class Cola(ClipContrast):
    """COLA: tell a clip's other crop from other clips' crops by a bilinear similarity."""

    Options = ColaOptions
    options: ColaOptions
    advice = (
        "what usually helps: a larger train.batch_size, a lower optimizer.learning_rate, crops "
        "that are less alike (augment.crop_seconds)"
    )
    display = Display(
        bar={"loss": "train/loss", "accuracy": "train/crop_accuracy"},
        panels={
            "loss": LOSS,
            "share of crops that find their other one": {
                "train/crop_accuracy": "train",
                "validation/crop_accuracy": "validation",
            },
            "spread of projections, 1 = uniform on the sphere": {"train/spread": "train"},
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        },
    )

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError where both crops would be the same sound."""
        if not stage.augment.crop_seconds and not stage.augment.waveform:
            raise UserError(
                "augment.crop_seconds is 0 and augment.waveform is empty: both crops of a clip "
                "would be the same; set augment.crop_seconds below data.seconds"
            )

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters."""
        encoder = build_encoder(self.stage, rngs)
        return ColaModel(encoder, self.stage.model.pooling, self.options, rngs)

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean cross-entropy over anchors."""
        mask = batch["mask"]
        both = join(*batch["views"])
        projections = model.project(model.clip(both, ctx.child(0)))
        anchors, positives = jnp.split(projections, 2)
        logits = jnp.where((mask > 0)[None, :], model.similarities(anchors, positives), NEVER)
        own = jnp.diagonal(logits)
        losses = jnp.where(mask > 0, jax.nn.logsumexp(logits, -1) - own, 0)
        right = (logits.argmax(-1) == jnp.arange(len(mask))).astype(jnp.float32)
        total, count = losses.sum(), mask.sum()
        sums = {
            "loss": (total, count),
            "crop_accuracy": ((right * mask).sum(), count),
            "spread": spread(unit(projections), jnp.concatenate([mask] * 2)),
        }
        return Loss(total, count, jax.lax.stop_gradient(sums))

    def describe(self, values: dict[str, float]) -> str:
        """Returns the loss and how many crops find their other one."""
        return f"loss {values['loss']:.3f}, crops found {100 * values['crop_accuracy']:.1f} %"
