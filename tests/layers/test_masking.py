"""Span masks against the published rule, written out in NumPy and as transformers has it."""

from functools import cache, partial

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from sacjax.layers.masking import most_masked, span_mask

QUICK = {"xla_backend_optimization_level": "0"}  # compiling is most of a test's time


@cache
def drawer(size, **options):
    function = jax.vmap(partial(span_mask, size=size, **options), in_axes=(0, None))
    return jax.jit(function, compiler_options=QUICK)


def draw(length, size, draws=2000, seed=0, **options):
    """Returns so many masks, bool [draws, size], of a clip of `length` frames."""
    keys = jax.random.split(jax.random.key(seed), draws)
    return np.asarray(drawer(size, **options)(keys, jnp.int32(length)))


def runs(mask):
    """Returns the lengths of the runs of masked frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def published_rule(rng, length, probability, span, minimum):
    """fairseq's and transformers' mask of a clip: spans start at different frames."""
    count = max(int(probability * length + rng.uniform()), minimum)
    starts = length - span + 1
    mask = np.zeros(length, bool)
    for start in rng.choice(starts, min(count, starts), replace=False):
        mask[start : start + span] = True
    return mask


def alike(got, want):
    """Asserts that two samples have the same mean to 4 standard errors."""
    error = np.sqrt(got.var() / len(got) + want.var() / len(want))
    assert abs(got.mean() - want.mean()) < 4 * error + 1e-6, (got.mean(), want.mean(), error)


@pytest.mark.parametrize("exact", [False, True])
def test_never_in_padding(exact):
    for length in (0, 1, 4, 5, 20, 37, 40):
        masks = draw(length, 40, draws=300, probability=0.3, span=5, exact=exact)
        assert not masks[:, length:].any()
        assert masks[:, :length].any() == (
            length > exact
        )  # one frame is too few to leave one unmasked


@pytest.mark.parametrize("exact", [False, True])
@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(
    st.integers(0, 40), st.sampled_from([0.0, 0.065, 0.3, 1.0]), st.integers(0, 2**31)
)
def test_spans_of_any_clip_are_whole_inside_it_and_no_more_than_told(
    exact, length, probability, seed
):
    mask = draw(length, 40, 1, seed, probability=probability, span=5, exact=exact)[0]
    assert not mask[length:].any()
    assert mask.sum() <= most_masked(40, probability=probability, span=5, exact=exact)
    if length > exact:  # one frame is too few to leave one unmasked
        assert mask.any()
    if not exact:
        assert (runs(mask) >= min(5, length)).all()
    elif length > 10:  # to the frame, or the two spans that are drawn at the least
        assert mask.sum() == max(round(probability * length), 10)


@pytest.mark.parametrize(("length", "size"), [(40, 40), (33, 40)])
def test_so_many_spans_at_the_least(length, size):
    """Three spans of 4 mask 12 frames apart, and 6 where they overlap most; 0 adds no more."""
    masked = draw(length, size, probability=0.0, span=4, minimum=3).sum(-1)
    assert masked.min() >= 6 and masked.max() == 12
    assert not draw(length, size, probability=0.0, span=4, minimum=0).any()


def test_the_minimum_stops_where_there_is_no_room():
    """A clip one frame longer than a span has two frames to start at, which mask it whole."""
    assert draw(6, 20, draws=50, probability=0.0, span=5, minimum=7)[:, :6].all()


def test_one_span_starts_anywhere_with_the_same_probability():
    masks = draw(30, 40, draws=5000, probability=0.0, span=4, minimum=1)
    assert (masks.sum(-1) == 4).all() and all(len(runs(mask)) == 1 for mask in masks[:200])
    starts = np.bincount(masks.argmax(-1), minlength=27)
    assert len(starts) == 27  # 30 - 4 + 1
    assert scipy.stats.chisquare(starts).pvalue > 1e-4


def test_no_span_is_shorter_than_asked():
    masks = draw(60, 70, draws=300, probability=0.08, span=6)
    assert all(runs(mask).min() >= 6 for mask in masks)
    assert any(runs(mask).max() > 6 for mask in masks)  # they may overlap


def test_exact_cuts_one_span_alone():
    for mask in draw(60, 70, draws=300, probability=0.33, span=6, exact=True):
        assert (runs(mask) < 6).sum() <= 1


@pytest.mark.parametrize("length", [0, 1, 2, 7, 10])
def test_a_clip_no_longer_than_a_span_is_one(length):
    masks = draw(length, 30, draws=50, probability=0.065, span=10)
    assert masks[:, :length].all() and (masks.sum(-1) == length).all()


@pytest.mark.parametrize(
    ("length", "probability", "span", "minimum"),
    [(200, 0.065, 10, 2), (37, 0.075, 4, 2), (30, 0.01, 5, 2), (25, 0.11, 8, 0)],
)
def test_masked_share_as_the_published_rule(length, probability, span, minimum):
    rng = np.random.default_rng(0)
    got = draw(
        length, length + 13, draws=4000, probability=probability, span=span, minimum=minimum
    )[:, :length]
    want = np.stack([published_rule(rng, length, probability, span, minimum) for _ in range(4000)])
    alike(got.mean(-1), want.mean(-1))
    alike(got.mean(-1) ** 2, want.mean(-1) ** 2)  # and its spread
    for frame in (
        0,
        span // 2,
        length // 2,
        length - 1,
    ):  # the ends are masked less often than the middle
        alike(got[:, frame].astype(float), want[:, frame].astype(float))


def test_masked_share_as_transformers():
    pytest.importorskip("torch", reason="transformers' models need it")
    reference = pytest.importorskip(
        "transformers.models.wav2vec2.modeling_wav2vec2", reason="the reference"
    )
    np.random.seed(0)
    want = np.stack(
        [reference._compute_mask_indices((1, 120), 0.65, 10, min_masks=2)[0] for _ in range(1000)]
    )
    got = draw(120, 120, draws=4000, probability=0.065, span=10)
    alike(got.mean(-1), want.mean(-1))
    alike(got[:, 0].astype(float), want[:, 0].astype(float))


def test_base_masks_about_half_of_long_clips():
    """wav2vec 2.0, section 4.2: 49 % of all time steps of 15 s, with a mean span of 14.7 steps."""
    masks = draw(749, 749, draws=300, probability=0.065, span=10)
    assert abs(masks.mean() - 0.49) < 0.01
    assert abs(np.concatenate([runs(mask) for mask in masks]).mean() - 14.7) < 0.5


@pytest.mark.parametrize("share", [0.2, 0.33, 0.5, 0.81, 1.0])
def test_exact_masks_that_share_to_the_frame(share):
    for length in (31, 50, 64):
        masks = draw(length, 64, draws=200, probability=share, span=3, exact=True)
        assert set(masks.sum(-1)) == {max(round(share * length), 6)}  # two spans at the least


def test_exact_masks_every_frame_about_equally_often():
    """As far as the ends allow: the middle at the share or above, none never."""
    often = draw(40, 50, draws=4000, probability=0.5, span=4, exact=True)[:, :40].mean(0)
    assert often.mean() == pytest.approx(0.5, abs=1e-6)
    assert often[8:32].std() < 0.02 and often.min() > 0.1


@pytest.mark.parametrize("exact", [False, True])
def test_depends_on_key_and_length_but_not_on_padding(exact):
    options = dict(draws=64, probability=0.1, span=5, exact=exact)
    short, long = draw(50, 50, **options), draw(50, 83, **options)
    np.testing.assert_array_equal(short, long[:, :50])
    assert len(np.unique(short, axis=0)) > 60  # one mask a key
    assert (draw(49, 50, **options)[:, :49] != short[:, :49]).any()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("probability", "span", "minimum"), [(0.065, 10, 2), (0.3, 3, 2), (0.0, 4, 3), (0.01, 6, 0)]
)
def test_most_masked_bounds_clips_of_every_length(probability, span, minimum, exact):
    options = dict(probability=probability, span=span, minimum=minimum, exact=exact)
    bound = most_masked(60, **options)
    counts = np.stack(
        [draw(length, 60, draws=1000, **options).sum(-1) for length in (1, 2, 7, 30, 53, 59, 60)]
    )
    assert counts.max() <= bound <= 60
    if exact or not probability:
        assert counts.max() >= bound - 1  # no memory for frames that are never masked


def test_jit_and_vmap_change_nothing():
    keys, lengths = jax.random.split(jax.random.key(5), 4), [0, 3, 17, 24]
    options = dict(probability=0.12, span=4)
    together = jax.jit(jax.vmap(partial(span_mask, size=24, **options)))(keys, jnp.asarray(lengths))
    for key, length, mask in zip(keys, lengths, together, strict=True):
        np.testing.assert_array_equal(span_mask(key, jnp.int32(length), 24, **options), mask)
