"""One channel of several, from every way in which sound comes."""

import numpy as np
import pytest
from sounds import settings, write

from sacjax import config as config_lib
from sacjax.data import channels, decode, pipeline, prepare, retry, sources
from sacjax.data.recordings import MemoryClip
from sacjax.inference.sounds import as_recordings

RATE = 8000
LEFT, RIGHT = np.random.default_rng(0).integers(-9000, 9000, [2, RATE]).astype(np.int16)
STEREO = np.stack([LEFT, RIGHT], 1)


def folder(path, **values):
    write(path / "a" / "stereo.wav", STEREO, RATE)
    return settings(source="folder", path=str(path), sample_rate=RATE, **values)


@pytest.mark.parametrize(("channel", "expected"), [(0, LEFT), (1, RIGHT)])
def test_training_hears_one_channel_bit_exactly(tmp_path, channel, expected):
    data = folder(tmp_path, channel=channel, holdout=(1.0, 0.0, 0.0))
    recordings = sources.load(data)
    batch = next(iter(pipeline.train_batches(recordings, np.arange(1), data, 1, seed=0)))
    assert batch["audio"].dtype == np.int16 and batch["error"] == [""]
    np.testing.assert_array_equal(batch["audio"][0], expected)


@pytest.mark.parametrize("saved", [False, True])
def test_a_channel_is_a_number_on_the_command_line(saved):
    config = config_lib.default()
    for raw, value in (("1", 1), ("mix", "mix"), ("0", 0)):
        if saved:  # as of a workdir
            config = config_lib.from_json(config_lib.to_json(config))
        config = config_lib.override(config, [f"--config.supervised.data.channel={raw}"])
        assert config.supervised.data.channel == value


def test_mix_is_the_mean_of_all(tmp_path):
    clip = sources.load(folder(tmp_path)).open(0)
    mean = (LEFT.astype(float) + RIGHT) / 2 / 32768
    np.testing.assert_allclose(decode.read(clip, RATE, 0.0, 1.0), mean, atol=1e-7)


def test_a_clip_without_the_channel_is_bad_and_says_why(tmp_path):
    data = folder(tmp_path, channel=1)
    write(tmp_path / "a" / "mono.wav", LEFT, RATE)
    batch = next(iter(pipeline.eval_batches(sources.load(data), np.arange(2), data, 2)))
    assert batch["mask"].tolist() == [0, 1]
    reason = "it has one channel, and data.channel, which counts from 0, is 1"
    assert reason in batch["error"][0] and not batch["error"][1]
    with pytest.raises(ValueError, match="2 channels, and .* is 2"):
        channels.pick(STEREO, 2)


def test_shards_hold_the_channel_and_are_not_those_of_another(tmp_path):
    data = folder(tmp_path / "in", channel=1)
    prepare.prepare(sources.load(data), data, tmp_path / "out")
    shards = sources.load(settings(source="arrayrecord", path=str(tmp_path / "out")))
    np.testing.assert_array_equal(shards.open(0).pcm(0, RATE)[:, 0], RIGHT)
    data.channel = 0
    with pytest.raises(Exception, match="holds another data set, other options"):
        prepare.prepare(sources.load(data), data, tmp_path / "out")


def test_a_channel_of_files_and_arrays_that_a_model_is_given(tmp_path):
    path = write(tmp_path / "stereo.wav", STEREO, RATE)
    for sound in (str(path), STEREO.T, [STEREO.T.astype(np.float32) / 32768]):
        clip = as_recordings(sound, RATE, channel=1).open(0)
        np.testing.assert_array_equal(decode.read_pcm(clip, RATE, 0.0, 1.0), RIGHT)
    with pytest.raises(retry.BadClip, match="it has one channel"):
        clip = as_recordings(LEFT, RATE, channel=1).open(0)
        retry.attempt(lambda: decode.read(clip, RATE, 0.0, 1.0))


def test_a_clip_that_promises_more_still_does(tmp_path):
    clip = channels.of_clip(MemoryClip(STEREO, RATE, promised=2 * RATE), 0)
    assert decode.missing_seconds(clip, 1.0) == 1.0
    clip = channels.of_clip(MemoryClip(STEREO / np.float32(32768), RATE), 1)
    assert clip.pcm is None
    np.testing.assert_array_equal(decode.read_pcm(clip, RATE, 0.0, 1.0), RIGHT)
