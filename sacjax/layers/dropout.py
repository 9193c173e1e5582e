"""Dropout of values and of whole branches, by the keys given: without a key nothing is dropped.

Random bits come from a hash of each value's position. The generator behind JAX's keys would be most
of what a Transformer's step costs on a TPU; a hash is a few operations, which the compiler fuses
with what uses them, so that the backward pass makes the bits again instead of storing them.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, UInt32


def random_bits(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Returns 32 random bits for each position of an array, whatever devices share it.

    A position is its row (all axes but the last) and its column; each is hashed with seeds of its
    own, and then both together, by a mixer of 32-bit integers (C. Wellons, 2018: 'lowbias32').

    Args:
      key: of this draw.
      shape: of the array, with one axis at least and at most 2^32 rows.
    """
    seeds = jax.random.bits(key, [4])
    rows = jnp.zeros([], jnp.uint32)
    for axis, size in enumerate(shape[:-1]):
        number = jax.lax.broadcasted_iota(jnp.uint32, (*shape[:-1], 1), axis)
        rows = rows * jnp.uint32(size) + number
    columns = jnp.arange(shape[-1], dtype=jnp.uint32)
    row = _mix(_mix(rows + seeds[0]) ^ seeds[1])
    column = _mix(_mix(columns + seeds[2]) ^ seeds[3])
    return _mix(row ^ column)


def _mix(x: jax.Array) -> jax.Array:
    """Returns a number that depends on every bit of x, and is another for each x."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def drop(
    x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "*shape"]:
    """Returns x with each value dropped at `rate` and the others divided by 1 - rate.

    Args:
      x: any array.
      rate: probability, at least 0 and below 1.
      key: of this draw; None outside training.
    """
    return x if key is None or rate == 0 else _drop(x, rate, key)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _drop(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    kept = random_bits(key, x.shape) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(kept, x * (1 / (1 - rate)), 0).astype(x.dtype)


def _drop_forward(x: jax.Array, rate: float, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _drop(x, rate, key), key


def _drop_backward(rate: float, key: jax.Array, grad: jax.Array) -> tuple[jax.Array, None]:
    """Drops the same values of the gradient, drawn again: a stored mask would be a copy of x."""
    return _drop(grad, rate, key), None


_drop.defvjp(_drop_forward, _drop_backward)


class DropPath(nnx.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch for whole examples."""

    def __init__(self, rate: float):
        """Takes the probability that an example's branch is dropped."""
        self.rate = rate

    def __call__(
        self, x: Float[Array, " batch *rest"], key: Key[Array, ""] | None
    ) -> Float[Array, " batch *rest"]:
        """Returns the branch, with zeros for the examples that the key drops."""
        if self.rate == 0 or key is None:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(key, 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)
