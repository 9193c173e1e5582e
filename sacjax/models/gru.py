"""Recurrent encoder of spectrogram frames, as APC has it (Chung et al. 2019)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sacjax.context import Context
from sacjax.layers.conv import valid
from sacjax.layers.dropout import drop
from sacjax.layers.recurrent import GRULayer
from sacjax.layers.transformer import States
from sacjax.models import base
from sacjax.models.frames import FrameEncoder, keep_tokens, put_mask
from sacjax.parts import part


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
    """`model.encoder` of `model.name = 'gru'`; the defaults are those published for APC."""

    width: int = 512
    """Of each layer, D of the frames."""

    layers: int = 3
    """Recurrent layers."""

    residual: bool = True
    """Whether a layer's input is added to its output; not around the first, which widens it."""

    dropout: float = 0.1
    """After every layer but the last; s3prl's value, the paper has none."""

    stack: int = 1
    """Frames that are joined to one token."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        self.require_positive("width", "layers", "stack")
        self.require_rates("dropout")


class GRU(FrameEncoder):
    """Gated recurrent units over log-mel frames, forward in time: causal, and fit to stream."""

    Options = Options
    causal = True

    def __init__(
        self,
        *,
        num_features: int = 64,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        """Makes fresh parameters; see `Options`.

        The first layer makes tokens as wide as the others are. So `depth` counts the layers after
        it, and the states are the outputs of all layers, as SUPERB weighs them.
        """
        o = Options(**options)
        self.token_features = o.stack * num_features
        inputs = (self.token_features, *[o.width] * (o.layers - 1))
        self.layers = nnx.List([GRULayer(n, o.width, dtype=dtype, rngs=rngs) for n in inputs])
        self.mask_embedding = nnx.Param(jnp.zeros([self.token_features]))
        self.residual, self.dropout, self.stack = o.residual, o.dropout, o.stack
        self.features, self.depth = o.width, o.layers - 1

    @part("recurrence")
    def context(
        self,
        tokens: base.Tokens,
        ctx: Context = Context(),
        mask: Bool[Array, "batch tokens"] | None = None,
        keep: Int[Array, "batch kept"] | None = None,
        hidden_states: States = False,
    ) -> base.EncoderOutput:
        """Returns the frames that the layers make of tokens; see `TokenEncoder.context`.

        Kept tokens follow each other in the order of `keep`.
        """
        x, lengths = put_mask(tokens.features, mask, self.mask_embedding[...]), tokens.lengths
        there = valid(x, lengths)[..., 0]
        if keep is not None:
            x, there, lengths = keep_tokens(x, lengths, keep)
        outputs, _ = self._run(x, there, self.start(len(x)), ctx)
        states = jnp.stack(outputs if hidden_states else outputs[-1:])
        states = jnp.where(there[..., None], states, 0)
        return base.EncoderOutput(states[-1], lengths, states if hidden_states else None)

    def start(self, batch: int) -> tuple[Float[Array, "{batch} width"], ...]:
        """Returns the state of each layer before the first frame of a stream."""
        return tuple(layer.start(batch) for layer in self.layers)

    def continue_stream(
        self,
        tokens: Float[Array, "batch tokens channels"],
        state: tuple[Float[Array, "batch width"], ...],
    ) -> tuple[Float[Array, "batch tokens width"], tuple[Float[Array, "batch width"], ...]]:
        """Returns (the frames of the next tokens; the layers' states after them)."""
        states, state = self._run(tokens, jnp.ones(tokens.shape[:2], bool), state, Context())
        return states[-1], state

    def _run(
        self, x: jax.Array, there: jax.Array, state: tuple[jax.Array, ...], ctx: Context
    ) -> tuple[list[jax.Array], tuple[jax.Array, ...]]:
        """Returns (the output of each layer; their states after the last token)."""
        outputs, after = [], []
        for number, layer in enumerate(self.layers):
            y, last = layer(x, there, state[number])
            if number < self.depth:
                y = drop(y, self.dropout, ctx.rng(number))
            x = x + y if self.residual and number else y
            outputs.append(x)
            after.append(last)
        return outputs, tuple(after)
