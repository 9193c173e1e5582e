"""Random numbers of an augmentation.

All are made from one call of the generator, as each call costs compile time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int, Key

QUANTILES = 4096


def example_keys(key: Key[Array, ""], rows: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """Returns [B] keys, one an example, folded from its row in the global batch, int32 [B].

    No layout of devices changes them.
    """
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def fold_in(keys: Key[Array, " batch"], number: int) -> Key[Array, " batch"]:
    """Returns [B] keys with a number folded into each."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def scalars(key: Key[Array, ""], count: int) -> Float[Array, " {count}"]:
    """Returns [count] independent numbers, uniform in [0, 1)."""
    return jax.random.uniform(key, (count,))


def between(u: Float[Array, "*shape"], low: float, high: float) -> Float[Array, "*shape"]:
    """Returns u in [0, 1) as a number from low to high."""
    return low + (high - low) * u


def integer(u: Float[Array, "*shape"], count: Int[Array, "*#shape"] | int) -> Int[Array, "*shape"]:
    """Returns u in [0, 1) as one of the integers 0 ... count - 1."""
    return jnp.minimum(jnp.floor(u * count).astype(jnp.int32), jnp.asarray(count, jnp.int32) - 1)


def beta(u: Float[Array, "*shape"], alpha: float) -> Float[Array, "*shape"]:
    """Returns u in [0, 1) as a draw from Beta(alpha, alpha).

    By its quantiles: a rejection sampler compiles for seconds.
    """
    table = jnp.asarray(
        scipy.special.betaincinv(alpha, alpha, np.linspace(0, 1, QUANTILES + 1)), jnp.float32
    )
    bin_ = integer(u, QUANTILES)
    return table[bin_] + (table[bin_ + 1] - table[bin_]) * (u * QUANTILES - bin_)
