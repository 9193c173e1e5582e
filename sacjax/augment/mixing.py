"""Augmentations that mix examples: mixup and cut-mix, of waveforms or spectrograms, with soft labels.

Each is a function of the batch: `(keys [B], x [B, T] or [B, F, M], lengths, labels [B, C], active [B] bool, **options) -> (x, labels)`.
Who mixes with whom follows from the keys alone. Rows that are not active stay, those of mask 0 are nobody's partner.
A clip is mixed into within its own valid part and keeps its length.
"""

from typing import Any

import jax
import jax.numpy as jnp

Batch = tuple[jax.Array, jax.Array]


def partners(keys: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B]: for each row of mask 1 another such row, one cycle in random order through all of them."""
    rank = jnp.where(mask > 0, jax.vmap(jax.random.uniform)(keys), 2)
    order = jnp.argsort(rank)
    following = order[(jnp.arange(len(order)) + 1) % jnp.maximum((mask > 0).sum(), 1)]
    partner = jnp.zeros_like(order).at[order].set(following)
    return jnp.where(mask > 0, partner, jnp.arange(len(order)))


def _draw(keys: jax.Array, alpha: float) -> jax.Array:
    return jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys)


def _inside(x: jax.Array, lengths: Any) -> jax.Array:
    inside = jnp.arange(x.shape[1]) < lengths[:, None]
    return inside.reshape(*inside.shape, *[1] * (x.ndim - 2))


def _wide(values: jax.Array, x: jax.Array) -> jax.Array:
    return values.reshape(-1, *[1] * (x.ndim - 1))


def _split(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    both = jax.vmap(jax.random.split)(keys)
    return both[:, 0], both[:, 1]


def mixup(
    keys: jax.Array,
    x: jax.Array,
    lengths: Any,
    labels: jax.Array,
    active: jax.Array,
    mask: jax.Array,
    *,
    sample_rate: int,
    alpha: float = 0.4,
    between_class: bool = False,
) -> Batch:
    """x = share * x + (1 - share) * partner, labels likewise, share from Beta(alpha, alpha) (Zhang et al. 2018).

    Args:
      between_class: waveforms are weighed so that `share` holds for their loudness (here: their RMS) and the mixture
        keeps its power (Tokozume et al. 2018); alpha=1 is theirs.
    """
    draw_keys, pair_keys = _split(keys)
    partner = partners(pair_keys, mask)
    share = jnp.where(active, _draw(draw_keys, alpha), 1.0)
    other = jnp.where(_inside(x, lengths[partner]), x[partner], 0)
    weight, rest = share, 1 - share
    if between_class:
        if x.ndim != 2:
            raise ValueError("mixup: between_class is for waveforms")
        rms = jnp.sqrt(jnp.where(_inside(x, lengths), x**2, 0).sum(1) / jnp.maximum(lengths, 1)) + 1e-8
        weight, rest = share * rms[partner], (1 - share) * rms
        size = jnp.sqrt(weight**2 + rest**2)
        weight, rest = weight / size, rest / size
    mixed = jnp.where(_wide(active, x), _wide(weight, x) * x + _wide(rest, x) * other, x)
    return mixed, share[:, None] * labels + (1 - share)[:, None] * labels[partner]


def cutmix(
    keys: jax.Array,
    x: jax.Array,
    lengths: Any,
    labels: jax.Array,
    active: jax.Array,
    mask: jax.Array,
    *,
    sample_rate: int,
    alpha: float = 1.0,
) -> Batch:
    """Replaces a stretch of time by the partner's at the same place; labels by the shares of time (Yun et al. 2019).

    The stretch is 1 - Beta(alpha, alpha) of what both clips have in common.
    """
    pair_keys, keys = _split(keys)
    draw_keys, start_keys = _split(keys)
    partner = partners(pair_keys, mask)
    common = jnp.minimum(lengths, lengths[partner])
    width = jnp.where(active, jnp.round((1 - _draw(draw_keys, alpha)) * common), 0).astype(jnp.int32)
    start = jax.vmap(lambda key, most: jax.random.randint(key, (), 0, most + 1))(start_keys, common - width)
    replaced = _inside(x, start + width) & ~_inside(x, start)
    share = 1 - width / jnp.maximum(lengths, 1)
    return jnp.where(replaced, x[partner], x), share[:, None] * labels + (1 - share)[:, None] * labels[partner]
