"""Differences of features over time, as Kaldi and HTK define them."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def deltas(
    features: Float[Array, "batch frames bands"], lengths: Int[Array, " batch"], window: int = 2
) -> Float[Array, "batch frames bands"]:
    """Returns the slope of each band over time, by least squares over 2 · window + 1 frames.

    Beyond a clip's ends its first and last valid frames go on. Frames beyond `lengths` are
    meaningless.

    Args:
      features: such as MFCC.
      lengths: valid frames of each clip.
      window: frames to either side.
    """
    frames = jnp.arange(features.shape[1])
    last = jnp.maximum(lengths - 1, 0)[:, None]

    def at(offset: int) -> Float[Array, "batch frames bands"]:
        places = jnp.clip(frames + offset, 0, last)
        return jnp.take_along_axis(features, places[..., None], 1)

    steps = range(1, window + 1)
    total = sum((n * (at(n) - at(-n)) for n in steps), jnp.zeros_like(features))
    return total / (2 * sum(n * n for n in steps))
