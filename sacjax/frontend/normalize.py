"""Mean and variance normalization of features, blind to padding."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

Numbers = Array | np.ndarray
EPS = 1e-5  # added to a standard deviation, in squares: silence is not divided by zero


def _inside(
    features: Float[Array, "*batch frames bands"], lengths: Int[Numbers, "*batch"] | None
) -> Bool[Array, "*batch frames 1"]:
    """Returns bool [..., frames, 1]: which frames are valid."""
    frames = jnp.arange(features.shape[-2])
    if lengths is None:
        return jnp.ones([*features.shape[:-1], 1], bool)
    return (frames < jnp.asarray(lengths)[..., None])[..., None]


def statistics(
    features: Float[Numbers, "*batch frames bands"],
    *,
    lengths: Int[Numbers, "*batch"] | None = None,
    axes: tuple[int, ...] | None = None,
) -> tuple[Float32[Array, "..."], Float32[Array, "..."]]:
    """Returns (mean, standard deviation) of features over `axes`.

    Args:
      features: [..., frames, bands].
      lengths: valid frames [B]; others do not count. None: all are valid.
      axes: over which; they are kept with size 1. None: all, and the results are scalars.
    """
    x = jnp.asarray(features, jnp.float32)
    inside = jnp.broadcast_to(_inside(x, lengths), x.shape)
    keep = axes is not None
    count = jnp.maximum(inside.sum(axes, keepdims=keep), 1)
    # Relative to a value of the clip itself: a silent clip at -100 dB then has variance 0, not the
    # rounding errors of sums.
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
    features: Float[Numbers, "*batch frames bands"],
    *,
    kind: str = "clip",
    lengths: Int[Numbers, "*batch"] | None = None,
    mean: float | Float[Numbers, " bands"] = 0.0,
    std: float | Float[Numbers, " bands"] = 1.0,
) -> Float32[Array, "*batch frames bands"]:
    """Returns features of mean 0 and variance 1; frames beyond `lengths` become 0.

    Args:
      features: [..., frames, bands].
      kind: 'clip': by the statistics of each clip; 'band': of each band of each clip; 'global': by
        `mean` and `std`, given; 'none': as they are.
      lengths: valid frames [B]; others are ignored. None: all are valid.
      mean: of the whole training part, a number or one a band, for 'global'.
      std: likewise; `statistics` gives both for a batch.

    Raises:
      ValueError: an unknown kind.
    """
    x = jnp.asarray(features, jnp.float32)
    if kind in ("clip", "band"):
        center, scale = statistics(x, lengths=lengths, axes=(-2, -1) if kind == "clip" else (-2,))
        x = (x - center) / scale
    elif kind == "global":
        x = (x - mean) / std
    elif kind != "none":
        raise ValueError(f"kind is '{kind}': choose 'none', 'clip', 'band' or 'global'")
    return x if lengths is None else jnp.where(_inside(x, lengths), x, 0)
