"""A tap does nothing, unless one listens; then it shows and shifts what goes through."""

import jax.numpy as jnp
import numpy as np
import pytest

from sacjax.layers.tap import tap, tapped


def test_a_tap_shows_and_replaces_what_goes_through():
    x, seen = jnp.arange(3.0), []
    assert tap(x) is x
    with tapped(lambda y: seen.append(y) or y + 1):
        np.testing.assert_array_equal(tap(x), [1, 2, 3])
    assert seen[0] is x and tap(x) is x


def test_it_ends_with_an_error_too():
    with pytest.raises(ZeroDivisionError), tapped(lambda y: 1 / 0):
        tap(jnp.zeros(1))
    assert tap(jnp.zeros(1)).shape == (1,)
