"""Augmentations of audio: what they do is measured.

Whom they touch, and that keys alone decide, is checked for each. Run as a script (`test_waveform.py
out.npz`) it writes the results of all of them for a batch split over all devices.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile as sf

from sacjax import augment
from sacjax.augment import mixing, sounds, waveform
from sacjax.errors import UserError

RATE, T, B = 8000, 4000, 8
LENGTHS = np.asarray([4000, 3000, 4000, 2500, 3777, 1000, 1, 0], np.int32)
MASK = np.asarray([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
ALL = [
    dict(name="gain"),
    dict(name="polarity", probability=0.5),
    dict(name="shift"),
    dict(name="shift", circular=False, max_share=0.3),
    dict(name="noise"),
    dict(name="noise", low_exponent=1.0, high_exponent=2.0),
    dict(name="reverb", high_t60=0.2),
    dict(name="speed", low_factor=0.8, high_factor=1.25),
    dict(name="pitch"),
    dict(name="mixup", alpha=1.0),
    dict(name="mixup", alpha=1.0, between_class=True),
    dict(name="cutmix", probability=0.8),
]
IDS = [" ".join(map(str, spec.values())) for spec in ALL]
ALONE = [spec for spec in ALL if spec["name"] not in ("mixup", "cutmix")]


def batch(seed=0, beyond=0.0):
    """Float32 [B, T]: noise and a tone each, `beyond` after the valid length."""
    rng = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * rng.uniform(200, 1000, (B, 1)) * np.arange(T) / RATE)
    x = (0.05 * rng.standard_normal((B, T)) + 0.2 * tone).astype(np.float32)
    return np.where(np.arange(T) < LENGTHS[:, None], x, np.float32(beyond))


@jax.jit
def fold(seed, rows):
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(rows)


def keys_of(seed=0, rows=range(B)):
    return fold(seed, np.asarray(rows))


@functools.cache
def compiled(specs, sample_rate):
    specs = json.loads(specs)
    return jax.jit(lambda *a: augment.apply(specs, *a, kind="waveform", sample_rate=sample_rate))


def run(specs, x, keys, lengths=LENGTHS, labels=None, mask=MASK, sample_rate=RATE):
    labels = np.eye(len(x), 10, dtype=np.float32) if labels is None else labels
    function = compiled(json.dumps(specs), sample_rate)
    return [
        np.asarray(a)
        for a in function(keys, x, np.asarray(lengths), labels, np.asarray(mask, np.float32))
    ]


def always(name, x, rows=16, length=None, sample_rate=RATE, **options):
    """The same clip [T] augmented under so many keys: (results [rows, T], lengths [rows])."""
    lengths = np.full(rows, len(x) if length is None else length, np.int32)
    out = run(
        (dict(name=name, **options),),
        np.tile(x, (rows, 1)),
        keys_of(1, range(rows)),
        lengths,
        mask=np.ones(rows),
        sample_rate=sample_rate,
    )
    return out[0], out[1]


def power(x):
    return (x.astype(np.float64) ** 2).mean(-1)


@pytest.mark.parametrize("spec", ALL, ids=IDS)
def test_what_lies_beyond_the_valid_length_stays_and_does_not_matter(spec):
    x, lengths, labels = run((spec,), batch(beyond=7.0), keys_of())
    beyond = np.arange(T) >= LENGTHS[:, None]
    assert (x[beyond] == 7).all()
    assert (
        (lengths <= LENGTHS).all()
        and (lengths >= np.minimum(LENGTHS, 1)).all()
        and lengths.dtype == np.int32
    )
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    assert (
        np.isfinite(x).all() and np.abs(x[:6] - batch(beyond=7.0)[:6]).max() > 0.01
    )  # it does something
    clean = run((spec,), batch(), keys_of())
    np.testing.assert_array_equal(np.where(beyond, 0, x), clean[0])
    np.testing.assert_array_equal(lengths, clean[1])


@pytest.mark.parametrize("spec", ALONE, ids=IDS[: len(ALONE)])
def test_examples_are_independent_and_follow_their_keys(spec):
    x, lengths, _ = run((spec,), batch(), keys_of())
    rows = np.asarray([5, 1, 3, 6, 0, 2, 4, 4])  # in another order, with another one among them
    other = batch()[rows]
    other[4] = 0.5 * batch(1)[0]
    other, other_lengths, _ = run((spec,), other, keys_of(0, rows), LENGTHS[rows], mask=MASK[rows])
    same = np.arange(B) != 4
    np.testing.assert_array_equal(other[same], x[rows[same]])
    np.testing.assert_array_equal(other_lengths, lengths[rows])
    same, _, _ = run((spec,), np.tile(batch()[:1], (B, 1)), keys_of(), np.full(B, T))
    assert len({row.tobytes() for row in same}) > (1 if spec["name"] == "polarity" else B - 2)
    assert np.abs(run((spec,), batch(), keys_of(1))[0] - x).max() > 0.01


def test_place_in_the_list_changes_the_draw():
    gain = dict(name="gain")
    once, twice = run((gain,), batch(), keys_of())[0], run((gain, gain), batch(), keys_of())[0]
    first, second = once[:4, 5] / batch()[:4, 5], twice[:4, 5] / once[:4, 5]
    assert np.abs(first / second - 1).min() > 1e-3


def test_probability_0_is_identity_and_a_half_is_half():
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(batch(beyond=3.0), dtype)
        out = run([spec | {"probability": 0.0} for spec in ALL], x, keys_of())
        assert out[0].dtype == dtype
        np.testing.assert_array_equal(out[0], x)
        np.testing.assert_array_equal(out[1], LENGTHS)
        np.testing.assert_array_equal(out[2], np.eye(B, 10))
    flipped = always("polarity", np.ones(2, np.float32), rows=400, probability=0.25)[0][:, 0]
    assert set(flipped) == {1, -1} and 0.17 < (flipped == -1).mean() < 0.33
    some = [
        spec | {"probability": 1e-6}
        for spec in ALL
        if spec["name"] in ("gain", "shift", "speed", "mixup", "cutmix")
    ]
    rare = run(some, batch(beyond=3.0), keys_of())  # drawn, and not chosen
    np.testing.assert_array_equal(rare[0], batch(beyond=3.0))
    np.testing.assert_array_equal(rare[2], np.eye(B, 10))


def test_dtype_is_kept_and_the_work_done_in_float32():
    x = jnp.asarray(batch(), jnp.bfloat16)
    ours = run((dict(name="gain"), dict(name="noise")), x, keys_of())[0]
    wide = run((dict(name="gain"), dict(name="noise")), x.astype(jnp.float32), keys_of())[0]
    assert ours.dtype == jnp.bfloat16 and wide.dtype == np.float32
    np.testing.assert_array_equal(ours, jnp.asarray(wide, jnp.bfloat16))


def test_gain_is_within_its_decibels():
    x = batch()[0]
    db = 10 * np.log10(power(always("gain", x, rows=64, low_db=-12.0, high_db=3.0)[0]) / power(x))
    assert db.min() >= -12.01 and db.max() <= 3.01 and db.min() < -9 and db.max() > 1


@pytest.mark.parametrize("length", [T, 2999])
def test_shift_is_numpys_roll_within_the_valid_part(length):
    x = batch()[0] * (np.arange(T) < length)
    seen = []
    for circular in (True, False):
        for y in always("shift", x, rows=24, length=length, circular=circular, max_share=0.25)[0]:
            spectrum = np.fft.rfft(y[:length]) * np.fft.rfft(x[:length]).conj()
            step = int(np.fft.irfft(spectrum, length).argmax())
            step -= length * (step > length // 2)
            expected = np.roll(x[:length], step)
            if not circular:
                expected[step:] = expected[step:] if step >= 0 else 0
                expected[: max(step, 0)] = 0
            np.testing.assert_array_equal(y[:length], expected)
            seen.append(step / length)
    assert -0.25 <= min(seen) < -0.15 and 0.15 < max(seen) <= 0.25


@pytest.mark.parametrize("exponents", [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0), (-1.0, -1.0)])
def test_noise_has_the_snr_and_the_colour_asked_for(exponents):
    length = 16000
    x = np.sin(np.arange(20000)).astype(np.float32) * (np.arange(20000) < length)
    options = dict(
        low_snr_db=10.0, high_snr_db=10.0, low_exponent=exponents[0], high_exponent=exponents[1]
    )
    added = (always("noise", x, length=length, **options)[0] - x)[:, :length]
    np.testing.assert_allclose(10 * np.log10(power(x[:length]) / power(added)), 10, atol=0.01)
    spectrum = (np.abs(np.fft.rfft(added * np.hanning(length))) ** 2).mean(0)
    frequency = np.arange(len(spectrum))
    inside = (frequency > 100) & (frequency < 7000)
    slope = np.polyfit(np.log(frequency[inside]), np.log(spectrum[inside]), 1)[0]
    assert abs(slope + exponents[0]) < 0.1
    ratios = 10 * np.log10(
        power(x[:length]) / power((always("noise", x, length=length)[0] - x)[:, :length])
    )
    assert ratios.min() >= 4.99 and ratios.max() <= 30.01 and np.ptp(ratios) > 10


def test_noise_leaves_silence_alone():
    assert (always("noise", np.zeros(T, np.float32))[0] == 0).all()


def test_noise_from_a_folder(tmp_path):
    """Each stretch comes from the files, resampled; the level is that asked for."""
    (tmp_path / "sub").mkdir()
    time = np.arange(32000) / 16000
    sf.write(tmp_path / "low.wav", 0.5 * np.sin(2 * np.pi * 300 * time), 16000)
    sf.write(tmp_path / "sub" / "high.flac", 0.01 * np.sin(2 * np.pi * 2000 * time), 16000)
    (tmp_path / "notes.txt").write_text("not audio")
    augment.check((dict(name="noise", folder=str(tmp_path)),), "waveform")
    x = batch()[0]
    added = always("noise", x, folder=str(tmp_path), low_snr_db=20.0, high_snr_db=20.0)[0] - x
    np.testing.assert_allclose(10 * np.log10(power(x) / power(added)), 20, atol=0.1)
    spectrum = np.abs(np.fft.rfft(added)) ** 2  # 2 Hz a bin
    share = (spectrum[:, 140:161].sum(1) + spectrum[:, 990:1011].sum(1)) / spectrum.sum(1)
    assert (share > 0.9).all()
    assert {140 <= peak <= 160 for peak in spectrum.argmax(1)} == {True, False}
    assert sounds.pool(str(tmp_path), RATE, 50000).shape[0] >= 50000  # shorter folders are repeated


def test_reverb_keeps_power_and_decays_as_asked():
    x = np.zeros(T, np.float32)
    x[0] = 1.0
    y, _ = always("reverb", x, rows=8, low_t60=0.3, high_t60=0.3, low_drr_db=0.0, high_drr_db=0.0)
    np.testing.assert_allclose(power(y), power(x), rtol=1e-3)
    np.testing.assert_allclose(10 * np.log10(y[:, 0] ** 2 / (y[:, 1:] ** 2).sum(1)), 0, atol=0.1)
    energy = (y[:, 1:] ** 2).mean(0)
    level = 10 * np.log10(energy[: 2400 // 100 * 100].reshape(-1, 100).mean(1))  # 12.5 ms each
    slope = np.polyfit(np.arange(20) * 100 / RATE, level[:20], 1)[0]
    np.testing.assert_allclose(slope, -60 / 0.3, rtol=0.1)


def test_reverb_from_a_folder_is_a_convolution(tmp_path):
    rng = np.random.default_rng(0)
    response = np.concatenate([np.zeros(50), [0.9], 0.1 * rng.standard_normal(300)])
    sf.write(tmp_path / "room.wav", response, RATE, subtype="FLOAT")
    x = batch()[0]
    y, _ = always("reverb", x, rows=2, folder=str(tmp_path))
    expected = np.convolve(x, response[50:])[:T]  # from its peak on: the sound does not come later
    np.testing.assert_allclose(y[0], expected * np.sqrt(power(x) / power(expected)), atol=1e-4)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_speed_moves_tones_and_lengths(factor):
    x = np.sin(2 * np.pi * 500 * np.arange(T) / RATE).astype(np.float32)
    y, lengths = always("speed", x, rows=1, low_factor=factor, high_factor=factor)
    factor = round(factor * waveform.STEPS) / waveform.STEPS
    expected = np.sin(2 * np.pi * 500 * factor * np.arange(T) / RATE)
    assert lengths[0] == (np.ceil(T / factor) if factor > 1 else T)
    np.testing.assert_allclose(
        y[0, 200 : lengths[0] - 200], expected[200 : lengths[0] - 200], atol=5e-3
    )
    assert (y[0, lengths[0] :] == 0).all()


@pytest.mark.parametrize("step", [1843, 2047, 2049, 2253, 4097])
def test_positions_are_exact_in_ten_minutes_at_48_khz(step):
    """As Python's whole numbers have them; the sound is oversampled OVERSAMPLE times."""
    time = [0, 1, 511, 512, 4_201_513, *range(28_800_000 - 600, 28_800_000)]
    place, share = waveform._position(jnp.asarray(time, jnp.int32), jnp.int32(step))
    part = waveform.STEPS // waveform.OVERSAMPLE
    assert place.tolist() == [t * step // part for t in time]
    assert share.tolist() == [t * step % part / part for t in time]


def test_lengths_are_exact_in_ten_minutes_at_48_khz():
    factor, lengths = 1.1, [28_799_999, 28_800_000, 16_777_217, 1, 0]
    key, x = jax.random.key(0), jnp.zeros(16)
    change = lambda n: waveform.speed(
        key, x, n, sample_rate=48000, low_factor=factor, high_factor=factor
    )
    _, got = jax.jit(jax.vmap(change))(jnp.asarray(lengths, jnp.int32))
    step = round(factor * waveform.STEPS)
    assert got.tolist() == [-(-n * waveform.STEPS // step) for n in lengths]


def test_speed_keeps_a_tone_to_the_end_of_100_seconds():
    """Products of int32 overflowed from second 95 on: other parts of the clip were heard."""
    size, factor = 4_410_000, 2047 / 2048
    t = np.arange(size)
    x = np.sin(2 * np.pi * (440 * t / 44100 % 1)).astype(np.float32)
    y = np.asarray(jax.jit(functools.partial(waveform._resample, size=size))(x, factor))
    expected = np.sin(2 * np.pi * (440 * factor * t / 44100 % 1))
    np.testing.assert_allclose(y[-100_000:-1000], expected[-100_000:-1000], atol=1e-3)


def test_speed_does_not_alias():
    x = np.sin(2 * np.pi * 3600 * np.arange(T) / RATE).astype(
        np.float32
    )  # 4500 Hz when faster: above the Nyquist frequency
    y, lengths = always("speed", x, rows=1, low_factor=1.25, high_factor=1.25)
    assert power(y[0, 200 : lengths[0] - 200]) < 1e-4 * power(x)


@pytest.mark.parametrize("semitones", [-3.0, 2.0])
def test_pitch_moves_tones_and_keeps_the_duration(semitones):
    librosa = pytest.importorskip("librosa")
    x = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    y, lengths = always(
        "pitch", x, rows=1, sample_rate=16000, low_semitones=semitones, high_semitones=semitones
    )
    assert lengths[0] == 16000
    spectrum = np.abs(np.fft.rfft(y[0, 2000:14000] * np.hanning(12000), 160000))
    np.testing.assert_allclose(spectrum.argmax() / 10, 440 * 2 ** (semitones / 12), atol=1.0)
    assert 0.75 < y[0, 2000:14000].std() / x.std() < 1.05
    factor = waveform._factor(2 ** (semitones / 12))
    fast = waveform._resample(jnp.asarray(x), factor, int(np.ceil(16000 / min(float(factor), 1))))
    stretched = librosa.effects.time_stretch(
        np.asarray(fast), rate=1 / float(factor), n_fft=1024, hop_length=256
    )
    np.testing.assert_allclose(y[0, 1000:15000], stretched[1000:15000], atol=2e-3)


def test_partners_are_one_random_cycle_that_leaves_padding_out():
    mask = jnp.asarray([1.0, 1, 0, 1, 1, 0, 1, 1])
    seen = set()
    for seed in range(5):
        partner = np.asarray(mixing.partners(jax.random.uniform(jax.random.key(seed), (B,)), mask))
        assert list(partner[[2, 5]]) == [2, 5]
        walk = [0]
        while partner[walk[-1]] != 0:
            walk.append(int(partner[walk[-1]]))
        assert sorted(walk) == [0, 1, 3, 4, 6, 7]
        seen.add(tuple(partner))
    assert len(seen) > 1
    np.testing.assert_array_equal(mixing.partners(jnp.zeros(B), jnp.zeros(B)), np.arange(B))
    assert mixing.partners(jnp.zeros(B), jnp.eye(B)[3])[3] == 3


@pytest.mark.parametrize("between_class", [False, True])
def test_mixup_mixes_sounds_as_it_mixes_labels(between_class):
    x, labels = batch(), np.eye(B, 10, dtype=np.float32)
    y, lengths, mixed = run(
        (dict(name="mixup", alpha=1.0, between_class=between_class),), x, keys_of()
    )
    np.testing.assert_array_equal(lengths, LENGTHS)
    np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(mixed[7], labels[7])  # mask 0: mixed with nobody, and in nobody
    assert (mixed[:7, 7] == 0).all()
    np.testing.assert_array_equal(y[7], x[7])
    for i in range(6):
        j = next(k for k in range(B) if k != i and mixed[i, k] > 0)
        share, n = mixed[i, i], LENGTHS[i]
        weights = np.asarray([share, 1 - share])
        if between_class:
            weights = weights * np.sqrt([(x[j] ** 2).sum() / LENGTHS[j], (x[i] ** 2).sum() / n])
            weights /= np.linalg.norm(weights)
        np.testing.assert_allclose(
            y[i, :n], weights[0] * x[i, :n] + weights[1] * x[j, :n], atol=1e-5
        )


def test_mixup_shares_are_beta():
    n = 300
    shares = np.diag(
        run(
            (dict(name="mixup", alpha=0.4),),
            np.zeros([n, 2]),
            keys_of(0, range(n)),
            np.full(n, 2),
            np.eye(n),
            np.ones(n),
        )[2]
    )
    assert abs(np.mean(shares) - 0.5) < 0.08
    np.testing.assert_allclose(
        np.var(shares), 0.25 / 1.8, atol=0.03
    )  # Beta(a, a): 1 / (4 (2a + 1))


def test_cutmix_replaces_one_stretch_and_tells_its_share():
    x = batch()
    y, lengths, mixed = run((dict(name="cutmix"),), x, keys_of())
    np.testing.assert_array_equal(lengths, LENGTHS)
    np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)
    for i in range(6):
        changed = np.flatnonzero(y[i] != x[i])
        np.testing.assert_allclose(1 - mixed[i, i], len(changed) / LENGTHS[i], atol=1e-6)
        if len(changed):
            j = next(k for k in range(B) if k != i and mixed[i, k] > 0)
            assert changed[-1] - changed[0] + 1 == len(changed) and changed[-1] < min(
                LENGTHS[i], LENGTHS[j]
            )
            np.testing.assert_array_equal(y[i, changed], x[j, changed])
    np.testing.assert_array_equal(y[7], x[7])


def test_multi_hot_labels_are_mixed_class_by_class():
    labels = np.tile(np.float32([[1, 1, 0], [0, 1, 1]]), (4, 1))
    mixed = run((dict(name="mixup", alpha=1.0),), batch(), keys_of(), labels=labels)[2]
    np.testing.assert_allclose(mixed[:, 1], 1, atol=1e-6)
    np.testing.assert_allclose(mixed[:, 0] + mixed[:, 2], 1, atol=1e-6)


def everything(keys, x, lengths, labels, mask):
    out = [
        augment.apply((spec,), keys, x, lengths, labels, mask, kind="waveform", sample_rate=RATE)
        for spec in ALL
    ]
    return out


def test_the_same_on_1_and_on_8_devices(tmp_path):
    from processes import run_python

    done = run_python(__file__, tmp_path / "out.npz", devices=8)
    assert done.returncode == 0, done.stderr
    there = np.load(tmp_path / "out.npz")
    here = [run((spec,), batch(), keys_of()) for spec in ALL]
    for k, (x, lengths, labels) in enumerate(here):
        np.testing.assert_allclose(there[f"x{k}"], x, atol=2e-5, err_msg=str(ALL[k]))
        np.testing.assert_array_equal(there[f"lengths{k}"], lengths)
        np.testing.assert_allclose(there[f"labels{k}"], labels, atol=1e-6)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            (dict(name="gian"),),
            r"augment.waveform.0.name: there is no augmentation 'gian'; did you mean 'gain'\?",
        ),
        ((dict(name="time_mask"),), "there is no augmentation 'time_mask'"),
        (
            (dict(name="gain"), dict(name="gain", low=1.0)),
            r"augment.waveform.1: 'gain' has no option 'low'; did you mean 'low_db'\?",
        ),
        ((dict(name="gain", sample_rate=8000),), "no option 'sample_rate'"),
        ((dict(name="shift", circular=1),), "circular is 1: expected bool, such as True"),
        ((dict(name="gain", low_db="loud"),), "low_db is 'loud': expected float, such as -6.0"),
        ((dict(name="gain", low_db=9.0),), "low_db 9.0 is above high_db 6.0"),
        ((dict(name="gain", probability=1.5),), "probability is 1.5: it must lie between 0 and 1"),
        ((dict(name="shift", max_share=2.0),), "max_share is 2.0"),
        ((dict(name="mixup", alpha=0.0),), "alpha is 0.0: it must be greater than 0"),
        ((dict(name="noise", folder="/nowhere"),), "no folder of sound files at /nowhere"),
        ((dict(probability=0.5),), r"give dict\(name="),
        (("gain",), r"give dict\(name="),
        (dict(name="gain"), "give a tuple"),
    ],
)
def test_mistakes_in_the_config_are_told(specs, message):
    with pytest.raises(UserError, match=message) as error:
        augment.check(specs, "waveform")
    assert "\n" not in str(error.value)


def test_good_configs_pass():
    augment.check(ALL, "waveform")
    augment.check((), "waveform")
    augment.check((dict(name="gain", low_db=-3, high_db=0, probability=1),), "waveform")


if __name__ == "__main__":
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    assert jax.device_count() == 8
    rows = NamedSharding(
        jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data")
    )
    arrays = jax.device_put((batch(), LENGTHS, np.eye(B, 10, dtype=np.float32), MASK), rows)
    # Keys as the train step makes them: folded inside the jitted function from the row in the
    # global batch.
    function = jax.jit(lambda *a: everything(keys_of(), *a), in_shardings=rows, out_shardings=rows)
    results = {
        f"{name}{k}": v
        for k, r in enumerate(function(*arrays))
        for name, v in zip(("x", "lengths", "labels"), r, strict=True)
    }
    np.savez(sys.argv[1], **results)
