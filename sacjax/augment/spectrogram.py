"""Augmentations of spectrograms: SpecAugment (Park et al. 2019).

Each is a function of one clip: `(key, x [F, M] float32, length, *, sample_rate, **options) ->
(x, length)`. They are vmapped, run inside jit, and are a pure function of their key. `length` is
the clip's valid frames; `sacjax.augment.apply` throws away whatever is written beyond.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sacjax.augment.draws import between, integer, scalars

Clip = tuple[Float[Array, "frames bands"], Int[Array, ""]]
Fill = Literal["zero", "mean"]


def _fill(
    x: Float[Array, "frames bands"], length: Int[Array, ""], fill: Fill
) -> Float[Array, ""] | float:
    """What masked cells become: 0, or the mean of the clip's valid frames."""
    if fill == "zero":
        return 0.0
    inside = (jnp.arange(x.shape[0]) < length)[:, None]
    return jnp.where(inside, x, 0).sum() / jnp.maximum(length * x.shape[1], 1)


def _masks(
    key: Key[Array, ""],
    count: int,
    width: Int[Array, ""] | int,
    valid: Int[Array, ""] | int,
    size: int,
) -> Bool[Array, " {size}"]:
    """Returns bool [size], true in `count` random spans within the first `valid` positions.

    The width of a span is from 0 to `width`, both included.
    """
    u = scalars(key, 2 * count).reshape(2, count, 1)
    span = integer(u[0], width + 1)
    start = integer(u[1], valid - span + 1)
    position = jnp.arange(size)
    return ((position >= start) & (position < start + span)).any(0)


def frequency_mask(
    key: Key[Array, ""],
    x: Float[Array, "frames bands"],
    length: Int[Array, ""],
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
    key: Key[Array, ""],
    x: Float[Array, "frames bands"],
    length: Int[Array, ""],
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
    key: Key[Array, ""],
    x: Float[Array, "frames bands"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
    width: int = 8,
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


def frequency_warp(
    key: Key[Array, ""],
    x: Float[Array, "frames bands"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
    low_factor: float = 0.8,
    high_factor: float = 1.25,
    knee: float = 0.8,
) -> Clip:
    """Stretches the axis of bands: formants move as with another speaker; times stay.

    Vocal tract length perturbation (Jaitly & Hinton 2013), on the bands as they are, which are mel
    rather than Hz: band b moves to factor * b, and above the knee the rest is stretched so that the
    highest band stays. Linear interpolation between bands.

    Args:
      low_factor, high_factor: between them the factor is drawn.
      knee: share of the axis, of the lower of both ends of the knee's way.
    """
    factor = between(scalars(key, 1)[0], low_factor, high_factor)
    top = x.shape[1] - 1
    target = knee * top * jnp.minimum(factor, 1)
    ends = jnp.zeros(()), jnp.asarray(top, jnp.float32)
    band = jnp.arange(x.shape[1], dtype=jnp.float32)
    at = jnp.interp(
        band, jnp.stack([ends[0], target, ends[1]]), jnp.stack([ends[0], target / factor, ends[1]])
    )
    below = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, max(top - 1, 0))
    share = at - below
    above = jnp.minimum(below + 1, top)
    return (1 - share) * x[:, below] + share * x[:, above], length


def resize_crop(
    key: Key[Array, ""],
    x: Float[Array, "frames bands"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
    low_scale: float = 0.6,
    high_scale: float = 1.5,
    canvas: float = 1.5,
) -> Clip:
    """Cuts a box out of the spectrogram and stretches it to the full size: pitch and time change.

    The random resize crop of BYOL-A (Niizumi et al. 2021): the spectrogram lies in the middle of a
    canvas of zeros that is `canvas` times as long; the box has a height and a width of low_scale to
    high_scale of the spectrogram's, at most the canvas's, and is resized by cubic interpolation.

    Args:
      low_scale, high_scale: of the box, in bands and in frames.
      canvas: length of the canvas over that of the spectrogram, 1 or more.
    """
    frames, bands = x.shape
    room = round((canvas - 1) * frames / 2)
    x = jnp.pad(x, ((room, room), (0, 0)))
    u = scalars(key, 4)
    sizes = jnp.asarray([frames, bands], jnp.float32)
    most = jnp.asarray(x.shape, jnp.float32)
    box = jnp.clip(jnp.floor(between(u[:2], low_scale, high_scale) * sizes), 1, most)
    corner = jnp.floor(u[2:] * (most - box + 1))
    scale = sizes / box
    resized = jax.image.scale_and_translate(
        x, (frames, bands), (0, 1), scale, -corner * scale, method="cubic", antialias=False
    )
    return resized, length


def linear_fade(
    key: Key[Array, ""],
    x: Float[Array, "frames bands"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
    max_change: float = 1.0,
) -> Clip:
    """Adds a line over time between two random levels, each from -max_change to max_change.

    The random linear fader of BYOL-A (Niizumi et al. 2023): sounds fade in or out, or move away.
    The level is in the spectrogram's units: standard deviations, if it is normalized.
    """
    ends = between(scalars(key, 2), -max_change, max_change)
    position = jnp.arange(x.shape[0]) / jnp.maximum(length - 1, 1)
    return x + (ends[0] + (ends[1] - ends[0]) * position)[:, None], length
