"""The shared helpers: CPU paths against the plain ones, norms against NumPy, statistics under sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from processes import run_python

from sacjax.models import base


def both_backends(monkeypatch, function, *args):
    """Runs a helper as on CPU and as on an accelerator; jit's cache must not hide the difference."""
    results = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        results.append(function(*args))
    monkeypatch.undo()
    return results


@pytest.mark.parametrize(
    "window, stride, padding", [(2, 2, 0), (4, 4, 0), (3, 2, 1), (3, 1, 1), (5, 2, 2), (2, 3, 0)]
)
@pytest.mark.parametrize("shape", [(2, 17, 3), (2, 17, 6, 3), (2, 1, 2, 3)])
def test_max_pool_is_the_plain_one_with_its_gradient(window, stride, padding, shape, monkeypatch):
    rng = np.random.default_rng(0)
    x, lengths = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32),
        jnp.array([shape[1], (shape[1] + 1) // 2]),
    )
    x = base.zero_padding(x, lengths)

    def run(x):
        pool = lambda x: base.max_pool(nnx.relu(x), lengths, window, stride, padding)
        (y, n), vjp = jax.vjp(pool, x)
        grad = vjp(
            (
                jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype),
                np.zeros(n.shape, jax.dtypes.float0),
            )
        )
        return y, n, grad[0]

    for ours, plain in zip(*both_backends(monkeypatch, run, x), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-6)


@pytest.mark.parametrize(
    "space, size, stride",
    [((4, 2), (3, 3), (1, 1)), ((5, 3), (3, 3), (2, 2)), ((2,), (3,), (1,)), ((9,), (12,), (4,))],
)
def test_few_outputs_take_patches_with_the_same_result(space, size, stride, monkeypatch):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *space, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*size, 3, 5)), jnp.float32)
    padding = [(k // 2, k // 2) for k in size]

    def run(x, kernel):
        y, vjp = jax.vjp(lambda x, k: base.convolve(x, k, stride, padding), x, kernel)
        return y, *vjp(jnp.cos(y))

    for ours, plain in zip(*both_backends(monkeypatch, run, x, kernel), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 9, 4), (3, 9, 5, 4)])
def test_batch_norm_counts_valid_positions_only(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 3 + 2
    norm, lengths = base.BatchNorm(4, dtype=jnp.float32, rngs=nnx.Rngs(0)), np.array([9, 4, 0])
    y = norm(jnp.asarray(x), jnp.asarray(lengths))
    seen = np.concatenate([x[k, :n].reshape(-1, 4) for k, n in enumerate(lengths)])
    want = (x - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5)
    for k, n in enumerate(lengths):
        np.testing.assert_allclose(y[k, :n], want[k, :n], atol=1e-4)
        assert not np.any(y[k, n:])
    np.testing.assert_allclose(norm.mean[...], 0.1 * seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * seen.var(0), rtol=1e-4)


def test_a_batch_without_anything_valid_teaches_nothing():
    norm = base.BatchNorm(2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert np.isfinite(norm(jnp.ones([1, 3, 2]), jnp.array([0]))).all()
    assert not np.any(norm.mean[...]) and np.all(norm.var[...] == 1)


def test_running_statistics_are_used_in_float32():
    norm = base.BatchNorm(1, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    norm.eval()
    norm.mean[...] = jnp.array([100.3])
    got = norm(jnp.full([1, 1, 1], 100.0, jnp.bfloat16), jnp.array([1]))
    np.testing.assert_allclose(float(got[0, 0, 0]), -0.3, atol=0.01)  # Flax's own: 0 or -0.5


SHARDED = """
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P, NamedSharding
from sacjax.models import AudioNet, SpectrogramResNet
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
for make, size in ((lambda: SpectrogramResNet(width=4, rngs=nnx.Rngs(0)), (40, 20)), (lambda: AudioNet(variant='m5', width=0.125, rngs=nnx.Rngs(0)), (1000,))):
    model = nnx.jit(make)()
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((16, *size)) * np.linspace(0.2, 3, 16).reshape(16, *[1] * len(size))).astype('float32')
    n = np.arange(1, 17, dtype=np.int32) * size[0] // 16

    @partial(jax.jit, compiler_options={'xla_backend_optimization_level': '0'})
    def step(params, rest, x, n):
        def loss(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            value = (model(x, n).frames ** 2).mean()
            return value, nnx.split(model, nnx.Param, ...)[2]
        (value, rest), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, rest, grads

    one = step(params, rest, x, n)
    rows = NamedSharding(mesh, P('data'))
    copies = jax.device_put((params, rest), NamedSharding(mesh, P()))
    eight = step(*copies, jax.device_put(x, rows), jax.device_put(n, rows))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(float(jnp.abs(a).max()), 1e-3))
print('equal')
"""


def test_statistics_are_those_of_the_global_batch_on_eight_devices():
    result = run_python("-c", SHARDED, devices=8)
    assert result.returncode == 0 and "equal" in result.stdout, result.stderr[-3000:]
