"""ConvNeXt-Tiny (Liu et al. 2022) on spectrograms, block for block as timm's: its weights fit."""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.activation import gelu
from sacjax.layers.conv import Conv, zero_padding
from sacjax.layers.depthwise import DepthwiseConv
from sacjax.layers.dropout import DropPath
from sacjax.layers.norm import LayerNorm
from sacjax.layers.tap import tap
from sacjax.models import base, pictures
from sacjax.parts import part

DEPTHS = (3, 3, 9, 3)
"""Blocks of each stage; the channels double from one to the next."""

EPSILON = 1e-6
"""Of the norms."""

INIT = nnx.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class Options(pictures.Options):
    """`model.encoder` of `model.name = 'convnext_tiny'`."""

    width: int = 96
    """Channels of the first stage; published: 96."""

    layer_scale: float = 1e-6
    """Of each residual branch at the start."""

    stochastic_depth: float = 0.0
    """Rate of the last block; it grows linearly from the first, which is never dropped."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        self.require_positive("width")
        self.require_not_negative("layer_scale")
        self.require_rates("stochastic_depth")


class MLP(nnx.Module):
    """Two linear layers, four times as wide inside, with a GELU between them."""

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes both."""
        make = partial(nnx.Linear, kernel_init=INIT, dtype=dtype, rngs=rngs)
        self.fc1, self.fc2 = make(width, 4 * width), make(4 * width, width)

    def __call__(self, x: Float[Array, "*rest width"]) -> Float[Array, "*rest width"]:
        """Returns the result."""
        return self.fc2(gelu(self.fc1(x)))


class Block(nnx.Module):
    """Depthwise 7 × 7, layer norm, MLP, a scale for each channel; residual."""

    def __init__(self, width: int, scale: float, drop: float, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes a block; its branch starts scaled by `scale` and is dropped at `drop`."""
        self.conv_dw = DepthwiseConv(
            width, 7, use_bias=True, kernel_init=INIT, dtype=dtype, rngs=rngs
        )
        self.norm = LayerNorm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.mlp = MLP(width, dtype=dtype, rngs=rngs)
        self.gamma = nnx.Param(jnp.full([width], scale))
        self.drop, self.dtype = DropPath(drop), dtype

    def __call__(
        self,
        x: Float[Array, "batch time bands width"],
        lengths: Int[Array, " batch"],
        ctx: Context,
    ) -> Float[Array, "batch time bands width"]:
        """Returns x with the branch added, zero beyond the lengths."""
        y, _ = self.conv_dw(x, lengths)
        y = self.mlp(self.norm(y)) * self.gamma[...].astype(self.dtype)
        return zero_padding(x + self.drop(y, ctx.rng(0)), lengths)


class Reduce(nnx.Module):
    """Patches, with a layer norm after them (the stem) or before them."""

    def __init__(
        self, inputs: int, outputs: int, size: int, *, stem: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        """Makes both; `size` is that of the patches, along both axes."""
        self.conv = Conv(
            inputs,
            outputs,
            (size, size),
            size,
            use_bias=True,
            padding=(0, 0),
            kernel_init=INIT,
            dtype=dtype,
            rngs=rngs,
        )
        width = outputs if stem else inputs
        self.norm = LayerNorm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.stem = stem

    def __call__(
        self, x: Float[Array, "batch time bands inputs"], lengths: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch frames fewer outputs"], Int[Array, " batch"]]:
        """Returns (the result, zero beyond its lengths; these)."""
        if not self.stem:
            x = zero_padding(self.norm(x), lengths)
        x, lengths = self.conv(x, lengths)
        x = self.norm(x) if self.stem else x
        return zero_padding(x, lengths), lengths


class ConvNeXtTiny(base.Encoder):
    """ConvNeXt-Tiny on the spectrogram; its frames are means over frequency."""

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
        self.stem = Reduce(o.in_channels, o.width, 4, stem=True, dtype=dtype, rngs=rngs)
        reduce = partial(Reduce, size=2, stem=False, dtype=dtype, rngs=rngs)
        widths = [o.width << k for k in range(len(DEPTHS))]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.downsample = nnx.List([reduce(i, c) for i, c in pairs])
        stages, number, last = [], 0, sum(DEPTHS) - 1
        for width, depth in zip(widths, DEPTHS, strict=True):
            rates = [o.stochastic_depth * (number + k) / last for k in range(depth)]
            make = partial(Block, width, o.layer_scale, dtype=dtype, rngs=rngs)
            stages.append(nnx.List([make(rate) for rate in rates]))
            number += depth
        self.stages = nnx.List(stages)
        self.settings, self.in_channels, self.features = o, o.in_channels, widths[-1]

    @part("encoder")
    def __call__(
        self,
        inputs: Float[Array, "batch frames bands"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> base.EncoderOutput:
        """Returns the frames, one for every 32 of the spectrogram."""
        x, lengths = self.stem(pictures.picture(self.settings, inputs, lengths), lengths)
        number = 0
        for k, stage in enumerate(self.stages):
            if k:
                x, lengths = self.downsample[k - 1](x, lengths)
            for block in stage:
                x = block(x, lengths, ctx.child(number))
                number += 1
        return base.EncoderOutput(tap(x).mean(2), lengths)
