"""The wav2vec 2.0 encoder; its agreement with transformers is in tests/convert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.norm import LayerNorm
from sacjax.models.base import Tokens
from sacjax.models.wav2vec2 import Wav2Vec2

SMALL = dict(size="tiny", conv_channels=(16,) * 7, positional_kernel=16, positional_groups=4)


def small(**options):
    return Wav2Vec2(**(SMALL | options), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("size, millions", [("base", 94.37), ("large", 315.44)])
def test_published_sizes(size, millions):
    """Those of `Wav2Vec2Model` with facebook/wav2vec2-base's and wav2vec2-large-lv60's configs."""
    model = nnx.eval_shape(lambda: Wav2Vec2(size=size, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) / 1e6 == pytest.approx(
        millions, abs=0.006
    )


@pytest.mark.parametrize(
    "samples, frames", [(48_000, 149), (16_000, 49), (400, 1), (719, 1), (720, 2), (250_000, 781)]
)
def test_frames_are_those_of_the_paper(samples, frames):
    """25 ms of receptive field, 20 ms apart."""
    model = nnx.eval_shape(small)
    assert int(model.frame_lengths(samples)) == frames == (samples - 400) // 320 + 1


def test_a_clip_shorter_than_the_receptive_field_is_one_frame_and_an_empty_one_none(quick):
    model = small()
    run = quick(model, lambda model, x, n: model(x, n))
    out = run(jnp.ones([3, 2000]), jnp.array([399, 1, 0]))
    assert out.lengths.tolist() == [1, 1, 0] and bool(jnp.isfinite(out.frames).all())
    assert not np.asarray(out.frames[2]).any() and not np.asarray(out.frames[0, 1:]).any()


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(conv_norm="group", conv_bias=False, pre_norm=False, normalize_input=False),
        dict(conv_norm="group", normalize_input=True),
        dict(positional_layers=3, positional_kernel=5),
        dict(projection_norm=False, positional_kernel=15),
    ],
)
def test_a_clip_gives_the_same_frames_alone_and_in_a_padded_batch(options, check_padding):
    check_padding(small(**options), size=(5000,), lengths=(5000, 2300, 350))


def test_reference_padding_lets_zeros_into_the_group_norm(quick):
    """As the published models do (fairseq 3227): padding changes what a clip gives."""
    model = small(conv_norm="group", norm_padding="reference", normalize_input=False)
    run = quick(model, lambda model, x, n: model(x, n).frames)
    x = np.random.default_rng(0).standard_normal((1, 3000)).astype(np.float32)
    alone = run(x, jnp.array([3000]))
    padded = run(np.pad(x, ((0, 0), (0, 3000))), jnp.array([3000]))
    assert np.abs(alone[0] - padded[0, : alone.shape[1]]).max() > 1e-2


def test_gradients_are_finite_and_reach_every_parameter(check_gradients):
    model = small(
        mask_probability=0.5,
        mask_span=2,
        mask_feature_probability=0.3,
        mask_feature_span=4,
        layer_drop=0.1,
    )
    check_gradients(model, size=(4000,), lengths=(4000, 700, 0))


def test_bfloat16_computes_in_it_and_keeps_float32_parameters(check_bfloat16):
    check_bfloat16(lambda dtype: Wav2Vec2(**SMALL, dtype=dtype, rngs=nnx.Rngs(0)), size=(4000,))


FEW = dict(conv_channels=(16,) * 2, conv_kernels=(10, 3), conv_strides=(5, 4))  # less to compile


def gradient(quick, **options):
    """Returns the gradient of a loss in training, on the same input and dropout."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 300)), jnp.float32)

    def loss(model):
        frames = model(x, jnp.array([300, 200]), Context(jax.random.key(1))).frames
        return jnp.square(frames[..., 0]).sum()

    return quick(small(**FEW, **options), lambda model: nnx.grad(loss)(model))()


def test_gradient_scale_is_of_the_convolutions_alone(quick):
    whole, tenth = gradient(quick), gradient(quick, feature_gradient_scale=0.1)
    for one, two in zip(
        jax.tree.leaves(whole["conv"]), jax.tree.leaves(tenth["conv"]), strict=True
    ):
        np.testing.assert_allclose(0.1 * one, two, rtol=1e-3, atol=1e-6)
    for one, two in zip(
        jax.tree.leaves(whole["transformer"]), jax.tree.leaves(tenth["transformer"]), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)


def test_a_given_mask_replaces_frames_by_the_embedding(quick):
    """A masked frame's own sound does not matter any more."""
    model = small()
    run = quick(model, lambda model, f, n, mask: model.context(Tokens(f, n), mask=mask).frames)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, 12, 16)).astype(np.float32)
    other = features.copy()
    other[0, 3:6] = rng.standard_normal((3, 16))
    mask = np.zeros([1, 12], bool)
    lengths = jnp.array([12])
    assert np.abs(run(features, lengths, mask) - run(other, lengths, mask)).max() > 1e-3
    mask[0, 3:6] = True
    np.testing.assert_allclose(run(features, lengths, mask), run(other, lengths, mask), atol=1e-6)


def tokens_of(model, samples=(3000, 1700)):
    """Returns the tokens of noise, clips of so many samples."""
    x = np.random.default_rng(0).standard_normal((len(samples), max(samples)))
    return model.tokens(jnp.asarray(x, jnp.float32), jnp.asarray(samples))


@pytest.mark.parametrize("pre_norm", [True, False])
def test_tokens_and_context_are_the_encoder(pre_norm, quick):
    model = small(pre_norm=pre_norm)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3000)), jnp.float32)
    n = jnp.array([3000, 2000])

    def both(model):
        tokens = model.tokens(x, n)
        return tokens, model.context(tokens), model(x, n)

    tokens, parts, whole = quick(model, both)()
    assert tokens.features.shape == (2, 9, model.token_features) == (2, 9, 16)
    np.testing.assert_array_equal(parts.frames, whole.frames)
    np.testing.assert_array_equal(tokens.lengths, whole.lengths)


def test_normalize_is_the_projections_layer_norm_or_nothing():
    features = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 16)), jnp.float32)
    model, norm = small(), LayerNorm(16, dtype=jnp.float32, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(model.normalize(features), norm(features))
    assert small(projection_norm=False).normalize(features) is features


@pytest.mark.parametrize("pre_norm", [True, False])
def test_keeping_all_tokens_changes_nothing(pre_norm, quick):
    model = small(pre_norm=pre_norm)

    def both(model):
        tokens = tokens_of(model)
        everything = jnp.tile(jnp.arange(9), [2, 1])
        whole = model.context(tokens, hidden_states=True)
        return whole, model.context(tokens, keep=everything, hidden_states=True)

    whole, kept = quick(model, both)()
    np.testing.assert_array_equal(whole.lengths, kept.lengths)
    np.testing.assert_allclose(whole.frames, kept.frames, atol=1e-6)
    np.testing.assert_allclose(whole.hidden_states, kept.hidden_states, atol=1e-6)


def test_kept_tokens_have_their_positions_and_attend_to_each_other_alone(quick):
    """As if the others could not be attended to; a number beyond the clip's length is padding."""
    model = small()  # pre-norm: its first state is the tokens with their positions
    keep = np.array([[0, 2, 3, 7, 9], [4, 1, 5, 99, 2]])  # of 9 and 5 tokens

    def both(model):
        tokens = tokens_of(model)
        states = model.context(tokens, hidden_states=True).hidden_states
        seen = (jnp.arange(9) == keep[..., None]).any(1) & (jnp.arange(9) < tokens.lengths[:, None])
        reference = model.transformer(states[0], seen)[0]
        return tokens.lengths, reference, model.context(tokens, keep=jnp.asarray(keep))

    lengths, reference, (frames, counts, _) = quick(model, both)()
    assert lengths.tolist() == [9, 5] and counts.tolist() == [4, 4 - 1]
    for clip in range(2):
        for k, number in enumerate(keep[clip]):
            want = reference[clip, number] if number < lengths[clip] else np.zeros(32)
            np.testing.assert_allclose(frames[clip, k], want, rtol=1e-4, atol=1e-5)


def test_kept_tokens_alone_are_those_of_a_clip_that_has_no_others(quick):
    """With positions that see one token, nothing of the others is left."""
    model = small(positional_kernel=1)
    keep = jnp.array([[1, 4, 6], [0, 2, 3]])

    def both(model):
        tokens = tokens_of(model)
        few = jnp.take_along_axis(tokens.features, keep[..., None], 1)
        alone = Tokens(few, jnp.array([3, 3]))
        return model.context(tokens, keep=keep), model.context(alone)

    kept, alone = quick(model, both)()
    np.testing.assert_allclose(kept.frames, alone.frames, rtol=1e-4, atol=1e-5)


def test_spans_are_masked_in_training_where_no_mask_is_given(quick):
    """SpecAugment: at a share of 1 hardly a token is heard any more; a given mask replaces it."""
    rates = dict(dropout=0.0, attention_dropout=0.0, projection_dropout=0.0)
    model = small(mask_probability=1.0, mask_span=9, **rates)
    key = jax.random.key(0)

    def run(model):
        tokens = tokens_of(model)
        silent = tokens._replace(features=jnp.zeros_like(tokens.features))
        ctx, none = Context(key), jnp.zeros([2, 9], bool)
        contexts = (model.context(t, ctx) for t in (tokens, silent))
        return *contexts, model.context(tokens, ctx, mask=none), model.context(tokens)

    heard, silent, unmasked, still = (out.frames for out in quick(model, run)())
    np.testing.assert_allclose(heard, silent, atol=1e-6)
    np.testing.assert_allclose(unmasked, still, rtol=1e-4, atol=1e-5)
    assert np.abs(heard - still).max() > 1e-2


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(size="bas"), "size is 'bas'.*base"),
        (dict(width=30), "positional_groups is 4: it must divide the width 30"),
        (dict(heads=3), "width is 32: 3 heads must divide it"),
        (dict(conv_kernels=(3, 3)), "lengths differ"),
        (dict(conv_norm="batch"), "conv_norm is 'batch': choose one of group, layer"),
        (dict(norm_padding="none"), "norm_padding is 'none': choose one of valid, reference"),
        (dict(dropout=1.0), "dropout is 1.0"),
        (dict(remat="some"), "remat is 'some'"),
        (dict(conv_channels=()), "conv_channels is .*: give positive numbers"),
        (dict(conv_strides=(5, 0)), "conv_strides is .*: give positive numbers"),
        (dict(depth=0), "depth is 0: it must be positive"),
        (dict(mask_probability=1.5), "mask_probability is 1.5: it must lie between 0 and 1"),
    ],
)
def test_bad_options_name_themselves(options, words):
    with pytest.raises(UserError, match=words):
        nnx.eval_shape(lambda: small(**options))
