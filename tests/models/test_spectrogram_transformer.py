"""The spectrogram Transformer, by PyTorch's convolution and formulas written out.

tests/convert/test_ast.py compares the whole with transformers' AST.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import count_draws

from sacjax import models
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.positional import sincos_grid
from sacjax.models.classifier import Classifier
from sacjax.models.spectrogram_transformer import SIZES, SpectrogramTransformer

SMALL = dict(width=16, depth=2, heads=2, mlp_width=32)
PATCHES = dict(patch_frames=4, patch_bands=4)
BANDS = 12


def small(num_features=BANDS, **options):
    options = SMALL | PATCHES | options
    return SpectrogramTransformer(num_features=num_features, rngs=nnx.Rngs(0), **options)


def sound(lengths, bands=BANDS, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal([len(lengths), max(lengths), bands]), jnp.float32)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(stride_frames=3, stride_bands=2, class_tokens=2, positions="learned", max_frames=40),
        dict(patch_frames=2, patch_bands=None, class_tokens=0, pre_norm=False),
        dict(output="class", class_tokens=2),
    ],
    ids=["patches", "overlap", "frames", "class"],
)
def test_padding_changes_nothing(options, quick):
    model, lengths = small(**options), np.array([24, 13, 3, 0])
    x = sound(lengths, seed=1)  # what lies beyond is noise
    run = quick(model, lambda model, x, n: model(x, n, hidden_states=True))
    together = run(x, jnp.asarray(lengths))
    alone = run(x[1:2, :13], jnp.asarray([13]))
    count = int(alone.lengths[0])
    assert int(together.lengths[1]) == count == alone.frames.shape[1]
    for all_, one in zip(together[::2], alone[::2], strict=True):
        np.testing.assert_allclose(all_[..., 1, :count, :], one[..., 0, :, :], rtol=0, atol=2e-6)
        assert not np.any(all_[..., 1, count:, :]) and not np.any(all_[..., 3, :, :])
    if "output" in options:
        assert together.lengths.tolist() == [2, 2, 2, 0]
    else:  # a clip that is shorter than a patch is one
        assert together.lengths[2] == model.bands * -(-3 // model.patch[0]) or model.patch[0] == 2
        assert together.lengths[3] == 0
        assert together.lengths.tolist() == model.frame_lengths(jnp.asarray(lengths)).tolist()


@pytest.mark.parametrize("stride", [None, 3])
def test_patches_are_embedded_as_by_a_convolution(stride):
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    model, x = small(stride_frames=stride, stride_bands=stride), sound([15])
    kernel = np.asarray(model.embed.kernel[...]).reshape(4, 4, 16)
    convolved = torch.nn.functional.conv2d(
        torch.tensor(np.asarray(x)[:, None]),
        torch.tensor(kernel.transpose(2, 0, 1)[:, None]),
        stride=stride or 4,
    )
    wanted = convolved.flatten(2).transpose(1, 2).numpy()  # time first, then bands
    found = model.embed(model.tokens(x, jnp.asarray([15])).features)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_positions_tell_band_and_time_by_sines():
    """MAE's formula: He et al. 2022; tests/objectives/test_masked_autoencoder.py has its values."""
    grid = sincos_grid(5, 3, 16)
    for column, band in ((0, 0), (4, 2), (3, 1)):
        angles = lambda place: place / 10000 ** (np.arange(4) / 4)
        parts = [f(angles(place)) for place in (band, column) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(grid[column, band], np.concatenate(parts), atol=1e-6)
    angles = np.arange(5)[:, None] / 10000 ** (np.arange(8) / 8)
    alone = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    np.testing.assert_allclose(sincos_grid(5, 1, 16)[:, 0], alone, atol=1e-6)


def test_keep_encodes_those_tokens_alone(quick):
    """Kept tokens are as a stack that has nothing else to attend to, in any order, with padding."""
    model, lengths = small(), jnp.asarray([16, 12])
    tokens = model.tokens(sound([16, 12]), lengths)
    keep = jnp.asarray([[7, 2, 11], [8, 1, 12]])  # clip 1 has 9 tokens: its 12 is padding

    def run(model, features, keep):
        kept = model.context(tokens._replace(features=features), keep=keep)
        positions = model._positions(12)[keep]
        inside = keep < tokens.lengths[:, None]
        x = model.embed(jnp.take_along_axis(features, keep[..., None], 1, mode="clip"))
        x, inside = model._with_classes(x + positions, inside)
        return kept, model.transformer(x, inside)[0][:, 1:]

    run = quick(model, run)
    kept, wanted = run(tokens.features, keep)
    np.testing.assert_allclose(kept.frames, wanted, atol=1e-6)
    assert kept.lengths.tolist() == [3, 2] and not np.any(kept.frames[1, 2])
    changed = tokens.features.at[:, 3].add(5.0)  # a token that is left out is not heard
    np.testing.assert_array_equal(run(changed, keep)[0].frames, kept.frames)
    shuffled, _ = run(tokens.features, keep[:, jnp.asarray([1, 0, 2])])
    np.testing.assert_allclose(
        shuffled.frames[:, :2], kept.frames[:, jnp.asarray([1, 0])], atol=1e-5
    )


def test_several_rows_of_keep_encode_a_clip_several_times(quick):
    model = small()
    tokens = model.tokens(sound([16, 12]), jnp.asarray([16, 12]))
    keep = jnp.asarray([[0, 1], [5, 9], [2, 3], [8, 20]])
    run = quick(model, lambda model, keep: model.encode(tokens, keep=keep))
    first, second = run(keep[::2]), run(keep[1::2])
    both = run(keep)
    for k, one in enumerate((first, second)):
        np.testing.assert_allclose(both.patches.frames[k::2], one.patches.frames, atol=1e-6)
        np.testing.assert_allclose(both.classes[k::2], one.classes, atol=1e-6)
    assert both.patches.lengths.tolist() == [2, 2, 2, 1]


def test_the_mask_hides_what_it_covers(quick):
    model, lengths = small(), jnp.asarray([16])
    x = sound([16])
    mask = jnp.zeros([1, 12], bool).at[0, 4].set(True)
    other = x.at[0, 4:8, 4:8].add(3.0)  # token 4: the second in time, the middle in frequency
    run = quick(model, lambda m, x, mask: m.context(m.tokens(x, lengths), mask=mask).frames)
    np.testing.assert_array_equal(run(x, mask), run(other, mask))
    nothing = jnp.zeros([1, 12], bool)
    assert np.abs(run(x, nothing) - run(other, nothing)).max() > 1e-3


def test_tokens_are_masked_in_training_alone_and_every_draw_has_a_key(quick):
    model = small(mask_probability=0.5)
    x, n = sound([16]), jnp.asarray([16])
    drawn = count_draws(
        lambda ctx: small(mask_probability=0.5, dropout=0.1, attention_dropout=0.1)(x, n, ctx)
    )
    assert drawn > 3
    run = quick(model, lambda m, key: (m(x, n, Context(key)).frames, m(x, n).frames))
    trained, still = run(jax.random.key(0))
    assert np.abs(trained - still).max() > 1e-3
    np.testing.assert_array_equal(still, run(jax.random.key(1))[1])


def test_normalize_is_that_of_mae():
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    patches = np.random.default_rng(0).normal(3, 2, [2, 5, 16]).astype(np.float32)
    x = torch.tensor(patches)
    wanted = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6) ** 0.5
    np.testing.assert_allclose(small().normalize(jnp.asarray(patches)), wanted, atol=1e-5)


@pytest.mark.parametrize(("size", "millions"), [("base", 86), ("small", 22), ("tiny", 5.4)])
def test_published_sizes(size, millions):
    """DeiT's, less their head over 1,000 classes and their embedding of three colours."""
    make = lambda: SpectrogramTransformer(size=size, num_features=128, rngs=nnx.Rngs(0))
    leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param))
    assert sum(leaf.size for leaf in leaves) / 1e6 == pytest.approx(millions, rel=0.03)
    assert SIZES["mini"].width % SIZES["mini"].heads == 0


def test_it_is_classified_like_any_encoder(check_gradients):
    for output, pooling in (("class", "mean"), ("frames", "mean_max")):
        encoder = small(output=output, class_tokens=2)
        model = Classifier(
            encoder, num_classes=3, pooling=pooling, layers="weighted", rngs=nnx.Rngs(1)
        )
        shape = jax.eval_shape(lambda m, x: m(x, jnp.asarray([16, 9])), model, sound([16, 9]))
        assert shape.shape == (2, 3)
    check_gradients(small(), (16,), (16, 9), (BANDS,))
    half = small(dtype=jnp.bfloat16)
    assert half(sound([16]), jnp.asarray([16])).frames.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(width=18, heads=4), "width is 18: 4 heads must divide it"),
        (dict(width=18, heads=3), "width is 18: 4 must divide it where positions=sincos"),
        (dict(output="class", class_tokens=0), "output is 'class': class needs class_tokens"),
        (dict(patch_frames=0), "patch_frames is 0: it must be positive"),
        (dict(positions="learned", max_frames=3), "max_frames is 3: it is below patch_frames 4"),
        (dict(mask_probability=1.5), "mask_probability is 1.5"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        small(**options)


def test_a_clip_beyond_the_learned_positions_is_one_line():
    model = small(positions="learned", max_frames=16)
    with pytest.raises(UserError, match="max_frames is 16: the input has more, 5 patches"):
        model(sound([20]), jnp.asarray([20]))
    assert models.ENCODERS["spectrogram_transformer"] is SpectrogramTransformer
