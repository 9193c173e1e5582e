"""The Transformer encoder (Vaswani et al. 2017): one stack for every encoder of tokens."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from sacjax.context import Context
from sacjax.layers.dropout import drop
from sacjax.layers.norm import LayerNorm

States = bool | Literal["mlp"]
"""Which states a stack returns: none; its first layer's input and every layer's output; or what
each layer's MLP adds to its residual."""

Remat = Literal["none", "full", "dots"]
"""What a layer's backward pass computes again: nothing, all, or all but its matrix products."""

POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
NORMAL = nnx.initializers.normal(0.02)


class Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool = False,
        dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes the four linear maps.

        Args:
          width: features of the tokens; it divides by `heads`.
          heads: how many.
          causal: whether a token attends only to itself and those before it.
          dropout: rate of the attention weights.
          dtype: of the computation; parameters are float32.
          rngs: of the parameters.
        """
        make = partial(nnx.Linear, width, width, dtype=dtype, kernel_init=NORMAL, rngs=rngs)
        self.query, self.key, self.value, self.out = make(), make(), make(), make()
        self.heads, self.causal, self.dropout = heads, causal, dropout

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Returns what each token gathers from the others.

        Args:
          x: the tokens.
          mask: those that may be attended to, at least one a clip.
          key: of the dropout of attention weights; None outside training.
        """
        q, k, v = (
            linear(x).reshape(*x.shape[:2], self.heads, -1)
            for linear in (self.query, self.key, self.value)
        )
        pairs = mask[:, None, None]
        if key is None or self.dropout == 0:
            y = jax.nn.dot_product_attention(q, k, v, mask=pairs, is_causal=self.causal)
        else:
            if self.causal:
                pairs = pairs & jnp.tril(jnp.ones([x.shape[1]] * 2, bool))
            scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32)
            scores = jnp.where(pairs, scores * q.shape[-1] ** -0.5, -1e30)
            weights = jax.nn.softmax(scores, -1).astype(x.dtype)
            y = jnp.einsum("bhts,bshd->bthd", drop(weights, self.dropout, key), v)
        return self.out(y.reshape(x.shape))


class TransformerLayer(nnx.Module):
    """Attention and MLP, each a residual branch with a norm before (pre-norm) or after it."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        *,
        pre_norm: bool,
        causal: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes a layer; see `Transformer` for the arguments."""
        self.attention = Attention(
            width, heads, causal=causal, dropout=attention_dropout, dtype=dtype, rngs=rngs
        )
        self.attention_norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.mlp_in = nnx.Linear(width, mlp_width, dtype=dtype, kernel_init=NORMAL, rngs=rngs)
        self.mlp_out = nnx.Linear(mlp_width, width, dtype=dtype, kernel_init=NORMAL, rngs=rngs)
        self.mlp_norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.pre_norm, self.dropout, self.inner_dropout = pre_norm, dropout, activation_dropout

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        ctx: Context,
    ) -> Float[Array, "batch tokens width"]:
        """Returns the tokens after the layer; `mask` says which may be attended to."""
        return self.with_mlp(x, mask, ctx)[0]

    def with_mlp(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        ctx: Context,
    ) -> tuple[Float[Array, "batch tokens width"], Float[Array, "batch tokens width"]]:
        """Returns (the tokens after the layer; what its MLP added to them, before any norm)."""
        if self.pre_norm:
            x = x + self._attend(self.attention_norm(x), mask, ctx)
            added = self._mlp(self.mlp_norm(x), ctx)
            return x + added, added
        x = self.attention_norm(x + self._attend(x, mask, ctx))
        added = self._mlp(x, ctx)
        return self.mlp_norm(x + added), added

    def _attend(self, x: jax.Array, mask: jax.Array, ctx: Context) -> jax.Array:
        return drop(self.attention(x, mask, ctx.rng(0)), self.dropout, ctx.rng(1))

    def _mlp(self, x: jax.Array, ctx: Context) -> jax.Array:
        inner = jax.nn.gelu(self.mlp_in(x), approximate=False)
        inner = drop(inner, self.inner_dropout, ctx.rng(2))
        return drop(self.mlp_out(inner), self.dropout, ctx.rng(3))


class Transformer(nnx.Module):
    """A stack of layers whose parameters lie side by side, so that one scan goes through them.

    It compiles in a time that does not grow with depth. Norms are named by where they stand:
    `input_norm` before the layers of a post-norm stack, `final_norm` after those of a pre-norm one.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp_width: int,
        *,
        pre_norm: bool,
        causal: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        layer_drop: float = 0.0,
        remat: Remat = "none",
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          width: features of the tokens; it divides by `heads`.
          depth: layers.
          heads: of the attention.
          mlp_width: features inside the MLP.
          pre_norm: norms before each branch, instead of after it.
          causal: whether a token attends only to itself and those before it.
          dropout: rate of the input and of each branch.
          attention_dropout: rate of the attention weights.
          activation_dropout: rate inside the MLP.
          layer_drop: rate at which a training step leaves a layer out (Fan et al. 2020).
          remat: see `Remat`.
          dtype: of the computation; parameters are float32.
          rngs: of the parameters.
        """
        norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.input_norm = None if pre_norm else norm
        self.final_norm = norm if pre_norm else None
        make = partial(
            TransformerLayer,
            width,
            heads,
            mlp_width,
            pre_norm=pre_norm,
            causal=causal,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation_dropout=activation_dropout,
            dtype=dtype,
        )
        stack = nnx.vmap(lambda key: make(rngs=nnx.Rngs(params=key)))
        self.layers = stack(jax.random.split(rngs.params(), depth))
        self.depth, self.dropout, self.layer_drop, self.remat = depth, dropout, layer_drop, remat

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        ctx: Context = Context(),
        hidden_states: States = False,
    ) -> tuple[
        Float[Array, "batch tokens width"], Float[Array, "states batch tokens width"] | None
    ]:
        """Returns (the tokens after the stack; its states, or None), zero where the mask is False.

        Args:
          x: the tokens.
          mask: which of them there are; the others are padding, to which nothing attends.
          ctx: of this call.
          hidden_states: which states to return, see `States`. Of the layers' outputs the last is
            before `final_norm`, as in transformers from 5.16 on.
        """
        x = x if self.input_norm is None else self.input_norm(x)
        x = drop(x, self.dropout, ctx.rng(0))
        x, states = self._scan(x, mask, ctx.child(1), hidden_states)
        inside = mask[..., None]
        if states is not None:
            states = states if hidden_states == "mlp" else jnp.concatenate([states, x[None]])
            states = jnp.where(inside, states, 0)
        x = x if self.final_norm is None else self.final_norm(x)
        return jnp.where(inside, x, 0), states

    def _scan(
        self, x: jax.Array, mask: jax.Array, ctx: Context, hidden_states: States
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns (the last layer's output; where asked for, every layer's input or MLP's)."""
        attended = mask | ~mask.any(-1, keepdims=True)  # a softmax needs a token, of no clip too
        graphdef, stacked = nnx.split(self.layers)

        def apply(x: jax.Array, layer: tuple) -> tuple[jax.Array, jax.Array | None]:
            variables, number = layer
            own = ctx.child(number)
            y, added = nnx.merge(graphdef, variables).with_mlp(x, attended, own.child(0))
            key = own.rng(1)
            if self.layer_drop and key is not None:
                y = jnp.where(jax.random.bernoulli(key, self.layer_drop), x, y)
            return y, (added if hidden_states == "mlp" else x if hidden_states else None)

        if self.remat != "none":
            apply = jax.checkpoint(apply, policy=POLICIES[self.remat])
        return jax.lax.scan(apply, x, (stacked, jnp.arange(self.depth)))
