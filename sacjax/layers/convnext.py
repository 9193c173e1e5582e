"""A stack of ConvNeXt blocks over time, as Vocos has it (Siuzdak 2023)."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.layers.activation import gelu
from sacjax.layers.conv import Conv, zero_padding

KERNEL = 7
EPSILON = 1e-6
INIT = nnx.initializers.truncated_normal(0.02)


def norm(width: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Returns a layer norm with Vocos's epsilon."""
    return nnx.LayerNorm(width, epsilon=EPSILON, dtype=dtype, use_fast_variance=False, rngs=rngs)


class Block(nnx.Module):
    """Depthwise convolution of 7 frames, layer norm, two linear layers with a GELU; residual."""

    def __init__(self, width: int, hidden: int, scale: float, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes the parameters; the residual branch starts scaled by `scale`."""
        self.kernel = nnx.Param(INIT(rngs.params(), (KERNEL, width)))
        self.bias = nnx.Param(jnp.zeros([width]))
        self.norm = norm(width, dtype, rngs)
        self.first = nnx.Linear(width, hidden, kernel_init=INIT, dtype=dtype, rngs=rngs)
        self.second = nnx.Linear(hidden, width, kernel_init=INIT, dtype=dtype, rngs=rngs)
        self.scale = nnx.Param(jnp.full([width], scale))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "batch frames width"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch frames width"]:
        """Returns x with the branch added, zero beyond the lengths.

        The depthwise convolution is a sum of shifted products, which every platform does fast.
        """
        half, size = KERNEL // 2, x.shape[1]
        padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
        kernel = self.kernel[...].astype(self.dtype)
        y = sum(padded[:, k : k + size] * kernel[k] for k in range(KERNEL))
        y = self.norm(y + self.bias[...].astype(self.dtype))
        y = self.second(gelu(self.first(y)))
        return zero_padding(x + y * self.scale[...].astype(self.dtype), lengths)


class ConvNeXt(nnx.Module):
    """A convolution of 7 frames, a layer norm, the blocks, a layer norm."""

    def __init__(
        self,
        inputs: int,
        width: int,
        hidden: int,
        depth: int,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Makes `depth` blocks of so many channels, `hidden` inside each."""
        self.embed = Conv(
            inputs, width, (KERNEL,), use_bias=True, kernel_init=INIT, dtype=dtype, rngs=rngs
        )
        self.norm = norm(width, dtype, rngs)
        blocks = [Block(width, hidden, 1 / depth, dtype, rngs) for _ in range(depth)]
        self.blocks = nnx.List(blocks)
        self.final_norm = norm(width, dtype, rngs)

    def __call__(
        self, x: Float[Array, "batch frames inputs"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch frames width"]:
        """Returns as many frames, zero beyond the lengths."""
        x, _ = self.embed(zero_padding(x, lengths), lengths)
        x = zero_padding(self.norm(x), lengths)
        for block in self.blocks:
            x = block(x, lengths)
        return zero_padding(self.final_norm(x), lengths)
