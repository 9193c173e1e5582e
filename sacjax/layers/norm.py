"""Norms whose statistics leave padding out and are float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sacjax.context import Context
from sacjax.layers.conv import valid

EPSILON = 1e-5
"""Added to variances: PyTorch's default."""


def one_pass(dtype: DTypeLike) -> bool:
    """Whether a variance is the mean square less the squared mean, which one pass over x gives.

    So it is where x is of lower precision than float32: what that loses is less than the rounding
    of x.
    """
    return jnp.dtype(dtype) != jnp.float32


class BatchNorm(nnx.BatchNorm):
    """Batch norm over the valid positions of the global batch (Ioffe and Szegedy 2015).

    In training it uses the statistics of the batch and moves its running ones towards them.
    """

    def __init__(
        self,
        features: int,
        *,
        epsilon: float = EPSILON,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        zero_scale: bool = False,
    ):
        """Makes scale, bias and running statistics.

        Args:
          features: channels.
          epsilon: added to variances.
          dtype: of the result; statistics and parameters are float32.
          rngs: of the parameters.
          zero_scale: start at 0, so that a residual branch starts as nothing (Goyal et al. 2017).
        """
        scale_init = nnx.initializers.zeros_init() if zero_scale else nnx.initializers.ones_init()
        super().__init__(
            features, momentum=0.9, epsilon=epsilon, dtype=dtype, scale_init=scale_init, rngs=rngs
        )

    def __call__(  # type: ignore[override]
        self,
        x: Float[Array, "batch time *space features"],
        lengths: Int[Array, " batch"],
        ctx: Context,
    ) -> Float[Array, "batch time *space features"]:
        """Returns x normalized, zero beyond `lengths`; `ctx` says by which statistics.

        Flax's own rounds the running mean to bfloat16.
        """
        y, mask = x.astype(jnp.float32), valid(x, lengths)
        if not ctx.train:
            mean, variance = self.mean[...], self.var[...]
        else:
            axes = tuple(range(x.ndim - 1))
            total = lengths.sum() * (x.size // (x.shape[0] * x.shape[1] * x.shape[-1]))
            count = jnp.maximum(total, 1).astype(jnp.float32)
            counted = jnp.where(mask, y, 0)
            mean = counted.sum(axes) / count
            variance = jnp.maximum((counted * counted).sum(axes) / count - mean**2, 0)
            self._follow(mean, variance, total > 0)
        assert self.scale is not None and self.bias is not None
        scale = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        # One product and sum, so that the backward pass keeps x and nothing else.
        return jnp.where(mask, y * scale + (self.bias[...] - mean * scale), 0).astype(self.dtype)

    def _follow(self, mean: jax.Array, variance: jax.Array, counts: jax.Array) -> None:
        """Moves the running statistics, but not for a batch of padding alone."""
        momentum = jnp.where(counts, self.momentum, 1.0)
        mean, variance = jax.lax.stop_gradient((mean, variance))
        self.mean[...] = momentum * self.mean[...] + (1 - momentum) * mean
        self.var[...] = momentum * self.var[...] + (1 - momentum) * variance


class LayerNorm(nnx.LayerNorm):
    """Layer norm over the last axis (Ba et al. 2016), its statistics in float32."""

    def __init__(
        self, features: int, *, epsilon: float = EPSILON, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        """Makes scale and bias of so many channels; `epsilon` is added to variances."""
        super().__init__(
            features, epsilon=epsilon, dtype=dtype, use_fast_variance=one_pass(dtype), rngs=rngs
        )

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "*rest features"]
    ) -> Float[Array, "*rest features"]:
        """Returns x normalized. The backward pass keeps x alone, and computes the rest again."""
        return jax.checkpoint(super().__call__, prevent_cse=False)(x)


class GroupNorm(nnx.Module):
    """Norm of each channel over the valid frames of a clip: a group a channel."""

    def __init__(self, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Makes scale and bias of so many channels."""
        self.scale = nnx.Param(jnp.ones([features]))
        self.bias = nnx.Param(jnp.zeros([features]))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "batch time features"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch time features"]:
        """Returns x normalized; positions beyond the lengths are not zero."""
        x = x.astype(jnp.float32)
        mask, count = valid(x, lengths), jnp.maximum(lengths, 1)[:, None, None]
        mean = jnp.where(mask, x, 0).sum(1, keepdims=True) / count
        shift = jnp.zeros_like(mean) if one_pass(self.dtype) else mean
        variance = jnp.where(mask, (x - shift) ** 2, 0).sum(1, keepdims=True) / count
        variance = jnp.maximum(variance - (mean - shift) ** 2, 0)
        scale = jax.lax.rsqrt(variance + EPSILON) * self.scale[...]
        return (x * scale + (self.bias[...] - mean * scale)).astype(self.dtype)


def standardize(
    x: Float[Array, "batch time"], lengths: Int[Array, " batch"]
) -> Float[Array, "batch time"]:
    """Returns clips of zero mean and unit variance over their valid samples, zero beyond."""
    mask, count = valid(x, lengths), jnp.maximum(lengths, 1)[:, None]
    mean = jnp.where(mask, x, 0).sum(1, keepdims=True) / count
    centred = jnp.where(mask, x - mean, 0)
    return centred * jax.lax.rsqrt((centred**2).sum(1, keepdims=True) / count + 1e-7)
