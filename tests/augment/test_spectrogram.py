"""SpecAugment and the mixing of spectrograms.

Masks within their limits, each example its own, padding left alone. Run as a script
(`test_spectrogram.py out.npz`) it writes the results for a batch split over all devices.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sacjax import augment
from sacjax.augment import draws, spectrogram
from sacjax.errors import UserError

B, F, M = 8, 60, 20
LENGTHS = np.asarray([60, 40, 60, 30, 57, 11, 1, 0], np.int32)
MASK = np.asarray([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
ALL = [
    dict(name="frequency_mask", count=2, width=5),
    dict(name="time_mask", count=2, width=10, max_share=0.3, fill="mean"),
    dict(name="time_warp", width=6),
    dict(name="frequency_warp"),
    dict(name="mixup", alpha=1.0),
    dict(name="cutmix"),
]


def batch(beyond=0.0):
    x = np.random.default_rng(0).normal(5, 1, (B, F, M)).astype(np.float32)
    return np.where((np.arange(F) < LENGTHS[:, None])[..., None], x, np.float32(beyond))


@jax.jit
def fold(seed, rows):
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(rows)


def keys_of(seed=0, rows=range(B)):
    return fold(seed, np.asarray(rows))


@functools.cache
def compiled(specs):
    specs = json.loads(specs)
    return jax.jit(lambda *a: augment.apply(specs, *a, kind="spectrogram", sample_rate=16000))


def run(specs, x, keys, lengths=LENGTHS, mask=MASK):
    labels = np.eye(len(x), 10, dtype=np.float32)
    function = compiled(json.dumps(specs))
    return [
        np.asarray(a)
        for a in function(keys, x, np.asarray(lengths), labels, np.asarray(mask, np.float32))
    ]


def always(length=F, rows=800, **spec):
    """Ones [F, M], zero beyond `length`, under so many keys."""
    x = np.zeros((rows, F, M), np.float32)
    x[:, :length] = 1
    return run((spec,), x, keys_of(2, range(rows)), np.full(rows, length), np.ones(rows))[0]


def spans(masked):
    """Widths of the runs of True in each row of bool [N, places]."""
    edges = np.diff(np.pad(masked, ((0, 0), (1, 1))).astype(int), axis=1)
    return [np.flatnonzero(row == -1) - np.flatnonzero(row == 1) for row in edges]


@pytest.mark.parametrize("spec", ALL, ids=[s["name"] for s in ALL])
def test_what_lies_beyond_the_valid_frames_stays_and_does_not_matter(spec):
    x, lengths, labels = run((spec,), batch(beyond=7.0), keys_of())
    beyond = np.arange(F) >= LENGTHS[:, None]
    assert (x[beyond] == 7).all() and np.isfinite(x).all()
    np.testing.assert_array_equal(lengths, LENGTHS)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(
        np.where(beyond[..., None], 0, x), run((spec,), batch(), keys_of())[0]
    )
    assert np.abs(x - batch(beyond=7.0)).max() > 0.1


@pytest.mark.parametrize("spec", ALL[:3], ids=[s["name"] for s in ALL[:3]])
def test_examples_are_independent_and_follow_their_keys(spec):
    x = run((spec,), batch(), keys_of())[0]
    rows = np.asarray([5, 1, 3, 6, 0, 2, 4, 4])  # in another order, with another one among them
    other = batch()[rows]
    other[4] = 2 * batch()[2]
    other = run((spec,), other, keys_of(0, rows), LENGTHS[rows], MASK[rows])[0]
    same = np.arange(B) != 4
    np.testing.assert_array_equal(other[same], x[rows[same]])
    same = run((spec,), np.tile(batch()[:1], (B, 1, 1)), keys_of(), np.full(B, F))[0]
    assert len({row.tobytes() for row in same}) >= B - 2


def test_frequency_masks_are_whole_bands_within_their_width():
    masked = always(name="frequency_mask", count=1, width=5) == 0
    assert (masked.any(1) == masked.all(1)).all()  # in all frames
    widths = [w for row in spans(masked.any(1)) for w in row]
    assert set(widths) == {1, 2, 3, 4, 5} and len(widths) < 800  # width 0 is drawn too
    assert masked.any(1).any(0).all()  # every band gets its turn, those at the edges too
    several = [
        len(row) for row in spans((always(name="frequency_mask", count=3, width=2) == 0).any(1))
    ]
    assert max(several) == 3
    assert (always(name="frequency_mask", count=0) == 1).all()
    assert (always(name="frequency_mask", count=1, width=1000) >= 0).all()


@pytest.mark.parametrize(
    ("width", "max_share", "length", "widest"),
    [(8, 1.0, 60, 8), (30, 0.2, 60, 12), (30, 0.2, 25, 5)],
)
def test_time_masks_are_within_width_share_and_valid_frames(width, max_share, length, widest):
    masked = (
        always(name="time_mask", count=1, width=width, max_share=max_share, length=length)[
            :, :length
        ]
        == 0
    )
    assert (masked.any(2) == masked.all(2)).all()
    widths = [w for row in spans(masked.any(2)) for w in row]
    assert max(widths) == widest and min(widths) == 1
    assert masked.any(2).any(0).all()  # all valid frames get their turn, the last one too


def test_masks_are_filled_with_zero_or_the_mean_of_the_valid_frames():
    x = batch()
    y = run((dict(name="time_mask", width=5, count=1, fill="mean"),), x, keys_of())[0]
    z = run((dict(name="time_mask", width=5, count=1),), x, keys_of())[0]
    hit = 0
    for i, n in enumerate(LENGTHS[:6]):
        changed = z[i] != x[i]
        np.testing.assert_array_equal(z[i][changed], 0)
        np.testing.assert_allclose(y[i][changed], x[i, :n].mean(), rtol=1e-5)
        np.testing.assert_array_equal(y[i][~changed], x[i][~changed])
        hit += changed.any()
    assert hit > 2
    y = run((dict(name="frequency_mask", fill="mean"),), x, keys_of())[0]
    np.testing.assert_allclose(y[3][y[3] != x[3]], x[3, :30].mean(), rtol=1e-5)


@pytest.mark.parametrize("length", [60, 33, 12, 4, 2, 1])
def test_time_warp_is_monotonic_keeps_the_ends_and_moves_by_its_width_at_most(length):
    ramp = np.where(np.arange(F) < length, np.arange(F), 0)[:, None] * np.ones([F, M])
    x = np.tile(ramp, (100, 1, 1)).astype(np.float32)
    y = run(
        (dict(name="time_warp", width=6),),
        x,
        keys_of(3, range(100)),
        np.full(100, length),
        np.ones(100),
    )[0][..., 0]
    move = y[:, :length] - x[:, :length, 0]
    np.testing.assert_allclose(move[:, [0, length - 1]], 0, atol=1e-4)
    assert (np.diff(y[:, :length]) >= 0).all()
    most = min(6, max((length - 3) // 4, 0))
    assert np.abs(move).max() <= most + 1e-3
    if length == 60:
        assert np.abs(move).max() > 5 and move.max() > 1 and move.min() < -1
    assert (y[:, length:] == 0).all()


def test_time_warp_is_exact_in_ten_minutes():
    """120,000 frames that are 0 and 1 in turn: each tells how far between two it was read."""
    frames, key = 120_000, jax.random.key(0)
    x = jnp.asarray(np.arange(frames) % 2, jnp.float32)[:, None]
    warp = functools.partial(spectrogram.time_warp, sample_rate=48000, width=8)
    y, _ = jax.jit(warp)(key, x, jnp.asarray(frames))
    u = draws.scalars(key, 2)
    centre = 9 + int(draws.integer(u[0], frames - 18))
    target = centre + int(draws.integer(u[1], 17)) - 8
    assert centre != target
    source = np.interp(np.arange(frames), [0, target, frames - 1], [0, centre, frames - 1])
    expected = np.interp(source, np.arange(frames), np.arange(frames) % 2)
    np.testing.assert_allclose(y[:, 0], expected, atol=1e-5)


def test_probability_0_is_identity_and_dtype_is_kept():
    x = jnp.asarray(batch(beyond=2.0), jnp.bfloat16)
    for probability in (0.0, 1e-6):
        out = run([spec | {"probability": probability} for spec in ALL], x, keys_of())
        assert out[0].dtype == jnp.bfloat16
        np.testing.assert_array_equal(out[0], x)
        np.testing.assert_array_equal(out[2], np.eye(B, 10))
    hit = (always(rows=400, name="frequency_mask", count=4, width=16, probability=0.5) == 0).any(
        (1, 2)
    )
    assert 0.4 < hit.mean() < 0.6


def test_mixup_and_cutmix_of_spectrograms():
    x = batch()
    y, _, mixed = run((dict(name="mixup", alpha=1.0),), x, keys_of())
    z, _, cut = run((dict(name="cutmix"),), x, keys_of())
    for i in range(6):
        j = next(k for k in range(B) if k != i and mixed[i, k] > 0)
        np.testing.assert_allclose(
            y[i], (mixed[i, i] * x[i] + mixed[i, j] * x[j]) * (x[i] != 0), atol=1e-5
        )
        changed = (z[i] != x[i]).any(1)
        np.testing.assert_allclose(1 - cut[i, i], changed.sum() / LENGTHS[i], atol=1e-6)
    np.testing.assert_array_equal(y[7], x[7])


def test_gradients_pass_through():
    def loss(x):
        y, _, _ = augment.apply(
            ALL,
            keys_of(),
            x,
            jnp.asarray(LENGTHS),
            jnp.eye(B, 10),
            jnp.asarray(MASK),
            kind="spectrogram",
            sample_rate=16000,
        )
        return (y**2).sum()

    gradient = jax.jit(jax.grad(loss))(jnp.asarray(batch()))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def everything(keys, x, lengths, labels, mask):
    out = [
        augment.apply(
            (spec,), keys, x, lengths, labels, mask, kind="spectrogram", sample_rate=16000
        )
        for spec in ALL
    ]
    return out


def test_the_same_on_1_and_on_8_devices(tmp_path):
    from processes import run_python

    done = run_python(__file__, tmp_path / "out.npz", devices=8)
    assert done.returncode == 0, done.stderr
    there = np.load(tmp_path / "out.npz")
    here = [run((spec,), batch(), keys_of()) for spec in ALL]
    for k, (x, _, labels) in enumerate(here):
        np.testing.assert_allclose(there[f"x{k}"], x, atol=1e-5)
        np.testing.assert_allclose(there[f"labels{k}"], labels, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dict(name="resize_crop", canvas=0.5), "canvas is 0.5: it must be 1 or more"),
        (dict(name="frequency_warp", knee=2.0), "knee is 2.0: it must lie between 0 and 1"),
        (dict(name="linear_fade", max_change=float("nan")), "max_change is nan: .* finite"),
        (dict(name="time_masks"), r"augment.spectrogram.0.name: .*did you mean 'time_mask'\?"),
        (dict(name="gain"), "there is no augmentation 'gain'"),
        (
            dict(name="time_mask", widht=3),
            r"'time_mask' has no option 'widht'; did you mean 'width'\?",
        ),
        (dict(name="time_mask", width=3.5), "width is 3.5: expected int, such as 32"),
        (dict(name="time_mask", count=-1), "count is -1: it must not be negative"),
        (dict(name="time_mask", max_share=1.2), "max_share is 1.2"),
        (dict(name="time_mask", fill="noise"), "fill is 'noise'; choose one of zero, mean"),
        (dict(name="mixup", between_class=True), "between_class is for waveforms"),
    ],
)
def test_mistakes_in_the_config_are_told(spec, message):
    with pytest.raises(UserError, match=message):
        augment.check((spec,), "spectrogram")
    augment.check(ALL, "spectrogram")


if __name__ == "__main__":
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    assert jax.device_count() == 8
    rows = NamedSharding(
        jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data")
    )
    arrays = jax.device_put((batch(), LENGTHS, np.eye(B, 10, dtype=np.float32), MASK), rows)
    function = jax.jit(lambda *a: everything(keys_of(), *a), in_shardings=rows, out_shardings=rows)
    results = {
        f"{name}{k}": v
        for k, r in enumerate(function(*arrays))
        for name, v in zip(("x", "lengths", "labels"), r, strict=True)
    }
    np.savez(sys.argv[1], **results)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_frequency_warp_is_that_of_jaitly_and_hinton(factor):
    """G(f) of the paper, with S/2 the highest band and F_hi the knee, at the bands in between."""
    x = np.random.default_rng(0).normal(size=(5, 41)).astype(np.float32)
    warp = functools.partial(
        spectrogram.frequency_warp, sample_rate=1, low_factor=factor, high_factor=factor
    )
    ours, length = jax.jit(warp)(jax.random.key(0), x, 5)
    high, top = 0.8 * 40, 40.0
    f = np.linspace(0, top, 4001)
    knee = high * min(factor, 1) / factor
    above = top - (top - high * min(factor, 1)) / (top - knee) * (top - f)
    warped = np.where(f <= knee, f * factor, above)
    source = np.interp(np.arange(41), warped, f)
    expected = np.stack([np.interp(source, np.arange(41), row) for row in x])
    np.testing.assert_allclose(ours, expected, atol=2e-3)
    assert length == 5
