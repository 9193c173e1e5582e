"""The forms for XLA:CPU against the plain ones, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sacjax.layers import cpu
from sacjax.layers.conv import convolution, zero_padding
from sacjax.layers.platform import compiled_for
from sacjax.layers.pooling import max_pool


def both_platforms(function, *args):
    """Returns a function's results in the form for a CPU, and in that for a TPU."""
    results = []
    for target in ("cpu", "tpu"):
        with compiled_for(target):
            results.append(jax.jit(lambda *args: function(*args))(*args))
    return results


@pytest.mark.parametrize(
    "window, stride, padding", [(2, 2, 0), (4, 4, 0), (3, 2, 1), (3, 1, 1), (5, 2, 2), (2, 3, 0)]
)
@pytest.mark.parametrize("shape", [(2, 17, 3), (2, 17, 6, 3), (2, 1, 2, 3)])
def test_max_pool_is_the_plain_one_with_its_gradient(window, stride, padding, shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    lengths = jnp.array([shape[1], (shape[1] + 1) // 2])
    x = zero_padding(x, lengths)

    def run(x):
        pool = lambda x: max_pool(nnx.relu(x), lengths, window, stride, padding)
        (y, n), vjp = jax.vjp(pool, x)
        cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype)
        return y, n, *vjp((cotangent, np.zeros(n.shape, jax.dtypes.float0)))

    for ours, plain in zip(*both_platforms(run, x), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-6)


@pytest.mark.parametrize(
    "space, size, stride",
    [((4, 2), (3, 3), (1, 1)), ((5, 3), (3, 3), (2, 2)), ((2,), (3,), (1,)), ((9,), (12,), (4,))],
)
def test_few_outputs_take_patches_with_the_same_result(space, size, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *space, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*size, 3, 5)), jnp.float32)
    padding = [(k // 2, k // 2) for k in size]
    assert cpu.has_few_outputs(space, size, stride, padding)

    def run(x, kernel):
        y, vjp = jax.vjp(lambda x, k: convolution(x, k, stride, padding), x, kernel)
        return y, *vjp(jnp.cos(y))

    for ours, plain in zip(*both_platforms(run, x, kernel), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-4)


def test_groups_side_by_side_are_the_grouped_convolution():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 20, 12)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((6, 3, 8)), jnp.float32)

    def run(x, kernel):
        y, vjp = jax.vjp(lambda x, k: convolution(x, k, (1,), [(3, 2)], groups=4), x, kernel)
        return y, *vjp(jnp.cos(y))

    for ours, plain in zip(*both_platforms(run, x, kernel), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "target, grouped, patches, windowed",
    [("cpu", False, True, False), ("gpu", False, False, True), ("tpu", True, False, True)],
)
def test_each_platform_has_its_form(target, grouped, patches, windowed):
    """A form that is traced by mistake on an accelerator would be slow there, and still right."""
    x, kernel = jnp.ones([1, 2, 8]), jnp.ones([3, 8, 8])
    with compiled_for(target):
        few = str(jax.make_jaxpr(lambda x: convolution(x, kernel, (1,), [(1, 1)]))(x))
        many = str(jax.make_jaxpr(lambda x: convolution(x, kernel[:, :2], (1,), [(1, 1)], 4))(x))
        pool = str(jax.make_jaxpr(lambda x: max_pool(x, jnp.array([2]), 2))(x))
    assert ("conv_general_dilated" not in few) == patches
    assert ("feature_group_count=4" in many) == grouped
    assert ("reduce_window" in pool) == windowed
