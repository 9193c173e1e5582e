"""Recordings read block by block: the same samples and times as the whole."""

from types import SimpleNamespace

import crossings
import numpy as np
import pytest
import soundfile as sf

from sacjax.data import decode, retry
from sacjax.data.recordings import MemoryClip
from sacjax.data.sources.files import open_file
from sacjax.errors import UserError
from sacjax.inference import timeline

RATE = 8000


@pytest.mark.parametrize("rate", [8000, 44100])
def test_blocks_are_the_whole(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(timeline, "BLOCK", 0.3)
    noise = 0.3 * np.random.default_rng(0).standard_normal(rate + 17).clip(-3, 3)
    sf.write(tmp_path / "a.wav", noise, rate)
    want = decode.read_pcm(open_file(str(tmp_path / "a.wav")), RATE, 0.0, 9.0)
    blocks = list(timeline.blocks(str(tmp_path / "a.wav"), RATE))
    assert [len(block) for block in blocks[:3]] == [2400] * 3
    got = np.concatenate(blocks)
    assert len(got) == len(want)
    # A block's resampling sees 0.05 s of what is around it.
    np.testing.assert_allclose(got, want, atol=0 if rate == RATE else 2)


def test_a_gap_in_the_middle_is_silence(tmp_path, monkeypatch):
    class Damaged(MemoryClip):
        def read(self, start, count):
            got = super().read(start, count)
            return got[: len(got) // 2] if start == 2400 else got

    clip = Damaged(np.full(8000, 0.5, np.float32), RATE)
    monkeypatch.setattr(timeline, "BLOCK", 0.3)
    monkeypatch.setattr(timeline, "open_file", lambda path: clip)
    got = np.concatenate(list(timeline.blocks("a.flac", RATE)))
    assert len(got) == 8000 and np.flatnonzero(got == 0).tolist() == list(range(3600, 4800))


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    sf.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    listeners = timeline.listeners_of([crossings.model()])
    for name, message in [("text.wav", "."), ("empty.wav", "no samples"), ("gone.wav", "gone")]:
        with pytest.raises(retry.BadClip, match=message):
            timeline.timeline(listeners, str(tmp_path / name))
    # The next recording is not touched by it.
    sf.write(tmp_path / "a.wav", crossings.sine(200, 1.0), RATE)
    first, *_, last = timeline.timeline(listeners, str(tmp_path / "a.wav"))
    assert (first.start, last.end) == (0, 1) and np.argmax(last.probabilities) == 1


def test_models_that_do_not_fit_together(monkeypatch):
    both = [SimpleNamespace(carries=carries, labels=("a", "b")) for carries in (True, False)]
    with monkeypatch.context() as patch, pytest.raises(UserError, match="give --windows"):
        patch.setattr(timeline, "Listener", lambda model, hop, windows: model)
        timeline.listeners_of(both)
    with pytest.raises(UserError, match="different labels"):
        timeline.listeners_of([crossings.model(), crossings.model(names=("high", "low", "x"))])
    with pytest.raises(UserError, match="different sample rate"):
        timeline.listeners_of([crossings.model(), crossings.model(rate=44100)])
