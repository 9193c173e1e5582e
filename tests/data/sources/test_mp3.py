"""MP3 whose header does not tell its length: nothing of it is lost."""

import io

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sacjax.data import decode
from sacjax.data.sources import FileClip, mp3


def variable(path, rate, channels=1, seconds=20):
    """Writes sound that begins loud and goes on softly: its first frames are the largest."""
    rng = np.random.default_rng(0)
    samples = 0.002 * np.sin(2 * np.pi * 300 * np.arange(seconds * rate) / rate)
    samples[:rate] = rng.uniform(-0.9, 0.9, rate)
    samples[-rate:] = 0.3 * np.sin(2 * np.pi * 500 * np.arange(rate) / rate)  # and ends with this
    options = dict(format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE")
    with sf.SoundFile(path, "w", rate, channels, compression_level=0.0, **options) as file:
        file.write(np.repeat(samples[:, None], channels, 1))
    return seconds * rate


def without_header(path):
    """Removes the first frame, which holds the length; returns the file's content."""
    content = path.read_bytes()
    frame = mp3.Frame.parse(content, 0)
    assert content[frame.tag_offset :][:4] == b"Xing"
    path.write_bytes(content[frame.size :])
    return content[frame.size :]


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1)])
def test_all_of_it_is_read(tmp_path, rate, channels):
    path = tmp_path / "a.mp3"
    size = variable(path, rate, channels)
    told = FileClip(str(path))
    assert told.num_samples == size  # with its header
    whole = told.read(0, size)
    content = without_header(path)
    assert sf.info(path).frames < 0.4 * size  # what libsndfile makes of it
    clip = FileClip(str(path))
    assert size <= clip.num_samples <= size + 2500  # an encoder adds some, and no header says so
    got = clip.read(0, clip.num_samples)
    assert len(got) == clip.num_samples == decode.count_samples(clip)
    assert decode.missing_seconds(clip, len(got) / rate) == 0
    late = clip.num_samples - size
    shifts = range(max(late - 1200, 0), late + 1)
    off = [np.abs(got[k + rate // 2 : k + rate] - whole[rate // 2 : rate]).max() for k in shifts]
    assert min(off) < 1e-4
    late = shifts[int(np.argmin(off))]
    end = slice(-rate // 2, -rate // 4)
    np.testing.assert_allclose(got[late:][:size][end], whole[end], atol=1e-4)
    # A crop near the end, after a seek; the first frames after one are never exact.
    part = clip.read(size - rate // 2, rate // 4)
    np.testing.assert_allclose(part[4000:], got[size - rate // 2 :][: rate // 4][4000:], atol=1e-4)
    in_memory = FileClip("", content=content)
    assert in_memory.num_samples == clip.num_samples


def test_tags_before_the_sound_and_two_files_in_one(tmp_path):
    path = tmp_path / "a.mp3"
    size = variable(path, 16000)
    one = path.read_bytes()
    path.write_bytes(one + one)
    assert sf.info(path).frames == size  # the first one's header is believed
    assert FileClip(str(path)).num_samples == pytest.approx(2 * size, abs=6000)
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 40, 0]) + bytes(40 << 7)
    path.write_bytes(one)
    bare = without_header(path)
    path.write_bytes(tag + bare + b"TAG" + bytes(125))
    assert FileClip(str(path)).num_samples == pytest.approx(size, abs=2500)


def test_a_header_that_tells_the_truth_is_believed(tmp_path):
    for mode in ("CONSTANT", "AVERAGE", "VARIABLE"):
        path = tmp_path / f"{mode}.mp3"
        options = dict(format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode)
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 50_000)
        sf.write(path, noise, 16000, **options)
        content = path.read_bytes()
        assert mp3.corrected(io.BytesIO(content), len(content)) == (b"", 0)
        assert FileClip(str(path)).num_samples == 50_000
        # Half a file still has its header: what is missing is told, and not counted anew.
        path.write_bytes(content[: len(content) // 2])
        clip = FileClip(str(path))
        missing = decode.missing_seconds(clip, decode.count_samples(clip) / 16000)
        assert clip.num_samples == 50_000 and missing == pytest.approx(1.6, abs=0.3)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 2999), st.binary(max_size=4))
def test_any_bytes_are_looked_through(content, place, more):
    header = b"\xff\xfb\x90\x00"
    for data in (content, content[:place] + header + more + content[place:], b"ID3" + content):
        first, skip = mp3.corrected(io.BytesIO(data), len(data))
        assert 0 <= skip <= len(data) and (first == b"" or mp3.Frame.parse(first, 0) is not None)
