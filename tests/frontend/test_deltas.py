"""Differences over time against librosa, which fits a line by SciPy's Savitzky-Golay filter."""

import jax.numpy as jnp
import librosa
import numpy as np

from sacjax.frontend.deltas import deltas


def test_slopes_are_librosas_of_each_clip_alone():
    x = np.random.default_rng(0).normal(size=(3, 20, 5)).astype(np.float32)
    lengths = np.array([20, 11, 6])
    made = np.asarray(deltas(jnp.asarray(x), jnp.asarray(lengths)))
    for k, n in enumerate(lengths):
        wanted = librosa.feature.delta(x[k, :n].T, width=5, order=1, mode="nearest").T
        np.testing.assert_allclose(made[k, :n], wanted, atol=1e-5)
