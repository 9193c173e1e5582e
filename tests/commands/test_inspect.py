"""sacjax.inspect finds what was planted in a data set, and draws it."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sacjax import config as config_lib
from sacjax.commands import inspect, prepare
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError

REPO = Path(__file__).parents[2]
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
    stage = prepare.stage_from_flags(flags(["--folder", str(tmp_path)]), [])
    recordings = inspect.sources.load(stage.data)
    summary = inspect.summarize(recordings, stage.data)
    assert [[recordings.names[i] for i in group] for group in summary.relabelled] == [
        ["a/1.wav", "b/2.flac"]
    ]


def test_a_folder_takes_overrides(tmp_path):
    stage = prepare.stage_from_flags(
        flags(["--folder", str(tmp_path)]), ["--config.supervised.data.allow_outside_root=True"]
    )
    assert stage.data.allow_outside_root and stage.data.path == str(tmp_path)


def flags(argv: list[str]):
    import argparse

    parser = argparse.ArgumentParser()
    prepare.add_source_flags(parser)
    return parser.parse_args(argv)


def make_folder(root: Path) -> Path:
    for k, label in enumerate(("cat", "dög$")):
        (root / label).mkdir(parents=True)
        for i in range(6):
            soundfile.write(
                root / label / f"{i}.wav",
                noise(10 * k + i, RATE // 4 + 100 * i),
                RATE,
                subtype="PCM_16",
            )
    (root / "cat" / "bad.wav").write_bytes(b"no audio")
    return root


def test_command_line(tmp_path):
    """As users start it: the module's name is that of one of the standard library."""
    root, out = make_folder(tmp_path / "in"), tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "sacjax.commands.inspect",
        "--folder",
        str(root),
        "--output",
        str(out),
    ]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (
        "13 recordings" in done.stdout
        and "unreadable: 1" in done.stdout
        and "cat/bad.wav" in done.stdout
    )
    assert {p.name for p in out.iterdir()} == {
        "classes.png",
        "durations.png",
        "formats.png",
        "levels.png",
        "problems.csv",
    }
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in out.glob("*.png"))
    done = subprocess.run(
        [*command[:4], str(tmp_path / "nowhere")],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "nowhere" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_augment_needs_an_output_and_augmentations(tmp_path):
    root = make_folder(tmp_path / "in")
    with pytest.raises(UserError, match="--augment.*--output"):
        inspect.main(["--folder", str(root), "--augment"])
    with pytest.raises(UserError, match="augment.waveform and augment.spectrogram are both empty"):
        inspect.main(["--folder", str(root), "--augment", "--output", str(tmp_path / "out")])


def test_augmentations_are_drawn(tmp_path):
    augment = pytest.importorskip("sacjax.augment")
    stage = prepare.stage_from_flags(flags(["--folder", str(make_folder(tmp_path / "in"))]), [])
    stage.data.sample_rate, stage.data.seconds = RATE, 0.25
    stage.frontend.n_fft, stage.frontend.hop_length, stage.frontend.n_mels = 256, 64, 20
    stage.augment.waveform = (
        dict(name="gain", probability=0.5),
        dict(name="mixup", probability=1.0),
    )
    augment.check(stage.augment.waveform, "waveform")
    recordings = inspect.sources.load(stage.data)
    saved = inspect.plot_augmentations(tmp_path, recordings, [0, 1, 6], stage)
    assert [p.name for p in saved] == [
        "augment_waveform_0_gain.png",
        "augment_waveform_1_mixup.png",
    ]
    assert all(p.stat().st_size > 5000 for p in saved)
