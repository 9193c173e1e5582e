"""What networks on pictures share that take a spectrogram: its channels, and layers with a norm."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.conv import Conv, zero_padding
from sacjax.layers.norm import EPSILON, BatchNorm
from sacjax.models import base

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
    """How a spectrogram is a picture."""

    in_channels: Literal[1, 3] = 1
    """3: the spectrogram three times, as ImageNet's weights want it."""

    imagenet_norm: bool = False
    """Scales a spectrogram of zero mean and unit variance to the statistics of ImageNet."""

    def check(self) -> None:
        """Raises UserError for values that do not fit together."""
        three = not self.imagenet_norm or self.in_channels == 3
        self.require(three, "imagenet_norm", "it needs in_channels=3")


def as_picture(
    x: Float[Array, "batch frames bands 3"],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Array, "batch frames bands 3"]:
    """Returns spectrograms as networks trained on ImageNet see a grey picture.

    The picture has the mean and contrast of ImageNet's; its channels are then normalized by the
    channels' statistics.

    Args:
      x: of zero mean and unit variance, three times.
      mean: of the channels, as the network normalizes by it.
      std: likewise.
    """
    middle, spread = jnp.asarray(IMAGENET_MEAN).mean(), jnp.asarray(IMAGENET_STD).mean()
    return (x * spread + middle - jnp.asarray(mean)) / jnp.asarray(std)


def picture(
    options: Any,
    inputs: Float[Array, "batch frames bands"],
    lengths: Int[Array, " batch"],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Array, "batch frames bands channels"]:
    """Returns spectrograms as pictures, zero beyond the lengths.

    Args:
      options: with `in_channels` and `imagenet_norm`.
      inputs: spectrograms.
      lengths: valid frames.
      mean: as of `as_picture`.
      std: likewise.
    """
    x = jnp.repeat(inputs[..., None], options.in_channels, -1)
    if options.imagenet_norm:
        x = as_picture(x, mean, std)
    return zero_padding(x, lengths)


class ConvNorm(nnx.Module):
    """Convolution, batch norm, an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: int = 1,
        *,
        padding: Sequence[int] | None = None,
        epsilon: float = EPSILON,
        act: Callable[[jax.Array], jax.Array] = nnx.relu,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes a layer; see `Conv` for its arguments. `epsilon` is added to variances."""
        self.conv = Conv(inputs, outputs, kernel, stride, padding=padding, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(outputs, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.act = act

    def __call__(
        self,
        x: Float[Array, "batch time bands inputs"],
        lengths: Int[Array, " batch"],
        ctx: Context,
    ) -> tuple[Float[Array, "batch frames fewer outputs"], Int[Array, " batch"]]:
        """Returns (the result, zero beyond its lengths, where the activation of 0 is 0; these)."""
        x, lengths = self.conv(x, lengths)
        return self.act(self.bn(x, lengths, ctx)), lengths
