"""Forms of convolutions and maxima that are here only because XLA:CPU is slow at the plain ones.

Each is equal to the plain form up to rounding. `layers.conv` and `layers.pooling` choose. The
ratios are of jaxlib 0.10 on two cores.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def has_few_outputs(
    space: Sequence[int],
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> bool:
    """Returns whether a convolution gives fewer positions than its kernel has."""
    return math.prod(_positions(space, size, stride, padding)) < math.prod(size)


def convolution_of_patches(
    x: Float[Array, "batch *space inputs"],
    kernel: Float[Array, "*size inputs outputs"],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> Float[Array, "batch *positions outputs"]:
    """Returns a convolution as one matrix product with the patches that it sees.

    For `has_few_outputs` alone, as in the last stages of a ResNet on short clips. There the plain
    form's forward and backward pass take up to 100 times longer: for 32 clips of 2×2 positions and
    512 channels 1.8 s against 0.02 s, of 4×2 and 256 23 times, of 2×1 and 128 6 times.
    """
    size = kernel.shape[:-2]
    positions = _positions(x.shape[1:-1], size, stride, padding)
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    taps = (
        [slice(k, k + (n - 1) * s + 1, s) for k in range(width)]
        for width, n, s in zip(size, positions, stride, strict=True)
    )
    patches = jnp.concatenate([x[(slice(None), *tap)] for tap in itertools.product(*taps)], -1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _positions(
    space: Sequence[int],
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> list[int]:
    """Returns how many positions a convolution gives along each axis."""
    axes = zip(space, size, stride, padding, strict=True)
    return [(n + sum(pads) - k) // s + 1 for n, k, s, pads in axes]


def groups_side_by_side(
    convolve: Callable[[jax.Array, jax.Array], jax.Array],
    x: Float[Array, "batch *space inputs"],
    kernel: Float[Array, "*size group_inputs outputs"],
    groups: int,
) -> Float[Array, "batch *positions outputs"]:
    """Returns a convolution in groups as one convolution a group, side by side.

    The gradient of a grouped convolution takes 20 times longer for the positions of wav2vec 2.0
    base over 10 s (7.8 s against 0.4 s), 9 times over 3 s, as long over 1 s. Several GPUs gather
    the whole batch on each of them for it, so they take this form too; for a TPU the plain one is
    right.

    Args:
      convolve: the plain convolution of one group.
      x: what the kernel goes over.
      kernel: its inputs are those of one group.
      groups: into how many the channels are split.
    """
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
    return jnp.concatenate([convolve(a, b) for a, b in parts], -1)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def axis_max_pool(
    x: Float[Array, "..."], axis: int, window: int, stride: int, low: int, high: int
) -> Float[Array, "..."]:
    """Returns the maxima over windows along one axis, of values that are not negative.

    The gradient goes to the first of equals, as in PyTorch. XLA's windowed maximum with its
    gradient takes 2 (m5's windows of 4), 4 (a ResNet's of 3×3) to 13 times longer (small_cnn's of
    2×2).

    Args:
      x: of any rank.
      axis: along which the windows lie.
      window: positions of each.
      stride: from one to the next.
      low: zeros before.
      high: zeros after.
    """
    return _axis_max_pool_forward(x, axis, window, stride, low, high)[0]


def _axis_max_pool_forward(
    x: jax.Array, axis: int, window: int, stride: int, low: int, high: int
) -> tuple[Any, Any]:
    count, blocks = (x.shape[axis] + low + high - window) // stride + 1, -(-window // stride)
    # Whole strides, so that element k of each window is a plain slice.
    total = (count + blocks - 1) * stride
    pads = _pads(x.ndim, axis, (low, total - x.shape[axis] - low))
    rows = jax.lax.pad(x, jnp.zeros([], x.dtype), pads)
    rows = rows.reshape(*x.shape[:axis], count + blocks - 1, stride, *x.shape[axis + 1 :])

    def element(k: int) -> jax.Array:
        part = jax.lax.slice_in_dim(rows, k // stride, k // stride + count, axis=axis)
        return jax.lax.index_in_dim(part, k % stride, axis + 1, keepdims=False)

    best = element(0)
    winner = jnp.zeros(best.shape, jnp.int8)
    for k in range(1, window):
        winner = jnp.where(element(k) > best, jnp.int8(k), winner)
        best = jnp.maximum(best, element(k))
    return best, (winner, x.shape[axis])


def _axis_max_pool_backward(
    axis: int, window: int, stride: int, low: int, high: int, saved: Any, grad: Any
) -> tuple[Any]:
    winner, size = saved
    blocks = -(-window // stride)

    def of_element(k: int, shift: int) -> jax.Array:
        pads = [(shift, blocks - 1 - shift) if a == axis else (0, 0) for a in range(grad.ndim)]
        return jnp.pad(jnp.where(winner == k, grad, 0), pads)

    zero = jnp.zeros_like(of_element(0, 0))  # where a stride is longer than the window
    parts = [
        sum((of_element(b * stride + r, b) for b in range(blocks) if b * stride + r < window), zero)
        for r in range(stride)
    ]
    rows = jnp.stack(parts, axis + 1)
    rows = rows.reshape(*grad.shape[:axis], -1, *grad.shape[axis + 1 :])
    pads = _pads(grad.ndim, axis, (-low, size + low - rows.shape[axis]))
    return (jax.lax.pad(rows, jnp.zeros([], rows.dtype), pads),)


def _pads(rank: int, axis: int, pads: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Returns the argument of `lax.pad` that pads one axis alone."""
    return [(*pads, 0) if a == axis else (0, 0, 0) for a in range(rank)]


axis_max_pool.defvjp(_axis_max_pool_forward, _axis_max_pool_backward)
