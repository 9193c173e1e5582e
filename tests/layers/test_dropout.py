"""Dropout: rates, expectation, and nothing without a key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import run_python

from sacjax.layers.dropout import DropPath, drop, random_bits

KEY = jax.random.key(3)
SHARED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from sacjax.layers.dropout import random_bits
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
key, shape = jax.random.key(5), (8, 3, 16)
one = np.asarray(random_bits(key, shape))
for spec in (P("data"), P(None, None, "data"), P()):
    made = jax.jit(lambda key: random_bits(key, shape), out_shardings=NamedSharding(mesh, spec))
    print((np.asarray(made(key)) == one).all())
"""
X = jnp.ones([2000, 3, 2])


def test_nothing_is_dropped_without_a_key_or_a_rate():
    assert drop(X, 0.5, None) is X and drop(X, 0.0, KEY) is X
    assert DropPath(0.5)(X, None) is X and DropPath(0.0)(X, KEY) is X


def test_the_rate_is_that_of_zeros_and_the_mean_stays():
    y = np.asarray(drop(X.astype(jnp.bfloat16), 0.25, KEY), np.float32)
    assert set(np.unique(y)) == {0.0, np.float32(jnp.bfloat16(1 / 0.75))}
    assert abs((y == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / y.size) ** 0.5


def bits(key=0, shape=(4, 128, 512)):
    return np.asarray(random_bits(jax.random.key(key), shape))


def signs(words, bit):
    """Returns a bit of each word as +1 or -1."""
    return 2.0 * ((words >> bit) & 1) - 1


@pytest.mark.parametrize("bit", [0, 9, 16, 31])
def test_bits_are_fair_and_independent_of_their_neighbours(bit):
    """Means of n fair and independent signs are normal with a deviation of 1 / sqrt(n)."""
    x = signs(bits(), bit)
    for other in (1, x, signs(bits(), (bit + 1) % 32), signs(bits(1), bit)):
        if other is not x:
            assert abs((x * other).mean()) < 4.5 / x.size**0.5
    for lag in range(1, 9):  # columns, rows, clips, and along the diagonals
        for y, z in (
            (x[:, :, lag:], x[:, :, :-lag]),
            (x[:, lag:], x[:, :-lag]),
            (x[:, lag:, lag:], x[:, :-lag, :-lag]),
            (x[:, lag:, :-lag], x[:, :-lag, lag:]),
        ):
            assert abs((y * z).mean()) < 4.5 / y.size**0.5
    assert abs((x[1:] * x[:-1]).mean()) < 4.5 / x[1:].size ** 0.5


def test_bits_are_uniform_and_their_rows_uncorrelated():
    words = bits()
    counts = np.bincount(words.ravel() >> 24, minlength=256)
    chi = ((counts - words.size / 256) ** 2).sum() / (words.size / 256)
    assert abs(chi - 255) < 5 * (2 * 255) ** 0.5  # chi square of 255 degrees of freedom
    high = signs(words.reshape(512, 512), 31)
    between = (high @ high.T / 512)[np.triu_indices(512, 1)]
    # Correlations of 131,000 pairs of rows of 512: their deviation, and the largest of them.
    assert abs(between.std() * 512**0.5 - 1) < 0.01 and abs(between).max() * 512**0.5 < 6
    kept = words.reshape(512, 512) >= 0.1 * 2**32
    for axis in (0, 1):  # a binomial's deviation of how many are kept, within 5 of its own
        assert abs(kept.sum(axis).std() / (512 * 0.09) ** 0.5 - 1) < 5 / (2 * 512) ** 0.5


def test_bits_do_not_depend_on_how_the_array_is_shared():
    """Eight devices that share the rows, or the columns, draw as one does."""
    done = run_python("-c", SHARED, devices=8)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["True"] * 3


def test_the_gradient_is_dropped_where_the_value_was():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((50, 7)), jnp.float32)
    y, back = jax.vjp(lambda x: drop(x, 0.3, KEY), x)
    (grad,) = back(x)
    np.testing.assert_array_equal(grad, y)
    assert 0 < (y == 0).sum() < y.size


def test_drop_path_drops_whole_examples():
    y = np.asarray(DropPath(0.25)(X, KEY))
    assert (y == y[:, :1, :1]).all()
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert abs((y[:, 0, 0] == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / len(y)) ** 0.5
