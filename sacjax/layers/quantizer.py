"""Product quantization with Gumbel softmax (Jégou et al. 2011, Jang et al. 2016)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from sacjax.errors import UserError
from sacjax.parts import part

NORMAL = nnx.initializers.normal(1.0)


class Quantized(NamedTuple):
    """What the quantizer makes of frames [..., D]."""

    vectors: Float[Array, "*frames dim"]
    """One entry of each group, side by side, float32."""

    codes: Int[Array, "*frames groups"]
    """Which entries."""

    probabilities: Float[Array, "*frames groups entries"]
    """The softmax over entries without noise, float32."""


class Quantizer(nnx.Module):
    """G groups of V entries; each frame takes one entry of each group, as in wav2vec 2.0.

    Float32 throughout.
    """

    def __init__(
        self,
        features: int,
        *,
        groups: int = 2,
        entries: int = 320,
        dim: int = 256,
        kernel_init: nnx.Initializer = NORMAL,
        rngs: nnx.Rngs,
    ):
        """Makes the codebook and the map to logits.

        Args:
          features: D of the frames.
          groups: G.
          entries: V, of each group.
          dim: of the quantized vectors, over all groups.
          kernel_init: of the map to logits; by default fairseq's.
          rngs: of the parameters.

        Raises:
          UserError: a size that is not positive, or a dim that does not divide by the groups.
        """
        where = "objective.options"
        for name, value in (("groups", groups), ("entries", entries), ("dim", dim)):
            if value < 1:
                raise UserError(f"{where}.codebook_{name} is {value}: it must be greater than 0")
        if dim % groups:
            wanted = f"it must divide by codebook_groups {groups}"
            raise UserError(f"{where}.codebook_dim is {dim}: {wanted}")
        self.groups, self.entries, self.dim = groups, entries, dim
        self.logits = nnx.Linear(features, groups * entries, kernel_init=kernel_init, rngs=rngs)
        self.codebook = nnx.Param(
            jax.random.uniform(rngs.params(), [groups, entries, dim // groups])
        )

    @part("quantizer")
    def __call__(
        self,
        x: Float[Array, "*frames features"],
        temperature: Float[Array, ""] | float = 1.0,
        key: Key[Array, ""] | None = None,
    ) -> Quantized:
        """Returns the quantized frames.

        Args:
          x: the frames.
          temperature: of the Gumbel softmax, through which gradients go (straight through).
          key: of the draw of entries; None: the most probable ones.
        """
        logits = self.logits(x.astype(jnp.float32))
        logits = logits.reshape(*x.shape[:-1], self.groups, self.entries)
        probabilities = jax.nn.softmax(logits, -1)
        if key is None:
            codes = jnp.argmax(logits, -1)
            chosen = jax.nn.one_hot(codes, self.entries)
        else:
            noisy = (logits + jax.random.gumbel(key, logits.shape)) / temperature
            codes, soft = jnp.argmax(noisy, -1), jax.nn.softmax(noisy, -1)
            # Forward the entry itself, to the last bit, so that equal codes are equal vectors;
            # backward the soft choice.
            chosen = jax.nn.one_hot(codes, self.entries) + (soft - jax.lax.stop_gradient(soft))
        vectors = jnp.einsum("...gv,gvd->...gd", chosen, self.codebook[...])
        vectors = vectors.reshape(*x.shape[:-1], self.dim)
        return Quantized(vectors, codes.astype(jnp.int32), probabilities)


def perplexity(mean: Float[Array, "*groups entries"]) -> Float[Array, "*groups"]:
    """Returns exp of the entropy of distributions: how many entries are in use, from 1 to V."""
    return jnp.exp(-(mean * jnp.log(mean + 1e-7)).sum(-1))
