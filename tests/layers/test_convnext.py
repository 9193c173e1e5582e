"""ConvNeXt over time against PyTorch's layers on the same weights, and blind to padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import quick

from sacjax.layers.convnext import ConvNeXt


def twin(torch, model, x):
    """Returns Vocos's backbone of the model's weights on x [B, F, C], written in PyTorch."""
    t = lambda value: torch.tensor(np.asarray(value[...]))
    ln = lambda y, n: torch.nn.functional.layer_norm(y, y.shape[-1:], t(n.scale), t(n.bias), 1e-6)
    conv = torch.nn.functional.conv1d
    y = torch.tensor(np.asarray(x)).mT
    kernel = t(model.embed.kernel).permute(2, 1, 0)
    y = ln(conv(y, kernel, t(model.embed.bias), padding=3).mT, model.norm)
    for block in model.blocks:
        depthwise = t(block.kernel).T[:, None]
        z = conv(y.mT, depthwise, t(block.bias), padding=3, groups=y.shape[-1]).mT
        z = ln(z, block.norm) @ t(block.first.kernel) + t(block.first.bias)
        z = torch.nn.functional.gelu(z) @ t(block.second.kernel) + t(block.second.bias)
        y = y + z * t(block.scale)
    return ln(y, model.final_norm).numpy()


def test_as_pytorch_and_a_clip_the_same_alone_and_in_a_padded_batch():
    torch = pytest.importorskip("torch")
    model = ConvNeXt(5, 8, 12, 2, rngs=nnx.Rngs(0))
    state = jax.tree.map(
        lambda x: x + 0.1 * np.float32(np.sin(np.arange(x.size)).reshape(x.shape)), nnx.state(model)
    )
    nnx.update(model, state)
    x = np.random.default_rng(0).standard_normal([2, 20, 5]).astype(np.float32)
    ours = quick(model, lambda model, x, n: model(x, n))(jnp.asarray(x), jnp.array([20, 13]))
    np.testing.assert_allclose(ours[0], twin(torch, model, x[:1])[0], atol=1e-4)
    np.testing.assert_allclose(ours[1, :13], twin(torch, model, x[1:, :13])[0], atol=1e-4)
    assert not ours[1, 13:].any()
