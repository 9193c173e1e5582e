"""Forms of operations that are here only because XLA's TPU compiler is slow at the plain ones."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def strided_convolution(
    x: Float[Array, "batch time inputs"], kernel: Float[Array, "size inputs outputs"], stride: int
) -> Float[Array, "batch frames outputs"]:
    """Returns a convolution over time without padding, whose gradient by x is one without stride.

    XLA computes that gradient as a convolution of frames with zeros between them, at a quarter of
    the rate: for wav2vec 2.0 base's second layer over 8 clips of 11 s on v5e 2.3 ms, 1.2 ms so.

    Args:
      x: what the kernel goes over, no shorter than it.
      kernel: its taps.
      stride: from one frame to the next.
    """
    return _convolve(x, kernel, stride, (0, 0))


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    form = ("NHC", "HIO", "NHC")
    return jax.lax.conv_general_dilated(x, kernel, (stride,), (padding,), dimension_numbers=form)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
    return strided_convolution(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gives all inputs of a stride as channels of one position, and lays them one after another."""
    x, kernel = saved
    size, inputs, outputs = kernel.shape
    taps, blocks = -(-size // stride), -(-x.shape[1] // stride)
    whole = jnp.pad(kernel, [(0, taps * stride - size), (0, 0), (0, 0)])
    turned = whole.reshape(taps, stride * inputs, outputs)[::-1].swapaxes(1, 2)
    of_x = _convolve(grad, turned, 1, (taps - 1, blocks - grad.shape[1]))
    of_x = of_x.reshape(x.shape[0], blocks * stride, inputs)[:, : x.shape[1]]
    (of_kernel,) = jax.vjp(lambda kernel: _convolve(x, kernel, stride, (0, 0)), kernel)[1](grad)
    return of_x, of_kernel


strided_convolution.defvjp(_forward, _backward)
