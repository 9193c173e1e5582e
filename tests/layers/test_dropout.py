"""Dropout: rates, expectation, and nothing without a key."""

import jax
import jax.numpy as jnp
import numpy as np

from sacjax.layers.dropout import DropPath, drop

KEY = jax.random.key(3)
X = jnp.ones([2000, 3, 2])


def test_nothing_is_dropped_without_a_key_or_a_rate():
    assert drop(X, 0.5, None) is X and drop(X, 0.0, KEY) is X
    assert DropPath(0.5)(X, None) is X and DropPath(0.0)(X, KEY) is X


def test_the_rate_is_that_of_zeros_and_the_mean_stays():
    y = np.asarray(drop(X.astype(jnp.bfloat16), 0.25, KEY), np.float32)
    assert set(np.unique(y)) == {0.0, np.float32(jnp.bfloat16(1 / 0.75))}
    assert abs((y == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / y.size) ** 0.5


def test_drop_path_drops_whole_examples():
    y = np.asarray(DropPath(0.25)(X, KEY))
    assert (y == y[:, :1, :1]).all()
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert abs((y[:, 0, 0] == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / len(y)) ** 0.5
