"""The wav2vec 2.0 encoder: lengths, padding, dropout, masks; agreement with transformers is in tests/convert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sacjax.errors import UserError
from sacjax.models import wav2vec2
from sacjax.models.wav2vec2 import Wav2Vec2

SMALL = dict(size="tiny", conv_channels=(16,) * 7, positional_kernel=16, positional_groups=4)


def small(**options):
    return Wav2Vec2(**(SMALL | options), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("size, millions", [("base", 94.37), ("large", 315.44)])
def test_published_sizes(size, millions):
    """As counted of `Wav2Vec2Model` in transformers with facebook/wav2vec2-base's and wav2vec2-large-lv60's configs."""
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
    model.eval()
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
    """The published models' behaviour, which fairseq 3227 reports: padding changes what a clip gives."""
    model = small(conv_norm="group", norm_padding="reference", normalize_input=False)
    model.eval()
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
        return jnp.square(
            model(x, jnp.array([300, 200]), rngs=nnx.Rngs(dropout=1)).frames[..., 0]
        ).sum()

    return quick(small(**FEW, **options), lambda model: nnx.grad(loss)(model))()


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_no_gradient(remat, quick):
    grads, other = gradient(quick), gradient(quick, remat=remat)
    for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_gradient_scale_is_of_the_convolutions_alone(quick):
    whole, tenth = gradient(quick), gradient(quick, feature_gradient_scale=0.1)
    for one, two in zip(
        jax.tree.leaves(whole["conv"]), jax.tree.leaves(tenth["conv"]), strict=True
    ):
        np.testing.assert_allclose(0.1 * one, two, rtol=1e-3, atol=1e-6)
    for one, two in zip(
        jax.tree.leaves(whole["layers"]), jax.tree.leaves(tenth["layers"]), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)


def test_hidden_states_are_each_layers_outputs(quick):
    """Layer k's output is what an encoder of k layers with the same parameters gives (post-norm: nothing comes after)."""
    options = dict(depth=3, pre_norm=False)
    model = small(**options)
    model.eval()
    x, n = (
        jnp.asarray(np.random.default_rng(0).standard_normal((1, 3000)), jnp.float32),
        jnp.array([3000]),
    )
    states = quick(model, lambda model: model(x, n, hidden_states=True).hidden_states)()
    assert states.shape[0] == 4
    for depth in (1, 2, 3):
        shorter = small(**(options | dict(depth=depth)))
        shorter.eval()
        state = nnx.state(model)
        state["layers"] = jax.tree.map(lambda leaf, depth=depth: leaf[:depth], state["layers"])
        nnx.update(shorter, state)
        out = quick(shorter, lambda shorter: shorter(x, n).frames)()
        np.testing.assert_allclose(states[depth], out, rtol=1e-4, atol=1e-5)


def test_layer_drop_leaves_whole_layers_out(quick):
    """With almost certain dropping the output is the Transformer's input; in evaluation nothing is dropped."""
    rates = dict(dropout=0.0, attention_dropout=0.0, projection_dropout=0.0)
    model = small(layer_drop=0.999999, pre_norm=False, **rates)
    x, n = (
        jnp.asarray(np.random.default_rng(0).standard_normal((1, 3000)), jnp.float32),
        jnp.array([3000]),
    )
    run = quick(
        model, lambda model, key: model(x, n, rngs=nnx.Rngs(dropout=key), hidden_states=True)
    )
    out = run(jax.random.key(0))
    np.testing.assert_allclose(out.frames, out.hidden_states[0], atol=1e-6)
    kept = quick(model, lambda model: model(x, n).frames)()
    assert np.abs(kept - out.frames).max() > 1e-3


def test_a_given_mask_replaces_frames_by_the_embedding(quick):
    """A masked frame's own sound does not matter any more."""
    model = small()
    model.eval()
    run = quick(model, lambda model, f, n, mask: model.contextualize(f, n, mask)[0].frames)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1, 12, 16)).astype(np.float32)
    other = features.copy()
    other[0, 3:6] = rng.standard_normal((3, 16))
    mask = np.zeros([1, 12], bool)
    lengths = jnp.array([12])
    assert np.abs(run(features, lengths, mask) - run(other, lengths, mask)).max() > 1e-3
    mask[0, 3:6] = True
    np.testing.assert_allclose(run(features, lengths, mask), run(other, lengths, mask), atol=1e-6)


def test_standardize_is_the_feature_extractors_normalization():
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    x = 0.1 + 0.3 * np.random.default_rng(0).standard_normal((2, 900)).astype(np.float32)
    x[1, 500:] = 0
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    wanted = extractor([x[0], x[1, :500]], sampling_rate=16000, padding=True, return_tensors="np")[
        "input_values"
    ]
    np.testing.assert_allclose(
        wav2vec2.standardize(jnp.asarray(x), jnp.array([900, 500])), wanted, atol=1e-5
    )


def test_grouped_convolution_is_that_of_xla():
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.standard_normal((2, 20, 12)).astype("f"),
        rng.standard_normal((6, 3, 8)).astype("f"),
    )
    wanted = jax.lax.conv_general_dilated(
        x, kernel, (1,), [(3, 2)], dimension_numbers=("NHC", "HIO", "NHC"), feature_group_count=4
    )
    np.testing.assert_allclose(
        wav2vec2.grouped_convolution(x, kernel, 4, 3, 2), wanted, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(size="bas"), "size is 'bas'.*base"),
        (dict(width=30), "width is 30: it must divide by the 2 heads|positional_groups"),
        (dict(heads=3), "it must divide by the 3 heads"),
        (dict(conv_kernels=(3, 3)), "lengths differ"),
        (dict(conv_norm="batch"), "choose group or layer"),
        (dict(norm_padding="none"), "choose valid or reference"),
        (dict(dropout=1.0), "dropout is 1.0"),
        (dict(remat="some"), "remat is 'some'"),
    ],
)
def test_bad_options_name_themselves(options, words):
    with pytest.raises(UserError, match=words):
        nnx.eval_shape(lambda: small(**options))
