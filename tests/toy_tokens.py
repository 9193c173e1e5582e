"""A small encoder of tokens on spectrograms, for the tests of objectives over masked tokens."""

import contextlib
import dataclasses

import jax.numpy as jnp
from flax import nnx

from sacjax import models
from sacjax.context import Context
from sacjax.layers.conv import zero_padding
from sacjax.layers.transformer import Transformer
from sacjax.models import base


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
    """`hop` frames side by side, in `bands` parts, are the tokens."""

    width: int = 16
    hop: int = 2
    bands: int = 1
    depth: int = 2
    dropout: float = 0.0


class ToyTokens(base.TokenEncoder):
    """Frames side by side, a linear map, a Transformer."""

    Options = Options
    input_kind = "spectrogram"

    def __init__(self, *, num_features=64, dtype=jnp.float32, rngs, **options):
        o = self.options = Options(**options)
        self.features, self.depth = o.width, o.depth
        self.token_features = o.hop * num_features // o.bands
        self.project = nnx.Linear(self.token_features, o.width, dtype=dtype, rngs=rngs)
        self.mask_embedding = nnx.Param(jnp.zeros([o.width]))
        self.transformer = Transformer(
            o.width,
            o.depth,
            2,
            2 * o.width,
            pre_norm=True,
            dropout=o.dropout,
            dtype=dtype,
            rngs=rngs,
        )

    def tokens(self, inputs, lengths):
        hop, bands = self.options.hop, self.options.bands
        steps = inputs.shape[1] // hop
        x = zero_padding(inputs, lengths)[:, : steps * hop]
        x = x.reshape(len(x), steps, hop, bands, -1).swapaxes(2, 3)
        lengths = lengths // hop * bands
        x = x.reshape(len(x), steps * bands, -1)
        return base.Tokens(zero_padding(x, lengths), lengths)

    def normalize(self, features):
        return features

    def context(self, tokens, ctx=Context(), mask=None, keep=None, hidden_states=False):
        x = self.project(tokens.features)
        if mask is not None:
            x = jnp.where(mask[..., None], self.mask_embedding[...].astype(x.dtype), x)
        inside = jnp.arange(x.shape[1]) < tokens.lengths[:, None]
        x, states = self.transformer(x, inside, ctx, hidden_states)
        return base.EncoderOutput(x, tokens.lengths, states)


@contextlib.contextmanager
def registered():
    """Makes `model.name = 'toy'` an encoder."""
    models.ENCODERS["toy"] = ToyTokens
    try:
        yield
    finally:
        del models.ENCODERS["toy"]
