"""Heads on clip vectors, which pretraining throws away afterwards."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sacjax.context import Context
from sacjax.layers.norm import BatchNorm


class MLP(nnx.Module):
    """Linear, batch norm, ReLU, linear: the projector of SimCLR and BYOL, and BYOL's predictor."""

    def __init__(self, inputs: int, hidden: int, outputs: int, rngs: nnx.Rngs):
        """Takes the sizes of its three layers."""
        self.first = nnx.Linear(inputs, hidden, rngs=rngs)
        self.norm = BatchNorm(hidden, dtype=jnp.float32, rngs=rngs)
        self.second = nnx.Linear(hidden, outputs, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch inputs"], mask: Float[Array, " batch"], ctx: Context
    ) -> Float[Array, "batch outputs"]:
        """Returns the projections; rows of mask 0 are no part of the norm."""
        rows = (mask > 0).astype(jnp.int32)
        return self.second(nnx.relu(self.norm(self.first(x)[:, None], rows, ctx)[:, 0]))
