"""Encoder → pooling → dropout → head: the one classifier."""

import dataclasses
from functools import partial
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from sacjax.config import options as options_lib
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.dropout import drop
from sacjax.layers.norm import EPSILON, LayerNorm
from sacjax.layers.pooling import Pooling, PoolingKind
from sacjax.models.base import Encoder, TokenEncoder


@dataclasses.dataclass(frozen=True)
class Options(options_lib.Options):
    """`model`: what surrounds the encoder."""

    where = "model"

    layers: Literal["last", "weighted"] = "last"
    """weighted: a learned weighted sum of the states of all layers (SUPERB; Yang et al. 2021)."""

    projection: int = 0
    """Features of a linear map of the frames before pooling; 0 = none."""

    pooling: PoolingKind = "mean"
    """Of the frames to one vector a clip."""

    head_norm: bool = False
    """Layer norm of the pooled vector before the head (AST, MAE)."""

    hidden: int = 0
    """Units of a layer with ReLU before the head; 0 = none."""

    dropout: float = 0.0
    """Rate of the pooled vector, and of the hidden units, in training."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the computation; parameters and logits stay float32."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        for name in ("projection", "hidden"):
            self.require(getattr(self, name) >= 0, name, "it must not be negative")
        self.require_rates("dropout")


class Classifier(nnx.Module):
    """Any encoder with a pooling and a head."""

    Options = Options

    def __init__(self, encoder: Encoder, *, num_classes: int, rngs: nnx.Rngs, **options: Any):
        """Makes what surrounds the encoder.

        Args:
          encoder: any.
          num_classes: C of the logits.
          rngs: of the parameters.
          options: fields of `Options`.

        Raises:
          UserError: an option that does not fit, or layers=weighted of an encoder that has none.
        """
        o = Options(**options)
        check_layers(o.layers, type(encoder))
        dtype = jnp.dtype(o.dtype)
        self.encoder, self.dropout = encoder, o.dropout
        states = cast(TokenEncoder, encoder).depth + 1 if o.layers == "weighted" else 0
        self.layer_weights = nnx.Param(jnp.zeros([states])) if states else None
        linear = partial(nnx.Linear, encoder.features, dtype=dtype, rngs=rngs)
        self.project = linear(o.projection) if o.projection else None
        width = o.projection or encoder.features
        self.pooling = Pooling(o.pooling, width, dtype=dtype, rngs=rngs)
        epsilon = getattr(encoder, "norm_epsilon", EPSILON)
        norm = partial(LayerNorm, epsilon=epsilon, dtype=jnp.float32, rngs=rngs)
        self.head_norm = norm(self.pooling.features) if o.head_norm else None
        self.hidden = nnx.Linear(self.pooling.features, o.hidden, rngs=rngs) if o.hidden else None
        self.head = nnx.Linear(o.hidden or self.pooling.features, num_classes, rngs=rngs)

    def __call__(
        self,
        inputs: Float[Array, "batch ..."],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> Float[Array, "batch classes"]:
        """Returns float32 logits.

        Args:
          inputs: of the encoder's kind.
          lengths: valid samples, or frames of the spectrogram.
          ctx: of this call.
        """
        return self.classify(self.embed(inputs, lengths, ctx.child(0)), ctx)

    def classify(
        self, pooled: Float[Array, "batch pooled"], ctx: Context = Context()
    ) -> Float[Array, "batch classes"]:
        """Returns the float32 logits of pooled vectors."""
        pooled = pooled if self.head_norm is None else self.head_norm(pooled)
        pooled = drop(pooled, self.dropout, ctx.rng(1))
        if self.hidden is not None:
            pooled = drop(nnx.relu(self.hidden(pooled)), self.dropout, ctx.rng(2))
        return self.head(pooled)

    def embed(
        self,
        inputs: Float[Array, "batch ..."],
        lengths: Int[Array, " batch"],
        ctx: Context = Context(),
    ) -> Float[Array, "batch pooled"]:
        """Returns the pooled vectors that the head reads, float32, before norm and dropout."""
        if self.layer_weights is None:
            output = self.encoder(inputs, lengths, ctx)
            frames = output.frames
        else:
            encoder = cast(TokenEncoder, self.encoder)
            output = encoder(inputs, lengths, ctx, hidden_states=True)
            weights = jax.nn.softmax(self.layer_weights[...])
            frames = jnp.einsum("l,lbtd->btd", weights, output.hidden_states)
        return self.pool(frames, output.lengths)

    def pool(
        self, frames: Float[Array, "batch frames features"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch pooled"]:
        """Returns the pooled vectors of an encoder's frames, of which so many are valid."""
        return self.pooling(frames if self.project is None else self.project(frames), lengths)


def check_layers(layers: str, encoder: type[Encoder]) -> None:
    """Raises UserError for layers=weighted of an encoder that has no stack of layers."""
    if layers == "weighted" and not issubclass(encoder, TokenEncoder):
        raise UserError(
            "model.layers=weighted needs an encoder with a stack of layers, such as wav2vec2"
        )
