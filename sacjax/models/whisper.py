"""Whisper's encoder (Radford et al. 2023): two convolutions on a log-mel, then a Transformer.

Parameters and order follow the published models, so that their weights fit; see
`sacjax.convert.whisper`.
"""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.activation import gelu
from sacjax.layers.conv import KAIMING, Conv, out_length, valid, zero_padding
from sacjax.layers.transformer import NORMAL, States
from sacjax.models import base
from sacjax.models.frames import keep_tokens, put_mask
from sacjax.models.transformers import TransformerOptions
from sacjax.parts import part

Size = Literal["tiny", "base", "small", "medium", "large"]


class Architecture(NamedTuple):
    """What a size fixes; an option of the same name replaces it."""

    width: int
    depth: int
    heads: int
    mlp_width: int


SIZES: dict[Size, Architecture] = {
    "tiny": Architecture(width=384, depth=4, heads=6, mlp_width=1536),
    "base": Architecture(width=512, depth=6, heads=8, mlp_width=2048),
    "small": Architecture(width=768, depth=12, heads=12, mlp_width=3072),
    "medium": Architecture(width=1024, depth=24, heads=16, mlp_width=4096),
    "large": Architecture(width=1280, depth=32, heads=20, mlp_width=5120),
}
"""As published."""

QUIETEST = -1.5
"""The log-mel of silence, -100 dB, in Whisper's scale of 40 dB around -40 dB."""

RANGE = 2.0
"""How far below a clip's loudest value others may lie in that scale: 80 dB."""


@dataclasses.dataclass(frozen=True)
class Options(TransformerOptions):
    """`model.encoder` of `model.name = 'whisper'`; None: as `size` says."""

    size: Size = "tiny"
    """As published."""

    max_frames: int = 3000
    """Of the spectrogram, 100 a second: half as many tokens have positions."""

    padding: Literal["silence", "mask"] = "silence"
    """silence: each clip is heard as `max_frames` of sound, silent after its end, and all of them
    are frames, as published; mask: what is after its end is left out, which costs less for short
    clips, but the published weights have never seen it."""

    @property
    def architecture(self) -> Architecture:
        """What the size fixes, with the options that replace it."""
        return self.resize(SIZES[self.size])

    def check(self) -> None:
        """Raises UserError for values out of range, or that do not fit together."""
        super().check()
        self.require_positive("max_frames")
        self.require(self.max_frames % 2 == 0, "max_frames", "it must be even")
        width = self.architecture.width
        even = width % 2 == 0 and width > 2
        self.require(even, "width", "it must be even and above 2", width)


def whisper_positions(count: int, width: int) -> Float[Array, "count width"]:
    """Returns Whisper's positions: sines, then cosines, of wavelengths from 2 pi to 2e4 pi.

    The longest is reached by the last of each, unlike Vaswani et al.'s.

    Args:
      count: positions.
      width: D, even and above 2.
    """
    half = width // 2
    angles = jnp.arange(count)[:, None] * 10000.0 ** (-jnp.arange(half) / (half - 1))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


class Whisper(base.TokenEncoder):
    """Whisper's encoder: two convolutions on a log-mel of up to 30 s, then a Transformer."""

    Options = Options
    input_kind = "spectrogram"

    def __init__(
        self,
        *,
        num_features: int = 80,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        """Makes fresh parameters; see `Options`."""
        o = Options(**options)
        a = o.architecture
        make = partial(
            Conv, outputs=a.width, kernel=(3,), use_bias=True, kernel_init=KAIMING, dtype=dtype
        )
        self.conv1 = make(num_features, stride=1, rngs=rngs)
        self.conv2 = make(a.width, stride=2, rngs=rngs)
        self.mask_embedding = nnx.Param(NORMAL(rngs.params(), [a.width]))
        # No parameter: nothing learns it, though a checkpoint has it.
        self.positions = nnx.Variable(whisper_positions(o.max_frames // 2, a.width))
        self.transformer = o.transformer(pre_norm=True, dtype=dtype, rngs=rngs)
        self.settings, self.num_features = o, num_features
        self.features, self.depth, self.token_features = a.width, a.depth, a.width

    @property
    def options(self) -> dict[str, Any]:
        """The options, those of the size among them, as a checkpoint's config.json tells them."""
        return self.settings.spelled_out()

    def frame_lengths(self, lengths: Int[Array, "..."] | int) -> Int[Array, "..."]:
        """Returns the tokens of clips of so many frames of the spectrogram."""
        heard = self._heard(jnp.asarray(lengths))
        return out_length(heard, 3, 2, 1)

    def _heard(self, lengths: Int[Array, "..."]) -> Int[Array, "..."]:
        """Returns the frames of the spectrogram that the convolutions go over."""
        if self.settings.padding == "silence":
            return jnp.where(lengths > 0, self.settings.max_frames, 0)
        return jnp.minimum(lengths, self.settings.max_frames)

    @part("convolutions")
    def tokens(
        self, inputs: Float[Array, "batch frames bands"], lengths: Int[Array, " batch"]
    ) -> base.Tokens:
        """Returns what the convolutions make of a log-mel, a token for every two frames.

        Of a clip of just 30 s the last frame, which is centred on its end, is left out.

        Raises:
          UserError: more frames than that.
        """
        limit = self.settings.max_frames
        if inputs.shape[1] > limit + 1:
            raise UserError(
                f"model.encoder.max_frames is {limit}, but the input has {inputs.shape[1]} frames: "
                "shorten data.seconds, 30 at the published size"
            )
        x = inputs[:, :limit]
        if self.settings.padding == "silence":
            x = with_silence(x, lengths, limit)
        heard = self._heard(lengths)
        for conv in (self.conv1, self.conv2):
            x, heard = conv(zero_padding(x, heard), heard)
            x = gelu(x)
        return base.Tokens(zero_padding(x, heard), heard)

    def normalize(
        self, features: Float[Array, "batch tokens channels"]
    ) -> Float[Array, "batch tokens channels"]:
        """Returns the tokens as they are."""
        return features

    def context(
        self,
        tokens: base.Tokens,
        ctx: Context = Context(),
        mask: Bool[Array, "batch tokens"] | None = None,
        keep: Int[Array, "batch kept"] | None = None,
        hidden_states: States = False,
    ) -> base.EncoderOutput:
        """Returns the frames that the Transformer makes of tokens; see `TokenEncoder.context`.

        The last hidden state is the frames, after the final norm, as transformers has it.
        """
        x, lengths = tokens.features, tokens.lengths
        x = put_mask(x, mask, self.mask_embedding[...])
        x = x + self.positions[...][: x.shape[1]].astype(x.dtype)
        inside = valid(x, lengths)[..., 0]
        if keep is not None:
            x, inside, lengths = keep_tokens(x, lengths, keep)
        x, states = self.transformer(x, inside, ctx, hidden_states)
        if states is not None and hidden_states is True:
            states = states.at[-1].set(x)
        return base.EncoderOutput(x, lengths, states)


def with_silence(
    x: Float[Array, "batch frames bands"], lengths: Int[Array, " batch"], size: int
) -> Float[Array, "batch {size} bands"]:
    """Returns log-mels of `size` frames, silent after each clip's end, in Whisper's scale.

    As if the waveform had gone on with zeros: 80 dB below its loudest, but no less than -100 dB.

    Args:
      x: as Whisper's front end gives it.
      lengths: valid frames.
      size: frames, no fewer than x has.
    """
    inside = valid(x, lengths)
    loudest = jnp.where(inside, x, -jnp.inf).max((1, 2), keepdims=True)
    quiet = jnp.maximum(loudest - RANGE, QUIETEST)
    x = jnp.where(inside, x, quiet)
    after = jnp.broadcast_to(quiet, (x.shape[0], size - x.shape[1], x.shape[2]))
    return jnp.concatenate([x, after], 1)
