"""Short clips repeated to a fixed length."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def repeat_whole(
    audio: Float[Array, "batch samples"], lengths: Int[Array, " batch"], size: int
) -> tuple[Float[Array, "batch longer"], Int[Array, " batch"]]:
    """Returns (audio, lengths) with clips of fewer samples repeated as often as they fit into them.

    After the last whole repetition such a clip is silent up to `size`, which is then its length:
    CLAP's `repeatpad`. Longer clips stay as they are, and so do those of no sample.

    Args:
      audio: samples [B, T].
      lengths: valid samples [B].
      size: samples.
    """
    time = jnp.arange(max(size, audio.shape[1]))
    whole = jnp.maximum(lengths, 1)[:, None]
    times = jnp.maximum(size // whole, 1)
    repeated = jnp.take_along_axis(audio, jnp.minimum(time % whole, audio.shape[1] - 1), 1)
    repeated = jnp.where(time < times * whole, repeated, 0)
    lengths = jnp.where(lengths > 0, jnp.maximum(lengths, size), lengths)
    return repeated, lengths
