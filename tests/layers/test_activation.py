"""GELU and its slope against the error function in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from sacjax.layers.activation import gelu

X = np.linspace(-12, 12, 4801)
SLOPE = 0.5 * (1 + erf(X / 2**0.5)) + X * np.exp(-(X**2) / 2) / (2 * np.pi) ** 0.5


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [("float32", 1e-5, 1e-6), ("bfloat16", 8e-3, 1e-6)]
)
def test_gelu_and_its_slope(dtype, rtol, atol):
    x = jnp.asarray(X, dtype)
    exact = np.asarray(x, np.float64)  # what was rounded is what is asked for
    y, back = jax.vjp(gelu, x)
    wanted = 0.5 * exact * (1 + erf(exact / 2**0.5))
    np.testing.assert_allclose(y.astype(jnp.float32), wanted, rtol=rtol, atol=atol)
    assert y.dtype == x.dtype
    if dtype == "float32":
        np.testing.assert_allclose(back(jnp.ones_like(x))[0], SLOPE, rtol=rtol, atol=atol)


def test_only_the_input_is_kept():
    x = jax.ShapeDtypeStruct([7, 11], jnp.bfloat16)
    kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(gelu, x)[1], x))
    assert [(leaf.shape, leaf.dtype) for leaf in kept if leaf.size > 1] == [((7, 11), jnp.bfloat16)]
