"""What was planted in a data set is found, in time that grows with its size."""

import csv

import numpy as np
import pytest
import soundfile

from sacjax import config as config_lib
from sacjax.data import inspect, sources
from sacjax.data.recordings import Recordings

RATE = 8000


def noise(seed: int, n: int = RATE // 4, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n) * level


class Clip:
    def __init__(self, samples: np.ndarray, sample_rate: int):
        self.samples, self.sample_rate, self.num_samples = (
            samples.astype(np.float32),
            sample_rate,
            len(samples),
        )

    def read(self, start: int, count: int) -> np.ndarray:
        return self.samples[start : start + count]


def recordings_of(clips: list, labels=None, **columns) -> Recordings:
    labels = labels or [("a",) if i % 2 else ("b",) for i in range(len(clips))]

    def open_clip(i: int) -> Clip:
        if isinstance(clips[i], Exception):
            raise clips[i]
        return clips[i]

    return Recordings(
        [f"clip {i}" for i in range(len(clips))], labels, ("a", "b"), open_clip, **columns
    )


def fix_parts(monkeypatch, parts: str) -> None:
    """Makes the split by a letter each: e = train, v = validation, t = test."""
    letters = {"train": "e", "validation": "v", "test": "t"}
    found = {
        part: np.array([i for i, c in enumerate(parts) if c == letter], int)
        for part, letter in letters.items()
    }
    monkeypatch.setattr(inspect.splits, "split", lambda recordings, data: found)


def test_facts_of_a_clip():
    t = np.arange(RATE) / RATE
    stereo = np.stack([0.5 * np.sin(2 * np.pi * 100 * t), np.zeros(RATE)], axis=1)
    facts = inspect.clip_facts(recordings_of([Clip(stereo, RATE)]), 0)
    assert (facts.sample_rate, facts.channels, facts.seconds, facts.error) == (RATE, 2, 1.0, "")
    assert (
        facts.peak == pytest.approx(0.5, abs=1e-3)
        and facts.rms == pytest.approx(0.5 / 2, abs=1e-3)
        and facts.clipped == 0
    )


def test_clipping_is_a_run_at_full_scale():
    normalized = noise(0)[:, None]
    normalized /= np.abs(normalized).max()  # touches full scale once: not clipped
    clipped = np.clip(noise(1, level=1.0)[:, None], -1, 1)
    clipped[100:120] = 1.0
    got = [
        inspect.clip_facts(recordings_of([Clip(x, RATE)]), 0).clipped for x in (normalized, clipped)
    ]
    assert got[0] == 0 and got[1] >= 18 / len(clipped)


def test_finds_what_was_planted(monkeypatch, tmp_path):
    a, silence = noise(0)[:, None], np.zeros([RATE, 1])
    clips = [
        Clip(a, RATE),
        Clip(noise(1)[:, None], RATE),
        Clip(a, RATE),
        Clip(silence, RATE),
        OSError("bad\nfile"),
    ]
    clips += [Clip(noise(2)[:, None], 44100), Clip(a, RATE), Clip(np.zeros([0, 1]), RATE)]
    groups = ["g0", "g0", "g1", "g1", "g2", "g2", "g3", "g3"]
    recordings = recordings_of(clips, groups=groups, folds=[1, 2, 1, 1, 2, 2, 1, 1])
    fix_parts(monkeypatch, "eeevttee")
    summary = inspect.summarize(recordings, config_lib.stage().data)
    assert (
        summary.unreadable == [4, 7]
        and summary.silent == [3]
        and summary.clipped == []
        and summary.cut == []
    )
    assert summary.duplicates == [[0, 2, 6]] and summary.crossing == [] and summary.relabelled == []
    assert summary.leaking == {
        "splits": {"g1": ["train", "validation"]},
        "official folds": {"g0": ["1", "2"]},
    }
    fix_parts(monkeypatch, "eetvttee")
    summary = inspect.summarize(recordings, config_lib.stage().data)
    assert summary.crossing == [[0, 2, 6]]
    text = inspect.report(recordings, summary)
    for line in (
        "splits: train 4, validation 1, test 3",
        "sample rates: 8000 (5), 44100 (1)",
        "unreadable: 2",
        "  clip 4: OSError: bad file",
        "  clip 7: ValueError: it has no samples",
        "duplicates across splits: 1",
        "  clip 0 [train] = clip 2 [test] = clip 6 [train]",
        "groups that leak across official folds: 1",
    ):
        assert line in text, text
    rows = {
        line.split()[0]: line.split()[1:] for line in text.splitlines() if line[:2] in ("a ", "b ")
    }
    assert rows["a"] == ["2", "1", "1", "4"] and rows["b"] == ["2", "0", "2", "4"]
    inspect.write_problems(tmp_path / "problems.csv", recordings, summary)
    with open(tmp_path / "problems.csv", newline="") as file:
        found = [(row["file"], row["problem"]) for row in csv.DictReader(file)]
    assert ("clip 2", "duplicate across splits") in found and (
        "g0",
        "group leaks across official folds",
    ) in found


def test_tells_of_files_cut_short(monkeypatch, tmp_path):
    whole, cut = Clip(noise(0)[:, None], RATE), Clip(noise(1)[:, None], RATE)
    cut.num_samples = 3 * RATE  # as the header of a half-copied FLAC
    recordings = recordings_of([whole, cut])
    fix_parts(monkeypatch, "ee")
    summary = inspect.summarize(recordings, config_lib.stage().data)
    assert summary.cut == [1] and summary.unreadable == []
    assert "cut short (the header tells of more): 1\n  clip 1" in inspect.report(
        recordings, summary
    )
    inspect.write_problems(tmp_path / "problems.csv", recordings, summary)
    missing = 3 - len(noise(1)) / RATE
    assert (
        f"clip 1,cut short,{missing:.2f} s are missing" in (tmp_path / "problems.csv").read_text()
    )


def test_recordings_without_a_group_are_no_group():
    clips = [Clip(noise(i)[:, None], RATE) for i in range(6)]
    groups, labels = ["", "", "", "g", "g", "h"], [("a",), None, (), ("b",), ("b",), ("b",)]
    recordings = recordings_of(clips, labels, groups=groups, folds=[1, 2, 1, 1, 2, 2])
    data = config_lib.stage().data
    data.multi_label = True
    summary = inspect.summarize(recordings, data)
    assert summary.leaking == {"splits": {}, "official folds": {"g": ["1", "2"]}}
    text = inspect.report(recordings, summary)
    assert "groups: 2, and 3 recordings without one" in text
    assert "without a label: 1\nknown to have none of the labels: 1\n" in text


def test_duplicates_are_those_of_every_pair():
    digests = np.random.default_rng(0).choice(["", *"abcdefgh"], 40).tolist()
    pairs = {(i, j) for i in range(40) for j in range(i) if digests[i] and digests[i] == digests[j]}
    found = inspect.duplicates(digests)
    assert {(i, j) for group in found for i in group for j in group if j < i} == pairs
    assert found == sorted(found) and inspect.duplicates(["", "", "a"]) == []


def test_the_list_of_duplicates_takes_time_that_grows_with_their_number(tmp_path):
    """Groups that are looked up in a list of groups are compared with half of them, each."""

    class Counted(list):
        compared = 0

        def __eq__(self, other):
            Counted.compared += 1
            return super().__eq__(other)

    count = 200
    recordings = recordings_of([None] * 2 * count)
    groups = [Counted([2 * k, 2 * k + 1]) for k in range(count)]
    empty: dict = dict(unreadable=[], cut=[], silent=[], clipped=[], relabelled=[], leaking={})
    summary = inspect.Summary(
        facts=[inspect.ClipFacts()] * 2 * count,
        parts=["train"] * 2 * count,
        split_error="",
        duplicates=groups,
        crossing=groups[1::2],
        **empty,
    )
    inspect.write_problems(tmp_path / "problems.csv", recordings, summary)
    with open(tmp_path / "problems.csv", newline="") as file:
        found = [row["problem"] for row in csv.DictReader(file)]
    assert found == ["duplicate", "duplicate across splits"] * (count // 2)
    assert Counted.compared <= 2 * count


def test_leaking_groups_do_not_stop_it():
    clips = [Clip(noise(i)[:, None], RATE) for i in range(8)]
    data = config_lib.stage().data
    data.fold = 1
    recordings = recordings_of(clips, groups=list("ggghijkl"), folds=[1, 2] * 4)
    summary = inspect.summarize(recordings, data)
    assert summary.leaking["official folds"] == {"g": ["1", "2"]} and summary.split_error
    assert "there are no splits: " in inspect.report(recordings, summary)


def test_equal_samples_are_found_in_any_lossless_format(tmp_path):
    for k, name in enumerate(("a/1.wav", "b/2.flac", "b/3.wav", "a/4.wav")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        samples = (noise(max(k, 1)) * 32768).astype(np.int16)
        soundfile.write(tmp_path / name, samples, RATE, subtype="PCM_16")
    data = config_lib.stage().data
    data.source, data.path = "folder", str(tmp_path)
    recordings = sources.load(data)
    summary = inspect.summarize(recordings, data)
    assert [[recordings.names[i] for i in group] for group in summary.relabelled] == [
        ["a/1.wav", "b/2.flac"]
    ]
