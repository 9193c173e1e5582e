"""SimCLR for audio (Chen et al. 2020; Fonseca et al. 2021): find a clip's other view in the batch.

Two augmented views of each clip go through encoder, pooling and projector. Each view is told from
all other views of the batch by a softmax over cosines (NT-Xent). The batch is the global one: under
sharding, the negatives are those of all devices.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sacjax.context import Context
from sacjax.layers.heads import MLP
from sacjax.layers.similarity import NEVER, spread, unit
from sacjax.objectives.base import LOSS, NEIGHBOURS, NORMS, Display, Loss, Options, build_encoder
from sacjax.objectives.clips import ClipContrast, ClipModel
from sacjax.views import join


@dataclasses.dataclass(frozen=True)
class SimCLROptions(Options):
    """`objective.options` of SimCLR."""

    hidden: int = 512  # width inside the projector
    projection_dim: int = 128  # in which views are compared
    temperature: float = 0.2  # of the cosines

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("hidden", "projection_dim", "temperature")


class SimCLRModel(ClipModel):
    """Encoder, pooling and projector."""

    def __init__(self, encoder: Any, pooling: str, options: SimCLROptions, rngs: nnx.Rngs):
        """Takes any encoder, and how its frames are pooled."""
        super().__init__(encoder, pooling, rngs)
        self.projector = MLP(self.pooling.features, options.hidden, options.projection_dim, rngs)


class SimCLR(ClipContrast):
    """SimCLR: tell a clip's other view from all other clips of the batch (NT-Xent)."""

    Options = SimCLROptions
    options: SimCLROptions
    advice = (
        "what usually helps: a larger train.batch_size, a lower optimizer.learning_rate, weaker "
        "augmentation"
    )
    display = Display(
        bar={"loss": "train/loss", "accuracy": "train/view_accuracy"},
        panels={
            "loss": LOSS,
            "share of views that find their other one": {
                "train/view_accuracy": "train",
                "validation/view_accuracy": "validation",
            },
            "spread of projections, 1 = uniform on the sphere": {"train/spread": "train"},
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        },
    )

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters."""
        encoder = build_encoder(self.stage, rngs)
        return SimCLRModel(encoder, self.stage.model.pooling, self.options, rngs)

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean cross-entropy over the views of the batch's clips."""
        mask = jnp.concatenate([batch["mask"]] * 2)
        both = join(*batch["views"])  # batch norm sees both views together
        vectors = model.clip(both, ctx.child(0))
        projections = unit(model.projector(vectors, mask, ctx.child(1)))
        losses, right = nt_xent(projections, mask, self.options.temperature)
        total, count = (losses * mask).sum(), mask.sum()
        sums = {
            "loss": (total, count),
            "view_accuracy": ((right * mask).sum(), count),
            "spread": spread(projections, mask),
        }
        return Loss(total, count, jax.lax.stop_gradient(sums))

    def describe(self, values: dict[str, float]) -> str:
        """Returns the loss and how many views find their other one."""
        return f"loss {values['loss']:.3f}, views found {100 * values['view_accuracy']:.1f} %"


def nt_xent(
    x: Float[Array, "views features"], mask: Float[Array, " views"], temperature: float
) -> tuple[Float[Array, " views"], Float[Array, " views"]]:
    """Returns (the cross-entropy of each view; 1 where its other view is the nearest of all).

    Args:
      x: unit vectors: the first views of all clips, then their second views.
      mask: 0 for views of padding examples, which are nobody's negatives.
      temperature: that divides the cosines.
    """
    views = len(x)
    itself = jnp.eye(views, dtype=bool)
    allowed = ~itself & (mask > 0)[None, :]
    logits = jnp.where(allowed, x @ x.T / temperature, NEVER)
    other = jnp.roll(jnp.arange(views), views // 2)
    positive = jnp.take_along_axis(logits, other[:, None], 1)[:, 0]
    losses = jax.nn.logsumexp(logits, -1) - positive
    right = (logits.argmax(-1) == other).astype(jnp.float32)
    return jnp.where(mask > 0, losses, 0), right
