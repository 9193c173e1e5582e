"""What encoders share: their output, and convolutions, norms and pools that padding cannot leak through.

Every helper works on [B, T, ..., C] with `lengths` [B], the valid positions along T, and hands both on. Its input is zeroed beyond
the valid positions and its paddings are explicit, as PyTorch's are, so that a clip gives the same frames alone and in a padded batch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015, as torchvision's ResNets


class EncoderOutput(NamedTuple):
    """Frames float32 or bfloat16 [B, T', D], valid frames int32 [B], and every layer's output where asked for."""

    frames: Any
    lengths: Any
    hidden_states: Any = None


def valid(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns [B, T, 1, …], True at valid positions, of x's rank."""
    mask = jnp.arange(x.shape[1]) < lengths[:, None]
    return mask.reshape(mask.shape + (1,) * (x.ndim - 2))


def zero_padding(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns x with zeros beyond the valid positions."""
    return jnp.where(valid(x, lengths), x, 0)


def out_length(length: Any, kernel: int, stride: int, padding: int) -> Any:
    """Returns the positions that a convolution or pool gives; 1 at least, so that the shortest clip has a frame."""
    return jnp.maximum((length + 2 * padding - kernel) // stride + 1, 1)


class Conv(nnx.Module):
    """A convolution over time, or over time and frequency, with explicit padding."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Sequence[int], stride: int | Sequence[int] = 1, *, use_bias: bool = False,
        padding: Sequence[int] | None = None, dtype: Any, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.size = tuple(kernel)
        self.stride = (stride,) * len(self.size) if isinstance(stride, int) else tuple(stride)
        self.padding = tuple(k // 2 for k in kernel) if padding is None else tuple(padding)
        self.kernel = nnx.Param(HE(rngs.params(), (*self.size, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros([outputs])) if use_bias else None
        self.dtype = dtype

    def __call__(self, x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = zero_padding(x, lengths).astype(self.dtype)
        short = self.size[0] - x.shape[1] - 2 * self.padding[0]
        if short > 0:
            x = jnp.pad(x, [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2))
        x = convolve(x, self.kernel[...].astype(self.dtype), self.stride, self.padding)
        if self.bias is not None:
            x = x + self.bias[...].astype(self.dtype)
        return x, out_length(lengths, self.size[0], self.stride[0], self.padding[0])


def convolve(x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Sequence[int]) -> jax.Array:
    """Returns the convolution of [B, *space, C] with [*size, C, D], zero-padded by `padding` on both sides of each axis.

    XLA's CPU convolution is several times slower on one input channel than patches and one matrix product; elsewhere
    the plain convolution is right.
    """
    both = [(p, p) for p in padding]
    if jax.default_backend() == "cpu" and kernel.shape[-2] == 1:
        return _by_patches(jnp.pad(x, [(0, 0), *both, (0, 0)]), kernel, stride)
    spec = ("NHWC", "HWIO", "NHWC") if len(padding) == 2 else ("NHC", "HIO", "NHC")
    return jax.lax.conv_general_dilated(x, kernel, tuple(stride), both, dimension_numbers=spec)


def _by_patches(x: jax.Array, kernel: jax.Array, stride: Sequence[int]) -> jax.Array:
    size = kernel.shape[:-2]
    x = x[..., 0]
    for axis, (k, s) in enumerate(zip(size, stride, strict=True), 1):
        count = (x.shape[axis] - k) // s + 1
        blocks = -(-k // s)  # patches of overlapping windows, put together from shifted slices of whole strides
        room = (count + blocks - 1) * s - x.shape[axis]
        if room > 0:
            x = jnp.pad(x, [(0, room if a == axis else 0) for a in range(x.ndim)])
        x = jax.lax.slice_in_dim(x, 0, (count + blocks - 1) * s, axis=axis)
        x = x.reshape(x.shape[:axis] + (count + blocks - 1, s) + x.shape[axis + 1 :])
        x = jnp.moveaxis(x, axis + 1, -1)
        parts = [jax.lax.slice_in_dim(x, b, b + count, axis=axis) for b in range(blocks)]
        x = jnp.concatenate(parts, -1)[..., :k]
    # Now [B, *out, k1] or [B, *out, k1, k2].
    space = len(size)
    x = x.reshape(x.shape[: 1 + space] + (-1,))
    return x @ kernel.reshape(-1, kernel.shape[-1])


class BatchNorm(nnx.BatchNorm):
    """Batch norm whose statistics leave padding out; over the global batch under `jit`."""

    def __init__(self, features: int, *, dtype: Any, rngs: nnx.Rngs, zero_scale: bool = False):
        scale_init = nnx.initializers.zeros_init() if zero_scale else nnx.initializers.ones_init()
        super().__init__(features, momentum=0.9, epsilon=1e-5, dtype=dtype, scale_init=scale_init, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:  # type: ignore[override]
        if self.use_running_average:
            return super().__call__(x)
        # A batch with nothing valid in it must not divide by zero.
        mask = valid(x, jnp.where(lengths.sum() > 0, lengths, x.shape[1]))
        return super().__call__(x, mask=mask)


def max_pool(
    x: jax.Array, lengths: jax.Array, window: int, stride: int | None = None, padding: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Max pool over all axes but the first and last, of values that are not negative (after a ReLU).

    Written as maxima of strided slices: the gradient of XLA's windowed maximum is slow on CPU.
    """
    stride = stride or window
    x = zero_padding(x, lengths)
    for axis in range(1, x.ndim - 1):
        if padding:
            x = jnp.pad(x, [(0, 0) if a != axis else (padding, padding) for a in range(x.ndim)])
        if x.shape[axis] < window:
            x = jnp.pad(x, [(0, 0) if a != axis else (0, window - x.shape[axis]) for a in range(x.ndim)])
        count = (x.shape[axis] - window) // stride + 1
        if stride == window:
            x = jax.lax.slice_in_dim(x, 0, count * window, axis=axis)
            x = x.reshape(x.shape[:axis] + (count, window) + x.shape[axis + 1 :]).max(axis + 1)
        else:
            last = (count - 1) * stride + 1
            parts = [jax.lax.slice_in_dim(x, k, k + last, stride, axis) for k in range(window)]
            x = jnp.stack(parts).max(0)
    return x, out_length(lengths, window, stride, padding)


def drop_path(x: jax.Array, rate: float, rngs: nnx.Rngs | None) -> jax.Array:
    """Stochastic depth (Huang et al. 2016): drops a residual branch [B, …] for whole examples; off without `rngs`."""
    if rate == 0.0 or rngs is None:
        return x
    keep = jax.random.bernoulli(rngs.dropout(), 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1 - rate), 0)


