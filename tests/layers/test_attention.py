"""Attention against JAX's own, the mean over its dropout, and what it keeps for its gradient."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sacjax.layers import attention
from sacjax.layers.attention import FUSED, ROWS, attend
from sacjax.layers.platform import compiled_for

B, N, H, D = 2, 150, 3, 8  # more tokens than a TPU handles at once
Q, K, V = jnp.asarray(np.random.default_rng(0).standard_normal((3, B, N, H, D)), jnp.float32)
MASK = jnp.arange(N) < jnp.array([[N], [91]])


@pytest.fixture(autouse=True, params=[("cpu", FUSED), ("tpu", FUSED), ("tpu", N - 1)])
def form(request, monkeypatch):
    """The form of each platform, on this machine; of a TPU also that of many tokens."""
    target, fused = request.param
    monkeypatch.setattr(attention, "FUSED", fused)
    with compiled_for(target):
        yield


@pytest.mark.parametrize("causal", [False, True])
def test_values_and_gradients_are_those_of_jax(causal):
    def theirs(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, mask=MASK[:, None, None], is_causal=causal)

    ours, back = jax.vjp(lambda q, k, v: attend(q, k, v, MASK, causal), Q, K, V)
    wanted, wanted_back = jax.vjp(theirs, Q, K, V)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
    for one, two in zip(back(jnp.cos(ours)), wanted_back(jnp.cos(wanted)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_dropped_weights_are_those_without_in_the_mean():
    draw = lambda key: attend(Q, K, V, MASK, False, 0.25, key)
    drawn = jax.lax.map(draw, jax.random.split(jax.random.key(0), 500))
    deviation = drawn.std(0) / 500**0.5
    assert float(deviation.min()) > 0
    far = jnp.abs(drawn.mean(0) - attend(Q, K, V, MASK)) / deviation
    assert far.max() < 6 and far.mean() < 0.9  # of normal values: 4 and 0.8


def test_the_gradient_sees_the_weights_that_the_value_saw():
    key, v = jax.random.key(1), jnp.zeros_like(V).at[0, 5, 0, 0].set(1.0)
    value, back = jax.vjp(lambda v: attend(Q, K, v, MASK, False, 0.5, key), v)
    (grad,) = back(jnp.zeros_like(value).at[0, 7, 0, 0].set(1.0))
    np.testing.assert_allclose(grad[0, 5, 0, 0], value[0, 7, 0, 0], rtol=1e-5)
    assert float(jnp.mean(value[0, :, 0, 0] == 0)) > 0.2  # what dropped it


def test_nothing_quadratic_is_kept():
    key = jax.random.key(0)
    kept = jax.eval_shape(
        lambda *x: jax.vjp(lambda *x: attend(*x, MASK, False, 0.1, key), *x)[1], Q, K, V
    )
    assert max(leaf.size for leaf in jax.tree.leaves(kept)) <= 2 * ROWS * B * H * D < B * H * N * N


PROGRAM = """
import jax, jax.numpy as jnp
from sacjax.layers.attention import attend
from sacjax.layers.platform import compiled_for
from sacjax.plan.topology import find_topology

jax.config.update("jax_platforms", "cpu")
shapes = [jax.ShapeDtypeStruct([2, 1501, 12, 64], jnp.bfloat16)] * 3
shapes += [jax.ShapeDtypeStruct([2, 1501], bool), jax.eval_shape(lambda: jax.random.key(0))]
device = jax.sharding.SingleDeviceSharding(find_topology("v5e:2x2").devices[0])
with compiled_for("tpu"):
    f = lambda q, k, v, mask, key: attend(q, k, v, mask, False, 0.1, key)
    jax.jit(f, in_shardings=device).lower(*shapes).compile()
"""


@pytest.mark.parametrize("form", [("cpu", FUSED)], indirect=True)
def test_a_tpu_compiles_it_for_many_tokens(form):
    """Of a process of its own, as libtpu's compiler crashed."""
    pytest.importorskip("libtpu")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
