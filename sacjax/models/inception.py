"""Inception v3 (Szegedy et al. 2016) on spectrograms, layer for layer as timm's: its weights fit.

Sizes are (height, width) of the picture, (bands, time) of the spectrogram.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.pooling import max_pool
from sacjax.layers.tap import tap
from sacjax.models import base, pictures
from sacjax.models.pictures import ConvNorm
from sacjax.parts import part

EPSILON = 1e-3
"""Of the norms."""

MEAN = STD = (0.5, 0.5, 0.5)
"""By which its pictures are normalized."""

FIRST = 32
"""Channels of the first layer."""


class Layer(NamedTuple):
    """A convolution with a norm and ReLU."""

    name: str
    channels: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1

    @property
    def padding(self) -> tuple[int, int]:
        """Over (time, bands): none where it strides."""
        height, width = self.size
        return (width // 2, height // 2) if self.stride == 1 else (0, 0)


Branch = tuple[tuple[Layer, ...], ...]
"""Steps one after the other; a step's layers take the same, and lie side by side."""


class Block(NamedTuple):
    """Branches side by side, the last one on means, or maxima, over 3 × 3."""

    name: str
    branches: tuple[Branch, ...]
    pool: int
    """Channels of a layer on the means, or 0: maxima of every other, as they are."""


def chain(*layers: Layer | tuple[Layer, Layer]) -> Branch:
    """Returns a branch of layers, or pairs of them, one after the other."""
    return tuple((step,) if isinstance(step, Layer) else step for step in layers)


THREE, FIVE, WIDE, TALL = (3, 3), (5, 5), (1, 7), (7, 1)


def _a(name: str, pool: int) -> Block:
    double = Layer("branch3x3dbl_2", 96, THREE), Layer("branch3x3dbl_3", 96, THREE)
    return Block(
        name,
        (
            chain(Layer("branch1x1", 64)),
            chain(Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, FIVE)),
            chain(Layer("branch3x3dbl_1", 64), *double),
        ),
        pool,
    )


def _c(name: str, inside: int) -> Block:
    return Block(
        name,
        (
            chain(Layer("branch1x1", 192)),
            chain(
                Layer("branch7x7_1", inside),
                Layer("branch7x7_2", inside, WIDE),
                Layer("branch7x7_3", 192, TALL),
            ),
            chain(
                Layer("branch7x7dbl_1", inside),
                Layer("branch7x7dbl_2", inside, TALL),
                Layer("branch7x7dbl_3", inside, WIDE),
                Layer("branch7x7dbl_4", inside, TALL),
                Layer("branch7x7dbl_5", 192, WIDE),
            ),
        ),
        192,
    )


def _e(name: str) -> Block:
    pair = lambda start: (Layer(f"{start}a", 384, (1, 3)), Layer(f"{start}b", 384, (3, 1)))
    return Block(
        name,
        (
            chain(Layer("branch1x1", 320)),
            chain(Layer("branch3x3_1", 384), pair("branch3x3_2")),
            chain(
                Layer("branch3x3dbl_1", 448),
                Layer("branch3x3dbl_2", 384, THREE),
                pair("branch3x3dbl_3"),
            ),
        ),
        192,
    )


BLOCKS = (
    _a("Mixed_5b", 32),
    _a("Mixed_5c", 64),
    _a("Mixed_5d", 64),
    Block(
        "Mixed_6a",
        (
            chain(Layer("branch3x3", 384, THREE, 2)),
            chain(
                Layer("branch3x3dbl_1", 64),
                Layer("branch3x3dbl_2", 96, THREE),
                Layer("branch3x3dbl_3", 96, THREE, 2),
            ),
        ),
        0,
    ),
    _c("Mixed_6b", 128),
    _c("Mixed_6c", 160),
    _c("Mixed_6d", 160),
    _c("Mixed_6e", 192),
    Block(
        "Mixed_7a",
        (
            chain(Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, THREE, 2)),
            chain(
                Layer("branch7x7x3_1", 192),
                Layer("branch7x7x3_2", 192, WIDE),
                Layer("branch7x7x3_3", 192, TALL),
                Layer("branch7x7x3_4", 192, THREE, 2),
            ),
        ),
        0,
    ),
    _e("Mixed_7b"),
    _e("Mixed_7c"),
)


@dataclasses.dataclass(frozen=True)
class Options(pictures.Options):
    """`model.encoder` of `model.name = 'inception_v3'`."""

    width: int = FIRST
    """Channels of the first layer, to which all others are in proportion; published: 32."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        fits = self.width > 0 and self.width % 2 == 0
        self.require(fits, "width", "it must be positive and even", self.width)


class Mixed(nnx.Module):
    """A block of branches, whose layers are attributes by timm's names."""

    def __init__(self, block: Block, inputs: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes the layers; `width` is that of the first layer of the network."""
        make = partial(_layer, width=width, dtype=dtype, rngs=rngs)
        self.block, self.outputs = block, 0
        for branch in block.branches:
            channels = inputs
            for step in branch:
                for layer in step:
                    setattr(self, layer.name, make(layer, channels))
                channels = sum(layer.channels for layer in step) * width // FIRST
            self.outputs += channels
        if block.pool:
            self.branch_pool = make(Layer("branch_pool", block.pool), inputs)
        self.outputs += block.pool * width // FIRST or inputs

    def __call__(
        self,
        x: Float[Array, "batch time bands inputs"],
        lengths: Int[Array, " batch"],
        ctx: Context,
    ) -> tuple[Float[Array, "batch frames fewer outputs"], Int[Array, " batch"]]:
        """Returns (the branches side by side, zero beyond their lengths; these)."""
        outputs = []
        for branch in self.block.branches:
            y, n = x, lengths
            for step in branch:
                both = [getattr(self, layer.name)(y, n, ctx) for layer in step]
                y, n = jnp.concatenate([y for y, _ in both], -1), both[0][1]
            outputs.append(y)
        if self.block.pool:
            y, n = self.branch_pool(mean_of_nine(x), lengths, ctx)
        else:
            y, n = max_pool(x, lengths, 3, 2)
        return jnp.concatenate([*outputs, y], -1), n


def _layer(
    layer: Layer,
    inputs: int,
    padding: tuple[int, int] | None = None,
    *,
    width: int,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> ConvNorm:
    return ConvNorm(
        inputs,
        layer.channels * width // FIRST,
        layer.size[::-1],
        layer.stride,
        padding=layer.padding if padding is None else padding,
        epsilon=EPSILON,
        dtype=dtype,
        rngs=rngs,
    )


def mean_of_nine(
    x: Float[Array, "batch time bands channels"],
) -> Float[Array, "batch time bands channels"]:
    """Returns means over 3 × 3 neighbours, of which those outside count as zeros."""
    for axis in (1, 2):
        size = x.shape[axis]
        x = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(4)])
        before, here, after = (jax.lax.slice_in_dim(x, k, k + size, axis=axis) for k in range(3))
        x = (before + here + after) / 3
    return x


class InceptionV3(base.Encoder):
    """Inception v3 on the spectrogram; its frames are means over frequency."""

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
        make = partial(_layer, width=o.width, dtype=dtype, rngs=rngs)
        of = lambda channels: channels * o.width // FIRST
        none = (0, 0)
        self.Conv2d_1a_3x3 = make(Layer("", 32, THREE, 2), o.in_channels)
        self.Conv2d_2a_3x3 = make(Layer("", 32, THREE), of(32), none)
        self.Conv2d_2b_3x3 = make(Layer("", 64, THREE), of(32))
        self.Conv2d_3b_1x1 = make(Layer("", 80), of(64))
        self.Conv2d_4a_3x3 = make(Layer("", 192, THREE), of(80), none)
        channels = of(192)
        for block in BLOCKS:
            mixed = Mixed(block, channels, o.width, dtype=dtype, rngs=rngs)
            setattr(self, block.name, mixed)
            channels = mixed.outputs
        self.settings, self.in_channels, self.features = o, o.in_channels, channels

    @part("encoder")
    def __call__(
        self,
        inputs: Float[Array, "batch frames bands"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> base.EncoderOutput:
        """Returns the frames, about one for every 32 of the spectrogram."""
        x, n = pictures.picture(self.settings, inputs, lengths, MEAN, STD), lengths
        for layer in (self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3):
            x, n = layer(x, n, ctx)
        x, n = max_pool(x, n, 3, 2)
        for layer in (self.Conv2d_3b_1x1, self.Conv2d_4a_3x3):
            x, n = layer(x, n, ctx)
        x, n = max_pool(x, n, 3, 2)
        for block in BLOCKS:
            x, n = getattr(self, block.name)(x, n, ctx)
        return base.EncoderOutput(tap(x).mean(2), n)
