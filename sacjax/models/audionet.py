"""CNNs on the raw waveform.

After Dai et al. 2016, "Very Deep Convolutional Neural Networks for Raw Waveforms".
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.conv import Conv, zero_padding
from sacjax.layers.dropout import DropPath
from sacjax.layers.norm import BatchNorm
from sacjax.layers.pooling import max_pool
from sacjax.layers.tap import tap
from sacjax.models import base
from sacjax.parts import part

Variant = Literal["audionet", "m5", "m11", "m18", "m34_res"]

VARIANTS: dict[Variant, tuple[int, tuple[tuple[int, int], ...]]] = {
    "audionet": (128, ((128, 1), (256, 1), (512, 1))),
    "m5": (128, ((128, 1), (256, 1), (512, 1))),
    "m11": (64, ((64, 2), (128, 2), (256, 3), (512, 2))),
    "m18": (64, ((64, 4), (128, 4), (256, 4), (512, 4))),
    "m34_res": (48, ((48, 3), (96, 4), (192, 6), (384, 3))),
}
"""The first convolution's channels, then (channels, convolutions or blocks) between pools of 4."""


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
    """`model.encoder` of `model.name = 'audionet'`."""

    variant: Variant = "m5"
    """audionet is the source article's, of four convolutions; the others are Dai et al.'s."""

    width: float = 1.0
    """Factor of all numbers of channels."""

    first_kernel: int = 80
    """Of the first convolution, in samples."""

    first_stride: int = 4
    """Of the first convolution, in samples."""

    stochastic_depth: float = 0.0
    """m34_res: rate of the last block; it grows linearly from the first, which is never dropped."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        self.require_positive("width", "first_kernel", "first_stride")
        self.require_rates("stochastic_depth")
        residual = self.variant == "m34_res" or self.stochastic_depth == 0
        wanted = "only m34_res has residual branches to drop"
        self.require(residual, "stochastic_depth", wanted)


class PlainBlock(nnx.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, drop: float, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes a block of so many channels; it has no branch to drop."""
        self.conv = Conv(inputs, outputs, (3,), dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch time inputs"], lengths: Int[Array, " batch"], ctx: Context
    ) -> tuple[Float[Array, "batch time outputs"], Int[Array, " batch"]]:
        """Returns (the result; its lengths)."""
        x, lengths = self.conv(x, lengths)
        return nnx.relu(self.bn(x, lengths, ctx)), lengths


class ResidualBlock(nnx.Module):
    """Two convolutions with a shortcut, as M34-res."""

    def __init__(self, inputs: int, outputs: int, drop: float, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes a block of so many channels, whose branch is dropped at the rate `drop`."""
        self.conv1 = Conv(inputs, outputs, (3,), dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(outputs, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(outputs, outputs, (3,), dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(outputs, dtype=dtype, rngs=rngs)
        change = inputs != outputs
        self.shortcut = Conv(inputs, outputs, (1,), dtype=dtype, rngs=rngs) if change else None
        self.drop = DropPath(drop)

    def __call__(
        self, x: Float[Array, "batch time inputs"], lengths: Int[Array, " batch"], ctx: Context
    ) -> tuple[Float[Array, "batch time outputs"], Int[Array, " batch"]]:
        """Returns (the result; its lengths)."""
        shortcut = x if self.shortcut is None else self.shortcut(x, lengths)[0]
        x, lengths = self.conv1(x, lengths)
        x = nnx.relu(self.bn1(x, lengths, ctx))
        x, lengths = self.conv2(x, lengths)
        x = self.bn2(x, lengths, ctx)
        return nnx.relu(shortcut + self.drop(x, ctx.rng(0))), lengths


class AudioNet(base.Encoder):
    """CNN on the waveform, M3 to M34-res of Dai et al. 2016: convolutions with max pools of 4."""

    Options = Options
    input_kind = "waveform"

    def __init__(
        self,
        *,
        num_features: int = 1,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        """Makes fresh parameters; see `Options`."""
        o = Options(**options)
        first, stages = VARIANTS[o.variant]
        channels = max(round(first * o.width), 1)
        self.conv1 = Conv(1, channels, (o.first_kernel,), o.first_stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(channels, dtype=dtype, rngs=rngs)
        block = ResidualBlock if o.variant == "m34_res" else PlainBlock
        last, number = sum(count for _, count in stages) - 1, 0
        groups = []
        for published, count in stages:
            blocks = []
            for _ in range(count):
                drop = o.stochastic_depth * number / max(last, 1)
                outputs = max(round(published * o.width), 1)
                blocks.append(block(channels, outputs, drop, dtype, rngs))
                channels, number = outputs, number + 1
            groups.append(nnx.List(blocks))
        self.stages = nnx.List(groups)
        self.pool_last = o.variant in ("audionet", "m5")  # once more before the global average
        self.features = channels

    @part("encoder")
    def __call__(
        self,
        inputs: Float[Array, "batch samples"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> base.EncoderOutput:
        """Returns the frames, one every 1,024 samples by default."""
        x, lengths = self.conv1(zero_padding(inputs, lengths)[..., None], lengths)
        x = nnx.relu(self.bn1(x, lengths, ctx))
        x, lengths = max_pool(x, lengths, 4)
        for s, stage in enumerate(self.stages):
            inner = ctx.child(s)
            for k, block in enumerate(stage):
                x, lengths = block(x, lengths, inner.child(k))
            if s < len(self.stages) - 1 or self.pool_last:
                x, lengths = max_pool(x, lengths, 4)
        return base.EncoderOutput(tap(x), lengths)
