"""Augmentations that mix examples, waveforms or spectrograms: mixup and cut-mix, with soft labels.

Each is a function of the batch: `(keys [B], x [B, T] or [B, F, M], lengths [B], labels [B, C],
active [B] bool, mask [B], **options) -> (x, labels)`. Who mixes with whom follows from the keys
alone. Rows that are not active stay, those of mask 0 are nobody's partner. A clip is mixed into
within its own valid part and keeps its length.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sacjax.augment.draws import beta, integer, scalars
from sacjax.layers.conv import valid

Batch = tuple[Float[Array, "batch time *bands"], Float[Array, "batch classes"]]


def partners(u: Float[Array, " batch"], mask: Float[Array, " batch"]) -> Int[Array, " batch"]:
    """Returns [B]: for each row of mask 1 another such row; the others get themselves.

    The rows of mask 1 form one cycle, ordered by u [B], in [0, 1).
    """
    order = jnp.argsort(jnp.where(mask > 0, u, 2))
    following = order[(jnp.arange(len(order)) + 1) % jnp.maximum((mask > 0).sum(), 1)]
    partner = jnp.zeros_like(order).at[order].set(following)
    return jnp.where(mask > 0, partner, jnp.arange(len(order)))


def _draw(keys: jax.Array, count: int) -> jax.Array:
    """Returns [count, B] numbers in [0, 1)."""
    return jax.vmap(lambda key: scalars(key, count))(keys).T


def _wide(values: jax.Array, x: jax.Array) -> jax.Array:
    return values.reshape(-1, *[1] * (x.ndim - 1))


def mixup(
    keys: Key[Array, " batch"],
    x: Float[Array, "batch time *bands"],
    lengths: Int[Array, " batch"],
    labels: Float[Array, "batch classes"],
    active: Bool[Array, " batch"],
    mask: Float[Array, " batch"],
    *,
    sample_rate: int,
    alpha: float = 0.4,
    between_class: bool = False,
) -> Batch:
    """Mixes clips and labels by shares from Beta(alpha, alpha) (Zhang et al. 2018).

    x = share * x + (1 - share) * partner, labels likewise.

    Args:
      between_class: waveforms are weighed so that `share` holds for their loudness (here: their
        RMS) and the mixture keeps its power (Tokozume et al. 2018); alpha=1 is theirs.
    """
    u = _draw(keys, 2)
    partner = partners(u[0], mask)
    share = jnp.where(active, beta(u[1], alpha), 1.0)
    other = jnp.where(valid(x, lengths[partner]), x[partner], 0)
    weight, rest = share, 1 - share
    if between_class:
        if x.ndim != 2:
            raise ValueError("mixup: between_class is for waveforms")
        rms = (
            jnp.sqrt(jnp.where(valid(x, lengths), x**2, 0).sum(1) / jnp.maximum(lengths, 1)) + 1e-8
        )
        weight, rest = share * rms[partner], (1 - share) * rms
        size = jnp.sqrt(weight**2 + rest**2)
        weight, rest = weight / size, rest / size
    mixed = jnp.where(_wide(active, x), _wide(weight, x) * x + _wide(rest, x) * other, x)
    return mixed, share[:, None] * labels + (1 - share)[:, None] * labels[partner]


def cutmix(
    keys: Key[Array, " batch"],
    x: Float[Array, "batch time *bands"],
    lengths: Int[Array, " batch"],
    labels: Float[Array, "batch classes"],
    active: Bool[Array, " batch"],
    mask: Float[Array, " batch"],
    *,
    sample_rate: int,
    alpha: float = 1.0,
) -> Batch:
    """Replaces a stretch of time by the partner's at the same time (Yun et al. 2019).

    Labels are mixed by the shares of time. The stretch is 1 - Beta(alpha, alpha) of what both clips
    have in common.
    """
    u = _draw(keys, 3)
    partner = partners(u[0], mask)
    common = jnp.minimum(lengths, lengths[partner])
    width = jnp.where(active, jnp.round((1 - beta(u[1], alpha)) * common), 0).astype(jnp.int32)
    start = integer(u[2], common - width + 1)
    replaced = valid(x, start + width) & ~valid(x, start)
    share = 1 - width / jnp.maximum(lengths, 1)
    labels = share[:, None] * labels + (1 - share)[:, None] * labels[partner]
    return jnp.where(replaced, x[partner], x), labels


def log_mixup(
    keys: Key[Array, " batch"],
    x: Float[Array, "batch time *bands"],
    lengths: Int[Array, " batch"],
    labels: Float[Array, "batch classes"],
    active: Bool[Array, " batch"],
    mask: Float[Array, " batch"],
    *,
    sample_rate: int,
    max_share: float = 0.4,
) -> Batch:
    """Puts a partner behind a log spectrogram as its background: log((1 - share) e^x + share e^z).

    The log-mixup-exp of BYOL-A (Niizumi et al. 2021), share uniform from 0 to `max_share`, with
    partners of the same batch. Labels stay: the background is not what the clip is of.
    """
    if x.ndim != 3:
        raise ValueError("log_mixup is for spectrograms")
    u = _draw(keys, 2)
    partner = partners(u[0], mask)
    share = _wide(max_share * u[1], x)
    both = active & (partner != jnp.arange(len(x)))
    common = valid(x, jnp.minimum(lengths, lengths[partner])) & _wide(both, x)
    # A share of 0 has a logarithm of minus infinity, which logaddexp takes; its gradient does not.
    background = x[partner] + jnp.log(jnp.maximum(share, 1e-8))
    return jnp.where(common, jnp.logaddexp(x + jnp.log1p(-share), background), x), labels
