"""The Vision Transformer on spectrograms: AST (Gong et al. 2021), SSAST, Audio-MAE, EAT.

A log-mel is cut into patches, or into frames where a patch has all bands. A token is a patch's
values; the context network embeds it, adds its position and class tokens, and runs the Transformer.
Tokens go through time, and at each time from low to high bands, so that the valid ones of a clip
come first. Parameters fit those of transformers' AST and ViT; see `sacjax.convert.ast`.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sacjax.augment.draws import example_keys
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.conv import out_length, zero_padding
from sacjax.layers.positional import sincos_grid
from sacjax.layers.transformer import NORMAL, States
from sacjax.models import base
from sacjax.models.transformers import TransformerOptions
from sacjax.parts import part

Size = Literal["base", "small", "tiny", "mini"]


class Architecture(NamedTuple):
    """What a size fixes; an option of the same name replaces it."""

    width: int
    depth: int
    heads: int
    mlp_width: int


SIZES: dict[Size, Architecture] = {
    "base": Architecture(width=768, depth=12, heads=12, mlp_width=3072),
    "small": Architecture(width=384, depth=12, heads=6, mlp_width=1536),
    "tiny": Architecture(width=192, depth=12, heads=3, mlp_width=768),
    "mini": Architecture(width=128, depth=6, heads=4, mlp_width=512),
}
"""base, small and tiny as DeiT's (86, 22 and 5 million parameters); mini (1.2) for two cores."""


@dataclasses.dataclass(frozen=True)
class Options(TransformerOptions):
    """`model.encoder` of `model.name = 'spectrogram_transformer'`; None: as `size` says."""

    size: Size = "base"
    """base, small or tiny as published; mini for two cores."""

    patch_frames: int = 16
    """Frames of a patch."""

    patch_bands: int | None = 16
    """Bands of a patch; all where the spectrogram has no more, or None: tokens are frames then."""

    stride_frames: int | None = None
    """Frames from a patch to the next; None: no overlap."""

    stride_bands: int | None = None
    """Bands from a patch to the next; None: no overlap."""

    positions: Literal["sincos", "learned"] = "sincos"
    """sincos: fixed, for clips of any length; learned: for clips of up to `max_frames`."""

    max_frames: int = 1024
    """Frames for which there are learned positions; a shorter clip takes the first of them."""

    class_tokens: Literal[0, 1, 2] = 1
    """Learned tokens that stand for the whole clip: none, one (ViT), two (DeiT, AST)."""

    output: Literal["frames", "class"] = "frames"
    """What the frames are: the tokens of valid patches, or the class tokens; the mean of AST's two
    is what its classifier reads."""

    pre_norm: bool = True
    """Norms before each branch (ViT, AST) or after it (EAT)."""

    qkv_bias: bool = True
    """Whether queries, keys and values have biases."""

    norm_epsilon: float = 1e-6
    """Added to the norms' variances: ViT's; AST has 1e-12."""

    mask_probability: float = 0.0
    """In training without a given mask, the share of tokens that the mask embedding replaces."""

    @property
    def architecture(self) -> Architecture:
        """What the size fixes, with the options that replace it."""
        return self.resize(SIZES[self.size])

    def check(self) -> None:
        """Raises UserError for values out of range, or that do not fit together."""
        super().check()
        a = self.architecture
        self.require_positive("max_frames", "norm_epsilon")
        self.require_positive("patch_frames", "patch_bands", "stride_frames", "stride_bands")
        even = self.positions == "learned" or a.width % 4 == 0
        self.require(even, "width", "4 must divide it where positions=sincos", a.width)
        longest = self.positions == "sincos" or self.max_frames >= self.patch_frames
        self.require(longest, "max_frames", f"it is below patch_frames {self.patch_frames}")
        alone = self.output == "frames" or self.class_tokens > 0
        self.require(alone, "output", "class needs class_tokens of 1 or 2")
        self.require_shares("mask_probability")


class Encoded(NamedTuple):
    """What the context network makes of tokens."""

    classes: Float[Array, "batch classes features"]
    """The class tokens, zero for an empty clip."""

    patches: base.EncoderOutput
    """The tokens of patches, with their states where asked for."""

    class_states: Float[Array, "states batch classes features"] | None = None
    """The states of the class tokens."""


class SpectrogramTransformer(base.TokenEncoder):
    """AST, Audio-MAE, EAT: a Transformer on patches or frames of a log-mel."""

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
        a = o.architecture
        self.patch = (o.patch_frames, min(o.patch_bands or num_features, num_features))
        self.stride = (o.stride_frames or self.patch[0], o.stride_bands or self.patch[1])
        self.bands = (num_features - self.patch[1]) // self.stride[1] + 1
        self.embed = nnx.Linear(
            self.patch[0] * self.patch[1], a.width, kernel_init=NORMAL, dtype=dtype, rngs=rngs
        )
        init = nnx.initializers.normal(0.02)
        self.mask_embedding = nnx.Param(init(rngs.params(), [a.width]))
        classes = o.class_tokens
        shape = [classes, a.width]
        self.class_embedding = nnx.Param(init(rngs.params(), shape)) if classes else None
        rows = classes + ((o.max_frames - self.patch[0]) // self.stride[0] + 1) * self.bands
        learned = o.positions == "learned"
        self.positions = nnx.Param(init(rngs.params(), [rows, a.width])) if learned else None
        self.transformer = o.transformer(
            pre_norm=o.pre_norm,
            qkv_bias=o.qkv_bias,
            epsilon=o.norm_epsilon,
            dtype=dtype,
            rngs=rngs,
        )
        self.settings, self.classes, self.norm_epsilon = o, classes, o.norm_epsilon
        self.features, self.depth, self.dtype = a.width, a.depth, dtype
        self.token_features, self.num_features = self.patch[0] * self.patch[1], num_features

    @property
    def options(self) -> dict[str, Any]:
        """The options, those of the size among them, as a checkpoint's config.json tells them."""
        return self.settings.spelled_out()

    @property
    def stack(self) -> int:
        """Frames side by side that a token consists of; 0 where a token is no such stack."""
        frames = self.patch[1] == self.num_features and self.stride[0] == self.patch[0]
        return self.patch[0] if frames else 0

    def columns(self, lengths: Int[Array, "..."] | int) -> Int[Array, "..."]:
        """Returns the patches along time of so many frames: at least 1, but 0 for an empty clip."""
        return out_length(lengths, self.patch[0], self.stride[0], 0)

    def frame_lengths(self, lengths: Int[Array, "..."] | int) -> Int[Array, "..."]:
        """Returns the tokens of clips of so many frames of the spectrogram."""
        return self.columns(lengths) * self.bands

    @part("patches")
    def tokens(
        self, inputs: Float[Array, "batch frames bands"], lengths: Int[Array, " batch"]
    ) -> base.Tokens:
        """Returns the values of each patch, those of its first frame first.

        As in AST, frames and bands after the last whole patch are left out; a clip that is shorter
        than a patch is one, filled up with zeros.
        """
        x = zero_padding(inputs, lengths)
        x = jnp.pad(x, [(0, 0), (0, max(self.patch[0] - x.shape[1], 0)), (0, 0)])
        x = windows(windows(x, 1, self.patch[0], self.stride[0]), 3, self.patch[1], self.stride[1])
        x = jnp.swapaxes(x, 2, 3)  # [B, columns, bands, frames of a patch, bands of a patch]
        x = x.reshape(x.shape[0], -1, self.token_features)
        lengths = self.frame_lengths(lengths)
        return base.Tokens(zero_padding(x, lengths), lengths)

    def normalize(
        self, features: Float[Array, "batch tokens channels"]
    ) -> Float[Array, "batch tokens channels"]:
        """Returns patches of zero mean and unit variance each, as MAE's targets (He et al. 2022).

        The variance is the unbiased one, with 1e-6 added to it.
        """
        x = features.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        variance = jnp.square(x).sum(-1, keepdims=True) / max(x.shape[-1] - 1, 1)
        return x * jax.lax.rsqrt(variance + 1e-6)

    def context(
        self,
        tokens: base.Tokens,
        ctx: Context = Context(),
        mask: Bool[Array, "batch tokens"] | None = None,
        keep: Int[Array, "batch kept"] | None = None,
        hidden_states: States = False,
    ) -> base.EncoderOutput:
        """Returns the frames that the Transformer makes of tokens; see `TokenEncoder.context`."""
        encoded = self.encode(tokens, ctx, mask, keep, hidden_states)
        if self.settings.output == "frames":
            return encoded.patches
        lengths = jnp.where(tokens.lengths > 0, self.classes, 0)
        return base.EncoderOutput(encoded.classes, lengths, encoded.class_states)

    def encode(
        self,
        tokens: base.Tokens,
        ctx: Context = Context(),
        mask: Bool[Array, "batch tokens"] | None = None,
        keep: Int[Array, "rows kept"] | None = None,
        hidden_states: States = False,
    ) -> Encoded:
        """Returns class tokens and patches, whichever `output` names.

        Args:
          tokens: of `tokens`.
          ctx: of this call.
          mask: see `TokenEncoder.context`.
          keep: see `TokenEncoder.context`. It may have several rows a clip, one after the other:
            the clip is then encoded so many times, each time by other tokens.
          hidden_states: see `TokenEncoder.context`.
        """
        lengths, size = tokens.lengths, tokens.features.shape[1]
        key = ctx.rng(0)
        share = self.settings.mask_probability
        if mask is None and key is not None and share:
            keys = example_keys(key, jnp.arange(len(lengths)))
            mask = jax.vmap(lambda k: jax.random.bernoulli(k, share, [size]))(keys)
        features, positions = tokens.features, self._positions(size)
        inside = jnp.arange(size) < lengths[:, None]
        if keep is not None:
            features = take(features, keep)
            mask = None if mask is None else take(mask[..., None], keep)[..., 0]
            inside = keep < jnp.repeat(lengths, len(keep) // len(lengths))[:, None]
            lengths = inside.sum(-1, dtype=lengths.dtype)
            positions = jnp.take(positions, keep, axis=0, mode="clip")
        x = self.embed(features)
        if mask is not None:
            x = jnp.where(mask[..., None], self.mask_embedding[...].astype(x.dtype), x)
        x, inside = self._with_classes(x + positions, inside)
        x, states = self.transformer(x, inside, ctx.child(1), hidden_states)
        first, rest = jnp.split(x, [self.classes], 1)
        if states is None:
            return Encoded(first, base.EncoderOutput(rest, lengths))
        before, after = jnp.split(states, [self.classes], 2)
        return Encoded(first, base.EncoderOutput(rest, lengths, after), before)

    def _positions(self, size: int) -> jax.Array:
        """Returns the positions of the first tokens [size, D]. Raises UserError for too many."""
        if self.positions is None:
            grid = sincos_grid(size // self.bands, self.bands, self.features)
            return jnp.asarray(grid.reshape(size, -1), self.dtype)
        table = self.positions[...][self.classes :]
        if size > len(table):
            raise UserError(
                f"model.encoder.max_frames is {self.settings.max_frames}: the input has more, "
                f"{size // self.bands} patches along time for {len(table) // self.bands} learned "
                "positions; raise it, shorten data.seconds, or choose positions=sincos"
            )
        return table[:size].astype(self.dtype)

    def _with_classes(self, x: jax.Array, inside: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Puts the class tokens, with their positions, before the tokens, and before the mask."""
        if self.class_embedding is None:
            return x, inside
        classes = self.class_embedding[...]
        if self.positions is not None:
            classes = classes + self.positions[...][: self.classes]
        shape = (len(x), *classes.shape)
        x = jnp.concatenate([jnp.broadcast_to(classes.astype(x.dtype), shape), x], 1)
        some = jnp.broadcast_to(inside.any(-1, keepdims=True), shape[:2])
        return x, jnp.concatenate([some, inside], 1)


def windows(x: Float[Array, "..."], axis: int, size: int, stride: int) -> Float[Array, "..."]:
    """Returns x with one of its axes cut into windows, [..., count, size, ...]; the rest is left.

    Args:
      x: any array.
      axis: which, not negative.
      size: of a window.
      stride: from a window to the next.
    """
    count = (x.shape[axis] - size) // stride + 1
    if stride == size:  # no gather where a reshape will do
        whole = jax.lax.slice_in_dim(x, 0, count * size, axis=axis)
        return whole.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :])
    return jnp.take(x, np.arange(count)[:, None] * stride + np.arange(size), axis=axis)


def take(
    x: Float[Array, "batch tokens channels"] | Bool[Array, "batch tokens channels"],
    keep: Int[Array, "rows kept"],
) -> Float[Array, "rows kept channels"] | Bool[Array, "rows kept channels"]:
    """Returns the tokens of each clip that `keep` names; it may have several rows a clip."""
    flat = keep.reshape(len(x), -1, 1)
    return jnp.take_along_axis(x, flat, 1, mode="clip").reshape(*keep.shape, -1)
