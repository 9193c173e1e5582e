"""Floating-point operations, against worked values and torch's own counter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sacjax.models.wav2vec2 import Wav2Vec2
from sacjax.plan import flops


def of(fn, *args):
    return flops.of_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def test_products_convolutions_loops_and_branches_as_worked_by_hand():
    a, b = jnp.ones([3, 4, 5]), jnp.ones([3, 5, 7])
    assert of(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 7 * 5
    x, kernel = jnp.ones([2, 100, 8]), jnp.ones([5, 4, 6])  # two groups
    conv = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (2,), "VALID", dimension_numbers=("NHC", "HIO", "NHC"), feature_group_count=2
    )
    assert of(conv, x, kernel) == 2 * (2 * 48 * 6) * 5 * 4
    square = jnp.ones([4, 4])
    assert (
        of(lambda m: jax.lax.scan(lambda c, _: (c @ m, None), m, None, length=9)[0], square)
        == 9 * 2 * 64
    )
    assert of(jax.jit(jax.checkpoint(lambda m: m @ m)), square) == 2 * 64
    branches = lambda m: jax.lax.cond(m[0, 0] > 0, lambda m: m @ m @ m, lambda m: m, m)  # noqa: E731
    assert of(branches, square) == 2 * 2 * 64


def test_wav2vec2_as_torch_counts_it():
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    from torch.utils.flop_counter import FlopCounterMode

    shape = dict(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**shape)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        theirs(torch.zeros(2, 8000))
    ours = nnx.eval_shape(
        lambda: Wav2Vec2(
            width=32, depth=3, heads=4, mlp_width=48, conv_channels=(16,) * 7, positional_kernel=16, positional_groups=4,
            rngs=nnx.Rngs(0),
        )
    )  # fmt: skip
    graphdef, variables = nnx.split(ours)
    counted = of(
        lambda v, x, n: nnx.merge(graphdef, v)(x, n).frames,
        variables,
        jnp.zeros([2, 8000]),
        jnp.full([2], 8000),
    )
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_peak_is_known_by_kind_and_measured_elsewhere(monkeypatch):
    class Device:
        device_kind = "TPU v5 lite"

    assert 1e8 < flops.peak() < 1e14
    monkeypatch.setattr(flops.jax, "devices", lambda: [Device()])
    monkeypatch.setattr(flops.jax, "device_count", lambda: 4)
    assert flops.peak() == 4 * 197e12
    Device.device_kind = "TPU v5"
    assert flops.peak() == 4 * 459e12
    assert np.isfinite(list(flops.PEAKS.values())).all()
