"""What the encoders of spectrogram frames share: tokens, streams, no leak from the future."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import count_draws

from sacjax import models
from sacjax.context import Context
from sacjax.errors import UserError

B, F, M = 2, 12, 4
X = jnp.asarray(np.random.default_rng(0).standard_normal((B, F, M)), jnp.float32)
FULL = jnp.full([B], F)
SIZES = {
    "gru": dict(width=8, layers=3),
    "causal_transformer": dict(width=8, depth=2, heads=2, mlp_width=12, memory=16),
}
NAMES = pytest.mark.parametrize("name", SIZES)


def make(name, dtype=jnp.float32, **options):
    kind = models.ENCODERS[name]
    return kind(num_features=M, dtype=dtype, rngs=nnx.Rngs(0), **(SIZES[name] | options))


@NAMES
def test_tokens_are_frames_side_by_side(name):
    model = make(name, stack=5)
    tokens = model.tokens(X, jnp.array([12, 6]))
    assert tokens.lengths.tolist() == [3, 2] and tokens.features.shape == (2, 3, 5 * M)
    np.testing.assert_array_equal(tokens.features[0, 1], np.ravel(X[0, 5:10]))
    np.testing.assert_array_equal(tokens.features[1, 1, M:], 0)  # frames 7 to 9 are padding
    np.testing.assert_array_equal(model.frames(tokens.features)[0, :12], X[0])
    assert model.normalize(tokens.features) is tokens.features


@NAMES
def test_a_stream_in_uneven_chunks_gives_what_the_whole_gives(name, quick):
    for stack, sizes in ((1, (1, 6, 2, 3)), (2, (2, 6, 4))):
        model = make(name, stack=stack)

        def run(model, sizes=sizes):
            state, chunks, at = model.start(B), [], 0
            for size in sizes:
                frames, state = model.stream(X[:, at : at + size], state)
                chunks.append(frames)
                at += size
            return jnp.concatenate(chunks, 1), model(X, FULL).frames

        streamed, whole = quick(model, run)()
        np.testing.assert_allclose(streamed, whole, atol=1e-5)
    with pytest.raises(UserError, match="3 frames does not divide by model.encoder.stack 2"):
        model.stream(X[:, :3], model.start(B))


@NAMES
def test_no_frame_hears_a_later_one(name, quick):
    """By the gradient of a frame with respect to the input; a causal=False encoder hears all."""
    options = [dict(), dict(causal=False)] if name == "causal_transformer" else [dict()]
    for causal, option in zip((True, False), options, strict=False):
        model = make(name, **option)
        assert model.causal == causal
        heard = lambda model, x: jnp.square(model(x, FULL).frames[:, 5]).sum(-1).sum()
        grads = quick(model, lambda model, heard=heard: jax.grad(heard, 1)(model, X))()
        assert (np.abs(grads).sum((0, 2)) > 0).tolist() == [f <= 5 or not causal for f in range(F)]
    if name == "causal_transformer":
        with pytest.raises(UserError, match="model.encoder.causal is False.*cannot stream"):
            model.start(B)


@NAMES
@pytest.mark.parametrize("stack", [1, 3])
def test_a_clip_gives_the_same_frames_alone_and_in_a_padded_batch(name, stack, check_padding):
    check_padding(make(name, stack=stack), size=(12,), lengths=(12, 7, 1), features=(M,))


def test_all_of_that_holds_for_the_bidirectional_form_too(check_padding):
    model = make("causal_transformer", causal=False)
    check_padding(model, size=(12,), lengths=(12, 7), features=(M,))


@NAMES
def test_gradients_are_finite_and_reach_every_parameter(name, check_gradients):
    check_gradients(make(name), size=(12,), lengths=(12, 3, 0), features=(M,))


@NAMES
def test_bfloat16_computes_in_it_and_keeps_float32_parameters(name, check_bfloat16):
    check_bfloat16(lambda dtype: make(name, dtype), size=(12,), features=(M,))


@NAMES
def test_a_mask_puts_the_embedding_and_kept_tokens_are_all_there_is(name, quick):
    model = make(name)
    mask = jnp.zeros([B, F], bool).at[:, 3:6].set(True)
    other = X.at[:, 3:6].add(1.0)
    keep = jnp.array([[0, 2, 20, 3, 7], [1, 20, 4, 5, 6]])  # 20: there is no such token

    def run(model):
        model.mask_embedding[...] = jnp.ones_like(model.mask_embedding[...])
        masked = [model.context(model.tokens(x, FULL), mask=mask).frames for x in (X, other)]
        tokens = model.tokens(X, jnp.array([12, 6]))
        kept = model.context(tokens, keep=keep)
        everything = jnp.tile(jnp.arange(F), [B, 1])
        return masked, kept, model.context(tokens, keep=everything), model.context(tokens)

    masked, kept, same, whole = quick(model, run)()
    np.testing.assert_allclose(masked[0], masked[1], atol=1e-6)
    assert np.abs(masked[0] - whole.frames).max() > 1e-3
    np.testing.assert_allclose(same.frames, whole.frames, atol=1e-6)
    assert same.lengths.tolist() == [12, 6] and kept.lengths.tolist() == [4, 3]
    np.testing.assert_array_equal(kept.frames[0, 2], 0)
    np.testing.assert_array_equal(kept.frames[1, [1, 4]], 0)
    assert np.abs(kept.frames[0, 3] - whole.frames[0, 3]).max() > 1e-4  # it did not hear token 1
    if name == "gru":  # which has no positions: as if the others had never been
        alone = quick(model, lambda model: model(X[:1, jnp.array([0, 2, 3, 7])], FULL[:1] - 8))()
        np.testing.assert_allclose(kept.frames[0, [0, 1, 3, 4]], alone.frames[0], atol=1e-5)


@NAMES
def test_states_are_those_of_the_stack(name, quick):
    model = make(name)
    output = quick(model, lambda model: model(X, jnp.array([12, 6]), hidden_states=True))()
    assert output.hidden_states.shape == (model.depth + 1, B, F, 8)
    if name == "gru":  # the other ends in a norm
        np.testing.assert_array_equal(output.hidden_states[-1], output.frames)
    assert not np.any(output.hidden_states[:, 1, 6:])


@pytest.mark.parametrize(
    "name, options, draws",
    [
        ("gru", dict(dropout=0.1), 2),  # after every layer but the last
        ("causal_transformer", dict(dropout=0.1, attention_dropout=0.1, layer_drop=0.1), 6),
    ],
)
def test_no_two_draws_share_a_key(name, options, draws):
    call = lambda ctx: make(name, **options)(X, FULL, ctx)
    assert count_draws(call) == draws
    assert count_draws(lambda ctx: make(name, dropout=0.0)(X, FULL, Context())) == 0


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("gru", dict(width=0), "model.encoder.width is 0: it must be positive"),
        ("gru", dict(layers=-1), "layers is -1"),
        ("gru", dict(dropout=1.0), "dropout is 1.0"),
        ("causal_transformer", dict(heads=3), "width is 8: 3 heads must divide it"),
        ("causal_transformer", dict(width=9, heads=3), "width is 9: sinusoidal positions"),
        ("causal_transformer", dict(size="bas"), "size is 'bas'.*base"),
        ("causal_transformer", dict(stack=0), "stack is 0"),
    ],
)
def test_bad_options_name_themselves(name, options, words):
    with pytest.raises(UserError, match=words):
        nnx.eval_shape(lambda: make(name, **options))
