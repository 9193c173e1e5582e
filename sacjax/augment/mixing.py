"""Augmentations of pairs: `f(keys [B], x, lengths, labels [B, C], mask [B], …) -> (x, lengths, labels)`.

Partners come from the examples' keys alone, so that no layout of devices changes them; rows of mask 0 are nobody's partner.
"""

from typing import Any

import jax
import jax.numpy as jnp


def partners(keys: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns int [B]: a random cycle through the rows with mask 1; the others point at themselves."""
    draw = jax.vmap(jax.random.uniform)(keys)
    order = jnp.argsort(jnp.where(mask > 0, draw, 2.0))  # rows of mask 0 come last
    count = jnp.maximum((mask > 0).sum(), 1)
    place = jnp.argsort(order)
    following = order[jnp.where(place < count, (place + 1) % count, place)]
    return jnp.where(mask > 0, following, jnp.arange(mask.shape[0]))


def mixup(
    keys: Any, x: Any, lengths: Any, labels: Any, mask: Any, *, sample_rate: int, alpha: float = 0.4,
    probability: float = 1.0,
) -> Any:  # fmt: skip
    """Mixes each example with a partner, λ ~ Beta(α, α): λ x + (1 - λ) y, the labels alike (Zhang et al. 2018).

    The valid length becomes the longer one.
    """
    other, share = partners(keys, mask), _beta(keys, alpha, alpha, probability)
    share = jnp.where(other == jnp.arange(len(other)), 1.0, share)
    wide = share.reshape((-1,) + (1,) * (x.ndim - 1))
    lengths = jnp.where(share < 1, jnp.maximum(lengths, lengths[other]), lengths)
    return wide * x + (1 - wide) * x[other], lengths, share[:, None] * labels + (1 - share[:, None]) * labels[other]


def between_class(
    keys: Any, x: Any, lengths: Any, labels: Any, mask: Any, *, sample_rate: int, probability: float = 1.0
) -> Any:
    """Mixes each waveform with a partner so that the label's share is the share that is heard (Tokozume et al. 2018).

    With r uniform and g the levels in dB: p = 1 / (1 + 10^((g1 - g2) / 20) (1 - r) / r), sound = (p x + (1 - p) y) / sqrt(p² + (1 - p)²).
    """
    other = partners(keys, mask)
    ratio = jnp.clip(_beta(keys, 1.0, 1.0, probability), 1e-3, 1.0)
    ratio = jnp.where(other == jnp.arange(len(other)), 1.0, ratio)
    level = jnp.sqrt((x**2).sum(-1) / jnp.maximum(lengths, 1) + 1e-10)
    p = 1 / (1 + level / level[other] * (1 - ratio) / ratio)
    mixed = (p[:, None] * x + (1 - p[:, None]) * x[other]) / jnp.sqrt(p**2 + (1 - p) ** 2)[:, None]
    lengths = jnp.where(ratio < 1, jnp.maximum(lengths, lengths[other]), lengths)
    return mixed, lengths, ratio[:, None] * labels + (1 - ratio[:, None]) * labels[other]


def cutmix(
    keys: Any, x: Any, lengths: Any, labels: Any, mask: Any, *, sample_rate: int, alpha: float = 1.0,
    probability: float = 1.0,
) -> Any:  # fmt: skip
    """Replaces a span of time by the partner's, λ ~ Beta(α, α) of the valid length kept; labels weigh by what is kept.

    (Yun et al. 2019, in time alone.) The span lies where both are valid.
    """
    other, share = partners(keys, mask), _beta(keys, alpha, alpha, probability)
    both = jnp.minimum(lengths, lengths[other])
    width = jnp.round((1 - share) * both)
    start = jnp.floor(jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 3)))(keys) * (both - width + 1))
    at = jnp.arange(x.shape[1])
    inside = (at >= start[:, None]) & (at < (start + width)[:, None])
    kept = 1 - width / jnp.maximum(lengths, 1)
    kept = jnp.where(other == jnp.arange(len(other)), 1.0, kept)
    x = jnp.where(inside.reshape(inside.shape + (1,) * (x.ndim - 2)), x[other], x)
    return x, lengths, kept[:, None] * labels + (1 - kept[:, None]) * labels[other]


def _beta(keys: jax.Array, a: float, b: float, probability: float) -> jax.Array:
    """Returns λ [B], one from each key; 1 where the augmentation is not applied."""

    def one(key: jax.Array) -> jax.Array:
        draw = jax.random.beta(jax.random.fold_in(key, 1), a, b)
        return jnp.where(jax.random.uniform(jax.random.fold_in(key, 2)) < probability, draw, 1.0)

    return jax.vmap(one)(keys)
