import numpy as np
import pytest
import soundfile as sf
import soxr

from sacjax.data import decode
from sacjax.data.sources import FileClip


class Counting:
    """A clip that never ends, counts what is read of it, and is a function of the place."""

    def __init__(self, sample_rate, num_samples, channels=1):
        self.sample_rate, self.num_samples, self.channels, self.taken = (
            sample_rate,
            num_samples,
            channels,
            0,
        )

    def read(self, start, count):
        count = max(min(count, self.num_samples - start), 0)
        self.taken += count
        x = np.sin(2 * np.pi * 440 * np.arange(start, start + count) / self.sample_rate).astype(
            np.float32
        )
        return np.repeat(x[:, None], self.channels, 1)


class Memory:
    def __init__(self, samples, sample_rate, claimed=None):
        samples = np.asarray(samples, np.float32)
        self.samples = samples if samples.ndim == 2 else samples[:, None]
        self.sample_rate, self.num_samples = (
            sample_rate,
            len(samples) if claimed is None else claimed,
        )

    def read(self, start, count):
        return self.samples[start : start + count]


@pytest.mark.parametrize(
    "own, rate", [(44100, 16000), (16000, 16000), (8000, 22050), (44099, 16000), (192000, 8000)]
)
@pytest.mark.parametrize("crop", ["random", "center", "start"])
def test_a_crop_of_an_hour_reads_about_its_own_length(own, rate, crop):
    clip = Counting(own, 3600 * own)
    x, length = decode.read_crop(clip, rate, 2.0, crop, "zero", np.random.default_rng(0))
    assert x.shape == (2 * rate,) and length == 2 * rate and x.dtype == np.float32
    assert clip.taken <= 2.25 * own


def test_a_crop_of_a_long_file_decodes_little_of_it(tmp_path, monkeypatch):
    path = tmp_path / "long.flac"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 120 * 8000), 8000)
    taken = []
    whole = sf.SoundFile.read
    monkeypatch.setattr(
        sf.SoundFile,
        "read",
        lambda self, out, **kw: (taken.append(len(out)), whole(self, out=out, **kw))[1],
    )
    decode.read_crop(FileClip(str(path)), 16000, 2.0, "center", "zero", np.random.default_rng(0))
    assert sum(taken) <= 2.25 * 8000


@pytest.mark.parametrize(
    "own, rate", [(44100, 16000), (48000, 44100), (8000, 16000), (11025, 16000), (22050, 22050)]
)
def test_a_window_equals_that_part_of_the_whole_clip_resampled(own, rate):
    x = np.random.default_rng(0).normal(size=5 * own).astype(np.float32) * 0.2
    whole = soxr.resample(x, own, rate) if own != rate else x
    for start in (0.0, 0.01, 1.234567, 3.9):
        part, length = decode.read_window(Memory(x, own), rate, start, 1.0, "zero")
        assert length == rate
        first = round(start * rate)
        np.testing.assert_allclose(part, whole[first : first + rate], atol=2e-3)
    tail, length = decode.read_window(Memory(x, own), rate, 4.5, 1.0, "zero")
    assert length == pytest.approx(rate / 2, abs=1) and not tail[length:].any()
    np.testing.assert_allclose(tail[:length], whole[round(4.5 * rate) :][:length], atol=2e-3)


def test_channels_are_averaged():
    x = np.random.default_rng(0).normal(size=[1000, 8]).astype(np.float32)
    np.testing.assert_allclose(decode.read(Memory(x, 8000), 8000, 0.0, 1.0), x.mean(1), atol=1e-6)


def test_a_tone_stays_where_it_is_through_resampling():
    y = decode.read(Counting(44100, 44100), 16000, 0.25, 0.5)
    expected = np.sin(2 * np.pi * 440 * (0.25 + np.arange(8000) / 16000))
    np.testing.assert_allclose(y, expected, atol=2e-3)


def test_crops_lie_where_they_should():
    clip = Memory(np.arange(1000) / 1000, 100)
    rng = np.random.default_rng(0)
    assert decode.read_crop(clip, 100, 2.0, "start", "zero", rng)[0][0] == 0
    assert decode.read_crop(clip, 100, 2.0, "center", "zero", rng)[0][0] == pytest.approx(0.4)
    firsts = [
        decode.read_crop(clip, 100, 2.0, "random", "zero", rng)[0][0] * 1000 for _ in range(500)
    ]
    assert min(firsts) < 20 and max(firsts) > 780 and np.mean(firsts) == pytest.approx(400, abs=40)


def test_every_crop_uses_one_draw():
    draws = []
    for crop in ("random", "center", "start"):
        rng = np.random.default_rng(5)
        decode.read_crop(Memory(np.ones(300), 100), 100, 2.0, crop, "zero", rng)
        draws.append(rng.uniform())
    assert len(set(draws)) == 1


@pytest.mark.parametrize(
    "how, expected",
    [
        ("zero", [1, 2, 3, 0, 0, 0, 0, 0]),
        ("repeat", [1, 2, 3, 1, 2, 3, 1, 2]),
        ("reflect", [1, 2, 3, 2, 1, 2, 3, 2]),
    ],
)
def test_pads_keep_the_true_length(how, expected):
    x, length = decode.read_window(Memory([1, 2, 3], 8), 8, 0.0, 1.0, how)
    assert x.tolist() == expected and length == 3
    one, length = decode.read_window(Memory([7], 8), 8, 0.0, 1.0, how)
    assert one[0] == 7 and length == 1 and set(one.tolist()) <= {0, 7}


def test_a_clip_shorter_than_its_header_says_is_cropped_by_what_it_has():
    clip = Memory(np.arange(300) / 300, 100, claimed=10_000)
    assert decode.count_samples(clip) == 300
    x, length = decode.read_crop(clip, 100, 2.0, "center", "zero", np.random.default_rng(0))
    assert length == 200 and x[0] == pytest.approx(50 / 300)


def test_nothing_and_not_a_number_are_errors():
    with pytest.raises(decode.NoSamples, match="no samples"):
        decode.read(Memory(np.zeros([0, 1]), 8000), 8000, 0.0, 1.0)
    with pytest.raises(decode.NoSamples, match="2.000 s"):
        decode.read(Memory(np.ones(8000), 8000), 8000, 2.0, 1.0)
    with pytest.raises(decode.NoSamples, match="one sample"):
        decode.read(Memory(np.ones(1), 192000), 8000, 0.0, 1.0)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(decode.AudioError, match="2 samples are NaN or infinite"):
            decode.read(Memory([0.0, bad, 0.5, bad], 8000), 8000, 0.0, 1.0)


def test_to_int16_is_exact_and_clips():
    pcm = np.arange(-32768, 32768).astype(np.int16)
    assert np.array_equal(decode.to_int16(pcm.astype(np.float32) / 32768), pcm)
    assert decode.to_int16(np.array([1.5, -1.5, 1.0])).tolist() == [32767, -32768, 32767]
