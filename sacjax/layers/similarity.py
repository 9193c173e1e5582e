"""Clip vectors on the unit sphere: how they are compared, and whether they have collapsed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NEVER = -1e30
"""The logit of a pair that must not be chosen."""


def unit(x: Float[Array, "*rest features"]) -> Float[Array, "*rest features"]:
    """Returns vectors of length 1, float32; zeros stay zeros, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-16))


def spread(
    x: Float[Array, "batch features"], mask: Float[Array, " batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns (standard deviation of unit vectors, 1 where uniform on the sphere; 1).

    It is 0 where all vectors are equal. Rows of mask 0 do not count.
    """
    count = jnp.maximum(mask.sum(), 1)
    mean = (x * mask[:, None]).sum(0) / count
    variance = (jnp.square(x - mean) * mask[:, None]).sum() / count
    return jnp.sqrt(variance), jnp.ones([])
