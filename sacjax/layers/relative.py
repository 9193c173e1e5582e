"""Relative positions that attention adds to its scores, gated by the token: WavLM's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

GATES = 8
"""Values of a token's linear map; the means of each half are its two gates but for a factor."""


def buckets_of(distances: int, count: int, furthest: int) -> Int[np.ndarray, " distances"]:
    """Returns the bucket of each distance from 0, as T5's (Raffel et al. 2020).

    Half of them are for one distance each, the others grow with its logarithm.

    Args:
      distances: how many.
      count: buckets of one direction.
      furthest: the distance from which on there is but the last one.
    """
    exact, distance = count // 2, np.arange(distances)
    share = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    share = share / np.float32(math.log(furthest / exact))
    large = (exact + share * np.float32(count - exact)).astype(np.int64)
    return np.where(distance < exact, distance, np.minimum(large, count - 1))


class RelativePositions(nnx.Module):
    """A learned number for each bucket of relative positions and each head."""

    def __init__(self, buckets: int, furthest: int, heads: int, *, rngs: nnx.Rngs):
        """Makes the table.

        Args:
          buckets: of both directions together, an even number.
          furthest: tokens from which on all are in the last bucket.
          heads: of the attention.
          rngs: of the parameters.
        """
        init = nnx.initializers.normal(0.02)
        self.table = nnx.Param(init(rngs.params(), [buckets, heads]))
        self.buckets, self.furthest = buckets, furthest

    def __call__(
        self, positions: Int[Array, "*batch tokens"]
    ) -> Float[Array, "*batch heads tokens tokens"]:
        """Returns what is added to each pair's score, before the gate; queries come first.

        Args:
          positions: of the tokens.
        """
        lookup = jnp.asarray(buckets_of(self.furthest + 1, self.buckets // 2, self.furthest))
        relative = positions[..., None, :] - positions[..., :, None]
        bucket = jnp.take(lookup, jnp.abs(relative), mode="clip")
        bucket = bucket + jnp.where(relative > 0, self.buckets // 2, 0)
        return jnp.moveaxis(self.table[...][bucket], -1, -3)


class Gate(nnx.Module):
    """By how much a token of a head minds positions (Chen et al. 2022, equations 4 to 6)."""

    def __init__(self, size: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes the linear map that the heads share, and a scale for each.

        Args:
          size: features of a head.
          heads: how many.
          dtype: of the computation; parameters are float32.
          rngs: of the parameters.
        """
        init = nnx.initializers.normal(0.02)
        self.linear = nnx.Linear(size, GATES, dtype=dtype, kernel_init=init, rngs=rngs)
        self.scale = nnx.Param(jnp.ones([heads]))

    def __call__(
        self, x: Float[Array, "batch tokens heads size"]
    ) -> Float[Array, "batch heads tokens"]:
        """Returns the factor of a query's position scores, float32; 1 to 2 at a scale of 1."""
        both = self.linear(x).astype(jnp.float32)
        both = jax.nn.sigmoid(both.reshape(*x.shape[:3], 2, GATES // 2).sum(-1))
        gate = both[..., 0] * (both[..., 1] * self.scale[...] - 1) + 2
        return jnp.moveaxis(gate, 1, 2)
