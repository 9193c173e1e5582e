"""What SimCLR and COLA share: two views of each clip, their vectors, and how a collapse looks."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from sacjax import models
from sacjax.context import Context
from sacjax.layers.pooling import Pooling, pooled_width
from sacjax.objectives.base import Objective
from sacjax.views import View

COLLAPSED = 0.1
"""A spread below this is called a collapse; 1 is uniform on the sphere."""


class ClipModel(nnx.Module):
    """Encoder and pooling; a subclass adds its head."""

    def __init__(self, encoder: Any, pooling: str, rngs: nnx.Rngs):
        """Takes any encoder, and how its frames are pooled."""
        self.encoder = encoder
        self.pooling = Pooling(pooling, encoder.features, rngs=rngs)

    def clip(self, view: View, ctx: Context) -> Float[Array, "batch pooled"]:
        """Returns the clip vectors of a view."""
        output = self.encoder(view.inputs, view.lengths, ctx)
        return self.pooling(output.frames, output.lengths)


class ClipContrast(Objective):
    """Base of objectives that tell clips apart by their vectors; its model is a `ClipModel`."""

    options: Any
    views = 2

    @property
    def features(self) -> int:
        """D of the embeddings: of the pooled frames."""
        return pooled_width(self.stage.model.pooling, models.width(self.stage.model))

    def embed(self, model: Any, batch: dict[str, Any], ctx: Context) -> jax.Array:
        """Returns the pooled frames, float32 [B, D]: what lies before the head."""
        return model.clip(batch["views"][0], ctx)

    def health(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''."""
        if values.get("spread", 1.0) < COLLAPSED:
            return f"spread {values['spread']:.2g} of 1: all clips have nearly one embedding"
        return ""
