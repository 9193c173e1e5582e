"""The wav2vec 2.0 encoder (Baevski et al. 2020) and its kin (HuBERT, data2vec-audio): raw wave → convolutions → Transformer.

Frames come every 320 samples (20 ms at 16 kHz). Parameters and order follow the published models, so that their weights fit; see
`sacjax.convert.huggingface`. Padding changes nothing: every step keeps positions beyond the valid length at zero or out of reach.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sacjax.augment.draws import example_keys
from sacjax.errors import UserError, nearest
from sacjax.layers.masking import span_mask
from sacjax.models.base import (
    Conv,
    EncoderOutput,
    out_length,
    platform,
    require,
    valid,
    zero_padding,
)

CONV = dict(conv_kernels=(10, 3, 3, 3, 3, 2, 2), conv_strides=(5, 2, 2, 2, 2, 2, 2))
GROUP = dict(
    conv_norm="group",
    conv_bias=False,
    pre_norm=False,
    normalize_input=False,
    feature_gradient_scale=0.1,
)
LAYER = dict(
    conv_norm="layer",
    conv_bias=True,
    pre_norm=True,
    normalize_input=True,
    feature_gradient_scale=1.0,
)
SIZES: dict[
    str, dict[str, Any]
] = {  # base and large as published; the others for two cores and for tests
    "base": CONV
    | GROUP
    | dict(conv_channels=(512,) * 7, width=768, depth=12, heads=12, mlp_width=3072),
    "large": CONV
    | LAYER
    | dict(conv_channels=(512,) * 7, width=1024, depth=24, heads=16, mlp_width=4096),
    "small": CONV
    | LAYER
    | dict(conv_channels=(256,) * 7, width=256, depth=6, heads=4, mlp_width=1024),
    "mini": CONV
    | LAYER
    | dict(conv_channels=(128,) * 7, width=128, depth=4, heads=4, mlp_width=512),
    "tiny": CONV | LAYER | dict(conv_channels=(32,) * 7, width=32, depth=2, heads=2, mlp_width=64),
}
REMAT = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}  # what a layer's backward pass keeps: its input alone, or also the results of its matrix products
NORMAL = nnx.initializers.normal(0.02)
KAIMING = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")  # as fairseq's convolutions


class LayerNorm(nnx.LayerNorm):
    """Layer norm over the last axis, its statistics in float32."""

    def __init__(self, features: int, *, dtype: Any, rngs: nnx.Rngs):
        super().__init__(features, epsilon=1e-5, dtype=dtype, use_fast_variance=False, rngs=rngs)


class GroupNorm(nnx.Module):
    """Norm of each channel over the valid frames of a clip (a group a channel), in float32."""

    def __init__(self, features: int, *, dtype: Any, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones([features]))
        self.bias = nnx.Param(jnp.zeros([features]))
        self.dtype = dtype

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """[B, T, C], lengths [B] → the same shape; positions beyond the length are not zero."""
        x = x.astype(jnp.float32)
        mask, count = valid(x, lengths), jnp.maximum(lengths, 1)[:, None, None]
        mean = jnp.where(mask, x, 0).sum(1, keepdims=True) / count
        variance = jnp.where(mask, (x - mean) ** 2, 0).sum(1, keepdims=True) / count
        scale = jax.lax.rsqrt(variance + 1e-5) * self.scale[...]
        return (x * scale + (self.bias[...] - mean * scale)).astype(self.dtype)


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
        norm: str,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
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
        kinds: dict[str, Any] = {"group": GroupNorm, "layer": LayerNorm}
        self.norm = kinds[norm](outputs, dtype=dtype, rngs=rngs) if norm else None

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """[B, T, C] → [B, T', D], zero beyond `lengths`, the valid frames of the result."""
        x, _ = self.conv(x, lengths)
        if isinstance(self.norm, GroupNorm):
            x = self.norm(x, lengths)
        elif self.norm is not None:
            x = self.norm(x)
        return zero_padding(jax.nn.gelu(x, approximate=False), lengths)


class Projection(nnx.Module):
    """Layer norm of the convolutions' frames, and a linear map to the Transformer's width."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool, dtype: Any, rngs: nnx.Rngs):
        self.norm = LayerNorm(inputs, dtype=dtype, rngs=rngs) if norm else None
        self.linear = nnx.Linear(inputs, outputs, dtype=dtype, kernel_init=NORMAL, rngs=rngs)


class PositionalConv(nnx.Module):
    """Grouped convolution over frames with weight norm over the kernel's positions (Salimans and Kingma 2016), or without it."""

    def __init__(
        self,
        features: int,
        kernel: int,
        groups: int,
        *,
        weight_norm: bool,
        norm: bool,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        shape = (kernel, features // groups, features)
        start = nnx.initializers.normal(2.0 / (kernel * features) ** 0.5)(rngs.params(), shape)
        self.kernel = nnx.Param(start)
        self.scale = nnx.Param(jnp.sqrt((start**2).sum((1, 2)))) if weight_norm else None
        self.bias = nnx.Param(jnp.zeros([features]))
        self.groups, self.norm, self.dtype = groups, norm, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] → [B, T, D]; an even kernel looks one frame further back than ahead."""
        kernel = self.kernel[...]
        if self.scale is not None:
            kernel = (
                kernel * (self.scale[...] * jax.lax.rsqrt((kernel**2).sum((1, 2))))[:, None, None]
            )
        size = kernel.shape[0]
        y = grouped_convolution(
            x.astype(self.dtype), kernel.astype(self.dtype), self.groups, size // 2, (size - 1) // 2
        )
        y = y + self.bias[...].astype(self.dtype)
        if self.norm:  # data2vec's: without scale and bias
            y = jax.nn.standardize(y.astype(jnp.float32), epsilon=1e-5).astype(self.dtype)
        return jax.nn.gelu(y, approximate=False)


def grouped_convolution(
    x: jax.Array, kernel: jax.Array, groups: int, low: int, high: int
) -> jax.Array:
    """Returns the convolution of [B, T, C] with [K, C / groups, D] in groups.

    XLA:CPU's gradient of a grouped convolution is 20 times slower than groups side by side (jaxlib 0.10: 1.2 s against 0.07 s for
    wav2vec 2.0 base), and on several GPUs it gathers the whole batch on each of them; for a TPU the plain one is right.
    """
    if platform() != "tpu":
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate([_convolution(a, b, 1, low, high) for a, b in parts], -1)
    return _convolution(x, kernel, groups, low, high)


def _convolution(x: jax.Array, kernel: jax.Array, groups: int, low: int, high: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1,),
        [(low, high)],
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=groups,
    )


class Attention(nnx.Module):
    """Multi-head self-attention over valid frames."""

    def __init__(self, width: int, heads: int, *, dtype: Any, rngs: nnx.Rngs):
        make = partial(nnx.Linear, width, width, dtype=dtype, kernel_init=NORMAL, rngs=rngs)
        self.query, self.key, self.value, self.out = make(), make(), make(), make()
        self.heads = heads

    def __call__(
        self, x: jax.Array, mask: jax.Array, rate: float, key: jax.Array | None
    ) -> jax.Array:
        """[B, T, D]; mask bool [B, T] of frames that may be attended to; `rate` drops attention weights where there is a key."""
        q, k, v = (
            layer(x).reshape(*x.shape[:2], self.heads, -1)
            for layer in (self.query, self.key, self.value)
        )
        if key is None or rate == 0:
            y = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None])
        else:
            scores = (
                jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32)
                * q.shape[-1] ** -0.5
            )
            weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e30), -1).astype(
                x.dtype
            )
            y = jnp.einsum("bhts,bshd->bthd", drop(weights, rate, key), v)
        return self.out(y.reshape(x.shape))


class Layer(nnx.Module):
    """A Transformer layer; norms after each branch (base) or before it (large)."""

    def __init__(
        self, width: int, heads: int, mlp_width: int, *, pre_norm: bool, dtype: Any, rngs: nnx.Rngs
    ):
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.attention_norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.mlp_in = nnx.Linear(width, mlp_width, dtype=dtype, kernel_init=NORMAL, rngs=rngs)
        self.mlp_out = nnx.Linear(mlp_width, width, dtype=dtype, kernel_init=NORMAL, rngs=rngs)
        self.mlp_norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.pre_norm = pre_norm

    def __call__(
        self, x: jax.Array, mask: jax.Array, rates: tuple[float, float, float], key: Any
    ) -> jax.Array:
        """[B, T, D]; rates of the dropout of branches, of attention weights and inside the MLP, used where there is a key."""
        hidden_rate, attention_rate, inner_rate = rates
        keys: Any = [None] * 4 if key is None else jax.random.split(key, 4)

        def mlp(x: jax.Array) -> jax.Array:
            inner = drop(jax.nn.gelu(self.mlp_in(x), approximate=False), inner_rate, keys[2])
            return drop(self.mlp_out(inner), hidden_rate, keys[3])

        def attend(x: jax.Array) -> jax.Array:
            return drop(self.attention(x, mask, attention_rate, keys[0]), hidden_rate, keys[1])

        if self.pre_norm:
            x = x + attend(self.attention_norm(x))
            return x + mlp(self.mlp_norm(x))
        x = self.attention_norm(x + attend(x))
        return self.mlp_norm(x + mlp(x))


def drop(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Dropout where there is a key."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(
        x.dtype
    )


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """Returns x; its gradient is multiplied by `factor`."""
    return x


scale_gradient.defvjp(lambda x, factor: (x, None), lambda factor, _, grad: (grad * factor,))


class Wav2Vec2(nnx.Module):
    """The wav2vec 2.0 encoder; with other options HuBERT's and data2vec-audio's."""

    input_kind = "waveform"

    def __init__(
        self,
        *,
        size: str = "base",
        conv_channels: tuple[int, ...] | None = None,
        conv_kernels: tuple[int, ...] | None = None,
        conv_strides: tuple[int, ...] | None = None,
        conv_norm: str | None = None,
        conv_bias: bool | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_width: int | None = None,
        pre_norm: bool | None = None,
        normalize_input: bool | None = None,
        norm_padding: str = "valid",
        projection_norm: bool = True,
        positional_kernel: int = 128,
        positional_groups: int = 16,
        positional_layers: int = 1,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.0,
        projection_dropout: float = 0.1,
        layer_drop: float = 0.0,
        feature_gradient_scale: float | None = None,
        mask_probability: float = 0.0,
        mask_span: int = 10,
        mask_feature_probability: float = 0.0,
        mask_feature_span: int = 64,
        normed_last_state: bool = False,
        remat: str = "none",
        num_features: int = 1,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Args:
          size: base or large as published, small, mini or tiny for less; the options whose default is None come from it.
          conv_channels, conv_kernels, conv_strides: of the convolutions; a number each.
          conv_norm: group (of the first convolution alone) or layer (of each).
          conv_bias: whether the convolutions have biases.
          width, depth, heads, mlp_width: of the Transformer.
          pre_norm: norms before each branch ("stable layer norm", large) or after it (base).
          normalize_input: bring each clip to zero mean and unit variance first (the checkpoint's do_normalize).
          norm_padding: valid, or reference: the group norm (and data2vec's positions) let padding in, as the published code
            does (fairseq 3227).
          projection_norm: layer norm before the projection.
          positional_kernel, positional_groups: of the convolution that gives positions.
          positional_layers: 1 with weight norm, or more, each with a layer norm instead (data2vec's five of kernel 19).
          dropout, attention_dropout, activation_dropout, projection_dropout: of branches, attention weights, inside the MLP, and
            after the projection.
          layer_drop: probability that a layer is left out of a training step (Fan et al. 2020).
          feature_gradient_scale: factor of the convolutions' gradient; 0.1 where nothing is normalized (base).
          mask_probability, mask_span: in training without a given mask, spans of frames are masked: SpecAugment for fine-tuning. The
            share that they would cover if none overlapped, as fairseq's and transformers' mask_prob: a span starts at a frame with
            mask_probability / mask_span (while `objective.options.mask_probability` is a start's own, as in the paper).
          mask_feature_probability, mask_feature_span: the same along the Transformer's channels.
          normed_last_state: whether the last of `hidden_states` is the output, after the final norm of the pre-norm order (as in
            transformers up to 5.15), or what goes into that norm (from 5.16 on).
          remat: none, full or dots: what is computed again in a layer's backward pass to save memory.

        Raises:
          UserError: an unknown choice, or values that do not fit together.
        """
        if size not in SIZES:
            raise UserError(f"model.encoder.size is '{size}'{nearest(size, SIZES)}")
        given = dict(
            conv_channels=conv_channels, conv_kernels=conv_kernels, conv_strides=conv_strides, conv_norm=conv_norm,
            conv_bias=conv_bias, width=width, depth=depth, heads=heads, mlp_width=mlp_width, pre_norm=pre_norm,
            normalize_input=normalize_input, feature_gradient_scale=feature_gradient_scale,
        )  # fmt: skip
        o = SIZES[size] | {key: value for key, value in given.items() if value is not None}
        counts = {key: len(o[key]) for key in ("conv_channels", "conv_kernels", "conv_strides")}
        require(
            len(set(counts.values())) == 1,
            "conv_channels",
            o["conv_channels"],
            f"lengths differ: {counts}",
        )
        for name in counts:
            require(
                bool(o[name]) and min(o[name]) > 0, name, o[name], "give numbers greater than 0"
            )
        for name in ("width", "depth", "heads", "mlp_width"):
            require(o[name] > 0, name, o[name], "it must be greater than 0")
        require(
            o["width"] % o["heads"] == 0,
            "width",
            o["width"],
            f"it must divide by the {o['heads']} heads",
        )
        require(
            o["width"] % positional_groups == 0,
            "positional_groups",
            positional_groups,
            f"width {o['width']} must divide by it",
        )
        require(
            positional_kernel > 0,
            "positional_kernel",
            positional_kernel,
            "it must be greater than 0",
        )
        require(
            positional_layers > 0,
            "positional_layers",
            positional_layers,
            "it must be greater than 0",
        )
        require(
            o["conv_norm"] in ("group", "layer"),
            "conv_norm",
            o["conv_norm"],
            "choose group or layer",
        )
        require(
            norm_padding in ("valid", "reference"),
            "norm_padding",
            norm_padding,
            "choose valid or reference",
        )
        require(
            remat == "none" or remat in REMAT,
            "remat",
            remat,
            f"choose one of none, {', '.join(REMAT)}",
        )
        rates = dict(
            dropout=dropout, attention_dropout=attention_dropout, activation_dropout=activation_dropout,
            projection_dropout=projection_dropout, layer_drop=layer_drop,
        )  # fmt: skip
        for name, rate in rates.items():
            require(0 <= rate < 1, name, rate, "it must lie between 0 and 1")
        for name, share in (
            ("mask_probability", mask_probability),
            ("mask_feature_probability", mask_feature_probability),
        ):
            require(0 <= share <= 1, name, share, "it must lie between 0 and 1")
        for name, span in (("mask_span", mask_span), ("mask_feature_span", mask_feature_span)):
            require(span > 0, name, span, "it must be greater than 0")
        channels = (1, *o["conv_channels"])
        norms = [
            o["conv_norm"] if o["conv_norm"] == "layer" or k == 0 else ""
            for k in range(len(channels) - 1)
        ]
        shapes = zip(
            channels[:-1], channels[1:], o["conv_kernels"], o["conv_strides"], norms, strict=True
        )
        self.conv = nnx.List(
            [
                ConvLayer(i, c, k, s, bias=o["conv_bias"], norm=n, dtype=dtype, rngs=rngs)
                for i, c, k, s, n in shapes
            ]
        )
        width, self.features, self.depth = o["width"], o["width"], o["depth"]
        self.conv_features = channels[-1]
        self.projection = Projection(
            channels[-1], width, norm=projection_norm, dtype=dtype, rngs=rngs
        )
        self.mask_embedding = nnx.Param(jax.random.uniform(rngs.params(), [width]))
        self.positional = nnx.List([
            PositionalConv(
                width, positional_kernel, positional_groups, weight_norm=positional_layers == 1, norm=positional_layers > 1,
                dtype=dtype, rngs=rngs,
            ) for _ in range(positional_layers)
        ])  # fmt: skip
        self.norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        make = partial(
            Layer, width, o["heads"], o["mlp_width"], pre_norm=o["pre_norm"], dtype=dtype
        )
        self.layers = nnx.vmap(lambda keys: make(rngs=nnx.Rngs(params=keys)))(
            jax.random.split(rngs.params(), o["depth"])
        )
        self.normed_last_state = normed_last_state
        self.pre_norm, self.normalize_input, self.norm_padding = (
            o["pre_norm"],
            o["normalize_input"],
            norm_padding,
        )
        self.rates = (dropout, attention_dropout, activation_dropout)
        self.projection_dropout, self.layer_drop = projection_dropout, layer_drop
        self.gradient_scale = o["feature_gradient_scale"]
        self.time_mask, self.feature_mask = (
            (mask_probability, mask_span),
            (mask_feature_probability, mask_feature_span),
        )
        self.remat, self.dtype = remat, dtype
        self.all_options = tuple(sorted(
            (o | rates | dict(
                norm_padding=norm_padding, projection_norm=projection_norm, positional_kernel=positional_kernel,
                positional_groups=positional_groups, positional_layers=positional_layers,
                mask_probability=mask_probability, mask_span=mask_span,
                mask_feature_probability=mask_feature_probability, mask_feature_span=mask_feature_span,
            )).items()
        ))  # fmt: skip

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options that a checkpoint's config.json tells."""
        return dict(self.all_options)

    def frame_lengths(self, lengths: Any) -> Any:
        """Returns the frames of clips of so many samples: 1 at least, 0 for an empty one."""
        return self._lengths(lengths, len(self.conv))

    def _lengths(self, lengths: Any, layers: int) -> Any:
        """Returns the frames after so many convolutions, by the kernel and stride that they are together.

        One by one, XLA:CPU would copy the chain into each loop that compares with a length, and compile for minutes.
        """
        field, stride = 1, 1
        for layer in self.conv[:layers]:
            field, stride = field + (layer.conv.size[0] - 1) * stride, stride * layer.conv.stride[0]
        return out_length(lengths, field, stride, 0)

    def convolve(self, inputs: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T] samples → the convolutions' frames [B, T', conv_features], zero beyond the lengths [B]."""
        x = zero_padding(inputs, lengths)
        if self.normalize_input:
            x = standardize(x, lengths)
        x = x[..., None]
        counted = (
            jnp.full_like(lengths, x.shape[1]) if self.norm_padding == "reference" else lengths
        )
        for k, layer in enumerate(self.conv, 1):
            x = layer(x, self._lengths(counted, k))
        lengths = self.frame_lengths(lengths)
        x = zero_padding(x, lengths)
        return (x if self.gradient_scale == 1 else scale_gradient(x, self.gradient_scale)), lengths

    def contextualize(
        self, features: jax.Array, lengths: jax.Array, mask: jax.Array | None = None, *,
        rngs: nnx.Rngs | None = None, hidden_states: bool = False,
    ) -> tuple[EncoderOutput, jax.Array]:  # fmt: skip
        """Frames of `convolve` → (output, their layer-normed form [B, T', conv_features], from which targets are made).

        Args:
          mask: bool [B, T'], frames replaced by the mask embedding.
          hidden_states: also the Transformer's input and every layer's output [depth + 1, B, T', D].
        """
        normed = features if self.projection.norm is None else self.projection.norm(features)
        keys = [None] * 3 if rngs is None else list(jax.random.split(rngs.dropout(), 3))
        x = drop(self.projection.linear(normed), self.projection_dropout, keys[0])
        inside = valid(x, lengths)
        if mask is not None:
            x = jnp.where(mask[..., None], self.mask_embedding[...].astype(x.dtype), x)
        elif rngs is not None:
            x = self._augment(x, lengths, rngs)
        x = jnp.where(inside, x, 0)
        place = x
        for layer in self.positional:
            place = layer(place)
            if self.norm_padding == "valid":
                place = jnp.where(inside, place, 0)
        x = x + place
        x = drop(x if self.pre_norm else self.norm(x), self.rates[0], keys[1])
        attended = (
            jnp.arange(x.shape[1]) < jnp.maximum(lengths, 1)[:, None]
        )  # softmax needs one frame, of an empty clip too
        graphdef, stacked = nnx.split(self.layers)

        def apply(x: jax.Array, xs: tuple) -> tuple[jax.Array, jax.Array | None]:
            variables, key = xs
            layer = nnx.merge(graphdef, variables)
            if key is None:
                y = layer(x, attended, self.rates, None)
            else:
                key, skip = jax.random.split(key)
                y = layer(x, attended, self.rates, key)
                if self.layer_drop:
                    y = jnp.where(jax.random.bernoulli(skip, self.layer_drop), x, y)
            return y, (x if hidden_states else None)

        if self.remat != "none":
            apply = jax.checkpoint(apply, policy=REMAT[self.remat])
        layer_keys = None if keys[2] is None else jax.random.split(keys[2], self.depth)
        x, before = jax.lax.scan(apply, x, (stacked, layer_keys))
        # The last state is before the final norm of the pre-norm order.
        states = (
            None
            if before is None
            else jnp.where(inside[None], jnp.concatenate([before, x[None]]), 0)
        )
        if self.pre_norm:
            x = self.norm(x)
        x = jnp.where(inside, x, 0)
        if states is not None and self.normed_last_state:
            states = states.at[-1].set(x)
        return EncoderOutput(x, lengths, states), normed

    def _augment(self, x: jax.Array, lengths: jax.Array, rngs: nnx.Rngs) -> jax.Array:
        """Masks spans of frames and of channels, as fine-tuning does against overfitting."""
        (p, span), (q, wide) = self.time_mask, self.feature_mask
        if not p and not q:
            return x
        time_key, feature_key = jax.random.split(rngs.dropout())
        rows = jnp.arange(x.shape[0])
        if p:
            keys = example_keys(time_key, rows)
            mask = jax.vmap(
                lambda k, n: span_mask(k, n, x.shape[1], probability=p / span, span=span)
            )(keys, lengths)
            x = jnp.where(mask[..., None], self.mask_embedding[...].astype(x.dtype), x)
        if q:
            draw = partial(span_mask, size=x.shape[2], probability=q / wide, span=wide, minimum=0)
            channels = jax.vmap(lambda k: draw(k, jnp.int32(x.shape[2])))(
                example_keys(feature_key, rows)
            )
            x = jnp.where(channels[:, None], 0, x)
        return x

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        hidden_states: bool = False,
    ) -> EncoderOutput:
        """Samples [B, T], lengths [B] → frames [B, T', D], T' = frame_lengths(T); and [depth + 1, B, T', D] if `hidden_states`."""
        features, frames = self.convolve(inputs, lengths)
        return self.contextualize(features, frames, rngs=rngs, hidden_states=hidden_states)[0]


def standardize(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns clips [B, T] with zero mean and unit variance over their valid samples, zero beyond."""
    mask, count = valid(x, lengths), jnp.maximum(lengths, 1)[:, None]
    mean = jnp.where(mask, x, 0).sum(1, keepdims=True) / count
    centred = jnp.where(mask, x - mean, 0)
    return centred * jax.lax.rsqrt((centred**2).sum(1, keepdims=True) / count + 1e-7)
