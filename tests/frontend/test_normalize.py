"""Normalization against NumPy over the valid frames alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sacjax.frontend import normalize, statistics

LENGTHS = (9, 5, 1, 0)


def features():
    """[4, 9, 3], with rubbish where padding is."""
    x = np.random.default_rng(0).normal(-30, 8, (4, 9, 3)).astype(np.float32)
    for row, n in zip(x, LENGTHS, strict=True):
        row[n:] = 1e6
    return x


@pytest.mark.parametrize(("kind", "axis"), [("clip", (0, 1)), ("band", 0)])
def test_statistics_of_a_clip_or_its_bands_ignore_padding(kind, axis):
    ours = jax.jit(lambda x, n: normalize(x, kind=kind, lengths=n))(
        features(), jnp.asarray(LENGTHS)
    )
    for row, x, n in zip(ours, features(), LENGTHS, strict=True):
        assert (row[n:] == 0).all()
        if n > 1:
            valid = x[:n].astype(np.float64)
            np.testing.assert_allclose(
                row[:n], (valid - valid.mean(axis)) / valid.std(axis), atol=1e-4
            )
    assert np.isfinite(ours).all()


@pytest.mark.parametrize("kind", ["clip", "band"])
def test_without_lengths_all_frames_count(kind):
    x = features()[:1]
    np.testing.assert_allclose(
        normalize(x, kind=kind), normalize(x, kind=kind, lengths=jnp.asarray([9])), atol=1e-6
    )


def test_global_and_none():
    x, lengths = features(), jnp.asarray(LENGTHS)
    inside = np.arange(9) < np.asarray(LENGTHS)[:, None]
    expected = np.where(inside[..., None], (x + 30) / 8, 0)
    np.testing.assert_allclose(
        normalize(x, kind="global", mean=-30.0, std=8.0, lengths=lengths), expected, atol=1e-5
    )
    np.testing.assert_allclose(
        normalize(x, kind="none", lengths=lengths), np.where(inside[..., None], x, 0)
    )
    mean, std = statistics(x, lengths=lengths)
    np.testing.assert_allclose([mean, std], [x[inside].mean(), x[inside].std()], rtol=1e-4)
    mean, std = statistics(x, lengths=lengths, axes=(0, 1))
    np.testing.assert_allclose(std.ravel(), x[inside].std(0), rtol=1e-4)
    np.testing.assert_allclose(mean.ravel(), x[inside].mean(0), rtol=1e-4)
    with pytest.raises(ValueError, match="'batch'"):
        normalize(x, kind="batch")


@pytest.mark.parametrize("kind", ["clip", "band"])
@pytest.mark.parametrize("level", [-100.0, -23.025851, 0.1])
def test_silence_becomes_zeros_not_amplified_rounding_errors(kind, level):
    ours = jax.jit(lambda x, n: normalize(x, kind=kind, lengths=n))(
        jnp.full([2, 999, 64], level), jnp.asarray([999, 500])
    )
    np.testing.assert_allclose(ours, 0, atol=1e-3)


def test_gradients_are_finite():
    @jax.jit
    @jax.grad
    def gradient(x):
        return (normalize(x, kind="clip", lengths=jnp.asarray([5, 3])) ** 3).sum()

    assert np.isfinite(gradient(jnp.zeros([2, 6, 4]))).all()
    assert np.isfinite(gradient(jax.random.normal(jax.random.key(0), (2, 6, 4)))).all()
