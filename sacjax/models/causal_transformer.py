"""Transformer over spectrogram frames, causal as in APC's second form (Chung and Glass 2020)."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.conv import valid
from sacjax.layers.positional import sinusoids
from sacjax.layers.transformer import NORMAL, Past, States
from sacjax.models import base
from sacjax.models.frames import FrameEncoder, keep_tokens, put_mask
from sacjax.models.transformers import TransformerOptions

Size = Literal["tera", "base", "mini"]


class Architecture(NamedTuple):
    """What a size fixes; an option of the same name replaces it."""

    width: int
    depth: int
    heads: int
    mlp_width: int
    pre_norm: bool = True


SIZES: dict[Size, Architecture] = {
    "tera": Architecture(width=768, depth=3, heads=12, mlp_width=3072, pre_norm=False),
    "base": Architecture(width=512, depth=4, heads=8, mlp_width=2048),
    "mini": Architecture(width=128, depth=4, heads=4, mlp_width=512),
}
"""base as published for APC, tera as TERA's (with causal=False); mini for two cores."""


@dataclasses.dataclass(frozen=True)
class Options(TransformerOptions):
    """`model.encoder` of `model.name = 'causal_transformer'`; None: as `size` says."""

    size: Size = "base"
    """tera or base as published, mini for less."""

    pre_norm: bool | None = None
    """Norms before each branch or after it."""

    causal: bool = True
    """False: each frame hears the whole clip, as Mockingjay and TERA have it."""

    stack: int = 1
    """Frames that are joined to one token."""

    memory: int = 1024
    """Tokens that a stream attends to at the most; longer clips stream otherwise than whole."""

    dropout: float = 0.1
    attention_dropout: float = 0.1

    @property
    def architecture(self) -> Architecture:
        """What the size fixes, with the options that replace it."""
        return self.resize(SIZES[self.size])

    def check(self) -> None:
        """Raises UserError for values out of range, or that do not fit together."""
        super().check()
        self.require_positive("stack", "memory")
        width = self.architecture.width
        self.require(width % 2 == 0, "width", "sinusoidal positions need an even one", width)


class CausalTransformer(FrameEncoder):
    """Transformer over log-mel frames: causal, and fit to stream; or it hears the whole clip."""

    Options = Options

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
        self.stack, self.causal, self.memory, self.dtype = o.stack, o.causal, o.memory, dtype
        self.features, self.depth, self.token_features = a.width, a.depth, o.stack * num_features
        self.projection = nnx.Linear(self.token_features, a.width, dtype=dtype, rngs=rngs)
        self.mask_embedding = nnx.Param(NORMAL(rngs.params(), [a.width]))
        self.transformer = o.transformer(
            pre_norm=a.pre_norm, causal=o.causal, dtype=dtype, rngs=rngs
        )

    def context(
        self,
        tokens: base.Tokens,
        ctx: Context = Context(),
        mask: Bool[Array, "batch tokens"] | None = None,
        keep: Int[Array, "batch kept"] | None = None,
        hidden_states: States = False,
    ) -> base.EncoderOutput:
        """Returns the frames that the Transformer makes of tokens; see `TokenEncoder.context`.

        If causal, a kept token attends to those before it in the order of `keep`.
        """
        lengths = tokens.lengths
        x = put_mask(self.projection(tokens.features), mask, self.mask_embedding[...])
        x = self._with_positions(x, jnp.zeros([], jnp.int32))
        there = valid(x, lengths)[..., 0]
        if keep is not None:
            x, there, lengths = keep_tokens(x, lengths, keep)
        x, states = self.transformer(x, there, ctx, hidden_states)
        return base.EncoderOutput(x, lengths, states)

    def start(self, batch: int) -> Past:
        """Returns what a stream of so many clips remembers before its first frame.

        Raises:
          UserError: an encoder that hears the future.
        """
        if not self.causal:
            raise UserError(
                "model.encoder.causal is False: such an encoder hears the future and cannot stream"
            )
        return self.transformer.start(batch, self.memory, self.dtype)

    def continue_stream(
        self, tokens: Float[Array, "batch tokens channels"], state: Past
    ) -> tuple[Float[Array, "batch tokens width"], Past]:
        """Returns (the frames of the next tokens; what is remembered after them)."""
        return self.transformer.stream(
            self._with_positions(self.projection(tokens), state.tokens), state
        )

    def _with_positions(self, x: jax.Array, first: jax.Array) -> jax.Array:
        """Adds the sinusoids of positions from `first` on to tokens [B, N, D]."""
        return x + sinusoids(first + jnp.arange(x.shape[1]), x.shape[-1]).astype(x.dtype)
