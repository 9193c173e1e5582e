"""The contract of an encoder."""

from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sacjax.config import options as options_lib
from sacjax.context import Context
from sacjax.layers.transformer import States

T = TypeVar("T")


class EncoderOutput(NamedTuple):
    """What an encoder makes of a batch, in float32 or the encoder's dtype."""

    frames: Float[Array, "batch frames features"]
    """Zero beyond the lengths."""

    lengths: Int[Array, " batch"]
    """Valid frames of each clip."""

    hidden_states: Float[Array, "states batch frames features"] | None = None
    """Where asked for; see `sacjax.layers.transformer.States`."""


class Tokens(NamedTuple):
    """What an encoder of tokens makes of sound before its context network."""

    features: Float[Array, "batch tokens channels"]
    """Zero beyond the lengths."""

    lengths: Int[Array, " batch"]
    """Valid tokens of each clip."""


class Options(options_lib.Options):
    """Base of the options of an encoder: the keys of `model.encoder`."""

    where = "model.encoder"

    def resize(self, size: T) -> T:
        """Returns what a size fixes, a NamedTuple, with the options of its names that are set."""
        known: Any = size
        given = {name: getattr(self, name) for name in known._fields}
        return known._replace(**{k: v for k, v in given.items() if v is not None})


class Encoder(nnx.Module):
    """From waveforms [B, T] or spectrograms [B, F, M] to frames [B, N, D].

    A subclass is a file of its own: its options and the module. The first line of its docstring is
    what `sacjax list encoders` shows. Padding changes nothing: a clip gives the same frames alone
    and in a padded batch.
    """

    Options: ClassVar[type[Options]]
    """Frozen dataclass of the keys of `model.encoder`."""

    input_kind: ClassVar[Literal["waveform", "spectrogram"]]
    """What it takes."""

    features: int
    """D of its frames."""

    def __init__(
        self,
        *,
        num_features: int = 64,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        """Makes fresh parameters.

        Args:
          num_features: M of its input; encoders of waveforms do not use it.
          dtype: of the computation; parameters are float32.
          rngs: of the parameters.
          options: fields of `Options`.

        Raises:
          UserError: an option that does not fit.
        """
        raise NotImplementedError

    def __call__(
        self,
        inputs: Float[Array, "batch ..."],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> EncoderOutput:
        """Returns the frames of a batch.

        Args:
          inputs: float32 of its kind.
          lengths: valid samples, or frames of the spectrogram.
          ctx: of this call. By default it does not train.
        """
        raise NotImplementedError


class TokenEncoder(Encoder):
    """An encoder in two parts: sound to tokens, then a context network, a stack of layers."""

    depth: int
    """Layers of the context network, whose states `hidden_states=True` returns."""

    token_features: int
    """C of its tokens."""

    def tokens(self, inputs: Float[Array, "batch ..."], lengths: Int[Array, " batch"]) -> Tokens:
        """Returns the tokens of a batch, from which no context is left out yet."""
        raise NotImplementedError

    def normalize(
        self, features: Float[Array, "batch tokens channels"]
    ) -> Float[Array, "batch tokens channels"]:
        """Returns the tokens' features as targets are made from them."""
        raise NotImplementedError

    def context(
        self,
        tokens: Tokens,
        ctx: Context = Context(),
        mask: Bool[Array, "batch tokens"] | None = None,
        keep: Int[Array, "batch kept"] | None = None,
        hidden_states: States = False,
    ) -> EncoderOutput:
        """Returns the frames that the context network makes of tokens.

        Args:
          tokens: of `tokens`.
          ctx: of this call.
          mask: where the mask embedding replaces a token. Without it, and in training, spans
            are masked as the options of fine-tuning say.
          keep: the tokens that are encoded at all, by number; the output has them in this order,
            and its lengths count those that are valid. A number at or beyond a clip's length is
            padding, and gives zeros.
          hidden_states: which states of the stack to return.
        """
        raise NotImplementedError

    def __call__(
        self,
        inputs: Float[Array, "batch ..."],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
        hidden_states: States = False,
    ) -> EncoderOutput:
        """Returns the frames of a batch, and the states of the stack where asked for."""
        return self.context(self.tokens(inputs, lengths), ctx, hidden_states=hidden_states)
