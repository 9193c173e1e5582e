"""Encoders whose tokens are the frames of a spectrogram, and how they hear a stream."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sacjax.errors import UserError
from sacjax.layers.conv import zero_padding
from sacjax.models import base
from sacjax.parts import part


class FrameEncoder(base.TokenEncoder):
    """An encoder of spectrograms whose token is `stack` frames side by side."""

    stack: int
    """Frames of a token."""

    causal: bool
    """Whether a frame of its output depends on no later input."""

    input_kind = "spectrogram"

    @part("frames")
    def tokens(
        self, inputs: Float[Array, "batch frames bands"], lengths: Int[Array, " batch"]
    ) -> base.Tokens:
        """Returns the frames, `stack` of them joined; the last token is filled up with zeros."""
        x = zero_padding(inputs, lengths)
        batch, frames, bands = x.shape
        x = jnp.pad(x, ((0, 0), (0, -frames % self.stack), (0, 0)))
        return base.Tokens(x.reshape(batch, -1, self.stack * bands), -(-lengths // self.stack))

    def frames(
        self, tokens: Float[Array, "batch tokens channels"]
    ) -> Float[Array, "batch frames bands"]:
        """Returns the frames of which tokens consist, `stack` of each."""
        batch, _, channels = tokens.shape
        return tokens.reshape(batch, -1, channels // self.stack)

    def normalize(
        self, features: Float[Array, "batch tokens channels"]
    ) -> Float[Array, "batch tokens channels"]:
        """Returns the tokens as they are: the front end has normalized them."""
        return features

    def start(self, batch: int) -> Any:
        """Returns what a stream of so many clips is before its first frame.

        Raises:
          UserError: an encoder that hears the future.
        """
        raise NotImplementedError

    def stream(self, inputs: Float[Array, "batch frames bands"], state: Any) -> tuple[Any, Any]:
        """Returns (the encoder's frames [B, N, D] of the next frames; the state after them).

        Chunk by chunk it gives what the whole clip gives. Pure, and jit-able.

        Args:
          inputs: the frames that follow; their number divides by `stack`.
          state: of `start`, or of the chunk before.

        Raises:
          UserError: a chunk that does not divide by `stack`.
        """
        if inputs.shape[1] % self.stack:
            raise UserError(
                f"a chunk of {inputs.shape[1]} frames does not divide by model.encoder.stack "
                f"{self.stack}"
            )
        full = jnp.full([len(inputs)], inputs.shape[1], jnp.int32)
        return self.continue_stream(self.tokens(inputs, full).features, state)

    def continue_stream(
        self, tokens: Float[Array, "batch tokens channels"], state: Any
    ) -> tuple[Any, Any]:
        """Returns (the frames [B, N, D] of the next tokens; the state after them)."""
        raise NotImplementedError


def keep_tokens(
    x: Float[Array, "batch tokens width"],
    lengths: Int[Array, " batch"],
    keep: Int[Array, "batch kept"],
) -> tuple[Float[Array, "batch kept width"], Bool[Array, "batch kept"], Int[Array, " batch"]]:
    """Returns (the kept tokens, which of them there are, their number in each clip)."""
    there = keep < lengths[:, None]
    x = jnp.take_along_axis(x, keep[..., None], 1, mode="clip")
    return x, there, there.sum(-1, dtype=lengths.dtype)


def put_mask(
    x: Float[Array, "batch tokens width"],
    mask: Bool[Array, "batch tokens"] | None,
    embedding: jax.Array,
) -> Float[Array, "batch tokens width"]:
    """Returns tokens with the embedding [D] where the mask is."""
    if mask is None:
        return x
    return jnp.where(mask[..., None], embedding.astype(x.dtype), x)
