"""The Transformer against PyTorch's, its dropout, and what scan and remat must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import count_draws, quick

from sacjax.context import Context
from sacjax.layers import attention
from sacjax.layers.platform import compiled_for
from sacjax.layers.transformer import Transformer

B, N, D, DEPTH = 2, 7, 8, 3
X = jnp.asarray(np.random.default_rng(0).standard_normal((B, N, D)), jnp.float32)
MASK = jnp.arange(N) < jnp.array([[7], [4]])
NOISY = dict(dropout=0.2, attention_dropout=0.3, activation_dropout=0.4, layer_drop=0.5)


def make(pre_norm=True, **options):
    return Transformer(
        D, DEPTH, 2, 12, pre_norm=pre_norm, **options, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )


def peer(model, causal):
    """Returns PyTorch's stack of layers with our parameters, randomized so that each matters."""
    torch = pytest.importorskip("torch", reason="torch is the reference")
    rng = np.random.default_rng(1)
    for _, variable in nnx.to_flat_state(nnx.state(model)):
        variable[...] = jnp.asarray(
            rng.normal(variable[...].mean(), 0.3, variable.shape), "float32"
        )
    layers = model.layers
    pre_norm = model.final_norm is not None
    stack = torch.nn.ModuleList(
        torch.nn.TransformerEncoderLayer(
            D, 2, 12, 0.0, "gelu", batch_first=True, norm_first=pre_norm
        )
        for _ in range(DEPTH)
    ).eval()

    def put(parameter, *values):
        parameter.data = torch.tensor(np.concatenate([np.asarray(v) for v in values]))

    for k, layer in enumerate(stack):
        attention = layers.attention
        parts = (attention.query, attention.key, attention.value)
        put(layer.self_attn.in_proj_weight, *(part.kernel[k].T for part in parts))
        put(layer.self_attn.in_proj_bias, *(part.bias[k] for part in parts))
        for theirs, ours in (
            (layer.self_attn.out_proj, attention.out),
            (layer.linear1, layers.mlp_in),
            (layer.linear2, layers.mlp_out),
        ):
            put(theirs.weight, ours.kernel[k].T)
            put(theirs.bias, ours.bias[k])
        for theirs, ours in ((layer.norm1, layers.attention_norm), (layer.norm2, layers.mlp_norm)):
            put(theirs.weight, ours.scale[k])
            put(theirs.bias, ours.bias[k])
    ends = torch.nn.LayerNorm(D)
    ours = model.final_norm if pre_norm else model.input_norm
    put(ends.weight, ours.scale[...])
    put(ends.bias, ours.bias[...])
    look = torch.triu(torch.ones(N, N, dtype=torch.bool), 1) if causal else None

    branches = []
    for layer in stack:  # what the MLP gives before it is added
        layer.linear2.register_forward_hook(lambda _, __, y: branches.append(y.numpy()))

    def run():
        with torch.no_grad():
            x = torch.tensor(np.array(X))
            states = [x if pre_norm else ends(x)]
            for layer in stack:
                padding = torch.tensor(np.array(~MASK))
                states.append(layer(states[-1], src_mask=look, src_key_padding_mask=padding))
            return (
                (ends(states[-1]) if pre_norm else states[-1]).numpy(),
                [s.numpy() for s in states],
                branches,
            )

    return run


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("causal", [False, True])
def test_frames_and_states_are_torchs(pre_norm, causal):
    model = make(pre_norm, causal=causal)
    assert (model.input_norm is None) == pre_norm and (model.final_norm is None) != pre_norm
    want, states, branches = peer(model, causal)()
    run = quick(
        model,
        lambda m, x, mask: (*m(x, mask, hidden_states=True), m(x, mask, hidden_states="mlp")[1]),
    )
    got, own, mlp = run(X, MASK)
    np.testing.assert_allclose(got, np.where(MASK[..., None], want, 0), rtol=1e-4, atol=1e-5)
    assert own.shape == (DEPTH + 1, B, N, D)
    assert mlp.shape == (DEPTH, B, N, D)
    for ours, theirs in zip([*own, *mlp], states + branches, strict=True):
        np.testing.assert_allclose(ours, np.where(MASK[..., None], theirs, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_weights_are_torchs(pre_norm, causal):
    torch = pytest.importorskip("torch", reason="torch is the reference")
    model = make(pre_norm, causal=causal)
    peer(model, causal)  # random parameters
    weights = quick(
        model, lambda m, x, mask: m.attention_weights(m(x, mask, hidden_states=True)[1], mask)
    )(X, MASK)
    states = quick(model, lambda m, x, mask: m(x, mask, hidden_states=True)[1])(X, MASK)
    layers = model.layers
    for k in range(DEPTH):
        attention = torch.nn.MultiheadAttention(D, 2, batch_first=True).eval()
        parts = (layers.attention.query, layers.attention.key, layers.attention.value)
        kernels, biases = ([np.asarray(value[k]) for value in values] for values in zip(
            *((part.kernel[...], part.bias[...]) for part in parts), strict=True
        ))  # fmt: skip
        attention.in_proj_weight.data = torch.tensor(np.concatenate([w.T for w in kernels]))
        attention.in_proj_bias.data = torch.tensor(np.concatenate(biases))
        x = torch.tensor(np.array(states[k]))
        if pre_norm:
            scale, bias = (
                torch.tensor(np.array(value[...][k]))
                for value in (layers.attention_norm.scale, layers.attention_norm.bias)
            )
            x = torch.nn.functional.layer_norm(x, (D,), scale, bias)
        look = torch.triu(torch.ones(N, N, dtype=torch.bool), 1) if causal else None
        with torch.no_grad():
            _, want = attention(
                x, x, x, torch.tensor(np.array(~MASK)), True, look, average_attn_weights=False
            )
        rows = np.asarray(MASK)[:, None, :, None]  # of tokens that there are
        np.testing.assert_allclose(weights[k] * rows, want.numpy() * rows, rtol=1e-3, atol=1e-5)


def test_dropping_weights_at_almost_no_rate_is_the_form_without():
    """In training attention is written out, so that its weights can be dropped."""
    for causal in (False, True):
        model = make(causal=causal, attention_dropout=1e-9)
        run = quick(model, lambda model, key: model(X, MASK, Context(key))[0])
        still = quick(model, lambda model: model(X, MASK)[0])()
        np.testing.assert_allclose(run(jax.random.key(0)), still, rtol=1e-4, atol=1e-5)


def test_a_clip_without_tokens_is_finite_with_finite_gradients():
    mask = MASK.at[1].set(False)
    model = make()
    run = quick(model, lambda model, x: jax.value_and_grad(lambda x: model(x, mask)[0].sum())(x))
    value, grad = run(X)
    assert np.isfinite(value) and np.isfinite(grad).all() and not np.any(grad[1])


def test_layer_drop_leaves_whole_layers_out():
    """With almost certain dropping what comes out is what goes in; without a key all is kept."""
    model = make(False, layer_drop=0.999999)
    mask = jnp.ones([B, N], bool)
    run = quick(model, lambda model, key: model(X, mask, Context(key), hidden_states=True))
    out, states = run(jax.random.key(0))
    np.testing.assert_allclose(out, states[0], atol=1e-6)
    kept = quick(model, lambda model: model(X, mask)[0])()
    assert np.abs(kept - out).max() > 1e-3


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_no_gradient(remat):
    def gradient(**options):
        def loss(model, key):
            return jnp.square(model(X, MASK, Context(key))[0][..., 0]).sum()

        return quick(make(**NOISY, **options), nnx.grad(loss))(jax.random.key(1))

    for one, two in zip(*map(jax.tree.leaves, (gradient(), gradient(remat=remat))), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
        assert np.any(one)


def test_no_two_draws_share_a_key():
    # Of the input; in a layer of attention weights, both branches, the MLP's inside, the layer.
    call = lambda ctx: make(**NOISY)(X, MASK, ctx)[0]
    assert count_draws(call) == 1 + 5


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_stream_is_the_whole_and_beyond_its_memory_hears_the_last_tokens(pre_norm):
    model = make(pre_norm, causal=True)

    def run(model):
        whole = model(X, jnp.ones([B, N], bool))[0]
        cuts, streams = ((2, 3, 1, 1), (1, 6)), []
        for memory, sizes in ((N, cuts[0]), (3, cuts[0]), (3, cuts[1])):
            past, chunks, at = model.start(B, memory, jnp.float32), [], 0
            for size in sizes:
                y, past = model.stream(X[:, at : at + size], past)
                chunks.append(y)
                at += size
            streams.append(jnp.concatenate(chunks, 1))
        return whole, *streams

    whole, streamed, one, other = quick(model, run)()
    np.testing.assert_allclose(streamed, whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one[:, :3], whole[:, :3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)  # however it is cut
    assert np.abs(one - whole)[:, 3:].max() > 1e-4


@pytest.mark.parametrize("causal", [False, True])
def test_the_form_for_a_tpu_has_the_same_values_and_gradients(causal, monkeypatch):
    """Its attention goes through blocks of queries, and more is computed again."""
    monkeypatch.setattr(attention, "ROWS", 4)
    model = make(causal=causal, relative_buckets=4, relative_distance=3)
    graphdef, variables = nnx.split(model)

    def value(variables, x, ctx):
        y, _ = nnx.merge(graphdef, variables)(x, MASK, ctx)
        return jnp.sum(jnp.sin(y)), y

    def found(platform, ctx=Context()):
        with compiled_for(platform):
            run = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))
            return jax.tree.leaves(run(variables, X, ctx))

    for ours, plain in zip(found("tpu"), found("cpu"), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in found("tpu", Context(key=jax.random.key(0))))
