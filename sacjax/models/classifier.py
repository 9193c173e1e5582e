"""Encoder → pooling → dropout → linear head: the one classifier."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sacjax.errors import UserError
from sacjax.layers.pooling import Pooling


class Classifier(nnx.Module):
    """Any encoder with a pooling and a head."""

    def __init__(
        self, encoder: Any, *, pooling: str, num_classes: int, layers: str = "last", projection: int = 0, dropout: float = 0.0,
        dtype: Any = jnp.float32, rngs: nnx.Rngs,
    ):  # fmt: skip
        """Args:
          layers: last, or weighted: a learned weighted sum of the outputs of all of the encoder's layers (SUPERB; Yang et al. 2021).
          projection: features of a linear map before pooling; 0 = none.

        Raises:
          UserError: layers=weighted of an encoder that has no stack of layers.
        """
        if layers == "weighted" and not hasattr(encoder, "depth"):
            raise UserError(
                "model.layers=weighted needs an encoder with a stack of layers, such as wav2vec2"
            )
        self.encoder = encoder
        self.layer_weights = (
            nnx.Param(jnp.zeros([encoder.depth + 1])) if layers == "weighted" else None
        )
        self.project = (
            nnx.Linear(encoder.features, projection, dtype=dtype, rngs=rngs) if projection else None
        )
        self.pooling = Pooling(pooling, projection or encoder.features, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(self.pooling.features, num_classes, rngs=rngs)

    def __call__(
        self, inputs: jax.Array, lengths: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Inputs of the encoder's kind, lengths [B] → logits float32 [B, C]."""
        if self.layer_weights is None:
            output = self.encoder(inputs, lengths, rngs=rngs)
            frames = output.frames
        else:
            output = self.encoder(inputs, lengths, rngs=rngs, hidden_states=True)
            weights = jax.nn.softmax(self.layer_weights[...])
            frames = jnp.einsum("l,lbtd->btd", weights, output.hidden_states)
        if self.project is not None:
            frames = self.project(frames)
        pooled = self.pooling(frames, output.lengths)
        if rngs is not None:
            pooled = self.dropout(pooled, rngs=rngs)
        return self.head(pooled)
