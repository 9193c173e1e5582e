"""The Transformer encoder (Vaswani et al. 2017): one stack for every encoder of tokens."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from sacjax.context import Context
from sacjax.layers.activation import gelu
from sacjax.layers.attention import Bias, attend, attention_weights, in_blocks
from sacjax.layers.dropout import drop
from sacjax.layers.norm import EPSILON, LayerNorm
from sacjax.layers.platform import platform
from sacjax.layers.relative import Gate, RelativePositions
from sacjax.parts import part

Remat = Literal["none", "full", "dots"]
"""What a layer's backward pass computes again: nothing, all, or all but its matrix products."""

POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
NORMAL = nnx.initializers.normal(0.02)

States = bool | Literal["mlp"]
"""Which states of a stack a call returns: none; True: the first layer's input and every layer's
output; 'mlp': what every layer's MLP gives before it is added (the targets of data2vec and EAT)."""


class Past(NamedTuple):
    """What a causal stack remembers of a stream: its last tokens, as attention sees them."""

    keys: Float[Array, "depth batch memory heads size"]
    """Of the last tokens, the newest at the end; zeros before the first."""

    values: Float[Array, "depth batch memory heads size"]
    """Likewise."""

    tokens: Int[Array, ""]
    """How many were heard so far, which is the position of the next one."""


class Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool = False,
        qkv_bias: bool = True,
        gated: bool = False,
        dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes the four linear maps.

        Args:
          width: features of the tokens; it divides by `heads`.
          heads: how many.
          causal: whether a token attends only to itself and those before it.
          qkv_bias: whether queries, keys and values have biases.
          gated: whether it is given relative positions, of which a token takes a share.
          dropout: rate of the attention weights.
          dtype: of the computation; parameters are float32.
          rngs: of the parameters.
        """
        make = partial(nnx.Linear, width, width, dtype=dtype, kernel_init=NORMAL, rngs=rngs)
        three = partial(make, use_bias=qkv_bias)
        self.query, self.key, self.value, self.out = three(), three(), three(), make()
        self.gate = Gate(width // heads, heads, dtype=dtype, rngs=rngs) if gated else None
        self.heads, self.causal, self.dropout = heads, causal, dropout

    @part("attention")
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        key: Key[Array, ""] | None = None,
        positions: Float[Array, "#batch heads tokens tokens"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Returns what each token gathers from the others.

        Args:
          x: the tokens.
          mask: those that may be attended to, at least one a clip.
          key: of the dropout of attention weights; None outside training.
          positions: scores of pairs by their relative positions, of which each takes a share.
        """

        def gather(x: jax.Array) -> jax.Array:
            q = self._split(self.query(in_blocks(x)))
            k, v = self._split(self.key(x)), self._split(self.value(x))
            return attend(q, k, v, mask, self.causal, self.dropout, key, self._bias(x, positions))

        if platform() == "tpu":  # to project again is quicker there than to keep what comes of it
            gather = jax.checkpoint(gather, prevent_cse=False)
        y = gather(x)
        return self.out(y.reshape(*y.shape[:2], -1))[:, : x.shape[1]]

    def weights(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        positions: Float[Array, "#batch heads tokens tokens"] | None = None,
    ) -> Float[Array, "batch heads tokens tokens"]:
        """Returns how much of each token (last axis) each one gathers; float32, rows add up to 1.

        Args:
          x: the tokens.
          mask: those that may be attended to, at least one a clip.
          positions: as of `__call__`.
        """
        query, key = self._split(self.query(x)), self._split(self.key(x))
        return attention_weights(query, key, mask, self.causal, bias=self._bias(x, positions))

    def _bias(self, x: jax.Array, positions: jax.Array | None) -> Bias | None:
        """Returns what relative positions add to the scores, or None where there are none."""
        if self.gate is None or positions is None:
            return None
        return Bias(self.gate(self._split(x)), positions)

    def stream(
        self, x: Float[Array, "batch tokens width"], past: tuple[jax.Array, ...], heard: jax.Array
    ) -> tuple[Float[Array, "batch tokens width"], tuple[jax.Array, ...]]:
        """Returns (what each token gathers from the last ones, itself included; the new past).

        Args:
          x: the next tokens.
          past: keys and values [B, memory, heads, D / heads] of the last tokens before.
          heard: tokens before, int32 [].
        """
        q, k, v = (self._split(linear(x)) for linear in (self.query, self.key, self.value))
        keys, values = (jnp.concatenate(pair, 1) for pair in zip(past, (k, v), strict=True))
        memory, new = past[0].shape[1], x.shape[1]
        place, own = jnp.arange(memory + new) - memory, jnp.arange(new)[:, None]
        seen = (place <= own) & (place > own - memory) & (place >= -heard)
        y = jax.nn.dot_product_attention(q, keys, values, mask=seen[None, None])
        return self.out(y.reshape(x.shape)), (keys[:, new:], values[:, new:])

    def _split(self, x: jax.Array) -> jax.Array:
        """Returns [B, N, heads, D / heads] of [B, N, D]."""
        return x.reshape(*x.shape[:2], self.heads, -1)


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
        qkv_bias: bool = True,
        gated: bool = False,
        epsilon: float = EPSILON,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes a layer; see `Transformer` for the arguments."""
        self.attention = Attention(
            width,
            heads,
            causal=causal,
            qkv_bias=qkv_bias,
            gated=gated,
            dropout=attention_dropout,
            dtype=dtype,
            rngs=rngs,
        )
        self.attention_norm = LayerNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.mlp_in = nnx.Linear(width, mlp_width, dtype=dtype, kernel_init=NORMAL, rngs=rngs)
        self.mlp_out = nnx.Linear(mlp_width, width, dtype=dtype, kernel_init=NORMAL, rngs=rngs)
        self.mlp_norm = LayerNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.pre_norm, self.dropout, self.inner_dropout = pre_norm, dropout, activation_dropout

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        ctx: Context,
        positions: Float[Array, "#batch heads tokens tokens"] | None = None,
    ) -> tuple[Float[Array, "batch tokens width"], Float[Array, "batch tokens width"]]:
        """Returns (the tokens after the layer; what its MLP gave before it was added).

        `mask` says which tokens may be attended to; `positions` is as of `Attention`.
        """
        if self.pre_norm:
            x = x + self._attend(self.attention_norm(x), mask, ctx, positions)
            branch = self._mlp(self.mlp_norm(x), ctx)
            return x + branch, branch
        x = self.attention_norm(x + self._attend(x, mask, ctx, positions))
        branch = self._mlp(x, ctx)
        return self.mlp_norm(x + branch), branch

    def stream(
        self, x: Float[Array, "batch tokens width"], past: tuple[jax.Array, ...], heard: jax.Array
    ) -> tuple[Float[Array, "batch tokens width"], tuple[jax.Array, ...]]:
        """Returns (the tokens after the layer; the new past): see `Attention.stream`."""
        if self.pre_norm:
            y, past = self.attention.stream(self.attention_norm(x), past, heard)
            x = x + y
            return x + self._mlp(self.mlp_norm(x), Context()), past
        y, past = self.attention.stream(x, past, heard)
        x = self.attention_norm(x + y)
        return self.mlp_norm(x + self._mlp(x, Context())), past

    def _attend(
        self, x: jax.Array, mask: jax.Array, ctx: Context, positions: jax.Array | None
    ) -> jax.Array:
        return drop(self.attention(x, mask, ctx.rng(0), positions), self.dropout, ctx.rng(1))

    @part("feed-forward")
    def _mlp(self, x: jax.Array, ctx: Context) -> jax.Array:
        def outer(inner: jax.Array) -> jax.Array:
            inner = drop(gelu(inner), self.inner_dropout, ctx.rng(2))
            return drop(self.mlp_out(inner), self.dropout, ctx.rng(3))

        if platform() == "tpu":  # one array of the MLP's width is kept there, not three
            outer = jax.checkpoint(outer, prevent_cse=False)
        return outer(self.mlp_in(x))


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
        qkv_bias: bool = True,
        relative_buckets: int = 0,
        relative_distance: int = 800,
        epsilon: float = EPSILON,
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
          qkv_bias: whether queries, keys and values have biases.
          relative_buckets: of relative positions, gated, which all layers share; 0: none.
          relative_distance: tokens from which on they are in the last bucket.
          epsilon: added to the norms' variances.
          dropout: rate of the input and of each branch.
          attention_dropout: rate of the attention weights.
          activation_dropout: rate inside the MLP.
          layer_drop: rate at which a training step leaves a layer out (Fan et al. 2020).
          remat: see `Remat`.
          dtype: of the computation; parameters are float32.
          rngs: of the parameters.
        """
        norm = LayerNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.input_norm = None if pre_norm else norm
        self.final_norm = norm if pre_norm else None
        make = partial(
            TransformerLayer,
            width,
            heads,
            mlp_width,
            pre_norm=pre_norm,
            causal=causal,
            qkv_bias=qkv_bias,
            gated=relative_buckets > 0,
            epsilon=epsilon,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation_dropout=activation_dropout,
            dtype=dtype,
        )
        stack = nnx.vmap(lambda key: make(rngs=nnx.Rngs(params=key)))
        self.layers = stack(jax.random.split(rngs.params(), depth))
        self.relative = (
            RelativePositions(relative_buckets, relative_distance, heads, rngs=rngs)
            if relative_buckets
            else None
        )
        self.depth, self.dropout, self.layer_drop, self.remat = depth, dropout, layer_drop, remat
        self.dtype = dtype

    @part("transformer")
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"],
        ctx: Context = Context(),
        hidden_states: States = False,
        positions: Int[Array, "batch tokens"] | None = None,
    ) -> tuple[
        Float[Array, "batch tokens width"], Float[Array, "states batch tokens width"] | None
    ]:
        """Returns (the tokens after the stack; its states, or None), zero where the mask is False.

        Args:
          x: the tokens.
          mask: which of them there are; the others are padding, to which nothing attends.
          ctx: of this call.
          hidden_states: see `States`. The last layer's output is the one before `final_norm`, as in
            transformers from 5.16 on.
          positions: of the tokens, where they have relative ones; None: as they come.
        """
        x = x if self.input_norm is None else self.input_norm(x)
        x = drop(x, self.dropout, ctx.rng(0))
        relative = None
        if self.relative is not None:
            own = jnp.arange(x.shape[1])[None] if positions is None else positions
            relative = self.relative(own)
        x, states = self._scan(x, mask, ctx.child(1), hidden_states, relative)
        inside = mask[..., None]
        if states is not None:
            states = states if hidden_states == "mlp" else jnp.concatenate([states, x[None]])
            states = jnp.where(inside, states, 0)
        x = x if self.final_norm is None else self.final_norm(x)
        return jnp.where(inside, x, 0), states

    def attention_weights(
        self,
        states: Float[Array, "states batch tokens width"],
        mask: Bool[Array, "batch tokens"],
    ) -> Float[Array, "depth batch heads tokens tokens"]:
        """Returns every layer's attention weights; see `Attention.weights`.

        Args:
          states: of a call with hidden_states=True.
          mask: of that call.
        """
        attended = mask | ~mask.any(-1, keepdims=True)
        relative = None
        if self.relative is not None:
            relative = self.relative(jnp.arange(mask.shape[1])[None])
        graphdef, stacked = nnx.split(self.layers)

        def one(layer: tuple) -> jax.Array:
            variables, x = layer
            merged = nnx.merge(graphdef, variables)
            x = merged.attention_norm(x) if merged.pre_norm else x
            return merged.attention.weights(x, attended, relative)

        return jax.lax.map(one, (stacked, states[: self.depth]))

    def start(self, batch: int, memory: int, dtype: DTypeLike) -> Past:
        """Returns what a stream of so many clips remembers before its first token.

        Args:
          batch: clips.
          memory: tokens that a token attends to at the most, itself included.
          dtype: of keys and values, that of the computation.
        """
        kernel = self.layers.attention.key.kernel  # [depth, width, width]
        heads = self.layers.attention.heads
        keys = jnp.zeros([self.depth, batch, memory, heads, kernel.shape[-1] // heads], dtype)
        return Past(keys, keys, jnp.zeros([], jnp.int32))

    def stream(
        self, x: Float[Array, "batch tokens width"], past: Past
    ) -> tuple[Float[Array, "batch tokens width"], Past]:
        """Returns (the next tokens of a stream after a causal stack; what is remembered then).

        As the whole at once, as long as that has no more tokens than the memory; from then on a
        token attends to the last ones, however the stream is cut.
        """
        graphdef, stacked = nnx.split(self.layers)
        x = x if self.input_norm is None else self.input_norm(x)

        def apply(x: jax.Array, layer: tuple) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            variables, past_of_layer = layer
            return nnx.merge(graphdef, variables).stream(x, past_of_layer, past.tokens)

        x, (keys, values) = jax.lax.scan(apply, x, (stacked, (past.keys, past.values)))
        x = x if self.final_norm is None else self.final_norm(x)
        return x, Past(keys, values, past.tokens + x.shape[1])

    def _scan(
        self,
        x: jax.Array,
        mask: jax.Array,
        ctx: Context,
        hidden_states: States,
        positions: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns (the last layer's output; every layer's input, or MLP's output, if asked for)."""
        attended = mask | ~mask.any(-1, keepdims=True)  # a softmax needs a token, of no clip too
        graphdef, stacked = nnx.split(self.layers)
        # All layers' kernels at once, so that their gradients are stacked in this dtype too.
        stacked = jax.tree.map(lambda p: p.astype(self.dtype) if p.ndim == 3 else p, stacked)

        def apply(x: jax.Array, layer: tuple) -> tuple[jax.Array, jax.Array | None]:
            variables, number = layer
            own = ctx.child(number)
            y, branch = nnx.merge(graphdef, variables)(x, attended, own.child(0), positions)
            key = own.rng(1)
            if self.layer_drop and key is not None:
                y = jnp.where(jax.random.bernoulli(key, self.layer_drop), x, y)
            kept = branch if hidden_states == "mlp" else x
            return y, (kept if hidden_states else None)

        if self.remat != "none":
            apply = jax.checkpoint(apply, policy=POLICIES[self.remat])
        return jax.lax.scan(apply, x, (stacked, jnp.arange(self.depth)))
