"""Raw-wave CNNs after Dai et al. 2016, "Very Deep Convolutional Neural Networks for Raw Waveforms"."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sacjax.errors import UserError, nearest
from sacjax.models.base import (
    BatchNorm,
    Conv,
    DropPath,
    EncoderOutput,
    max_pool,
    require,
    zero_padding,
)

# First layer's channels, then (channels, convolutions) between pools of 4. All convolutions but the first are 3 wide.
VARIANTS: dict[str, tuple[int, tuple[tuple[int, int], ...]]] = {
    "audionet": (128, ((128, 1), (256, 1), (512, 1))),  # the source article's four convolutions
    "m5": (128, ((128, 1), (256, 1), (512, 1))),
    "m11": (64, ((64, 2), (128, 2), (256, 3), (512, 2))),
    "m18": (64, ((64, 4), (128, 4), (256, 4), (512, 4))),
    "m34_res": (48, ((48, 3), (96, 4), (192, 6), (384, 3))),
}


class PlainBlock(nnx.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, dtype: Any, rngs: nnx.Rngs, drop: float = 0.0):
        self.conv = Conv(inputs, outputs, (3,), dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: jax.Array, lengths: jax.Array, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        x, lengths = self.conv(x, lengths)
        return nnx.relu(self.bn(x, lengths)), lengths


class ResidualBlock(nnx.Module):
    """Two convolutions with a shortcut, as M34-res."""

    def __init__(self, inputs: int, outputs: int, dtype: Any, rngs: nnx.Rngs, drop: float = 0.0):
        self.conv1 = Conv(inputs, outputs, (3,), dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(outputs, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(outputs, outputs, (3,), dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(outputs, dtype=dtype, rngs=rngs)
        self.shortcut = (
            Conv(inputs, outputs, (1,), dtype=dtype, rngs=rngs) if inputs != outputs else None
        )
        self.drop = DropPath(drop)

    def __call__(
        self, x: jax.Array, lengths: jax.Array, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        shortcut = x if self.shortcut is None else self.shortcut(x, lengths)[0]
        x, lengths = self.conv1(x, lengths)
        x = nnx.relu(self.bn1(x, lengths))
        x, lengths = self.conv2(x, lengths)
        x = self.bn2(x, lengths)
        return nnx.relu(shortcut + self.drop(x, rngs)), lengths


class AudioNet(nnx.Module):
    """A first convolution of 80 samples at stride 4, then 3-wide ones with max pools of 4 between."""

    input_kind = "waveform"

    def __init__(
        self,
        *,
        variant: str = "m5",
        width: float = 1.0,
        first_kernel: int = 80,
        first_stride: int = 4,
        stochastic_depth: float = 0.0,
        num_features: int = 1,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Args:
          variant: audionet (the source article's), m5, m11, m18 or m34_res.
          width: factor of all channel counts.
          first_kernel, first_stride: of the first convolution, in samples.
          stochastic_depth: m34_res: rate of the last block; it grows linearly from the first.

        Raises:
          UserError: an unknown variant, or a value out of range.
        """
        if variant not in VARIANTS:
            raise UserError(f"model.encoder.variant is '{variant}'{nearest(variant, VARIANTS)}")
        require(width > 0, "width", width, "it must be greater than 0")
        require(
            first_kernel > 0,
            "first_kernel",
            first_kernel,
            "give a number of samples greater than 0",
        )
        require(
            first_stride > 0,
            "first_stride",
            first_stride,
            "give a number of samples greater than 0",
        )
        require(
            0 <= stochastic_depth < 1,
            "stochastic_depth",
            stochastic_depth,
            "it must lie between 0 and 1",
        )
        residual = variant == "m34_res" or stochastic_depth == 0
        require(
            residual,
            "stochastic_depth",
            stochastic_depth,
            "only m34_res has residual branches to drop",
        )
        first, stages = VARIANTS[variant]
        channels = max(round(first * width), 1)
        self.conv1 = Conv(1, channels, (first_kernel,), first_stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(channels, dtype=dtype, rngs=rngs)
        total, place = sum(count for _, count in stages), 0
        block = ResidualBlock if variant == "m34_res" else PlainBlock
        groups = []
        for wide, count in stages:
            layer = []
            for _ in range(count):
                drop = stochastic_depth * place / max(total - 1, 1)
                layer.append(block(channels, max(round(wide * width), 1), dtype, rngs, drop))
                channels, place = max(round(wide * width), 1), place + 1
            groups.append(nnx.List(layer))
        self.stages = nnx.List(groups)
        self.pool_last = variant in (
            "audionet",
            "m5",
        )  # these pool once more before the global average
        self.features = channels

    def __call__(
        self, inputs: jax.Array, lengths: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> EncoderOutput:
        """[B, T], lengths [B] → frames [B, T', D]."""
        x, lengths = self.conv1(zero_padding(inputs, lengths)[..., None], lengths)
        x = nnx.relu(self.bn1(x, lengths))
        x, lengths = max_pool(x, lengths, 4)
        for k, stage in enumerate(self.stages):
            for block in stage:
                x, lengths = block(x, lengths, rngs)
            if k < len(self.stages) - 1 or self.pool_last:
                x, lengths = max_pool(x, lengths, 4)
        return EncoderOutput(x, lengths)
