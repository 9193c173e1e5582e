"""Floating-point operations, against worked values and torch's own counter."""

import jax
import jax.numpy as jnp
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


def of_gradient(fn, trained, *args):
    return flops.of_gradient(jax.make_jaxpr(fn)(*args), trained)


def test_a_gradient_counts_what_it_needs_and_nothing_of_what_is_frozen():
    w1, w2, x = jnp.ones([8, 16]), jnp.ones([16, 4]), jnp.ones([3, 8])
    first, second = 2 * 3 * 8 * 16, 2 * 3 * 16 * 4

    def loss(w1, w2, x):
        hidden = x @ w1
        return (hidden @ w2).sum(), hidden @ hidden.T  # a metric, not of the loss

    assert of_gradient(loss, [False, False], w1, w2, x) == first + second
    assert of_gradient(loss, [True, True], w1, w2, x) == 2 * first + 3 * second
    assert of_gradient(loss, [False, True], w1, w2, x) == first + 2 * second
    assert of_gradient(loss, [True], w1, w2, x) == 2 * first + 2 * second
    assert of_gradient(loss, [True, True, True], w1, w2, x) == 3 * first + 3 * second


def test_a_gradient_through_what_was_stopped_is_that_of_the_rest():
    """The train step stops frozen parameters inside its loss: no need to name them again."""
    w1, w2, x = jnp.ones([8, 16]), jnp.ones([16, 4]), jnp.ones([3, 8])
    loss = lambda w1, w2, x: ((x @ jax.lax.stop_gradient(w1)) @ w2).sum()  # noqa: E731
    assert of_gradient(loss, [True, True], w1, w2, x) == 2 * 3 * 8 * 16 + 2 * 2 * 3 * 16 * 4


@pytest.mark.parametrize("remat", [False, True])
def test_what_is_computed_again_counts_once(remat):
    def loss(stack, x):
        layer = lambda x, w: (jnp.tanh(x @ w), None)  # noqa: E731
        return jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, stack)[0].sum()

    assert of_gradient(loss, [True], jnp.ones([5, 8, 8]), jnp.ones([3, 8])) == 3 * 5 * 2 * 3 * 64


def test_complex_numbers_within_what_is_computed_again():
    """As in a front end of filters; Fourier transforms themselves do not count."""

    @jax.checkpoint
    def filtered(w, x):
        return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w), 8)

    loss = lambda w, x: (filtered(w, x) @ jnp.ones([8, 4])).sum()  # noqa: E731
    assert of_gradient(loss, [True], jnp.ones(8), jnp.ones([3, 8])) == 2 * 2 * 3 * 8 * 4


def test_gradients_of_a_strided_convolution():
    def loss(kernel, x):
        y = jax.lax.conv_general_dilated(
            x, kernel, (2,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
        )
        return (y**2).sum()

    kernel, x = jnp.ones([5, 8, 6]), jnp.ones([2, 101, 8])  # 49 positions come out
    forward = 2 * (2 * 49 * 6) * 5 * 8
    assert of_gradient(loss, [True], kernel, x) == 2 * forward
    # Each of the 101 samples takes part in 5 / 2 positions, those at the ends as if they did.
    assert of_gradient(loss, [True, True], kernel, x) == 2 * forward + 2 * (2 * 101 * 8) * 6 * 5 / 2


def torch_and_ours():
    """Returns transformers' wav2vec 2.0 and ours, of one size."""
    pytest.importorskip("torch", reason="needs the extra `parity`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    # One group: of several, torch counts the kernel's gradient as if each saw all channels.
    shape = dict(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=1,
        attn_implementation="eager",
    )
    make = lambda: Wav2Vec2(  # noqa: E731
        width=32,
        depth=3,
        heads=4,
        mlp_width=48,
        conv_channels=(16,) * 7,
        positional_kernel=16,
        positional_groups=1,
        rngs=nnx.Rngs(0),
    )
    theirs = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**shape)).eval()
    graphdef, params = nnx.split(nnx.eval_shape(make))
    params = nnx.as_pure(params)

    def run(params, x, lengths):
        return nnx.merge(graphdef, params)(x, lengths).frames

    return theirs, run, params


def test_wav2vec2_as_torch_counts_it():
    theirs, run, params = torch_and_ours()
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    inputs = (jnp.zeros([2, 16000]), jnp.full([2], 16000))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        theirs(torch.zeros(2, 16000))
    assert of(run, params, *inputs) == pytest.approx(counter.get_total_flops(), rel=0.01)
    loss = lambda *args: run(*args).astype(jnp.float32).sum()  # noqa: E731
    jaxpr = jax.make_jaxpr(loss)(params, *inputs)
    names = jax.tree_util.tree_leaves_with_path(params)
    for pattern in ("feature_extractor", "no such name"):  # the convolutions frozen, or nothing
        for name, value in theirs.named_parameters():
            value.requires_grad_(pattern not in name)
        with FlopCounterMode(display=False) as counter:
            theirs(torch.zeros(2, 16000)).last_hidden_state.sum().backward()
        frozen = "['conv']" if pattern == "feature_extractor" else pattern
        trained = [frozen not in jax.tree_util.keystr(path) for path, _ in names]
        assert 0 < sum(trained) and (sum(trained) < len(trained)) == (frozen == "['conv']")
        counted = flops.of_gradient(jaxpr, trained)
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


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", None),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", None),
        ("NVIDIA A1000", None),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("TPU v4", 275),
        ("TPU v4 lite", None),
        ("TPU v5", 459),
        ("TPU v5 lite", 197),
        ("TPU v6 lite", 918),
        ("cpu", None),
    ],
)
def test_a_kind_is_not_taken_for_another_that_begins_alike(kind, teraflops):
    assert flops.peak_of(kind) == (teraflops and teraflops * 1e12)
