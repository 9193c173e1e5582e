"""Convolutions over time and frequency of each channel by itself."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.layers.conv import HE, out_length
from sacjax.layers.platform import platform


class DepthwiseConv(nnx.Module):
    """A kernel a channel, padded by half its size."""

    def __init__(
        self,
        channels: int,
        size: int,
        stride: int = 1,
        *,
        use_bias: bool = False,
        kernel_init: nnx.Initializer = HE,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes the kernel.

        Args:
          channels: of what it goes over.
          size: of the kernel along both axes, odd.
          stride: along both.
          use_bias: whether to add one.
          kernel_init: distribution of the kernel.
          dtype: of the computation; parameters are float32.
          rngs: of the parameters.
        """
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, 1, channels)))
        self.bias = nnx.Param(jnp.zeros([channels])) if use_bias else None
        self.size, self.stride, self.dtype = size, stride, dtype

    def __call__(
        self, x: Float[Array, "batch time bands channels"], lengths: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch frames fewer channels"], Int[Array, " batch"]]:
        """Returns (the convolution, not yet zero beyond the new lengths; these).

        Args:
          x: zero beyond `lengths`.
          lengths: valid positions along time.
        """
        kernel, half = self.kernel[...].astype(self.dtype), self.size // 2
        x = x.astype(self.dtype)
        if platform() == "cpu":
            y = _shifted(x, kernel[:, :, 0], self.stride)
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                [(half, half)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=x.shape[-1],
            )
        if self.bias is not None:
            y = y + self.bias[...].astype(self.dtype)
        return y, out_length(lengths, self.size, self.stride, half)


def _shifted(
    x: Float[Array, "batch time bands channels"],
    kernel: Float[Array, "size size channels"],
    stride: int,
) -> jax.Array:
    """Returns the convolution as a sum of shifted products.

    XLA:CPU takes the gradient of a convolution in as many groups as channels one by one.
    """
    size, half = len(kernel), len(kernel) // 2
    x = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    times, bands = ((n - size) // stride + 1 for n in x.shape[1:3])

    def part(i: int, j: int) -> jax.Array:
        ends = (i + (times - 1) * stride + 1, j + (bands - 1) * stride + 1)
        return x[:, i : ends[0] : stride, j : ends[1] : stride] * kernel[i, j]

    rows: Sequence[jax.Array] = [
        sum((part(i, j) for j in range(1, size)), part(i, 0)) for i in range(size)
    ]
    return sum(rows[1:], rows[0])
