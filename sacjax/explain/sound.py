"""What a map leaves of a sound: all but the important part attenuated, in the STFT."""

import jax.numpy as jnp
import numpy as np

from sacjax.explain.maps import Grid, Map, Transform
from sacjax.explain.subject import spectrum_of, wave_of

ATTENUATION = 30.0
"""Decibels by which the rest is quieter."""


def important(map_: Map, share: float) -> Map:
    """Returns 1 in the fewest cells that hold a share of what speaks for the label, else 0.

    The map is smoothed first. One that is nowhere above 0 has no important cell.

    Args:
      map_: any.
      share: of the sum of the values above 0.
    """
    values = np.maximum(map_.smoothed().values, 0)
    order = np.sort(values.ravel())[::-1]
    held = np.cumsum(order)
    if not held[-1] > 0:
        return Map(np.zeros_like(values), map_.grid)
    least = order[min(np.searchsorted(held, share * held[-1]), len(order) - 1)]
    return Map((values >= least).astype(float), map_.grid)


def masked(
    samples: np.ndarray, kept: Map, transform: Transform, attenuation: float = ATTENUATION
) -> np.ndarray:
    """Returns samples float32 [n] that are attenuated by so many decibels where `kept` is 0.

    The edges between 0 and 1 are smoothed by a frame and a bin, so that nothing clicks.
    """
    from scipy.ndimage import gaussian_filter  # here: it takes long to import

    bins = Grid(transform.times(len(samples)), transform.bins)
    share = np.clip(gaussian_filter(kept.on(bins), 1.0), 0, 1)
    floor = 10 ** (-attenuation / 20)
    spectrum = spectrum_of(jnp.asarray(samples), transform)
    gain = jnp.asarray(floor + (1 - floor) * share, jnp.float32)
    return np.asarray(wave_of(spectrum * gain, transform, len(samples)))
