"""Encoder → pooling → dropout → linear head: the one classifier."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sacjax.models.pooling import Pooling


class Classifier(nnx.Module):
    """Any encoder with a pooling and a head."""

    def __init__(
        self, encoder: Any, *, pooling: str, dropout: float, num_classes: int, dtype: Any = jnp.float32, rngs: nnx.Rngs
    ):
        self.encoder = encoder
        self.pooling = Pooling(pooling, encoder.features, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(self.pooling.features, num_classes, rngs=rngs)

    def __call__(self, inputs: jax.Array, lengths: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Inputs of the encoder's kind, lengths [B] → logits float32 [B, C]."""
        output = self.encoder(inputs, lengths, rngs=rngs)
        pooled = self.pooling(output.frames, output.lengths)
        if rngs is not None:
            pooled = self.dropout(pooled, rngs=rngs)
        return self.head(pooled)
