"""What Mockingjay and TERA alter in a spectrogram, for a network to put right.

Liu et al. 2020 (spans of time) and 2021 (a band of frequencies, magnitude). Each is a function of
one clip [F, M], pure and with static shapes, so that it is vmapped over a batch; what it draws
follows from its key.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sacjax.augment.draws import integer, scalars


class Spans(NamedTuple):
    """Spans of a clip's frames."""

    chosen: Bool[Array, " frames"]
    """Which frames a span covers."""

    source: Int[Array, " frames"]
    """For each of these the frame of another span, drawn likewise, in the same order."""


def draw_spans(
    key: Key[Array, ""], length: Int[Array, ""], size: int, *, share: float, span: int
) -> Spans:
    """Returns round(share · length / span) spans, at least one, which may overlap.

    Args:
      key: one clip's.
      length: its valid frames; a clip shorter than a span is one span.
      size: frames of the batch.
      share: of the frames that the spans would cover if none overlapped.
      span: frames of each.
    """
    most = max(round(share * size / span), 1)
    room = jnp.maximum(length - span + 1, 1)  # frames at which a span may start
    count = jnp.clip(jnp.round(share * length / span).astype(jnp.int32), 1, room)
    noise = jax.random.uniform(key, [2, size])
    order = jnp.argsort(jnp.where(jnp.arange(size) < room, noise, 2.0), -1)
    starts, others = order[0, :most, None], order[1, :most, None]
    frames = jnp.arange(size)
    offset = frames - starts
    covers = (offset >= 0) & (offset < span) & (jnp.arange(most)[:, None] < count)
    last = most - 1 - jnp.argmax(covers[::-1], 0)  # of several spans the last drawn one counts
    source = jnp.take_along_axis(others + offset, last[None], 0)[0]
    last_frame = jnp.maximum(length - 1, 0)
    return Spans(covers.any(0) & (frames < length), jnp.clip(source, 0, last_frame))


def alter_time(
    key: Key[Array, ""],
    x: Float[Array, "frames bands"],
    length: Int[Array, ""],
    *,
    share: float,
    span: int,
    zero: float,
    swap: float,
) -> tuple[Float[Array, "frames bands"], Bool[Array, " frames"]]:
    """Returns (the clip with spans of frames altered; the frames of these spans).

    All spans of a clip become zeros (with probability `zero`), or other spans of the clip (`swap`),
    or stay as they are.

    Args:
      key: one clip's.
      x: its spectrogram.
      length: its valid frames.
      share, span: see `draw_spans`.
      zero, swap: probabilities; what is left of 1 changes nothing.
    """
    dice_key, spans_key = jax.random.split(key)
    dice = scalars(dice_key, 1)[0]
    spans = draw_spans(spans_key, length, len(x), share=share, span=span)
    chosen = spans.chosen[:, None]
    swapped = jnp.where(chosen & (dice < zero + swap), x[spans.source], x)
    return jnp.where(chosen & (dice < zero), 0, swapped), spans.chosen


def draw_band(key: Key[Array, ""], bands: int, share: float) -> Bool[Array, " {bands}"]:
    """Returns which bands lie in a block of neighbours, 0 to share · bands of them."""
    u = scalars(key, 2)
    width = integer(u[0], int(share * bands) + 1)
    start = integer(u[1], bands - width + 1)
    place = jnp.arange(bands)
    return (place >= start) & (place < start + width)


def add_noise(
    key: Key[Array, ""], x: Float[Array, "frames bands"], *, probability: float, std: float
) -> Float[Array, "frames bands"]:
    """Returns the clip with Gaussian noise of a standard deviation, at a probability."""
    dice_key, noise_key = jax.random.split(key)
    noise: Any = std * jax.random.normal(noise_key, x.shape)
    return jnp.where(scalars(dice_key, 1)[0] < probability, x + noise, x)
