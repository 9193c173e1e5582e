"""What encoders share: their output, and convolutions, norms and pools that padding cannot leak through.

Every helper works on [B, T, ..., C] with `lengths` [B], the valid positions along T. What goes into a convolution or pool is zero
beyond them, and what comes out of a norm or pool is too; paddings are explicit, as PyTorch's are, so that a clip gives the same
frames alone and in a padded batch.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sacjax.errors import UserError

HE = nnx.initializers.variance_scaling(
    2.0, "fan_out", "normal"
)  # He et al. 2015, as torchvision's ResNets

_target: ContextVar[str] = ContextVar("target", default="")


def platform() -> str:
    """Returns what is compiled for: cpu, gpu or tpu. Some forms of the same sum are far faster on one of them."""
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def compiled_for(target: str) -> Iterator[None]:
    """What is traced inside is for another platform than this machine's, as `sacjax.plan` needs."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


class EncoderOutput(NamedTuple):
    """Frames float32 or bfloat16 [B, T', D], valid frames int32 [B], and every layer's output where asked for."""

    frames: Any
    lengths: Any
    hidden_states: Any = None


def require(condition: bool, option: str, value: Any, wanted: str) -> None:
    """Raises UserError naming an encoder's option unless the condition holds."""
    if not condition:
        raise UserError(f"model.encoder.{option} is {value!r}: {wanted}")


def valid(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns [B, T, 1, …], True at valid positions, of x's rank."""
    mask = jnp.arange(x.shape[1]) < lengths[:, None]
    return mask.reshape(mask.shape + (1,) * (x.ndim - 2))


def zero_padding(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns x with zeros beyond the valid positions."""
    return jnp.where(valid(x, lengths), x, 0)


def out_length(length: Any, kernel: int, stride: int, padding: int) -> Any:
    """Returns the positions that a convolution or pool gives: 1 at least for the shortest clip, 0 for an empty one.

    Few operations, each input used twice: XLA:CPU copies a chain of these into every loop that compares with a length.
    """
    length = jnp.asarray(length)
    return jnp.minimum(
        jnp.maximum(
            jax.lax.div(length + 2 * padding - kernel, jnp.full_like(length, stride)) + 1, 1
        ),
        length,
    )


class Conv(nnx.Module):
    """A convolution over time, or over time and frequency, with explicit padding; its input is zero beyond `lengths`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Sequence[int], stride: int | Sequence[int] = 1, *, use_bias: bool = False,
        padding: Sequence[int] | None = None, kernel_init: Any = HE, dtype: Any, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.size = tuple(kernel)
        self.stride = (stride,) * len(self.size) if isinstance(stride, int) else tuple(stride)
        self.padding = tuple(k // 2 for k in kernel) if padding is None else tuple(padding)
        self.kernel = nnx.Param(kernel_init(rngs.params(), (*self.size, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros([outputs])) if use_bias else None
        self.dtype = dtype

    def __call__(self, x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T, …, inputs] → [B, T', …, outputs], not yet zero beyond the new lengths, and these."""
        x = x.astype(self.dtype)
        # More at the end where the input is shorter than the kernel, so that one position comes out.
        room = [
            max(k - n - 2 * p, 0)
            for k, n, p in zip(self.size, x.shape[1:-1], self.padding, strict=True)
        ]
        padding = [(p, p + r) for p, r in zip(self.padding, room, strict=True)]
        x = convolve(x, self.kernel[...].astype(self.dtype), self.stride, padding)
        if self.bias is not None:
            x = x + self.bias[...].astype(self.dtype)
        return x, self.lengths(lengths)

    def lengths(self, lengths: Any) -> Any:
        """Returns the valid positions that come of so many."""
        return out_length(lengths, self.size[0], self.stride[0], self.padding[0])


def convolve(
    x: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Sequence[tuple[int, int]]
) -> jax.Array:
    """Returns the convolution of [B, *space, C] with [*size, C, D].

    XLA:CPU (jaxlib 0.10) takes a path up to 100 times slower where fewer positions come out than the kernel has, as in the last
    stage of a ResNet on short clips; patches and one matrix product are right there, and the plain convolution everywhere else.
    """
    size = kernel.shape[:-2]
    spans = zip(x.shape[1:-1], size, stride, padding, strict=True)
    count = [(n + sum(pads) - k) // s + 1 for n, k, s, pads in spans]
    if platform() == "cpu" and math.prod(count) < math.prod(size):
        x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
        slices = itertools.product(*(
            [slice(k, k + (c - 1) * s + 1, s) for k in range(n)] for n, c, s in zip(size, count, stride, strict=True)
        ))  # fmt: skip
        patches = jnp.concatenate([x[(slice(None), *place)] for place in slices], -1)
        return patches @ kernel.reshape(-1, kernel.shape[-1])
    spec = ("NHWC", "HWIO", "NHWC") if len(size) == 2 else ("NHC", "HIO", "NHC")
    return jax.lax.conv_general_dilated(
        x, kernel, tuple(stride), list(padding), dimension_numbers=spec
    )


class BatchNorm(nnx.BatchNorm):
    """Batch norm whose statistics leave padding out; over the global batch under `jit`. Float32 inside."""

    def __init__(self, features: int, *, dtype: Any, rngs: nnx.Rngs, zero_scale: bool = False):
        scale_init = nnx.initializers.zeros_init() if zero_scale else nnx.initializers.ones_init()
        super().__init__(
            features, momentum=0.9, epsilon=1e-5, dtype=dtype, scale_init=scale_init, rngs=rngs
        )

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:  # type: ignore[override]
        """Returns x normalized, zero beyond `lengths`. Flax's own rounds the running mean to bfloat16."""
        y, mask = x.astype(jnp.float32), valid(x, lengths)
        if self.use_running_average:
            mean, variance = self.mean[...], self.var[...]
        else:
            axes = tuple(range(x.ndim - 1))
            total = lengths.sum() * (x.size // (x.shape[0] * x.shape[1] * x.shape[-1]))
            count = jnp.maximum(total, 1).astype(jnp.float32)
            counted = jnp.where(mask, y, 0)
            mean = counted.sum(axes) / count
            variance = jnp.maximum((counted * counted).sum(axes) / count - mean**2, 0)
            momentum = jnp.where(
                total > 0, self.momentum, 1.0
            )  # a batch with nothing valid teaches nothing
            self.mean[...] = momentum * self.mean[...] + (1 - momentum) * jax.lax.stop_gradient(
                mean
            )
            self.var[...] = momentum * self.var[...] + (1 - momentum) * jax.lax.stop_gradient(
                variance
            )
        assert self.scale is not None and self.bias is not None
        scale = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        # One product and sum, so that the backward pass keeps x and nothing else.
        return jnp.where(mask, y * scale + (self.bias[...] - mean * scale), 0).astype(self.dtype)


def max_pool(
    x: jax.Array, lengths: jax.Array, window: int, stride: int | None = None, padding: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Max pool over all axes but the first and last, of values that are not negative (after a ReLU).

    XLA's CPU gradient of a windowed maximum is 5 to 20 times slower than `_axis_pool`; elsewhere the plain one is right.
    """
    stride = stride or window
    lengths_out = out_length(lengths, window, stride, padding)
    axes = range(1, x.ndim - 1)
    room = {a: max(window - x.shape[a] - 2 * padding, 0) for a in axes}
    if platform() == "cpu":
        for axis in axes:
            x = _axis_pool(x, axis, window, stride, padding, padding + room[axis])
    else:
        pads = [(padding, padding + room[a]) if a in room else (0, 0) for a in range(x.ndim)]
        sizes, strides = ((1, *[n] * len(room), 1) for n in (window, stride))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sizes, strides, pads)
    return zero_padding(x, lengths_out), lengths_out


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _axis_pool(x: jax.Array, axis: int, window: int, stride: int, low: int, high: int) -> jax.Array:
    """Maximum over windows along one axis, the gradient going to the first of equals as in PyTorch."""
    return _axis_pool_forward(x, axis, window, stride, low, high)[0]


def _axis_pool_forward(
    x: jax.Array, axis: int, window: int, stride: int, low: int, high: int
) -> tuple[Any, Any]:
    count, blocks = (x.shape[axis] + low + high - window) // stride + 1, -(-window // stride)
    total = (
        count + blocks - 1
    ) * stride  # whole strides: element k of each window is then a plain slice
    pads = [
        (low, total - x.shape[axis] - low, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)
    ]
    rows = jax.lax.pad(x, jnp.zeros([], x.dtype), pads)
    rows = rows.reshape(*x.shape[:axis], count + blocks - 1, stride, *x.shape[axis + 1 :])

    def element(k: int) -> jax.Array:
        part = jax.lax.slice_in_dim(rows, k // stride, k // stride + count, axis=axis)
        return jax.lax.index_in_dim(part, k % stride, axis + 1, keepdims=False)

    best = element(0)
    place = jnp.zeros(best.shape, jnp.int8)
    for k in range(1, window):
        place = jnp.where(element(k) > best, jnp.int8(k), place)
        best = jnp.maximum(best, element(k))
    return best, (place, x.shape[axis])


def _axis_pool_backward(
    axis: int, window: int, stride: int, low: int, high: int, saved: Any, grad: Any
) -> tuple[Any]:
    place, size = saved
    blocks = -(-window // stride)

    def at(k: int, shift: int) -> jax.Array:
        pads = [(shift, blocks - 1 - shift) if a == axis else (0, 0) for a in range(grad.ndim)]
        return jnp.pad(jnp.where(place == k, grad, 0), pads)

    zero = jnp.zeros_like(at(0, 0))  # where a stride is longer than the window
    parts = [
        sum((at(b * stride + r, b) for b in range(blocks) if b * stride + r < window), zero)
        for r in range(stride)
    ]
    rows = jnp.stack(parts, axis + 1)
    rows = rows.reshape(*grad.shape[:axis], -1, *grad.shape[axis + 1 :])
    pads = [
        (-low, size + low - rows.shape[axis], 0) if a == axis else (0, 0, 0)
        for a in range(grad.ndim)
    ]
    return (jax.lax.pad(rows, jnp.zeros([], rows.dtype), pads),)


_axis_pool.defvjp(_axis_pool_forward, _axis_pool_backward)


class DropPath(nnx.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch [B, …] for whole examples, in training only."""

    def __init__(self, rate: float):
        self.rate = rate
        self.deterministic = False

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        if self.rate == 0.0 or self.deterministic or rngs is None:
            return x
        keep = jax.random.bernoulli(
            rngs.dropout(), 1 - self.rate, (x.shape[0],) + (1,) * (x.ndim - 1)
        )
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)
