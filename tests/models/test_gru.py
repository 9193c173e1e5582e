"""The recurrent encoder against s3prl's APC, and its published size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sacjax.models.gru import GRU

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 11, 5)), jnp.float32)


def torch_gru(torch, layer):
    """Returns torch.nn.GRU with our layer's weights."""
    inputs, gates = layer.input.kernel.shape
    peer = torch.nn.GRU(inputs, gates // 3, batch_first=True)
    values = (layer.input.kernel[...].T, layer.state.kernel[...].T)
    values += (layer.input.bias[...], layer.state.bias[...])
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    peer.load_state_dict(
        {n: torch.tensor(np.asarray(v)) for n, v in zip(names, values, strict=True)}
    )
    return peer


@pytest.mark.parametrize("residual", [True, False])
def test_states_of_all_layers_are_torchs(residual, quick):
    """A stack of torch.nn.GRU with residual sums around all but the first, as in s3prl."""
    torch = pytest.importorskip("torch", reason="torch is the reference")
    model = GRU(num_features=5, width=6, layers=3, residual=residual, rngs=nnx.Rngs(0))
    x, want = torch.tensor(np.array(X)), []
    with torch.no_grad():
        for number, layer in enumerate(model.layers):
            y = torch_gru(torch, layer)(x)[0]
            x = y + x if residual and number else y
            want.append(x.numpy())
    output = quick(model, lambda model: model(X, jnp.array([11, 11]), hidden_states=True))()
    np.testing.assert_allclose(output.hidden_states, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(output.frames, output.hidden_states[-1])


def test_published_size():
    """s3prl's APC has 4.1 M parameters with its head of 512 to 80."""
    model = nnx.eval_shape(lambda: GRU(num_features=80, rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    layer = lambda inputs: 3 * 512 * (inputs + 512 + 2)
    assert count == layer(80) + 2 * layer(512) + 80  # and the mask embedding
