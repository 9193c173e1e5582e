"""Maxima over windows of time, and pooling of all frames to one vector a clip; padding left out."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.errors import UserError, nearest
from sacjax.layers import cpu
from sacjax.layers.conv import out_length, valid, zero_padding
from sacjax.layers.platform import platform

PoolingKind = Literal["mean", "max", "mean_max", "attention", "statistics", "grid"]
KINDS: tuple[str, ...] = get_args(PoolingKind)
POSITIONS = 8  # of `grid`


class Pooling(nnx.Module):
    """Pools frames [B, N, D] to a vector a clip.

    mean; max; mean_max: both, side by side; attention: a mean weighted by the softmax over frames
    of tanh(W x) · v (Okabe et al. 2018, without its statistics); statistics: mean and standard
    deviation, side by side; grid: the frames at 8 positions, spread evenly from the first to the
    last and interpolated, side by side: the course of a word, however fast it is said.
    """

    def __init__(self, kind: str, features: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        """Makes the parameters of attention; the other kinds have none.

        Args:
          kind: one of the above.
          features: D of the frames; `self.features` is that of the pooled vector.
          dtype: of the attention's computation.
          rngs: of the parameters.

        Raises:
          UserError: an unknown kind.
        """
        if kind not in KINDS:
            raise UserError(f"model.pooling is '{kind}'{nearest(kind, KINDS)}")
        self.kind = kind
        self.features = pooled_width(kind, features)
        if kind == "attention":
            self.hidden = nnx.Linear(features, min(features, 128), dtype=dtype, rngs=rngs)
            self.score = nnx.Linear(min(features, 128), 1, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(
        self, frames: Float[Array, "batch frames features"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch pooled"]:
        """Returns the vectors in float32; a clip without a valid frame gives zeros."""
        x, mask = frames.astype(jnp.float32), valid(frames, lengths)
        if self.kind == "attention":
            score = self.score(jnp.tanh(self.hidden(frames))).astype(jnp.float32)
            weight = jax.nn.softmax(jnp.where(mask, score, -1e30), 1)
            return (jnp.where(mask, x, 0) * weight).sum(1)
        if self.kind == "grid":
            return resampled(x, lengths, POSITIONS).reshape(len(x), -1)
        mean = masked_mean(x, lengths)
        if self.kind == "mean":
            return mean
        if self.kind == "statistics":
            squares = jnp.where(mask, (x - mean[:, None]) ** 2, 0).sum(1)
            variance = squares / jnp.maximum(lengths, 1)[:, None]
            return jnp.concatenate([mean, jnp.sqrt(variance + 1e-10)], -1)
        highest = jnp.where(lengths[:, None] > 0, jnp.where(mask, x, -jnp.inf).max(1), 0)
        return highest if self.kind == "max" else jnp.concatenate([mean, highest], -1)


def pooled_width(kind: str, features: int) -> int:
    """Returns the features of a vector that a kind of pooling makes of frames of so many."""
    return features * {"mean_max": 2, "statistics": 2, "grid": POSITIONS}.get(kind, 1)


def resampled(
    frames: Float[Array, "batch frames features"], lengths: Int[Array, " batch"], count: int
) -> Float[Array, "batch {count} features"]:
    """Returns each clip at `count` positions from its first to its last valid frame.

    Between frames they are interpolated; a clip that has no valid frame gives zeros.
    """
    last = jnp.maximum(lengths - 1, 0)[:, None]
    at = jnp.linspace(0, 1, count) * last
    before = jnp.floor(at).astype(jnp.int32)
    share = (at - before)[..., None]
    x = zero_padding(frames, lengths)
    take = lambda index: jnp.take_along_axis(x, index[..., None], 1)
    return take(before) * (1 - share) + take(jnp.minimum(before + 1, last)) * share


def masked_mean(
    frames: Float[Array, "batch frames features"], lengths: Int[Array, " batch"]
) -> Float[Array, "batch features"]:
    """Returns the mean over the valid frames, zeros for a clip that has none."""
    return zero_padding(frames, lengths).sum(1) / jnp.maximum(lengths, 1)[:, None]


def max_pool(
    x: Float[Array, "batch time *space channels"],
    lengths: Int[Array, " batch"],
    window: int,
    stride: int | None = None,
    padding: int = 0,
) -> tuple[Float[Array, "batch frames *bands channels"], Int[Array, " batch"]]:
    """Returns (maxima over windows of every axis but the first and last; the new lengths).

    Args:
      x: values that are not negative, as after a ReLU, zero beyond `lengths`.
      lengths: valid positions along time.
      window: along each axis.
      stride: of the windows; None: they do not overlap.
      padding: before and after; at the end more where an axis is shorter than the window.
    """
    stride = stride or window
    lengths_out = out_length(lengths, window, stride, padding)
    axes = range(1, x.ndim - 1)
    room = {a: max(window - x.shape[a] - 2 * padding, 0) for a in axes}
    if platform() == "cpu":
        for axis in axes:
            x = cpu.axis_max_pool(x, axis, window, stride, padding, padding + room[axis])
    else:
        pads = [(padding, padding + room[a]) if a in room else (0, 0) for a in range(x.ndim)]
        sizes, strides = ((1, *[n] * len(room), 1) for n in (window, stride))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sizes, strides, pads)
    return zero_padding(x, lengths_out), lengths_out
