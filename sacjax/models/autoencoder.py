"""Autoencoders of spectrograms, dense or convolutional: the encoder, and the mirror that decodes.

The dense one is fully connected, as in the source article: 25,024 inputs (2 channels × 32 mels ×
391 frames) to 8,224, 2,056, 1,024, 512 and 256. It sees a fixed number of frames at once, so a clip
becomes one frame for each block of so many, the last one filled up with zeros: a clip of any length
will do. The convolutional one halves time and frequency once a layer.
"""

import dataclasses
import math
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.conv import Conv, zero_padding
from sacjax.layers.norm import BatchNorm
from sacjax.layers.tap import tap
from sacjax.models import base
from sacjax.parts import part

SLOPE = 0.1
"""Of LeakyReLU."""


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
    """`model.encoder` of `model.name = 'autoencoder'`."""

    kind: Literal["dense", "conv"] = "dense"
    """dense: one frame a block of spectrogram frames; conv: one for every 2 to the layers."""

    variant: Literal["baseline", "improved"] = "improved"
    """baseline: ReLU; improved: batch norm and LeakyReLU of slope 0.1."""

    frames: int = 391
    """dense: frames of a block; published: 391."""

    widths: tuple[int, ...] = (8224, 2056, 1024, 512, 256)
    """dense: of the layers; the last is D. The defaults are those published."""

    channels: tuple[int, ...] = (32, 64, 128, 256)
    """conv: of the 3×3 convolutions of stride 2."""

    bottleneck: int = 256
    """conv: D of its frames."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        self.require_positive("frames", "bottleneck")
        for name in ("widths", "channels"):
            good = bool(getattr(self, name)) and min(getattr(self, name)) > 0
            self.require(good, name, "give one positive number or more")


def activation(x: Float[Array, "*shape"], variant: str) -> Float[Array, "*shape"]:
    """Returns the ReLU of the baseline, or the LeakyReLU of the improved variant."""
    return nnx.relu(x) if variant == "baseline" else nnx.leaky_relu(x, SLOPE)


class Layer(nnx.Module):
    """A linear layer or a convolution, with the variant's norm and activation."""

    def __init__(
        self,
        inner: nnx.Linear | Conv,
        features: int,
        o: Options,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Takes the layer, whose outputs have so many features."""
        self.inner = inner
        improved = o.variant == "improved"
        self.norm = BatchNorm(features, dtype=dtype, rngs=rngs) if improved else None

    def __call__(
        self, x: Float[Array, "batch time *rest"], lengths: Int[Array, " batch"], ctx: Context
    ) -> tuple[Float[Array, "batch frames *other"], Int[Array, " batch"]]:
        """Returns (activations, zero beyond the new lengths; these)."""
        if isinstance(self.inner, Conv):
            x, lengths = self.inner(x, lengths)
        else:
            x = self.inner(x)
        if self.norm is None:
            return zero_padding(activation(x, "baseline"), lengths), lengths
        return activation(self.norm(x, lengths, ctx), "improved"), lengths


def dense(inputs: int, outputs: int, o: Options, dtype: DTypeLike, rngs: nnx.Rngs) -> Layer:
    """Returns a linear layer with norm and activation."""
    return Layer(nnx.Linear(inputs, outputs, dtype=dtype, rngs=rngs), outputs, o, dtype, rngs)


def conv(
    inputs: int, outputs: int, stride: int, o: Options, dtype: DTypeLike, rngs: nnx.Rngs
) -> Layer:
    """Returns a 3×3 convolution with norm and activation."""
    bias = o.variant == "baseline"
    inner = Conv(inputs, outputs, (3, 3), stride, use_bias=bias, dtype=dtype, rngs=rngs)
    return Layer(inner, outputs, o, dtype, rngs)


class DenseDecoder(nnx.Module):
    """The mirror of the dense encoder; its last layer is linear."""

    def __init__(self, o: Options, bands: int, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes the layers for spectrograms of so many bands."""
        self.shape = (o.frames, bands)
        widths = o.widths[::-1]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.layers = nnx.List([dense(a, b, o, dtype, rngs) for a, b in pairs])
        self.last = nnx.Linear(widths[-1], o.frames * bands, dtype=dtype, rngs=rngs)

    def __call__(
        self, output: base.EncoderOutput, ctx: Context
    ) -> tuple[Float[Array, "batch frames bands"], Int[Array, " batch"]]:
        """Returns (spectrograms of whole blocks, the frames that are decoded of each clip)."""
        x, lengths = output.frames, output.lengths
        for number, layer in enumerate(self.layers):
            x, _ = layer(x, lengths, ctx.child(number))
        x = self.last(x)
        return x.reshape(len(x), -1, self.shape[1]), lengths * self.shape[0]


class ConvDecoder(nnx.Module):
    """The mirror of the convolutional encoder: each layer doubles its input, then convolves.

    Transposed convolutions would leave a checkerboard. The last layer is linear.
    """

    def __init__(self, o: Options, bands: int, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes the layers for spectrograms of so many bands."""
        sizes = [math.ceil(bands / 2**k) for k in range(len(o.channels) + 1)][::-1]
        self.sizes, channels = tuple(sizes), o.channels[::-1]
        self.first = nnx.Linear(o.bottleneck, sizes[0] * channels[0], dtype=dtype, rngs=rngs)
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.layers = nnx.List([conv(a, b, 1, o, dtype, rngs) for a, b in pairs])
        self.last = Conv(channels[-1], 1, (3, 3), use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self, output: base.EncoderOutput, ctx: Context
    ) -> tuple[Float[Array, "batch frames bands"], Int[Array, " batch"]]:
        """Returns (spectrograms, the frames that are decoded of each clip)."""
        lengths = output.lengths
        x = zero_padding(self.first(output.frames), lengths)
        x = x.reshape(*x.shape[:2], self.sizes[0], -1)
        for number, layer in enumerate((*self.layers, self.last)):
            x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)[:, :, : self.sizes[number + 1]]
            lengths = 2 * lengths
            x = layer(x, lengths)[0] if isinstance(layer, Conv) else layer(x, lengths, ctx)[0]
        return x[..., 0], lengths


class Autoencoder(base.Encoder):
    """Half an autoencoder of spectrograms: dense as in the article, or convolutional."""

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
        self.options, self.bands, self.dtype = o, num_features, dtype
        if o.kind == "dense":
            widths = (o.frames * num_features, *o.widths)
            pairs = zip(widths[:-1], widths[1:], strict=True)
            self.layers = nnx.List([dense(a, b, o, dtype, rngs) for a, b in pairs])
            self.features = widths[-1]
            return
        channels = (1, *o.channels)
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.layers = nnx.List([conv(a, b, 2, o, dtype, rngs) for a, b in pairs])
        inputs = math.ceil(num_features / 2 ** len(o.channels)) * channels[-1]
        self.last = nnx.Linear(inputs, o.bottleneck, dtype=dtype, rngs=rngs)
        self.features = o.bottleneck

    @part("encoder")
    def __call__(
        self,
        inputs: Float[Array, "batch frames bands"],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> base.EncoderOutput:
        """Returns the frames: one a block (dense), or one for every 2 to the layers (conv)."""
        x = zero_padding(inputs, lengths)
        if self.options.kind == "dense":
            size = self.options.frames
            x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, 0)))
            x, lengths = x.reshape(len(x), -1, size * self.bands), -(-lengths // size)
        else:
            x = x[..., None]
        for number, layer in enumerate(self.layers):
            x, lengths = layer(x, lengths, ctx.child(number))
        if self.options.kind == "conv":
            x = zero_padding(self.last(tap(x).reshape(*x.shape[:2], -1)), lengths)
        return base.EncoderOutput(x, lengths)

    def mirror(self, rngs: nnx.Rngs) -> DenseDecoder | ConvDecoder:
        """Returns a decoder with fresh parameters, of this encoder's layers in reverse."""
        kind = DenseDecoder if self.options.kind == "dense" else ConvDecoder
        return kind(self.options, self.bands, self.dtype, rngs)
