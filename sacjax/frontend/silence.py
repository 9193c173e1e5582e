"""Silence at both ends of a clip, found by loudness and cut off."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FLOOR = 1e-10  # mean square of a frame that counts as silent however quiet the rest is


def trim(
    x: Float[Array, "batch samples"],
    lengths: Int[Array, " batch"],
    *,
    top_db: float,
    frame_length: int,
    hop_length: int,
) -> tuple[Float[Array, "batch samples"], Int[Array, " batch"]]:
    """Returns (clips that begin with their first loud frame, zeros behind; their valid samples).

    As `librosa.effects.trim`. A clip that is silent all through is not cut.

    Args:
      x: samples, zeros beyond `lengths`.
      lengths: valid samples.
      top_db: frames so many decibels below the clip's loudest one, or more, are silent.
      frame_length: samples of a frame, which is centred.
      hop_length: samples from frame to frame.
    """
    half = frame_length // 2
    window, strides = (1, frame_length), (1, hop_length)
    padding = ((0, 0), (half, half))
    squares = jax.lax.reduce_window(x**2, 0.0, jax.lax.add, window, strides, padding)
    power = jnp.maximum(squares / frame_length, FLOOR)
    at = jnp.arange(power.shape[1])
    inside = at <= lengths[:, None] // hop_length
    loudest = jnp.where(inside, power, FLOOR).max(1, keepdims=True)
    loud = inside & (10 * jnp.log10(power / loudest) > -top_db)
    start = jnp.argmax(loud, 1) * hop_length
    end = (len(at) - jnp.argmax(loud[:, ::-1], 1)) * hop_length
    end = jnp.minimum(end, lengths)
    start = jnp.minimum(start, end)
    silent = jnp.zeros_like(x)
    later = jax.vmap(lambda clip, s: jax.lax.dynamic_slice(clip, (s,), (x.shape[1],)))
    moved = later(jnp.concatenate([x, silent], 1), start)
    valid = end - start
    return jnp.where(jnp.arange(x.shape[1]) < valid[:, None], moved, 0), valid
