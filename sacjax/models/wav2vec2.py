"""The wav2vec 2.0 encoder (Baevski et al. 2020) and its kin (HuBERT, data2vec-audio, WavLM).

Parameters and order follow the published models, so that their weights fit; see
`sacjax.convert.wav2vec2`. Padding changes nothing: every step keeps positions beyond the valid
length at zero or out of reach.
"""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sacjax.augment.draws import example_keys
from sacjax.context import Context
from sacjax.layers.activation import gelu
from sacjax.layers.conv import KAIMING, Conv, out_length, scale_gradient, valid, zero_padding
from sacjax.layers.dropout import drop
from sacjax.layers.masking import span_mask
from sacjax.layers.norm import GroupNorm, LayerNorm, standardize
from sacjax.layers.positional import PositionalConv
from sacjax.layers.tap import tap
from sacjax.layers.transformer import NORMAL, States
from sacjax.models import base
from sacjax.models.transformers import TransformerOptions
from sacjax.parts import part

Size = Literal["base", "large", "small", "mini", "tiny"]
ConvNorm = Literal["group", "layer"]


class Architecture(NamedTuple):
    """What a size fixes; an option of the same name replaces it."""

    conv_channels: tuple[int, ...]
    width: int
    depth: int
    heads: int
    mlp_width: int
    conv_norm: ConvNorm = "layer"
    conv_bias: bool = True
    pre_norm: bool = True
    normalize_input: bool = True
    feature_gradient_scale: float = 1.0
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)


SIZES: dict[Size, Architecture] = {
    "base": Architecture(
        conv_channels=(512,) * 7,
        width=768,
        depth=12,
        heads=12,
        mlp_width=3072,
        conv_norm="group",
        conv_bias=False,
        pre_norm=False,
        normalize_input=False,
        feature_gradient_scale=0.1,
    ),
    "large": Architecture((512,) * 7, width=1024, depth=24, heads=16, mlp_width=4096),
    "small": Architecture((256,) * 7, width=256, depth=6, heads=4, mlp_width=1024),
    "mini": Architecture((128,) * 7, width=128, depth=4, heads=4, mlp_width=512),
    "tiny": Architecture((32,) * 7, width=32, depth=2, heads=2, mlp_width=64),
}
"""base and large as published; the others for two cores and for tests."""


@dataclasses.dataclass(frozen=True)
class Options(TransformerOptions):
    """`model.encoder` of `model.name = 'wav2vec2'`; None: as `size` says."""

    size: Size = "base"
    """base or large as published; small, mini or tiny for less."""

    conv_channels: tuple[int, ...] | None = None
    """Of the convolutions, a number each."""

    conv_kernels: tuple[int, ...] | None = None
    """Of the convolutions, a number each."""

    conv_strides: tuple[int, ...] | None = None
    """Of the convolutions, a number each."""

    conv_norm: ConvNorm | None = None
    """group: of the first convolution alone; layer: of each."""

    conv_bias: bool | None = None
    """Whether the convolutions have biases."""

    pre_norm: bool | None = None
    """Norms before each branch ("stable layer norm", large) or after it (base)."""

    normalize_input: bool | None = None
    """Bring each clip to zero mean and unit variance first (a checkpoint's do_normalize)."""

    norm_padding: Literal["valid", "reference"] = "valid"
    """reference: the group norm, and data2vec's positions, let padding in, as the published code
    does (fairseq 3227)."""

    projection_norm: bool = True
    """Layer norm before the projection."""

    positional_kernel: int = 128
    """Tokens that the convolution of positions spans."""

    positional_groups: int = 16
    """Of that convolution."""

    positional_layers: int = 1
    """1 with weight norm, or more, each with a layer norm instead (data2vec: five of kernel 19)."""

    relative_buckets: int = 0
    """Of relative positions, which attention adds beside those of the convolution, gated by the
    token (WavLM: 320); 0: none."""

    relative_distance: int = 800
    """Tokens from which on relative positions are in the last bucket."""

    dropout: float = 0.1
    attention_dropout: float = 0.1

    projection_dropout: float = 0.1
    """After the projection."""

    feature_gradient_scale: float | None = None
    """Factor of the convolutions' gradient; 0.1 where nothing is normalized (base)."""

    mask_probability: float = 0.0
    """In training without a given mask, spans of tokens are masked: SpecAugment for fine-tuning.
    This is the share that they would cover if none overlapped, as fairseq's and transformers'
    mask_prob: a span starts at a token with mask_probability / mask_span."""

    mask_span: int = 10
    """Tokens of such a span."""

    mask_feature_probability: float = 0.0
    """The same along the Transformer's channels, which are set to zero."""

    mask_feature_span: int = 64
    """Channels of such a span."""

    normed_last_state: bool = False
    """Whether the last hidden state is the output, after the final norm of the pre-norm order (as
    in transformers up to 5.15), or what goes into that norm (from 5.16 on)."""

    @property
    def architecture(self) -> Architecture:
        """What the size fixes, with the options that replace it."""
        return self.resize(SIZES[self.size])

    def check(self) -> None:
        """Raises UserError for values out of range, or that do not fit together."""
        super().check()
        a = self.architecture
        counts = {k: len(getattr(a, k)) for k in ("conv_channels", "conv_kernels", "conv_strides")}
        for name, count in counts.items():
            numbers = getattr(a, name)
            self.require(count > 0 and min(numbers) > 0, name, "give positive numbers", numbers)
        same = len(set(counts.values())) == 1
        self.require(same, "conv_channels", f"lengths differ: {counts}", a.conv_channels)
        self.require_positive("mask_span", "mask_feature_span")
        self.require_positive("positional_kernel", "positional_groups", "positional_layers")
        groups = a.width % self.positional_groups == 0
        self.require(groups, "positional_groups", f"it must divide the width {a.width}")
        buckets = self.relative_buckets
        good = buckets == 0 or (buckets >= 4 and buckets % 2 == 0)
        self.require(good, "relative_buckets", "0, or an even number from 4 on", buckets)
        far = self.relative_distance > buckets // 4
        self.require(far, "relative_distance", f"it must exceed {buckets // 4}")
        self.require_rates("projection_dropout")
        self.require_shares("mask_probability", "mask_feature_probability")


class ConvLayer(nnx.Module):
    """Convolution over time, norm or none, GELU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        bias: bool,
        norm: ConvNorm | None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes a layer of so many channels."""
        self.conv = Conv(
            inputs,
            outputs,
            (kernel,),
            stride,
            use_bias=bias,
            padding=(0,),
            kernel_init=KAIMING,
            dtype=dtype,
            rngs=rngs,
        )
        kinds: dict[str | None, Any] = {"group": GroupNorm, "layer": LayerNorm}
        self.norm = kinds[norm](outputs, dtype=dtype, rngs=rngs) if norm else None

    def __call__(
        self, x: Float[Array, "batch time inputs"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch frames outputs"]:
        """Returns the result, zero beyond `lengths`, which are its own valid frames."""
        x, _ = self.conv(x, lengths)
        if isinstance(self.norm, GroupNorm):
            x = self.norm(x, lengths)
        elif self.norm is not None:
            x = self.norm(x)
        return zero_padding(gelu(x), lengths)


class Projection(nnx.Module):
    """Layer norm of the tokens, and a linear map to the Transformer's width."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes both; the encoder calls one after the other."""
        self.norm = LayerNorm(inputs, dtype=dtype, rngs=rngs) if norm else None
        self.linear = nnx.Linear(inputs, outputs, dtype=dtype, kernel_init=NORMAL, rngs=rngs)


class Wav2Vec2(base.TokenEncoder):
    """wav2vec 2.0, HuBERT, data2vec, WavLM: convolutions on the waveform, then a Transformer."""

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
        a = o.architecture
        make = partial(ConvLayer, bias=a.conv_bias, dtype=dtype, rngs=rngs)
        channels = (1, *a.conv_channels)
        norms = [
            a.conv_norm if k == 0 or a.conv_norm == "layer" else None
            for k in range(len(a.conv_channels))
        ]
        sizes = zip(
            channels[:-1], a.conv_channels, a.conv_kernels, a.conv_strides, norms, strict=True
        )
        self.conv = nnx.List([make(i, c, k, s, norm=norm) for i, c, k, s, norm in sizes])
        self.projection = Projection(
            channels[-1], a.width, norm=o.projection_norm, dtype=dtype, rngs=rngs
        )
        self.mask_embedding = nnx.Param(jax.random.uniform(rngs.params(), [a.width]))
        single = o.positional_layers == 1
        position = partial(PositionalConv, a.width, o.positional_kernel, o.positional_groups)
        self.positional = nnx.List(
            [
                position(weight_norm=single, norm=not single, dtype=dtype, rngs=rngs)
                for _ in range(o.positional_layers)
            ]
        )
        self.transformer = o.transformer(
            pre_norm=a.pre_norm,
            relative_buckets=o.relative_buckets,
            relative_distance=o.relative_distance,
            dtype=dtype,
            rngs=rngs,
        )
        self.settings, self.normalize_input = o, a.normalize_input
        self.normed_last_state = o.normed_last_state
        self.gradient_scale = a.feature_gradient_scale
        self.features, self.depth, self.token_features = a.width, a.depth, channels[-1]

    @property
    def options(self) -> dict[str, Any]:
        """The options, those of the size among them, as a checkpoint's config.json tells them."""
        return self.settings.spelled_out()

    def frame_lengths(self, lengths: Int[Array, "..."] | int) -> Int[Array, "..."]:
        """Returns the tokens of clips of so many samples: at least 1, but 0 for an empty one."""
        return self._lengths(lengths, len(self.conv))

    def _lengths(self, lengths: Int[Array, "..."] | int, layers: int) -> Int[Array, "..."]:
        """Returns what so many convolutions give, by the kernel and stride that they are together.

        One by one, XLA:CPU would copy the chain into each loop that compares with a length, and
        compile for minutes.
        """
        field, stride = 1, 1
        for layer in self.conv[:layers]:
            field += (layer.conv.size[0] - 1) * stride
            stride *= layer.conv.stride[0]
        return out_length(lengths, field, stride, 0)

    @part("convolutions")
    def tokens(
        self, inputs: Float[Array, "batch samples"], lengths: Int[Array, " batch"]
    ) -> base.Tokens:
        """Returns what the convolutions make of waveforms; published: a token every 320 samples."""
        x = zero_padding(inputs, lengths)
        if self.normalize_input:
            x = standardize(x, lengths)
        x = x[..., None]
        reference = self.settings.norm_padding == "reference"
        counted = jnp.full_like(lengths, x.shape[1]) if reference else lengths
        for k, layer in enumerate(self.conv, 1):
            x = layer(x, self._lengths(counted, k))
        lengths = self.frame_lengths(lengths)
        x = tap(zero_padding(x, lengths))
        x = x if self.gradient_scale == 1 else scale_gradient(x, self.gradient_scale)
        return base.Tokens(x, lengths)

    def normalize(
        self, features: Float[Array, "batch tokens channels"]
    ) -> Float[Array, "batch tokens channels"]:
        """Returns the layer-normed features of tokens, of which wav2vec 2.0 makes its targets."""
        return features if self.projection.norm is None else self.projection.norm(features)

    def context(
        self,
        tokens: base.Tokens,
        ctx: Context = Context(),
        mask: Bool[Array, "batch tokens"] | None = None,
        keep: Int[Array, "batch kept"] | None = None,
        hidden_states: States = False,
    ) -> base.EncoderOutput:
        """Returns the frames that the Transformer makes of tokens; see `TokenEncoder.context`."""
        lengths = tokens.lengths
        x = self.projection.linear(self.normalize(tokens.features))
        x = drop(x, self.settings.projection_dropout, ctx.rng(0))
        key = ctx.rng(1)
        if mask is not None:
            x = self._masked(x, mask)
        elif key is not None:
            x = self._augment(x, lengths, key)
        inside = valid(x, lengths)
        x = self._with_positions(jnp.where(inside, x, 0), inside)
        inside = inside[..., 0]
        if keep is not None:
            inside = keep < lengths[:, None]
            x = jnp.take_along_axis(x, keep[..., None], 1, mode="clip")
            lengths = inside.sum(-1, dtype=lengths.dtype)
        x, states = self.transformer(x, inside, ctx.child(2), hidden_states, keep)
        if states is not None and hidden_states is True and self.normed_last_state:
            states = states.at[-1].set(x)
        return base.EncoderOutput(x, lengths, states)

    @part("positions")
    def _with_positions(self, x: jax.Array, inside: jax.Array) -> jax.Array:
        """Adds to each token what the convolutions see around it."""
        positions = x
        for layer in self.positional:
            positions = layer(positions)
            if self.settings.norm_padding == "valid":
                positions = jnp.where(inside, positions, 0)
        return x + positions

    def _masked(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Puts the mask embedding where the mask is."""
        return jnp.where(mask[..., None], self.mask_embedding[...].astype(x.dtype), x)

    def _augment(self, x: jax.Array, lengths: jax.Array, key: jax.Array) -> jax.Array:
        """Masks spans of tokens and of channels, as fine-tuning does against overfitting."""
        o, rows = self.settings, jnp.arange(x.shape[0])
        token_key, channel_key = jax.random.split(key)
        if o.mask_probability:
            share, span = o.mask_probability / o.mask_span, o.mask_span
            draw = partial(span_mask, size=x.shape[1], probability=share, span=span)
            x = self._masked(x, jax.vmap(draw)(example_keys(token_key, rows), lengths))
        if o.mask_feature_probability:
            share, span = o.mask_feature_probability / o.mask_feature_span, o.mask_feature_span
            draw = partial(span_mask, size=x.shape[2], probability=share, span=span, minimum=0)
            width = jnp.full_like(lengths, x.shape[2])
            channels = jax.vmap(draw)(example_keys(channel_key, rows), width)
            x = jnp.where(channels[:, None], 0, x)
        return x
