"""VGG-11 with batch norm (Simonyan and Zisserman 2015) on spectrograms, as timm and torchvision."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.conv import Conv
from sacjax.layers.norm import BatchNorm
from sacjax.layers.pooling import max_pool
from sacjax.layers.tap import tap
from sacjax.models import base, pictures
from sacjax.parts import part

PLAN = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of the convolutions, of the first one's; after each group come maxima of 2 × 2."""


@dataclasses.dataclass(frozen=True)
class Options(pictures.Options):
    """`model.encoder` of `model.name = 'vgg11'`."""

    width: int = 64
    """Channels of the first convolution; published: 64."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        self.require_positive("width")


class VGG11(base.Encoder):
    """VGG-11 with batch norm on the spectrogram; its frames are means over frequency."""

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
        channels = [o.in_channels, *(o.width * times for group in PLAN for times in group)]
        make = lambda i, c: Conv(i, c, (3, 3), use_bias=True, dtype=dtype, rngs=rngs)
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.conv = nnx.List([make(i, c) for i, c in pairs])
        self.bn = nnx.List([BatchNorm(c, dtype=dtype, rngs=rngs) for c in channels[1:]])
        self.settings, self.in_channels, self.features = o, o.in_channels, channels[-1]

    @part("encoder")
    def __call__(
        self,
        inputs: Float[Array, "batch frames bands"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> base.EncoderOutput:
        """Returns the frames, one for every 32 of the spectrogram."""
        x = pictures.picture(self.settings, inputs, lengths)
        layers = zip(self.conv, self.bn, strict=True)
        for group in PLAN:
            for _ in group:
                conv, bn = next(layers)
                x, lengths = conv(x, lengths)
                x = nnx.relu(bn(x, lengths, ctx))
            x, lengths = max_pool(x, lengths, 2)
        return base.EncoderOutput(tap(x).mean(2), lengths)
