"""Span masks over frames, drawn on the device with static shapes (wav2vec 2.0, section 3.1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key


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


def masked_positions(
    mask: Bool[Array, "batch frames"], most: int
) -> tuple[Int[Array, "batch {most}"], Bool[Array, "batch {most}"]]:
    """Returns (positions of the masked frames, int32 [B, most], rising; valid, bool [B, most]).

    A clip with fewer than `most` masked frames has other positions at the end, which are not valid.
    """
    frames = jnp.arange(mask.shape[1])
    order = jnp.argsort(jnp.where(mask, frames, mask.shape[1] + frames), axis=-1)[:, :most]
    return order, jnp.arange(most) < mask.sum(-1, keepdims=True)
