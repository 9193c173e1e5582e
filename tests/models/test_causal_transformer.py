"""The Transformer over frames against PyTorch's with the same weights, and its sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sacjax.models.causal_transformer import CausalTransformer

F, M, D = 9, 5, 8
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, F, M)), jnp.float32)
LENGTHS = jnp.array([9, 6])


def torch_layers(torch, model, pre_norm):
    """Returns torch.nn.TransformerEncoder with our stack's weights, and the norm at its end."""
    layers, ours = [], model.transformer.layers
    value = lambda variable, k: torch.tensor(np.array(variable[...][k].T))
    for k in range(model.depth):
        layer = torch.nn.TransformerEncoderLayer(
            D, 2, 12, 0.0, "gelu", batch_first=True, norm_first=pre_norm
        )
        parts = (ours.attention.query, ours.attention.key, ours.attention.value)
        weights = {
            "self_attn.in_proj_weight": torch.cat([value(p.kernel, k) for p in parts]),
            "self_attn.in_proj_bias": torch.cat([value(p.bias, k) for p in parts]),
        }
        for name, linear in (
            ("self_attn.out_proj", ours.attention.out),
            ("linear1", ours.mlp_in),
            ("linear2", ours.mlp_out),
        ):
            weights[f"{name}.weight"] = value(linear.kernel, k)
            weights[f"{name}.bias"] = value(linear.bias, k)
        for name, norm in (("norm1", ours.attention_norm), ("norm2", ours.mlp_norm)):
            weights[f"{name}.weight"] = value(norm.scale, k)
            weights[f"{name}.bias"] = value(norm.bias, k)
        layer.load_state_dict(weights)
        layers.append(layer.eval())
    return layers, torch.nn.LayerNorm(D)  # fresh norms are all alike


@pytest.mark.parametrize("pre_norm, causal", [(True, True), (False, False)])
def test_frames_are_torchs(pre_norm, causal, quick):
    torch = pytest.importorskip("torch", reason="torch is the reference")
    sizes = dict(width=D, depth=2, heads=2, mlp_width=12, pre_norm=pre_norm, causal=causal)
    model = CausalTransformer(num_features=M, **sizes, rngs=nnx.Rngs(0))
    layers, norm = torch_layers(torch, model, pre_norm)
    angles = np.arange(F)[:, None] / 10000 ** (2 * (np.arange(D) // 2) / D)
    positions = np.where(np.arange(D) % 2, np.cos(angles), np.sin(angles))
    x = np.asarray(X) @ np.asarray(model.projection.kernel[...]) + positions
    x = torch.tensor(x.astype(np.float32))
    padding = torch.arange(F) >= torch.tensor(np.array(LENGTHS))[:, None]
    look = torch.nn.Transformer.generate_square_subsequent_mask(F).isinf() if causal else None
    with torch.no_grad():
        x = x if pre_norm else norm(x)
        for layer in layers:
            x = layer(x, src_mask=look, src_key_padding_mask=padding)
        want = (norm(x) if pre_norm else x).numpy()
    frames = quick(model, lambda model: model(X, LENGTHS).frames)()
    want = np.where(padding[..., None], 0, want)
    np.testing.assert_allclose(frames, want, rtol=1e-4, atol=1e-5)


def test_published_size():
    """s3prl's TERA base has 21.3 M parameters in its encoder of 80 log-mels."""
    model = nnx.eval_shape(
        lambda: CausalTransformer(num_features=80, size="tera", causal=False, rngs=nnx.Rngs(0))
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count / 1e6 == pytest.approx(21.33, abs=0.01)
