"""Positions of tokens: sines, of a grid too, or a convolution over tokens as wav2vec 2.0 has."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from sacjax.layers.activation import gelu
from sacjax.layers.conv import convolution


class PositionalConv(nnx.Module):
    """Convolution in groups over tokens, then GELU; an even kernel looks further back."""

    def __init__(
        self,
        features: int,
        kernel: int,
        groups: int,
        *,
        weight_norm: bool,
        norm: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes the kernel.

        Args:
          features: of the tokens; it divides by `groups`.
          kernel: tokens that it spans.
          groups: into how many the features are split.
          weight_norm: over each of the kernel's positions (Salimans and Kingma 2016).
          norm: layer norm of the result, without scale and bias (data2vec).
          dtype: of the computation; parameters are float32.
          rngs: of the parameters.
        """
        shape = (kernel, features // groups, features)
        values = nnx.initializers.normal(2.0 / (kernel * features) ** 0.5)(rngs.params(), shape)
        self.kernel = nnx.Param(values)
        self.scale = nnx.Param(jnp.sqrt((values**2).sum((1, 2)))) if weight_norm else None
        self.bias = nnx.Param(jnp.zeros([features]))
        self.groups, self.norm, self.dtype = groups, norm, dtype

    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        """Returns what is added to the tokens as their positions."""
        kernel = self.kernel[...]
        if self.scale is not None:
            length = jax.lax.rsqrt((kernel**2).sum((1, 2)))
            kernel = kernel * (self.scale[...] * length)[:, None, None]
        size = kernel.shape[0]
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = convolution(x, kernel, (1,), [(size // 2, (size - 1) // 2)], self.groups)
        y = y + self.bias[...].astype(self.dtype)
        if self.norm:
            y = jax.nn.standardize(y.astype(jnp.float32), epsilon=1e-5).astype(self.dtype)
        return gelu(y)


def sincos(positions: int, features: int) -> Float32[np.ndarray, "positions features"]:
    """Returns sines, then cosines, of wavelengths from 2 pi to 2 pi * 10,000 (Vaswani et al. 2017).

    Args:
      positions: how many, from 0.
      features: D, even.
    """
    frequencies = 10000.0 ** -(np.arange(features // 2) / (features // 2))
    angles = np.arange(positions)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], -1).astype(np.float32)


def sincos_grid(
    columns: int, bands: int, features: int
) -> Float32[np.ndarray, "columns bands features"]:
    """Returns fixed positions of a grid: half the features tell the band, half the column in time.

    As those of MAE (He et al. 2022) and Audio-MAE (Huang et al. 2022). Where there is one band
    alone, all features tell the column.

    Args:
      columns: along time.
      bands: along frequency.
      features: D, a multiple of 4.
    """
    if bands == 1:
        return sincos(columns, features)[:, None]
    shape = (columns, bands, features // 2)
    in_band = np.broadcast_to(sincos(bands, features // 2)[None], shape)
    in_time = np.broadcast_to(sincos(columns, features // 2)[:, None], shape)
    return np.concatenate([in_band, in_time], -1)


def sinusoids(positions: Int[Array, "*tokens"], width: int) -> Float[Array, "*tokens {width}"]:
    """Returns the sinusoidal embeddings of positions (Vaswani et al. 2017), float32.

    Feature 2 i is sin(p / 10000^(2 i / width)), feature 2 i + 1 the cosine.

    Args:
      positions: numbers of tokens, from 0.
      width: features, an even number.
    """
    rates = jnp.exp(-jnp.log(10000.0) * jnp.arange(0, width, 2) / width)
    angles = positions[..., None] * rates
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*positions.shape, width)
