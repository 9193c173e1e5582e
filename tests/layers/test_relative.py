"""Gated relative positions; tests/convert/test_wavlm.py compares the whole with transformers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import quick

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers import attention
from sacjax.layers.relative import Gate, RelativePositions
from sacjax.models import Wav2Vec2


def test_a_pair_takes_the_number_of_its_distance_and_direction():
    relative = RelativePositions(8, 6, 2, rngs=nnx.Rngs(0))
    relative.table[...] = jnp.arange(16.0).reshape(8, 2)
    found = relative(jnp.asarray([3, 4, 13]))
    assert found.shape == (2, 3, 3)
    # From token 3: itself, one ahead, ten ahead; from 13: ten and nine behind, itself.
    np.testing.assert_array_equal(found[1, 0], [1, 1 + 2 * 5, 1 + 2 * 7])
    np.testing.assert_array_equal(found[0, 2], [2 * 3, 2 * 3, 0])


def test_a_gate_is_the_formula_written_out():
    """As transformers' WavLMAttention has it, a head and a token at a time."""
    gate = Gate(3, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    gate.scale[...] = jnp.asarray(rng.standard_normal(2), jnp.float32)
    gate.linear.bias[...] = jnp.asarray(rng.standard_normal(8), jnp.float32)
    x = rng.standard_normal((1, 4, 2, 3)).astype(np.float32)
    kernel, bias = np.asarray(gate.linear.kernel[...]), np.asarray(gate.linear.bias[...])
    found = gate(jnp.asarray(x))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    for head in range(2):
        for token in range(4):
            y = x[0, token, head] @ kernel + bias
            update, reset = sigmoid(y[:4].sum()), sigmoid(y[4:].sum())
            wanted = 2 + update * (float(gate.scale[head]) * reset - 1)
            np.testing.assert_allclose(found[0, head, token], wanted, rtol=1e-5)


def test_blocks_of_queries_give_what_all_at_once_give(monkeypatch):
    keys = jax.random.split(jax.random.key(0), 5)
    q, k, v = (jax.random.normal(key, [2, 11, 2, 3]) for key in keys[:3])
    bias = attention.Bias(
        jax.random.normal(keys[3], [2, 2, 11]), jax.random.normal(keys[4], [1, 2, 11, 11])
    )
    mask = jnp.arange(11) < jnp.asarray([[11], [7]])
    whole = attention.attend(q, k, v, mask, bias=bias)
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / 3**0.5 + bias.gate[..., None] * bias.table
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -jnp.inf), -1)
    np.testing.assert_allclose(whole, jnp.einsum("bhts,bshd->bthd", weights, v), atol=1e-5)
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    monkeypatch.setattr(attention, "ROWS", 4)
    np.testing.assert_allclose(attention.attend(q, k, v, mask, bias=bias), whole, atol=1e-5)


def test_kept_tokens_are_where_they_were():
    """Relative positions are those of the whole clip: all kept in another order is the same."""
    options = dict(size="tiny", positional_kernel=16, positional_groups=4, relative_buckets=8)
    model = Wav2Vec2(**options, relative_distance=5, rngs=nnx.Rngs(0))
    model.transformer.relative.table[...] = jax.random.normal(jax.random.key(0), [8, 2])
    x, lengths = jax.random.normal(jax.random.key(1), [2, 4000]), jnp.asarray([4000, 3000])
    order = jnp.asarray([[5, 3, 8, 1, 0, 2, 4, 6, 7, 9, 10, 11]] * 2)

    def run(model, x, order):
        tokens = model.tokens(x, lengths)
        return model.context(tokens).frames, model.context(tokens, keep=order)

    whole, some = quick(model, run)(x, order)
    assert some.lengths.tolist() == [12, 9]
    np.testing.assert_allclose(some.frames[0], whole[0][order[0]], atol=1e-5)


def test_padding_changes_nothing_and_gradients_reach_table_and_gates():
    options = dict(size="tiny", positional_kernel=16, positional_groups=4, relative_buckets=8)
    model = Wav2Vec2(**options, rngs=nnx.Rngs(0))
    x, lengths = jax.random.normal(jax.random.key(1), [2, 2000]), jnp.asarray([2000, 1500])

    def run(model, x, lengths):
        loss = lambda model: (model(x, lengths, Context()).frames ** 2).sum()
        return model(x, lengths), nnx.grad(loss)(model)

    whole, grads = quick(model, run)(x, lengths)
    alone, _ = quick(model, run)(x[1:, :1500], lengths[1:])
    count = alone.frames.shape[1]
    np.testing.assert_allclose(whole.frames[1, :count], alone.frames[0], atol=1e-5)
    for grad in jax.tree.leaves(
        (grads.transformer.relative, grads.transformer.layers.attention.gate)
    ):
        assert np.any(np.asarray(grad))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(relative_buckets=5), "relative_buckets .*even number"),
        (dict(relative_buckets=320, relative_distance=80), "relative_distance .*exceed 80"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, words):
    with pytest.raises(UserError, match=words):
        Wav2Vec2.Options(**options)
