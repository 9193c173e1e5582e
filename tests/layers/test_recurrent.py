"""The recurrent layer against PyTorch's, and what padding must not change."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import quick

from sacjax.layers.recurrent import GRULayer

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 5)), jnp.float32)
MASK = jnp.arange(9) < jnp.array([[9], [4]])


def test_states_are_torchs_and_stay_what_they_were_in_padding():
    torch = pytest.importorskip("torch", reason="torch is the reference")
    layer = GRULayer(5, 6, dtype=jnp.float32, rngs=nnx.Rngs(0))
    peer = torch.nn.GRU(5, 6, batch_first=True)
    pairs = ((peer.weight_ih_l0, peer.bias_ih_l0, layer.input),)
    for kernel, bias, ours in (*pairs, (peer.weight_hh_l0, peer.bias_hh_l0, layer.state)):
        kernel.data = torch.tensor(np.asarray(ours.kernel[...].T))
        bias.data = torch.tensor(np.asarray(ours.bias[...]))
    start = jnp.asarray(np.random.default_rng(1).standard_normal((2, 6)), jnp.float32)
    with torch.no_grad():
        want = peer(torch.tensor(np.array(X)), torch.tensor(np.array(start))[None])[0].numpy()
    states, last = quick(layer, lambda layer: layer(X, MASK, start))()
    np.testing.assert_allclose(states[0], want[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states[1, :4], want[1, :4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last, np.stack([want[0, -1], want[1, 3]]), rtol=1e-4, atol=1e-5)


def test_parameters_start_within_torchs_bounds():
    state = nnx.state(GRULayer(5, 64, dtype=jnp.float32, rngs=nnx.Rngs(0)), nnx.Param)
    for _, value in nnx.to_flat_state(state):
        values = np.abs(value[...])
        assert values.max() <= 1 / 8 and values.max() > 0.9 / 8 and values.mean() > 0.4 / 8
