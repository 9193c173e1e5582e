"""Mockingjay's and TERA's alterations: worked values, and s3prl's by distribution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sacjax.augment.alteration import add_noise, alter_time, draw_band, draw_spans

F, M, SPAN = 100, 20, 7
KEYS = jax.random.split(jax.random.key(0), 3000)
X = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (F, M)), jnp.float32)


def s3prls(length, draws=3000):
    """Returns s3prl's task.py by NumPy: masked frames [draws, length], bands [draws, M], dice."""
    rng, frames, bands = np.random.default_rng(0), np.zeros([draws, length]), np.zeros([draws, M])
    for k in range(draws):
        room = max(length - SPAN - 1, 0) + 1
        starts = rng.permutation(room)[: round(length * 0.15 / SPAN)]
        for start in starts:
            frames[k, start : start + SPAN] = 1
        width = rng.integers(0, int(M * 0.2) + 1)
        start = rng.permutation(M - width)[:1]
        bands[k, start[0] : start[0] + width] = 1
    return frames, bands


@pytest.fixture(scope="module")
def spans():
    draw = jax.jit(jax.vmap(partial(draw_spans, size=F, share=0.15, span=SPAN), (0, None)))
    return {length: draw(KEYS, jnp.asarray(length)) for length in (F, 60, 5, 0)}


@pytest.mark.parametrize("length", [F, 60])
def test_spans_are_s3prls_by_distribution(spans, length):
    """Its last start is one frame earlier, so that a clip's last frame is never masked there."""
    chosen = np.asarray(spans[length].chosen)
    assert not chosen[:, length:].any()
    frames, _ = s3prls(length)
    np.testing.assert_allclose(chosen[:, :length].mean(0), frames.mean(0), atol=0.04)
    ours, theirs = (x.sum(1) for x in (chosen, frames))  # masked frames of a clip
    assert ours.mean() == pytest.approx(theirs.mean(), rel=0.02)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.1)
    assert ours.max() == round(0.15 * length / SPAN) * SPAN == theirs.max()


def test_spans_have_their_length_and_a_short_clip_is_one(spans):
    for row in np.asarray(spans[60].chosen)[:50]:  # one span
        (places,) = np.nonzero(row)
        assert len(places) == SPAN and places[-1] - places[0] == SPAN - 1
    assert np.asarray(spans[5].chosen).sum(1).tolist() == [5] * len(KEYS)
    assert not np.asarray(spans[0].chosen).any()


def test_the_other_span_is_as_long_and_lies_anywhere(spans):
    chosen, source = (np.asarray(x) for x in spans[60])
    firsts = []
    for row, frames in zip(chosen, source, strict=True):
        (places,) = np.nonzero(row)
        assert np.diff(frames[places]).tolist() == [1] * (SPAN - 1)
        firsts.append(frames[places[0]])
    assert min(firsts) == 0 and max(firsts) == 60 - SPAN
    assert np.mean(firsts) == pytest.approx((60 - SPAN) / 2, abs=1)


def test_spans_become_zeros_or_other_spans_or_stay():
    """80 %, 10 % and 10 % of clips, each whole; what is not chosen stays."""
    draw = partial(alter_time, share=0.15, span=SPAN, zero=0.8, swap=0.1)
    altered, chosen = jax.jit(jax.vmap(draw, (0, None, None)))(KEYS, X, jnp.asarray(60))
    altered, chosen, kinds = np.asarray(altered), np.asarray(chosen), []
    x = np.asarray(X)
    for y, mask in zip(altered, chosen, strict=True):
        np.testing.assert_array_equal(y[~mask], x[~mask])
        if not y[mask].any():
            kinds.append("zero")
        elif np.array_equal(y[mask], x[mask]):
            kinds.append("stay")
        else:
            kinds.append("swap")
            start = int(np.argmin(np.abs(x[:60] - y[mask][0]).sum(-1)))
            np.testing.assert_array_equal(y[mask], x[start : start + SPAN])
    shares = [kinds.count(kind) / len(kinds) for kind in ("zero", "swap", "stay")]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)


def test_bands_are_s3prls_by_distribution():
    """Its blocks never reach the highest band, ours do."""
    bands = np.asarray(jax.jit(jax.vmap(lambda key: draw_band(key, M, 0.2)))(KEYS))
    _, theirs = s3prls(F)
    widths = bands.sum(1)
    np.testing.assert_allclose(np.bincount(widths) / len(KEYS), 1 / 5, atol=0.03)
    np.testing.assert_allclose(bands.mean(0)[:-3], theirs.mean(0)[:-3], atol=0.04)
    assert bands[:, -1].any() and not theirs[:, -1].any()
    for row in bands[:50]:
        (places,) = np.nonzero(row)
        assert len(places) == 0 or places[-1] - places[0] == len(places) - 1


def test_noise_has_its_deviation_and_its_probability():
    noisy = jax.jit(jax.vmap(lambda key: add_noise(key, X, probability=0.3, std=0.2)))(KEYS[:400])
    added = np.asarray(noisy - X)
    with_noise = np.abs(added).max((1, 2)) > 0
    assert with_noise.mean() == pytest.approx(0.3, abs=0.07)
    assert added[with_noise].std() == pytest.approx(0.2, rel=0.01)


def test_s3prls_own_function_draws_as_written_out_here():
    task = pytest.importorskip("s3prl.pretrain.mockingjay.task", reason="s3prl is the reference")
    torch = pytest.importorskip("torch", reason="torch is the reference")
    options = dict(
        position_encoding_size=8,
        mask_proportion=0.15,
        mask_frequency=0.2,
        noise_proportion=0.0,
        mask_consecutive_min=SPAN,
        mask_consecutive_max=SPAN,
        mask_allow_overlap=True,
        mask_bucket_ratio=1.5,
    )
    torch.manual_seed(0)
    clips = torch.tensor(np.array(X)).expand(3000, F, M).clone()
    label = task.generate_masked_acoustic_model_data((clips,), options)[2].numpy()
    frames, bands = s3prls(F)
    np.testing.assert_allclose(label.all(2).mean(0), frames.mean(0), atol=0.04)
    np.testing.assert_allclose(label.all(1).mean(0), bands.mean(0), atol=0.04)
