"""What a user may hand over as sound, and what is none."""

import numpy as np
import pytest

from sacjax.data import decode
from sacjax.errors import UserError
from sacjax.inference.sounds import as_clip, as_recordings, find_files


def test_folders_are_searched_to_the_bottom_and_files_are_taken_as_they_are(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/1.wav", "a/2.FLAC", "a/.hidden.wav", "a/notes.txt", "odd.name"):
        (tmp_path / name).touch()
    (tmp_path / "a" / "folder.wav").mkdir()
    odd = str(tmp_path / "odd.name")
    found = [str(tmp_path / "a" / "2.FLAC"), str(tmp_path / "a" / "b" / "1.wav")]
    assert find_files([str(tmp_path / "a"), odd, found[0]]) == [*found, odd]
    with pytest.raises(UserError, match="there is no file or folder '.*nowhere'"):
        find_files([odd, str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="no sound files in .*folder.wav"):
        find_files([str(tmp_path / "a" / "folder.wav")])


def test_samples_of_any_kind_become_mono_float():
    ramp = np.linspace(-1, 0.5, 10)
    for sound in (ramp, ramp.astype(np.float32), ramp.tolist(), np.stack([2 * ramp, 0 * ramp])):
        clip = as_clip(0, sound, 8000)
        assert (clip.sample_rate, clip.num_samples, clip.samples.dtype) == (8000, 10, np.float32)
        mono = decode.read(clip, 8000, 0.0, 1.0)
        np.testing.assert_allclose(mono, ramp, rtol=1e-6)
    assert clip.read(8, 4).shape == (2, 2)
    pcm = as_clip(0, np.array([-32768, 0, 16384], np.int16), 8000)
    assert pcm.samples.tolist() == [-1, 0, 0.5]


@pytest.mark.parametrize(
    "sound",
    [np.zeros([2, 3, 4]), np.zeros(0), np.float32(0), np.zeros(3, complex), np.array(["a.wav"]), 7],
)
def test_what_is_no_sound_is_told_by_its_number(sound):
    with pytest.raises(
        UserError, match=r"sound 1 has shape \(.*\) and type .*: give samples \[T\]"
    ):
        as_recordings([np.zeros(5), sound], 8000)


def test_other_mistakes():
    with pytest.raises(UserError, match="sound 0 has type int32: integers must be int16"):
        as_recordings(np.zeros(5, np.int32), 8000)
    with pytest.raises(UserError, match="there is no sound in the list"):
        as_recordings([], 8000)
    with pytest.raises(UserError, match="sound 0 has shape .* and type <U"):
        as_recordings(["a.wav", np.zeros(5)], 8000)  # files and arrays are not mixed
