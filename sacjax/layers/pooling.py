"""From frames [B, T, D] to one vector a clip, padding left out."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sacjax.errors import UserError, nearest

KINDS = ("mean", "max", "mean_max", "attention", "statistics")


class Pooling(nnx.Module):
    """mean | max | mean_max (both, side by side) | attention | statistics (mean and standard deviation).

    `attention` is the softmax over frames of tanh(W x) · v (Okabe et al. 2018, without its statistics).
    """

    def __init__(self, kind: str, features: int, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        """Args:
          kind: one of the above.
          features: D of the frames; `self.features` is that of the pooled vector.

        Raises:
          UserError: an unknown kind.
        """
        if kind not in KINDS:
            raise UserError(f"model.pooling is '{kind}'{nearest(kind, KINDS)}")
        self.kind = kind
        self.features = features * (2 if kind in ("mean_max", "statistics") else 1)
        if kind == "attention":
            self.hidden = nnx.Linear(features, min(features, 128), dtype=dtype, rngs=rngs)
            self.score = nnx.Linear(min(features, 128), 1, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, frames: jax.Array, lengths: jax.Array) -> jax.Array:
        """[B, T, D], lengths [B] → float32 [B, features]; a clip without a valid frame gives zeros."""
        x = frames.astype(jnp.float32)
        mask = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]
        count = jnp.maximum(mask.sum(1), 1)
        mean = jnp.where(mask, x, 0).sum(1) / count
        if self.kind == "mean":
            return mean
        if self.kind == "attention":
            score = self.score(jnp.tanh(self.hidden(frames))).astype(jnp.float32)
            weight = jax.nn.softmax(jnp.where(mask, score, -1e30), 1)
            return (jnp.where(mask, x, 0) * weight).sum(1)
        if self.kind == "statistics":
            variance = jnp.where(mask, (x - mean[:, None]) ** 2, 0).sum(1) / count
            return jnp.concatenate([mean, jnp.sqrt(variance + 1e-10)], -1)
        highest = jnp.where(lengths[:, None] > 0, jnp.where(mask, x, -jnp.inf).max(1), 0)
        return highest if self.kind == "max" else jnp.concatenate([mean, highest], -1)
