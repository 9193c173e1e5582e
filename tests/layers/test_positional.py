"""Sinusoids against their formula; the convolution is tested by the encoders that have it."""

import jax.numpy as jnp
import numpy as np

from sacjax.layers.positional import sinusoids


def test_sinusoids_are_s3prls():
    """As `get_sinusoid_table` of s3prl's Mockingjay writes them."""
    width, positions = 8, np.array([0, 1, 7, 999])
    angles = positions[:, None] / np.power(10000, 2 * (np.arange(width) // 2) / width)
    want = np.where(np.arange(width) % 2, np.cos(angles), np.sin(angles))
    np.testing.assert_allclose(sinusoids(jnp.asarray(positions), width), want, atol=1e-4)
