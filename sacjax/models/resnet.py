"""ResNets on spectrograms (He et al. 2016), block for block and in the order of torchvision's, so that its weights fit."""

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

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STEMS = {
    "imagenet": (7, 2, True),
    "small": (3, 1, False),
}  # first kernel, its stride, a max pool after it
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def as_picture(x: jax.Array) -> jax.Array:
    """Returns a spectrogram [..., 3] of zero mean and unit variance as networks trained on ImageNet see a grey picture.

    The picture has the mean and contrast of ImageNet's; its channels are then normalized by the channels' statistics.
    """
    mean, std = jnp.asarray(IMAGENET_MEAN), jnp.asarray(IMAGENET_STD)
    return (x * std.mean() + mean.mean() - mean) / std


class Downsample(nnx.Module):
    """The shortcut where shape changes: 1×1 convolution and norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, dtype: Any, rngs: nnx.Rngs):
        self.conv = Conv(inputs, outputs, (1, 1), stride, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        x, lengths = self.conv(x, lengths)
        return self.bn(x, lengths)


class BasicBlock(nnx.Module):
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
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        self.conv1 = Conv(inputs, width, (3, 3), stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(width, width, (3, 3), dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, dtype=dtype, rngs=rngs, zero_scale=zero_scale)
        change = stride != 1 or inputs != width
        self.downsample = Downsample(inputs, width, stride, dtype, rngs) if change else None
        self.drop = DropPath(drop)

    def __call__(
        self, x: jax.Array, lengths: jax.Array, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        shortcut = x if self.downsample is None else self.downsample(x, lengths)
        x, lengths = self.conv1(x, lengths)
        x = nnx.relu(self.bn1(x, lengths))
        x, lengths = self.conv2(x, lengths)
        x = self.bn2(x, lengths)
        return nnx.relu(shortcut + self.drop(x, rngs)), lengths


class Bottleneck(nnx.Module):
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
        dtype: Any,
        rngs: nnx.Rngs,
    ):
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

    def __call__(
        self, x: jax.Array, lengths: jax.Array, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        shortcut = x if self.downsample is None else self.downsample(x, lengths)
        x, lengths = self.conv1(x, lengths)
        x = nnx.relu(self.bn1(x, lengths))
        x, lengths = self.conv2(x, lengths)
        x = nnx.relu(self.bn2(x, lengths))
        x, lengths = self.conv3(x, lengths)
        x = self.bn3(x, lengths)
        return nnx.relu(shortcut + self.drop(x, rngs)), lengths


class SpectrogramResNet(nnx.Module):
    """ResNet-18/34/50/101 on [B, frames, mel bins]; its frames are means over frequency."""

    input_kind = "spectrogram"

    def __init__(
        self,
        *,
        depth: int = 18,
        width: int = 64,
        in_channels: int = 1,
        stem: str = "imagenet",
        stem_kernel: int | None = None,
        stem_stride: int | None = None,
        stem_pool: bool | None = None,
        imagenet_norm: bool = False,
        stochastic_depth: float = 0.0,
        zero_init: bool = True,
        num_features: int = 64,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Args:
          depth: 18, 34, 50 or 101.
          width: channels of the first stage; published: 64.
          in_channels: 1, or 3: the spectrogram three times, as ImageNet's weights want it.
          stem: imagenet (7×7 of stride 2, then a 3×3 max pool of stride 2) or small (3×3 of stride 1).
          stem_kernel, stem_stride, stem_pool: replace that stem's kernel size, its stride, and whether the pool follows.
          imagenet_norm: scales a spectrogram of zero mean and unit variance to the statistics of ImageNet's pictures.
          stochastic_depth: rate of the last block; it grows linearly from the first.
          zero_init: start each residual branch at zero (Goyal et al. 2017).

        Raises:
          UserError: a depth, stem or number of channels that there is not, or a value out of range.
        """
        require(depth in DEPTHS, "depth", depth, f"choose one of {', '.join(map(str, DEPTHS))}")
        require(width > 0, "width", width, "give a number of channels greater than 0")
        require(in_channels in (1, 3), "in_channels", in_channels, "choose 1 or 3")
        require(
            not imagenet_norm or in_channels == 3,
            "imagenet_norm",
            imagenet_norm,
            "it needs in_channels=3",
        )
        require(
            0 <= stochastic_depth < 1,
            "stochastic_depth",
            stochastic_depth,
            "it must lie between 0 and 1",
        )
        if stem not in STEMS:
            raise UserError(f"model.encoder.stem is '{stem}'{nearest(stem, STEMS)}")
        kernel, stride, pool = STEMS[stem]
        kernel = kernel if stem_kernel is None else stem_kernel
        stride = stride if stem_stride is None else stem_stride
        require(kernel > 0, "stem_kernel", kernel, "it must be greater than 0")
        require(stride > 0, "stem_stride", stride, "it must be greater than 0")
        self.stem_pool = pool if stem_pool is None else stem_pool
        self.in_channels, self.imagenet_norm = in_channels, imagenet_norm
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = Conv(in_channels, width, (kernel, kernel), stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, dtype=dtype, rngs=rngs)
        inputs, place, total, layers = width, 0, sum(DEPTHS[depth]), []
        for stage, blocks in enumerate(DEPTHS[depth]):
            layer = []
            for k in range(blocks):
                drop = stochastic_depth * place / max(total - 1, 1)
                stride = 2 if k == 0 and stage else 1
                layer.append(
                    block(
                        inputs,
                        width << stage,
                        stride,
                        zero_scale=zero_init,
                        drop=drop,
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                inputs, place = (width << stage) * block.expansion, place + 1
            layers.append(nnx.List(layer))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers  # torchvision's names
        self.features = inputs

    def __call__(
        self, inputs: jax.Array, lengths: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> EncoderOutput:
        """[B, F, M], lengths [B] → frames [B, F', D]."""
        x = jnp.repeat(inputs[..., None], self.in_channels, -1)
        if self.imagenet_norm:
            x = as_picture(x)
        x, lengths = self.conv1(zero_padding(x, lengths), lengths)
        x = nnx.relu(self.bn1(x, lengths))
        if self.stem_pool:
            x, lengths = max_pool(x, lengths, 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x, lengths = block(x, lengths, rngs)
        return EncoderOutput(x.mean(2), lengths)
