"""Several encoders on the same clips: their names, and what is left out for all."""

import numpy as np
import pytest

from sacjax.data.recordings import MemoryClip, Recordings
from sacjax.errors import UserError
from sacjax.evaluators import probes
from sacjax.inference import comparison, load


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/simclr"], ["simclr"]),
        (["runs/simclr/", "runs/cola"], ["simclr", "cola"]),
        (["runs/simclr", "old/simclr", "runs/cola"], ["runs/simclr", "old/simclr", "cola"]),
        (["a/x/run", "b/x/run", "b/run"], ["a/x/run", "b/x/run", "b/run"]),
        (["/a", "/b/a"], ["/a", "b/a"]),
        (["hf:models/base", "runs/base"], ["hf:models/base", "runs/base"]),
        (["hf:models/base", "runs/large"], ["hf:base", "large"]),
    ],
)
def test_names_are_the_shortest_that_tell_apart(paths, names):
    assert comparison.names_of(paths) == names


def test_a_checkpoint_twice(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for second in ("a", "a/", f"{tmp_path}/a", "link"):
        with pytest.raises(UserError, match=f"{second} is given twice .as a.; give each once"):
            comparison.names_of(["a", second])


def tones(count=24, rate=8000):
    """Low and high tones in turn; the labels say which."""
    time = np.arange(4000) / rate
    clips = [
        MemoryClip(
            np.float32(0.3 * np.sin(2 * np.pi * (300 + 1500 * (k % 2) + 9 * k) * time)), rate
        )
        for k in range(count)
    ]
    labels = [("low", "high")[k % 2] for k in range(count)]
    names = [f"{k}.wav" for k in range(count)]
    return clips, Recordings(names, [(x,) for x in labels], ("high", "low"), clips.__getitem__)


def test_what_one_cannot_be_given_is_left_out_for_all(networks):
    """The broken training clip shifts no other clip's vector."""
    clips, recordings = tones()
    clips[2] = MemoryClip(np.zeros(0, np.float32), 8000)
    labels = np.array([recordings.class_names.index(x) for (x,) in recordings.labels])
    all_clips = comparison.Clips(recordings, labels, np.arange(0, 16), np.arange(16, 24))
    model = load(networks["small_cnn"])
    options = dict(neighbours=1, shots=(1,), draws=2, seed=0)
    found, kept, bad = comparison.probe([("one", model)], all_clips, **options)
    assert list(bad) == [2] and 2 not in kept.train and len(kept.train) == 15
    sounds = [clip.samples for clip in clips]
    train, test = (model.embed([sounds[k] for k in part], 8000) for part in (kept.train, kept.test))
    four = train, labels[kept.train], test, labels[kept.test]
    np.testing.assert_allclose(found["one"].vectors, test, atol=1e-5)
    assert found["one"].scores == {"trained": probes.all_scores(*four, **options)}


def test_a_network_that_has_diverged():
    vectors = np.array([[0.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]])
    with pytest.raises(UserError, match="x: its vectors of 2 of 3 clips are not finite"):
        comparison._check_finite("x", vectors)
