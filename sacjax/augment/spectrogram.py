"""Augmentations of spectrograms: SpecAugment (Park et al. 2019).

Each is a function of one clip: `(key, x [F, M] float32, length, *, sample_rate, **options) ->
(x, length)`. They are vmapped, run inside jit, and are a pure function of their key. `length` is
the clip's valid frames; `sacjax.augment.apply` throws away whatever is written beyond.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from sacjax.augment.draws import integer, scalars

Clip = tuple[jax.Array, Any]
Fill = Literal["zero", "mean"]


def _fill(x: jax.Array, length: Any, fill: Fill) -> Any:
    """What masked cells become: 0, or the mean of the clip's valid frames."""
    if fill == "zero":
        return 0.0
    inside = (jnp.arange(x.shape[0]) < length)[:, None]
    return jnp.where(inside, x, 0).sum() / jnp.maximum(length * x.shape[1], 1)


def _masks(key: jax.Array, count: int, width: Any, valid: Any, size: int) -> jax.Array:
    """Returns bool [size], true in `count` random spans within the first `valid` positions.

    The width of a span is from 0 to `width`, both included.
    """
    u = scalars(key, 2 * count).reshape(2, count, 1)
    span = integer(u[0], width + 1)
    start = integer(u[1], valid - span + 1)
    position = jnp.arange(size)
    return ((position >= start) & (position < start + span)).any(0)


def frequency_mask(
    key: jax.Array,
    x: jax.Array,
    length: Any,
    *,
    sample_rate: int,
    count: int = 2,
    width: int = 16,
    fill: Fill = "zero",
) -> Clip:
    """Blanks `count` spans of 0 to `width` neighbouring bands; they may overlap."""
    bands = x.shape[1]
    masked = _masks(key, count, min(width, bands), bands, bands)
    return jnp.where(masked, _fill(x, length, fill), x), length


def time_mask(
    key: jax.Array,
    x: jax.Array,
    length: Any,
    *,
    sample_rate: int,
    count: int = 2,
    width: int = 32,
    max_share: float = 1.0,
    fill: Fill = "zero",
) -> Clip:
    """Blanks `count` spans of 0 to `width` frames within the valid ones; they may overlap.

    Args:
      max_share: of the clip's valid frames: no span is wider.
    """
    most = jnp.minimum(width, jnp.floor(max_share * length).astype(jnp.int32))
    masked = _masks(key, count, most, length, x.shape[0])
    return jnp.where(masked[:, None], _fill(x, length, fill), x), length


def time_warp(
    key: jax.Array, x: jax.Array, length: Any, *, sample_rate: int, width: int = 8
) -> Clip:
    """Moves a random frame by up to `width` frames and stretches both sides to fit.

    By linear interpolation in time. The frame lies at least as far from both ends as it may move;
    in a clip of few frames it moves less.
    """
    u = scalars(key, 2)
    most = jnp.clip(jnp.minimum(width, (length - 3) // 4), 0)
    centre = most + 1 + integer(u[0], jnp.maximum(length - 2 * most - 2, 1))
    target = centre + integer(u[1], 2 * most + 1) - most
    last = jnp.maximum(length - 1, 1)
    frame = jnp.arange(x.shape[0])
    # How far each frame moves, which is little: float32 is exact enough for that in any clip.
    before = frame / jnp.maximum(target, 1)
    after = (last - frame) / jnp.maximum(last - target, 1)
    move = (centre - target) * jnp.where(frame < target, before, after)
    whole = jnp.floor(move)
    share = (move - whole)[:, None]
    end = jnp.maximum(length - 1, 0)
    previous = jnp.clip(frame + whole.astype(jnp.int32), 0, end)
    following = jnp.minimum(previous + 1, end)
    return (1 - share) * x[previous] + share * x[following], length
