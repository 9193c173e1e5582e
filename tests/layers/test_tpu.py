"""The forms for a TPU against the plain ones, on this machine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sacjax.layers.conv import convolution
from sacjax.layers.platform import compiled_for


@pytest.mark.parametrize(
    ("time", "size", "stride"),
    [(23, 3, 2), (24, 3, 2), (9, 2, 2), (40, 10, 5), (7, 1, 3), (6, 6, 4)],
)
def test_a_strided_convolution_has_the_gradients_of_the_plain_one(time, size, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, time, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((size, 3, 5)), jnp.float32)

    def value_and_gradients(platform):
        with compiled_for(platform):
            call = lambda x, kernel: convolution(x, kernel, (stride,), [(0, 0)])
            y, back = jax.vjp(call, x, kernel)
            return y, *back(jnp.cos(y))

    for ours, plain in zip(value_and_gradients("tpu"), value_and_gradients("gpu"), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)
