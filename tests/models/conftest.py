"""Checks that every encoder passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import quick

from sacjax.context import Context


def randomize(model, seed=0):
    """Gives norms statistics and weights away from 0 and 1, so that padding that leaks shows."""
    rng = np.random.default_rng(seed)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            for variable, low, high in (
                (module.mean, -0.5, 0.5),
                (module.var, 0.5, 2),
                (module.scale, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                variable[...] = jnp.asarray(rng.uniform(low, high, variable.shape), jnp.float32)


@pytest.fixture(name="quick")
def quick_fixture():
    return quick


@pytest.fixture
def check_padding():
    def check(model, size, lengths, features=()):
        randomize(model)
        rng = np.random.default_rng(1)
        x = np.asarray(
            rng.standard_normal((len(lengths), *size, *features)), np.float32
        )  # what lies beyond is noise
        run = quick(model, lambda model, x, n: model(x, n)[:2])
        frames, counts = run(jnp.asarray(x), jnp.asarray(lengths))
        assert frames.shape[-1] == model.features
        for k, n in list(enumerate(lengths))[1:]:  # the first fills the batch's length
            alone, count = run(jnp.asarray(x[k : k + 1, :n]), jnp.asarray([n]))
            assert int(count[0]) == int(counts[k]) == alone.shape[1]
            want = np.asarray(alone[0])
            np.testing.assert_allclose(
                frames[k, : alone.shape[1]], want, rtol=0, atol=1e-5 * max(np.abs(want).max(), 1)
            )
            assert not np.any(frames[k, alone.shape[1] :])

    return check


@pytest.fixture
def check_gradients():
    def check(model, size, lengths, features=()):
        x = jnp.asarray(
            np.random.default_rng(0).standard_normal((len(lengths), *size, *features)), jnp.float32
        )

        def loss(model):
            frames = model(x, jnp.asarray(lengths), Context(jax.random.key(0))).frames
            return (frames.astype(jnp.float32) ** 2).mean()

        grads = jax.tree.leaves(quick(model, lambda model: nnx.grad(loss)(model))())
        assert all(np.isfinite(g).all() for g in grads)
        # A first batch with zero-initialized branches leaves some at zero, but never most.
        assert np.mean([bool(np.any(np.asarray(g))) for g in grads]) > 0.5

    return check


@pytest.fixture
def check_bfloat16():
    def check(make, size, features=()):
        x = jnp.asarray(
            np.random.default_rng(0).standard_normal((2, *size, *features)), jnp.float32
        )
        lengths, outputs = jnp.asarray([size[0], size[0] // 2]), []
        for dtype in (jnp.float32, jnp.bfloat16):
            model = make(dtype)
            randomize(model)
            outputs.append(quick(model, lambda model: model(x, lengths).frames)())
            assert outputs[-1].dtype == dtype
            assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {
                jnp.dtype("float32")
            }
        want, got = (np.asarray(o, np.float32) for o in outputs)
        assert np.abs(got - want).mean() < 0.03 * np.abs(want).mean() + 1e-6

    return check
