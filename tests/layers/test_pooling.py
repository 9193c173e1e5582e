"""Pooling against NumPy on the valid frames alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.interpolate import interp1d
from scipy.special import softmax

from sacjax.errors import UserError
from sacjax.layers.pooling import KINDS, Pooling, masked_mean

FRAMES = np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)
LENGTHS = np.array([7, 3, 1])


def by_numpy(pooling, x):
    if pooling.kind == "attention":
        hidden = np.tanh(
            x @ np.asarray(pooling.hidden.kernel[...]) + np.asarray(pooling.hidden.bias[...])
        )
        return (softmax(hidden @ np.asarray(pooling.score.kernel[...]), 0) * x).sum(0)
    parts = {
        "mean": [x.mean(0)],
        "max": [x.max(0)],
        "mean_max": [x.mean(0), x.max(0)],
        "statistics": [x.mean(0), x.std(0)],
        "grid": interp1d(np.arange(len(x)), x, axis=0)(np.linspace(0, len(x) - 1, 8))
        if len(x) > 1
        else [x[0]] * 8,
    }
    return np.concatenate(parts[pooling.kind])


@pytest.mark.parametrize("kind", KINDS)
def test_valid_frames_alone_count(kind):
    pooling = Pooling(kind, 5, rngs=nnx.Rngs(0))
    got = pooling(jnp.asarray(FRAMES), jnp.asarray(LENGTHS))
    assert got.shape == (3, pooling.features) and got.dtype == jnp.float32
    for k, n in enumerate(LENGTHS):
        np.testing.assert_allclose(got[k], by_numpy(pooling, FRAMES[k, :n]), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_clip_gives_finite_values_and_gradients(kind):
    pooling = Pooling(kind, 5, rngs=nnx.Rngs(0))
    f = lambda x: pooling(x, jnp.array([7, 0, 1])).sum()
    value, grad = jax.value_and_grad(f)(jnp.asarray(FRAMES))
    assert np.isfinite(value) and np.isfinite(grad).all() and not np.any(grad[1])


def test_an_unknown_kind_is_told():
    with pytest.raises(UserError, match="did you mean 'mean'"):
        Pooling("meen", 5, rngs=nnx.Rngs(0))


def test_masked_mean_is_that_of_the_valid_frames():
    got = masked_mean(jnp.asarray(FRAMES), jnp.array([7, 3, 0]))
    np.testing.assert_allclose(got[0], FRAMES[0].mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1], FRAMES[1, :3].mean(0), rtol=1e-5, atol=1e-6)
    assert not np.any(got[2])
