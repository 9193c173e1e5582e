"""Attention whose backward pass computes the weights again, so that nothing quadratic is kept."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from sacjax.layers.dropout import drop
from sacjax.layers.similarity import NEVER


def attend(
    query: Float[Array, "batch tokens heads size"],
    key: Float[Array, "batch tokens heads size"],
    value: Float[Array, "batch tokens heads size"],
    mask: Bool[Array, "batch tokens"],
    causal: bool = False,
    dropout: float = 0.0,
    rng: Key[Array, ""] | None = None,
) -> Float[Array, "batch tokens heads size"]:
    """Returns what each token gathers from the others (Vaswani et al. 2017).

    To be called inside a scan over layers, as `prevent_cse` is off. The softmax is float32, the
    weights are of the values' dtype.

    Args:
      query, key, value: of each head.
      mask: tokens that may be attended to, at least one a clip.
      causal: whether a token attends only to itself and those before it.
      dropout: rate of the weights.
      rng: of the dropout; None outside training.
    """
    call = partial(_attend, causal=causal, dropout=dropout)
    return jax.checkpoint(call, prevent_cse=False)(query, key, value, mask, rng)


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    rng: jax.Array | None,
    *,
    causal: bool,
    dropout: float,
) -> jax.Array:
    scores = jnp.einsum("bthd,bshd->bhts", query, key, preferred_element_type=jnp.float32)
    pairs = mask[:, None, None]
    if causal:
        pairs = pairs & jnp.tril(jnp.ones(scores.shape[-2:], bool))
    scores = jnp.where(pairs, scores * query.shape[-1] ** -0.5, NEVER)
    weights = jax.nn.softmax(scores, -1).astype(value.dtype)
    return jnp.einsum("bhts,bshd->bthd", drop(weights, dropout, rng), value)
