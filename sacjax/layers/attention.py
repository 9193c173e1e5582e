"""Attention whose backward pass computes the weights again, so that nothing quadratic is kept."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sacjax.layers.dropout import drop
from sacjax.layers.platform import platform
from sacjax.layers.similarity import NEVER

ROWS = 128
"""Queries that a TPU handles at once: a tile, and few enough that their weights never leave the
chip's own memory. wav2vec 2.0 base's attention takes 25 ms so on v5e, all at once 34."""

FUSED = 640
"""Tokens up to which a TPU's compiler may fuse the scores into the product with the values. It
estimates such a fusion by recursion, and overflows its stack where the weights are dropped and the
tokens are many (libtpu 0.0.42.1: wav2vec 2.0's 549 compile, data2vec's 749 crash it)."""


class Bias(NamedTuple):
    """What is added to the scores of pairs: a table of which each query takes a multiple."""

    gate: Float[Array, "batch heads tokens"]
    """Of the queries."""

    table: Float[Array, "#batch heads tokens tokens"]
    """Of each query and key."""


def in_blocks(x: Float[Array, "batch tokens width"]) -> Float[Array, "batch rows width"]:
    """Returns tokens of which queries are made, on a TPU with zeros after them to whole `ROWS`.

    Zeros after the queries themselves would cost more: a head's 64 numbers take the room of 128.
    """
    beyond = -x.shape[1] % ROWS if platform() == "tpu" and x.shape[1] > ROWS else 0
    return jnp.pad(x, [(0, 0), (0, beyond), (0, 0)])


def attend(
    query: Float[Array, "batch rows heads size"],
    key: Float[Array, "batch tokens heads size"],
    value: Float[Array, "batch tokens heads size"],
    mask: Bool[Array, "batch tokens"],
    causal: bool = False,
    dropout: float = 0.0,
    rng: Key[Array, ""] | None = None,
    bias: Bias | None = None,
) -> Float[Array, "batch rows heads size"]:
    """Returns what each token gathers from the others (Vaswani et al. 2017).

    To be called inside a scan over layers: nothing else keeps the compiler from merging the second
    computation of the weights with the first.

    Args:
      query: of each token and head; those after the tokens are of `in_blocks`.
      key, value: of each token and head.
      mask: tokens that may be attended to, at least one a clip.
      causal: whether a token attends only to itself and those before it.
      dropout: rate of the weights.
      rng: of the dropout; None outside training.
      bias: what is added to the scores.
    """
    batch, count = query.shape[:2]
    rows = jax.checkpoint(partial(_rows, causal=causal, dropout=dropout), prevent_cse=False)
    if platform() != "tpu" or count <= ROWS:
        return rows(query, key, value, mask, jnp.zeros([], jnp.int32), rng, bias)
    blocks = -(-count // ROWS)
    padded = jnp.pad(query, [(0, 0), (0, blocks * ROWS - count), (0, 0), (0, 0)])
    parts = padded.reshape(batch, blocks, ROWS, *query.shape[2:]).swapaxes(0, 1)
    biases = None if bias is None else Bias(_blocks(bias.gate, blocks), _blocks(bias.table, blocks))

    def block(xs: tuple[Any, ...]) -> jax.Array:
        part, number, bias = xs
        own = None if rng is None else jax.random.fold_in(rng, number)
        return rows(part, key, value, mask, number * ROWS, own, bias)

    y = jax.lax.map(block, (parts, jnp.arange(blocks), biases))
    return y.swapaxes(0, 1).reshape(padded.shape)[:, :count]


def _blocks(x: jax.Array, count: int) -> jax.Array:
    """Returns [blocks, batch, heads, ROWS, ...] of [batch, heads, tokens, ...], zeros after."""
    room = [(0, 0), (0, 0), (0, count * ROWS - x.shape[2])] + [(0, 0)] * (x.ndim - 3)
    x = jnp.pad(x, room)
    return jnp.moveaxis(x.reshape(*x.shape[:2], count, ROWS, *x.shape[3:]), 2, 0)


def _rows(
    query: Float[Array, "batch rows heads size"],
    key: Float[Array, "batch tokens heads size"],
    value: Float[Array, "batch tokens heads size"],
    mask: Bool[Array, "batch tokens"],
    first: Int[Array, ""],
    rng: Key[Array, ""] | None,
    bias: Bias | None,
    *,
    causal: bool,
    dropout: float,
) -> Float[Array, "batch rows heads size"]:
    """Returns what some tokens, of which `first` is the number of the first, gather from all.

    The softmax is float32, the weights are of the values' dtype.
    """
    weights = attention_weights(query, key, mask, causal, first, bias).astype(value.dtype)
    return jnp.einsum("bhts,bshd->bthd", drop(weights, dropout, rng), value)


def attention_weights(
    query: Float[Array, "batch rows heads size"],
    key: Float[Array, "batch tokens heads size"],
    mask: Bool[Array, "batch tokens"],
    causal: bool = False,
    first: Int[Array, ""] | int = 0,
    bias: Bias | None = None,
) -> Float[Array, "batch heads rows tokens"]:
    """Returns how much of each token the rows gather, float32; each row adds up to 1.

    Args:
      query: of some tokens.
      key: of all.
      mask: tokens that may be attended to, at least one a clip.
      causal: whether a token attends only to itself and those before it.
      first: the number of the first row's token.
      bias: what is added to the scores.
    """
    scores = jnp.einsum("bthd,bshd->bhts", query, key, preferred_element_type=jnp.float32)
    if platform() == "tpu" and key.shape[1] > FUSED:
        scores = jax.lax.optimization_barrier(scores)
    pairs = mask[:, None, None]
    if causal:
        rows, columns = jnp.arange(query.shape[1])[:, None], jnp.arange(key.shape[1])
        pairs = pairs & (columns <= first + rows)
    scores = scores * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias.gate[..., None] * bias.table
    return jax.nn.softmax(_hide(scores, pairs), -1)


@jax.custom_vjp
def _hide(scores: jax.Array, pairs: jax.Array) -> jax.Array:
    """Returns scores, but `NEVER` where `pairs`, which broadcasts to them, is False.

    Its gradient is written out, as JAX would broadcast the pairs ahead of all loops and keep them.
    """
    return jnp.where(pairs, scores, NEVER)


_hide.defvjp(
    lambda scores, pairs: (_hide(scores, pairs), pairs),
    lambda pairs, grad: (jnp.where(pairs, grad, 0), None),
)
