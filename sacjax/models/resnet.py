"""ResNets on spectrograms (He et al. 2016), block for block as torchvision's: its weights fit."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.conv import Conv
from sacjax.layers.dropout import DropPath
from sacjax.layers.norm import BatchNorm
from sacjax.layers.pooling import max_pool
from sacjax.layers.tap import tap
from sacjax.models import base, pictures
from sacjax.parts import part

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks of each of the four stages."""

STEMS = {"imagenet": (7, 2, True), "small": (3, 1, False)}
"""First kernel, its stride, and whether a max pool follows."""


@dataclasses.dataclass(frozen=True)
class Options(pictures.Options):
    """`model.encoder` of `model.name = 'spectrogram_resnet'`."""

    depth: Literal[18, 34, 50, 101] = 18
    """Layers."""

    width: int = 64
    """Channels of the first stage; published: 64."""

    stem: Literal["imagenet", "small"] = "imagenet"
    """imagenet: 7×7 of stride 2, then a 3×3 max pool of stride 2; small: 3×3 of stride 1."""

    stem_kernel: int | None = None
    """Replaces the stem's kernel size."""

    stem_stride: int | None = None
    """Replaces the stem's stride."""

    stem_pool: bool | None = None
    """Replaces whether a max pool follows the stem."""

    stochastic_depth: float = 0.0
    """Rate of the last block; it grows linearly from the first, which is never dropped."""

    zero_init: bool = True
    """Start each residual branch at zero (Goyal et al. 2017)."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        self.require_positive("width", "stem_kernel", "stem_stride")
        self.require_rates("stochastic_depth")


class Downsample(nnx.Module):
    """The shortcut where shape changes: 1×1 convolution and norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes both of so many channels."""
        self.conv = Conv(inputs, outputs, (1, 1), stride, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch time bands inputs"],
        lengths: Int[Array, " batch"],
        ctx: Context,
    ) -> Float[Array, "batch frames fewer outputs"]:
        """Returns the shortcut."""
        x, lengths = self.conv(x, lengths)
        return self.bn(x, lengths, ctx)


class Block(nnx.Module):
    """A residual branch of convolutions with norms, ReLU between them, beside a shortcut."""

    expansion: int
    """Channels that come out for each channel inside."""

    downsample: Downsample | None
    drop: DropPath

    def convolutions(self) -> tuple[tuple[Conv, BatchNorm], ...]:
        """Returns the branch's convolutions, each with its norm."""
        raise NotImplementedError

    def __call__(
        self,
        x: Float[Array, "batch time bands inputs"],
        lengths: Int[Array, " batch"],
        ctx: Context,
    ) -> tuple[Float[Array, "batch frames fewer outputs"], Int[Array, " batch"]]:
        """Returns (the sum of shortcut and branch after a ReLU; its lengths)."""
        shortcut = x if self.downsample is None else self.downsample(x, lengths, ctx)
        *before, (conv, bn) = self.convolutions()
        for c, b in before:
            x, lengths = c(x, lengths)
            x = nnx.relu(b(x, lengths, ctx))
        x, lengths = conv(x, lengths)
        x = bn(x, lengths, ctx)
        return nnx.relu(shortcut + self.drop(x, ctx.rng(0))), lengths


class BasicBlock(Block):
    """Two 3×3 convolutions."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        *,
        zero_scale: bool,
        drop: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes a block of `width` channels; its last norm starts at 0 if `zero_scale`."""
        self.conv1 = Conv(inputs, width, (3, 3), stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(width, width, (3, 3), dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, dtype=dtype, rngs=rngs, zero_scale=zero_scale)
        change = stride != 1 or inputs != width
        self.downsample = Downsample(inputs, width, stride, dtype, rngs) if change else None
        self.drop = DropPath(drop)

    def convolutions(self) -> tuple[tuple[Conv, BatchNorm], ...]:
        """Returns the branch's convolutions, each with its norm."""
        return (self.conv1, self.bn1), (self.conv2, self.bn2)


class Bottleneck(Block):
    """1×1, 3×3 (with the stride, as torchvision), 1×1."""

    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        *,
        zero_scale: bool,
        drop: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes a block of `width` channels inside; its last norm starts at 0 if `zero_scale`."""
        outputs = 4 * width
        self.conv1 = Conv(inputs, width, (1, 1), dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(width, width, (3, 3), stride, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv3 = Conv(width, outputs, (1, 1), dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(outputs, dtype=dtype, rngs=rngs, zero_scale=zero_scale)
        change = stride != 1 or inputs != outputs
        self.downsample = Downsample(inputs, outputs, stride, dtype, rngs) if change else None
        self.drop = DropPath(drop)

    def convolutions(self) -> tuple[tuple[Conv, BatchNorm], ...]:
        """Returns the branch's convolutions, each with its norm."""
        return (self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)


class SpectrogramResNet(base.Encoder):
    """ResNet-18, 34, 50 or 101 on the spectrogram; its frames are means over frequency."""

    Options = Options
    input_kind = "spectrogram"

    def __init__(
        self,
        *,
        num_features: int = 64,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        """Makes fresh parameters; see `Options`."""
        o = Options(**options)
        kernel, stride, pool = STEMS[o.stem]
        kernel = kernel if o.stem_kernel is None else o.stem_kernel
        stride = stride if o.stem_stride is None else o.stem_stride
        self.stem_pool = pool if o.stem_pool is None else o.stem_pool
        self.settings, self.in_channels = o, o.in_channels
        self.conv1 = Conv(o.in_channels, o.width, (kernel, kernel), stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(o.width, dtype=dtype, rngs=rngs)
        block = BasicBlock if o.depth < 50 else Bottleneck
        inputs, number, last, stages = o.width, 0, sum(DEPTHS[o.depth]) - 1, []
        for stage, count in enumerate(DEPTHS[o.depth]):
            blocks = []
            for k in range(count):
                made = block(
                    inputs,
                    o.width << stage,
                    2 if k == 0 and stage else 1,
                    zero_scale=o.zero_init,
                    drop=o.stochastic_depth * number / last,
                    dtype=dtype,
                    rngs=rngs,
                )
                blocks.append(made)
                inputs, number = (o.width << stage) * block.expansion, number + 1
            stages.append(nnx.List(blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages  # torchvision's names
        self.features = inputs

    @part("encoder")
    def __call__(
        self,
        inputs: Float[Array, "batch frames bands"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> base.EncoderOutput:
        """Returns the frames, one for every 32 (stem small: 8) of the spectrogram."""
        x, lengths = self.conv1(pictures.picture(self.settings, inputs, lengths), lengths)
        x = nnx.relu(self.bn1(x, lengths, ctx))
        if self.stem_pool:
            x, lengths = max_pool(x, lengths, 3, 2, 1)
        blocks = (*self.layer1, *self.layer2, *self.layer3, *self.layer4)
        for number, block in enumerate(blocks):
            x, lengths = block(x, lengths, ctx.child(number))
        return base.EncoderOutput(tap(x).mean(2), lengths)
