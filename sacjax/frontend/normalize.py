"""Mean and variance normalization of features, blind to padding."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

Kind = Literal["none", "clip", "band", "global"]
EPS = 1e-5  # added to a standard deviation, in squares: silence is not divided by zero


def _inside(features: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Returns bool [..., frames, 1]: which frames are valid."""
    frames = jnp.arange(features.shape[-2])
    if lengths is None:
        return jnp.ones([*features.shape[:-1], 1], bool)
    return (frames < lengths[..., None])[..., None]


def statistics(
    features: jax.Array, *, lengths: jax.Array | None = None, axes: tuple[int, ...] | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns (mean, standard deviation) of [..., frames, bands] over `axes`, kept with size 1; None: all axes, as scalars.

    Args:
      lengths: valid frames [B]; others do not count.
    """
    x, inside = jnp.asarray(features, jnp.float32), _inside(features, lengths)
    inside = jnp.broadcast_to(inside, x.shape)
    keep = axes is not None
    count = jnp.maximum(inside.sum(axes, keepdims=keep), 1)
    # Relative to a value of the clip itself: a silent clip at -100 dB then has variance 0, not the rounding errors of sums.
    summed = (
        range(-x.ndim, 0)
        if axes is None
        else [axis - x.ndim if axis >= 0 else axis for axis in axes]
    )
    base = x[tuple(slice(0, 1) if axis in summed else slice(None) for axis in range(-x.ndim, 0))]
    base = jax.lax.stop_gradient(base if keep else base.ravel()[0])
    mean = jnp.where(inside, x - base, 0).sum(axes, keepdims=keep) / count
    spread = jnp.where(inside, x - base - mean, 0)
    return base + mean, jnp.sqrt((spread**2).sum(axes, keepdims=keep) / count + EPS**2)


def normalize(
    features: jax.Array,
    *,
    kind: Kind = "clip",
    lengths: jax.Array | None = None,
    mean: Any = 0.0,
    std: Any = 1.0,
) -> jax.Array:
    """Brings features [..., frames, bands] to mean 0 and variance 1; frames beyond `lengths` become 0. Float32.

    Args:
      kind: 'clip': by the statistics of each clip; 'band': of each band of each clip; 'global': by `mean` and `std`, given;
        'none': as they are.
      lengths: valid frames [B]; others are ignored.
      mean, std: of the whole training part, numbers or [bands]; `statistics` gives them for a batch.
    """
    x = jnp.asarray(features, jnp.float32)
    if kind in ("clip", "band"):
        mean, std = statistics(x, lengths=lengths, axes=(-2, -1) if kind == "clip" else (-2,))
    elif kind == "none":
        mean, std = 0.0, 1.0
    elif kind != "global":
        raise ValueError(f"kind is '{kind}': choose 'none', 'clip', 'band' or 'global'")
    x = (x - mean) / std
    return x if lengths is None else jnp.where(_inside(x, lengths), x, 0)
