"""Mean and variance normalization of features that leaves padding out."""

from typing import Any

import jax
import jax.numpy as jnp


def normalize(
    features: jax.Array, lengths: jax.Array, *, kind: str = "clip", mean: Any = 0.0, std: Any = 1.0, eps: float = 1e-5
) -> jax.Array:
    """Returns features [B, frames, bins] normalized over their valid frames, zero beyond them.

    Args:
      lengths: valid frames int32 [B].
      kind: none; clip (one mean and variance a clip); band (one a clip and bin); global (the given `mean` and `std`,
        numbers or [bins]).
      eps: added to the standard deviation, so that silence stays finite.
    """
    mask = (jnp.arange(features.shape[1]) < lengths[:, None])[..., None]
    if kind == "global":
        features = (features - jnp.asarray(mean)) / jnp.asarray(std)
    elif kind in ("clip", "band"):
        axes = (1, 2) if kind == "clip" else (1,)
        count = jnp.maximum(mask.sum(1, keepdims=True) * (features.shape[2] if kind == "clip" else 1), 1)
        center = jnp.where(mask, features, 0).sum(axes, keepdims=True) / count
        variance = (jnp.where(mask, features - center, 0) ** 2).sum(axes, keepdims=True) / count
        # The square root's gradient is infinite at 0: silence must not make a NaN.
        deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
        features = (features - center) / (deviation + eps)
    elif kind != "none":
        raise ValueError(f"kind is {kind!r}: choose none, clip, band or global")
    return jnp.where(mask, features, 0)
