"""EfficientNet-B0 (Tan and Le 2019) on spectrograms, block for block as timm's: its weights fit."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.conv import Conv
from sacjax.layers.depthwise import DepthwiseConv
from sacjax.layers.dropout import DropPath
from sacjax.layers.norm import BatchNorm
from sacjax.layers.pooling import masked_mean
from sacjax.layers.tap import tap
from sacjax.models import base, pictures
from sacjax.parts import part


class Stage(NamedTuple):
    """Blocks of one size."""

    depth: int
    kernel: int
    stride: int
    """Of the first block."""

    expansion: int
    """Channels inside, of those that come in; 1: there is no layer that widens."""

    channels: int
    """That come out, of a first layer of 32."""


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
FIRST, LAST = 32, 1280
"""Channels of the first layer and of the last one."""


@dataclasses.dataclass(frozen=True)
class Options(pictures.Options):
    """`model.encoder` of `model.name = 'efficientnet_b0'`."""

    width: int = FIRST
    """Channels of the first layer, to which all others are in proportion; published: 32."""

    stochastic_depth: float = 0.0
    """Rate of the last block; it grows linearly from the first, which is never dropped."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        fits = self.width > 0 and self.width % 4 == 0
        self.require(fits, "width", "it must be positive and divide by 4", self.width)
        self.require_rates("stochastic_depth")


class SqueezeExcite(nnx.Module):
    """A factor of each channel by the means of all (Hu et al. 2018)."""

    def __init__(self, width: int, inside: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes the two linear maps."""
        make = partial(nnx.Linear, dtype=dtype, rngs=rngs)
        self.conv_reduce, self.conv_expand = make(width, inside), make(inside, width)

    def __call__(
        self, x: Float[Array, "batch time bands width"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch time bands width"]:
        """Returns x times its factors."""
        mean = masked_mean(x.astype(jnp.float32).mean(2), lengths)
        factor = jax.nn.sigmoid(self.conv_expand(nnx.silu(self.conv_reduce(mean))))
        return x * factor[:, None, None].astype(x.dtype)


class Block(nnx.Module):
    """Widen, depthwise convolution, squeeze-and-excitation, narrow; residual where shapes fit."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        drop: float,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes a block; see `Stage`. Its branch is dropped at `drop`."""
        width = inputs * expansion
        conv = partial(Conv, kernel=(1, 1), dtype=dtype, rngs=rngs)
        norm = partial(BatchNorm, dtype=dtype, rngs=rngs)
        self.conv_dw = DepthwiseConv(width, kernel, stride, dtype=dtype, rngs=rngs)
        self.se = SqueezeExcite(width, max(inputs // 4, 1), dtype=dtype, rngs=rngs)
        self.widens = expansion > 1
        if self.widens:
            self.conv_pw, self.bn1, self.bn2 = conv(inputs, width), norm(width), norm(width)
            self.conv_pwl, self.bn3 = conv(width, outputs), norm(outputs)
        else:
            self.bn1, self.conv_pw, self.bn2 = norm(width), conv(width, outputs), norm(outputs)
        self.residual, self.drop = stride == 1 and inputs == outputs, DropPath(drop)

    def __call__(
        self,
        x: Float[Array, "batch time bands inputs"],
        lengths: Int[Array, " batch"],
        ctx: Context,
    ) -> tuple[Float[Array, "batch frames fewer outputs"], Int[Array, " batch"]]:
        """Returns (the result, zero beyond its lengths; these)."""
        y, n = x, lengths
        if self.widens:
            y, n = self.conv_pw(y, n)
            y = nnx.silu(self.bn1(y, n, ctx))
        y, n = self.conv_dw(y, n)
        y = self.se(nnx.silu((self.bn2 if self.widens else self.bn1)(y, n, ctx)), n)
        y, n = (self.conv_pwl if self.widens else self.conv_pw)(y, n)
        y = (self.bn3 if self.widens else self.bn2)(y, n, ctx)
        return (x + self.drop(y, ctx.rng(0)) if self.residual else y), n


class EfficientNetB0(base.Encoder):
    """EfficientNet-B0 on the spectrogram; its frames are means over frequency."""

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
        scaled = lambda channels: channels * o.width // FIRST
        conv = partial(Conv, dtype=dtype, rngs=rngs)
        self.conv_stem = conv(o.in_channels, o.width, (3, 3), 2)
        self.bn1 = BatchNorm(o.width, dtype=dtype, rngs=rngs)
        inputs, number, stages = o.width, 0, []
        last = sum(stage.depth for stage in STAGES) - 1
        for stage in STAGES:
            blocks = []
            for k in range(stage.depth):
                outputs, stride = scaled(stage.channels), 1 if k else stage.stride
                rate = o.stochastic_depth * number / last
                shape = (inputs, outputs, stage.kernel, stride, stage.expansion, rate)
                blocks.append(Block(*shape, dtype=dtype, rngs=rngs))
                inputs, number = outputs, number + 1
            stages.append(nnx.List(blocks))
        self.blocks = nnx.List(stages)
        self.conv_head = conv(inputs, scaled(LAST), (1, 1))
        self.bn2 = BatchNorm(scaled(LAST), dtype=dtype, rngs=rngs)
        self.settings, self.in_channels, self.features = o, o.in_channels, scaled(LAST)

    @part("encoder")
    def __call__(
        self,
        inputs: Float[Array, "batch frames bands"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> base.EncoderOutput:
        """Returns the frames, one for every 32 of the spectrogram."""
        x, n = self.conv_stem(pictures.picture(self.settings, inputs, lengths), lengths)
        x = nnx.silu(self.bn1(x, n, ctx))
        for number, block in enumerate(block for stage in self.blocks for block in stage):
            x, n = block(x, n, ctx.child(number))
        x, n = self.conv_head(x, n)
        return base.EncoderOutput(tap(nnx.silu(self.bn2(x, n, ctx))).mean(2), n)
