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
from sacjax.layers.transformer import NORMAL, Past, Remat, States, Transformer
from sacjax.models import base
from sacjax.models.frames import FrameEncoder, keep_tokens, put_mask

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
class Options(base.Options):
    """`model.encoder` of `model.name = 'causal_transformer'`; None: as `size` says."""

    size: Size = "base"
    """tera or base as published, mini for less."""

    width: int | None = None
    """Of the Transformer, D of the frames; an even number."""

    depth: int | None = None
    """Layers."""

    heads: int | None = None
    """Of the attention."""

    mlp_width: int | None = None
    """Inside the MLP."""

    pre_norm: bool | None = None
    """Norms before each branch or after it."""

    causal: bool = True
    """False: each frame hears the whole clip, as Mockingjay and TERA have it."""

    stack: int = 1
    """Frames that are joined to one token."""

    memory: int = 1024
    """Tokens that a stream attends to at the most; longer clips stream otherwise than whole."""

    dropout: float = 0.1
    """Of the Transformer's input and of its branches."""

    attention_dropout: float = 0.1
    """Of the attention weights."""

    activation_dropout: float = 0.0
    """Inside the MLP."""

    layer_drop: float = 0.0
    """Rate at which a training step leaves a layer out (Fan et al. 2020)."""

    remat: Remat = "none"
    """What a layer's backward pass computes again to save memory."""

    @property
    def architecture(self) -> Architecture:
        """What the size fixes, with the options that replace it."""
        return self.resize(SIZES[self.size])

    def check(self) -> None:
        """Raises UserError for values out of range, or that do not fit together."""
        self.require_positive("width", "depth", "heads", "mlp_width", "stack", "memory")
        self.require_rates("dropout", "attention_dropout", "activation_dropout", "layer_drop")
        a = self.architecture
        self.require(a.width % a.heads == 0, "width", f"{a.heads} heads must divide it", a.width)
        self.require(a.width % 2 == 0, "width", "sinusoidal positions need an even one", a.width)


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
        self.transformer = Transformer(
            a.width,
            a.depth,
            a.heads,
            a.mlp_width,
            pre_norm=a.pre_norm,
            causal=o.causal,
            dropout=o.dropout,
            attention_dropout=o.attention_dropout,
            activation_dropout=o.activation_dropout,
            layer_drop=o.layer_drop,
            remat=o.remat,
            dtype=dtype,
            rngs=rngs,
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
