"""Dropout of values and of whole branches, by the keys given: without a key nothing is dropped."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key


def drop(
    x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "*shape"]:
    """Returns x with each value dropped at `rate` and the others divided by 1 - rate.

    Args:
      x: any array.
      rate: probability, at least 0 and below 1.
      key: of this draw; None outside training.
    """
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


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
