"""Product quantization with Gumbel softmax (Jégou et al. 2011, Jang et al. 2016), as in wav2vec 2.0."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sacjax.errors import UserError


class Quantized(NamedTuple):
    """What the quantizer makes of frames [..., D]."""

    vectors: Any  # float32 [..., dim], one entry of each group side by side
    codes: Any  # int32 [..., G], which entries
    probabilities: Any  # float32 [..., G, V], the softmax over entries without noise


class Quantizer(nnx.Module):
    """G groups of V entries; each frame takes one entry of each group. Float32 throughout."""

    def __init__(
        self, features: int, *, groups: int = 2, entries: int = 320, dim: int = 256, rngs: nnx.Rngs
    ):
        """Args:
          features: D of the frames.
          groups, entries: G and V.
          dim: of the quantized vectors, over all groups.

        Raises:
          UserError: a dimension that does not divide by the groups.
        """
        for name, value in (
            ("codebook_groups", groups),
            ("codebook_entries", entries),
            ("codebook_dim", dim),
        ):
            if value < 1:
                raise UserError(f"objective.options.{name} is {value}: it must be greater than 0")
        if dim % groups:
            raise UserError(
                f"objective.options.codebook_dim is {dim}: it must divide by codebook_groups {groups}"
            )
        self.groups, self.entries, self.dim = groups, entries, dim
        normal, uniform = nnx.initializers.normal(1.0), jax.random.uniform
        self.logits = nnx.Linear(features, groups * entries, kernel_init=normal, rngs=rngs)
        self.codebook = nnx.Param(uniform(rngs.params(), [groups, entries, dim // groups]))

    def __call__(
        self, x: jax.Array, temperature: Any = 1.0, key: jax.Array | None = None
    ) -> Quantized:
        """Returns the quantized frames: the most probable entries, or with a key drawn ones (straight-through Gumbel softmax)."""
        logits = self.logits(x.astype(jnp.float32)).reshape(
            *x.shape[:-1], self.groups, self.entries
        )
        probabilities = jax.nn.softmax(logits, -1)
        if key is None:
            codes = jnp.argmax(logits, -1)
            chosen = jax.nn.one_hot(codes, self.entries)
        else:
            noisy = (logits + jax.random.gumbel(key, logits.shape)) / temperature
            codes, soft = jnp.argmax(noisy, -1), jax.nn.softmax(noisy, -1)
            # Forward the entry itself, to the last bit, so that equal codes are equal vectors; backward the soft choice.
            chosen = jax.nn.one_hot(codes, self.entries) + (soft - jax.lax.stop_gradient(soft))
        vectors = jnp.einsum("...gv,gvd->...gd", chosen, self.codebook[...])
        return Quantized(
            vectors.reshape(*x.shape[:-1], self.dim), codes.astype(jnp.int32), probabilities
        )


def perplexity(mean: jax.Array) -> jax.Array:
    """Returns exp of the entropy of distributions [..., V]: how many entries are in use, 1 to V."""
    return jnp.exp(-(mean * jnp.log(mean + 1e-7)).sum(-1))
