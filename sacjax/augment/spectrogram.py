"""SpecAugment (Park et al. 2019), one example at a time: `f(key, x [F, M], length, *, sample_rate, …) -> (x, length)`."""

from typing import Any

import jax
import jax.numpy as jnp


def _fill(x: jax.Array, length: jax.Array, hidden: jax.Array, fill: str) -> jax.Array:
    """Replaces the hidden cells of the valid frames by zero, or by the mean over the valid frames."""
    inside = (jnp.arange(x.shape[0]) < length)[:, None]
    mean = jnp.where(inside, x, 0).sum() / jnp.maximum(length * x.shape[1], 1)
    return jnp.where(hidden & inside, mean if fill == "mean" else 0.0, x)


def _spans(key: Any, count: int, width: Any, size: Any, total: int) -> jax.Array:
    """Returns [total] bool: `count` spans of 0 to `width` places within the first `size`."""
    keys = jax.random.split(key)
    widths = jnp.floor(jax.random.uniform(keys[0], (count, 1)) * (width + 1))
    starts = jnp.floor(jax.random.uniform(keys[1], (count, 1)) * (jnp.maximum(size - widths, 0) + 1))
    at = jnp.arange(total)
    return ((at >= starts) & (at < starts + widths)).any(0)


def frequency_mask(
    key: Any, x: Any, length: Any, *, sample_rate: int, count: int = 2, width: int = 16, fill: str = "zero"
) -> Any:
    """Hides `count` bands of 0 to `width` bins; `fill` is zero or mean."""
    hidden = _spans(key, count, min(width, x.shape[1]), x.shape[1], x.shape[1])
    return _fill(x, length, hidden[None, :], fill), length


def time_mask(
    key: Any, x: Any, length: Any, *, sample_rate: int, count: int = 2, width: int = 32, max_share: float = 0.5,
    fill: str = "zero",
) -> Any:  # fmt: skip
    """Hides `count` spans of 0 to `width` frames, each at most `max_share` of the valid frames, all within these."""
    width_now = jnp.minimum(width, jnp.floor(max_share * length))
    hidden = _spans(key, count, width_now, length, x.shape[0])
    return _fill(x, length, hidden[:, None], fill), length


def time_warp(key: Any, x: Any, length: Any, *, sample_rate: int, width: int = 16) -> Any:
    """Moves a random frame by up to ±`width` frames and stretches what lies on its two sides, by linear interpolation."""
    keys = jax.random.split(key)
    last = jnp.maximum(length - 1, 1).astype(jnp.float32)
    reach = jnp.minimum(width, jnp.maximum(length // 2 - 1, 0)).astype(jnp.float32)
    center = reach + jax.random.uniform(keys[0]) * (last - 2 * reach)
    target = center + reach * jax.random.uniform(keys[1], minval=-1.0, maxval=1.0) * 0.999
    at = jnp.arange(x.shape[0], dtype=jnp.float32)
    left = at * center / jnp.maximum(target, 1e-6)
    right = center + (at - target) * (last - center) / jnp.maximum(last - target, 1e-6)
    source = jnp.clip(jnp.where(at <= target, left, right), 0, last)
    low = jnp.floor(source).astype(jnp.int32)
    part = (source - low)[:, None]
    warped = x[low] * (1 - part) + x[jnp.minimum(low + 1, x.shape[0] - 1)] * part
    return jnp.where((jnp.arange(x.shape[0]) < length)[:, None], warped, x), length
