"""The Gaussian error linear unit, as cheap as a TPU can have it."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@partial(jax.checkpoint, prevent_cse=False)
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns x Φ(x), the exact form (Hendrycks and Gimpel 2016), computed in float32.

    By erf, as PyTorch has it; `jax.nn.gelu` takes erfc, which costs several times as much where no
    instruction has it. The backward pass computes it again, and keeps x alone.
    """
    y = x.astype(jnp.float32)
    return (0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)
