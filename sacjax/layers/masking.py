"""Which tokens are masked, or kept, drawn on the device with static shapes.

Spans over frames (wav2vec 2.0, section 3.1); an exact share of tokens, by scores; blocks of a grid.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key


def span_mask(
    key: Key[Array, ""],
    length: Int[Array, ""],
    size: int,
    *,
    probability: float,
    span: int,
    minimum: int = 2,
    exact: bool = False,
) -> Bool[Array, " {size}"]:
    """Returns a mask of spans that start at different random frames and may overlap.

    Nothing is masked in padding.

    Args:
      key: one example's.
      length: its valid frames.
      size: frames of the batch.
      probability: that a frame starts a span (fairseq's mask_prob is this times `span`). If
        `exact`, the share of the valid frames that is masked in the end, to the frame: the last
        span is cut where it would be more. It is `minimum` spans where that is more.
      span: frames of a span; a shorter clip is one span.
      minimum: spans drawn at the least, as far as the clip has room for starts.
      exact: see `probability`.
    """
    frames = jnp.arange(size)
    starts = jnp.maximum(length - span + 1, jnp.minimum(length, 1))  # frames at which one may start
    draw, rounding = jax.random.split(key)
    noise = jnp.where(frames < starts, jax.random.uniform(draw, [size]), 2.0)
    rank = jnp.argsort(jnp.argsort(noise))  # of each frame as a start; those with no room come last
    count = jnp.floor(probability * length + jax.random.uniform(rounding)).astype(jnp.int32)
    count = jnp.minimum(jnp.maximum(count, minimum), starts)
    if exact:
        count = starts  # as many spans as it takes
    chosen = jnp.where((rank < count) & (frames < starts), rank, size)
    padded = jnp.pad(chosen, (span - 1, 0), constant_values=size)
    windows = jnp.stack([padded[span - 1 - k : span - 1 - k + size] for k in range(span)])
    first = windows.min(0)  # the first span that masks a frame
    inside = (first < size) & (frames < length)
    if not exact:
        return inside
    target = jnp.round(probability * length).astype(jnp.int32)
    target = jnp.maximum(target, jnp.minimum(minimum * span, length - 1))
    order = jnp.argsort(jnp.argsort(jnp.where(inside, first * size + frames, size * size + size)))
    return inside & (order < target)


def most_masked(
    size: int, *, probability: float, span: int, minimum: int = 2, exact: bool = False
) -> int:
    """Returns the most frames that `span_mask` can mask in a clip of `size` frames."""
    if exact:
        return min(size, max(round(probability * size) + 1, minimum * span))
    return min(size, max(int(probability * size) + 1, minimum) * span)


class Kept(NamedTuple):
    """Which tokens of each clip are encoded."""

    keep: Int[Array, "rows kept"]
    """Their numbers; that of tokens, N, is padding. For `TokenEncoder.context`."""

    slots: Int[Array, "rows tokens"]
    """Where each token stands in `keep`; the width of `keep`, K, for one that is not kept."""


def kept_counts(size: int, share: float) -> np.ndarray:
    """Returns how many tokens a share keeps of 0 ... `size`: rounded down, but at least 1 of some.

    Args:
      size: the most tokens.
      share: from 0 to 1.
    """
    return np.array([0] + [max(1, int(n * share)) for n in range(1, size + 1)], np.int32)


def keep_best(
    scores: Float[Array, "rows tokens"], lengths: Int[Array, " rows"], share: float
) -> Kept:
    """Returns the tokens with the highest scores: exactly `kept_counts` of each clip's valid ones.

    Args:
      scores: finite.
      lengths: valid tokens of each row.
      share: of the valid tokens that are kept.
    """
    size = scores.shape[1]
    counts = kept_counts(size, share)
    numbers = jnp.arange(size)
    order = jnp.argsort(-jnp.where(numbers < lengths[:, None], scores, -jnp.inf), axis=-1)
    kept = jnp.asarray(counts)[lengths][:, None]
    most = int(counts.max())
    places = jnp.argsort(order, axis=-1)
    return Kept(
        jnp.where(jnp.arange(most) < kept, order[:, :most], size),
        jnp.where(places < kept, places, most),
    )


def inverse_blocks(
    key: Key[Array, ""],
    length: Int[Array, ""],
    columns: int,
    bands: int,
    *,
    share: float,
    block: int,
) -> Bool[Array, " tokens"]:
    """Returns which tokens of a grid lie in blocks that are to be kept (data2vec 2.0, EAT).

    Centres are drawn with replacement from the valid tokens: share · length / block², rounded down.
    Blocks may overlap, and end at the edges of the grid.

    Args:
      key: one clip's.
      length: its valid tokens; they go through the bands of one column after the other.
      columns: of the grid, along time.
      bands: of the grid.
      share: of the tokens that the blocks would cover if none overlapped.
      block: tokens along each side of a block.
    """
    counts = np.array([int(n * share / block**2) for n in range(columns * bands + 1)], np.int32)
    most = int(counts.max())
    numbers = jnp.arange(columns * bands)
    if most == 0:
        return jnp.zeros([columns * bands], bool)
    drawn = jnp.floor(jax.random.uniform(key, [most]) * length).astype(jnp.int32)
    centres = jnp.minimum(drawn, length - 1)[:, None]

    def near(place: jax.Array, centre: jax.Array) -> jax.Array:
        offset = place - centre + block // 2
        return (offset >= 0) & (offset < block)

    inside = near(numbers // bands, centres // bands) & near(numbers % bands, centres % bands)
    some = jnp.arange(most)[:, None] < jnp.asarray(counts)[length]
    return (inside & some).any(0) & (numbers < length)


def masked_positions(
    mask: Bool[Array, "batch frames"], most: int
) -> tuple[Int[Array, "batch {most}"], Bool[Array, "batch {most}"]]:
    """Returns (positions of the masked frames, int32 [B, most], rising; valid, bool [B, most]).

    A clip with fewer than `most` masked frames has other positions at the end, which are not valid.
    """
    frames = jnp.arange(mask.shape[1])
    order = jnp.argsort(jnp.where(mask, frames, mask.shape[1] + frames), axis=-1)[:, :most]
    return order, jnp.arange(most) < mask.sum(-1, keepdims=True)
