"""Convolutions that padding cannot leak through.

Everything works on [B, T, ..., C] with `lengths` [B], the valid positions along T. What goes into a
convolution or pool is zero beyond them, and what comes out of a norm or pool is too. Paddings are
explicit, as PyTorch's are, so that a clip gives the same frames alone and in a padded batch.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from sacjax.layers import cpu, tpu
from sacjax.layers.platform import platform

HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015, as torchvision's ResNets."""

KAIMING = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
"""He et al. 2015, as fairseq's convolutions."""


def valid(x: Shaped[Array, "batch time ..."], lengths: Int[Array, " batch"]) -> Bool[Array, "..."]:
    """Returns bool [B, T, 1, ...] of x's rank: which positions are within the lengths."""
    mask = jnp.arange(x.shape[1]) < lengths[:, None]
    return mask.reshape(mask.shape + (1,) * (x.ndim - 2))


def zero_padding(
    x: Shaped[Array, "batch time *rest"], lengths: Int[Array, " batch"]
) -> Shaped[Array, "batch time *rest"]:
    """Returns x with zeros beyond the lengths."""
    return jnp.where(valid(x, lengths), x, 0)


def out_length(
    length: Int[Array, "..."] | int, kernel: int, stride: int, padding: int
) -> Int[Array, "..."]:
    """Returns the positions that a convolution or pool gives: at least 1, but 0 for an empty clip.

    It is a few operations that use each input twice: XLA:CPU copies a chain of these into every
    loop that compares with a length.
    """
    length = jnp.asarray(length)
    room = length + 2 * padding - kernel
    steps = jax.lax.div(room, jnp.full_like(length, stride)) + 1
    return jnp.minimum(jnp.maximum(steps, 1), length)


class Conv(nnx.Module):
    """A convolution over time, or over time and frequency, with explicit padding."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: int | Sequence[int] = 1,
        *,
        use_bias: bool = False,
        padding: Sequence[int] | None = None,
        kernel_init: nnx.Initializer = HE,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes the kernel.

        Args:
          inputs: channels.
          outputs: channels.
          kernel: its size along each axis.
          stride: along each axis, or along all.
          padding: before and after each axis; by default half the kernel.
          use_bias: whether to add one.
          kernel_init: distribution of the kernel.
          dtype: of the computation; parameters are float32.
          rngs: of the parameters.
        """
        self.size = tuple(kernel)
        self.stride = (stride,) * len(self.size) if isinstance(stride, int) else tuple(stride)
        self.padding = tuple(k // 2 for k in kernel) if padding is None else tuple(padding)
        self.kernel = nnx.Param(kernel_init(rngs.params(), (*self.size, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros([outputs])) if use_bias else None
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "batch time *space inputs"], lengths: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch frames *bands outputs"], Int[Array, " batch"]]:
        """Returns (the convolution, not yet zero beyond the new lengths; these).

        Args:
          x: zero beyond `lengths`.
          lengths: valid positions along time.
        """
        x = x.astype(self.dtype)
        # More at the end where the input is shorter than the kernel: one position comes out.
        axes = zip(self.size, x.shape[1:-1], self.padding, strict=True)
        room = [max(k - n - 2 * p, 0) for k, n, p in axes]
        padding = [(p, p + r) for p, r in zip(self.padding, room, strict=True)]
        x = convolution(x, self.kernel[...].astype(self.dtype), self.stride, padding)
        if self.bias is not None:
            x = x + self.bias[...].astype(self.dtype)
        return x, out_length(lengths, self.size[0], self.stride[0], self.padding[0])


def convolution(
    x: Float[Array, "batch *space inputs"],
    kernel: Float[Array, "*size group_inputs outputs"],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    groups: int = 1,
) -> Float[Array, "batch *positions outputs"]:
    """Returns a convolution over one or two axes, in the form that is fast on this platform.

    Args:
      x: what the kernel goes over.
      kernel: its inputs are those of one group.
      stride: along each axis.
      padding: (before, after) of each axis.
      groups: into how many the channels are split.
    """
    form = "NHWC" if kernel.ndim == 4 else "NHC"
    plain = partial(
        jax.lax.conv_general_dilated,
        window_strides=tuple(stride),
        padding=list(padding),
        dimension_numbers=(form, "HWIO" if kernel.ndim == 4 else "HIO", form),
    )
    if groups > 1:
        if platform() == "tpu":
            return plain(x, kernel, feature_group_count=groups)
        return cpu.groups_side_by_side(plain, x, kernel, groups)
    if platform() == "tpu" and kernel.ndim == 3 and stride[0] > 1 and not any(padding[0]):
        return tpu.strided_convolution(x, kernel, stride[0])
    few = cpu.has_few_outputs(x.shape[1:-1], kernel.shape[:-2], stride, padding)
    if few and platform() == "cpu":
        return cpu.convolution_of_patches(x, kernel, stride, padding)
    return plain(x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: Float[Array, "*shape"], factor: float) -> Float[Array, "*shape"]:
    """Returns x; its gradient is multiplied by `factor`."""
    return x


def _scale_backward(factor: float, _: None, grad: Any) -> tuple[Any]:
    return (grad * factor,)


scale_gradient.defvjp(lambda x, factor: (x, None), _scale_backward)
