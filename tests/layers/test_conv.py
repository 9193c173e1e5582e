"""Lengths, padding and gradients of convolutions."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st

from sacjax.layers.conv import Conv, out_length, scale_gradient, valid, zero_padding


@pytest.mark.parametrize("kernel, stride, padding", [(3, 1, 1), (7, 2, 3), (10, 5, 0), (2, 3, 0)])
def test_out_length_is_what_comes_out(kernel, stride, padding):
    """Of every length that the kernel fits; a shorter clip is one position, an empty one none."""
    for length in range(max(kernel - 2 * padding, 1), 40):
        x = jax.ShapeDtypeStruct([1, length, 1], jnp.float32)
        convolve = lambda x: jax.lax.conv_general_dilated(
            x,
            jnp.ones([kernel, 1, 1]),
            (stride,),
            [(padding, padding)],
            dimension_numbers=("NHC", "HIO", "NHC"),
        )
        assert (
            int(out_length(length, kernel, stride, padding)) == jax.eval_shape(convolve, x).shape[1]
        )
    shorter = out_length(jnp.array([0, 1, 2]), 9, 4, 0)
    assert shorter.tolist() == [0, 1, 1]


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(st.integers(0, 500), st.integers(1, 20), st.integers(1, 10), st.integers(0, 10))
def test_out_length_counts_the_places_at_which_a_kernel_fits(length, kernel, stride, padding):
    """At least one of a clip that is not empty: zeros follow it; never more than its samples."""
    places = len(range(0, length + 2 * padding - kernel + 1, stride))
    wanted = min(max(places, 1), length)
    assert int(out_length(length, kernel, stride, padding)) == wanted


def test_valid_positions_and_zeros_beyond_them():
    x = jnp.ones([2, 3, 2])
    assert valid(x, jnp.array([3, 1])).tolist() == [[[True]] * 3, [[True], [False], [False]]]
    assert zero_padding(x, jnp.array([3, 1]))[1].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_an_input_shorter_than_the_kernel_gives_one_position_as_if_zeros_followed():
    conv = Conv(1, 2, (9,), 4, padding=(0,), dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 1)), jnp.float32)
    y, n = conv(x, jnp.array([5]))
    want = np.einsum("tc,tcd->d", np.asarray(x[0]), np.asarray(conv.kernel[...])[:5])
    assert y.shape == (1, 1, 2) and n.tolist() == [1]
    np.testing.assert_allclose(y[0, 0], want, atol=1e-6)


def test_scale_gradient_scales_nothing_else():
    value, grad = jax.value_and_grad(lambda x: (3 * scale_gradient(x, 0.1)).sum())(jnp.ones([2]))
    assert float(value) == 6
    np.testing.assert_allclose(grad, [0.3, 0.3], rtol=1e-6)
