"""`sacjax inspect` prints, draws and lists what it found."""

import argparse
import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sacjax.commands import inspect, prepare
from sacjax.errors import UserError

RATE = 8000


def make_folder(root: Path) -> Path:
    """Six clips of noise of each of two labels, and a file that is no audio."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dög$"):
        (root / label).mkdir(parents=True)
        for i in range(6):
            samples = 0.1 * rng.standard_normal(RATE // 4 + 100 * i)
            soundfile.write(root / label / f"{i}.wav", samples, RATE, subtype="PCM_16")
    (root / "cat" / "bad.wav").write_bytes(b"no audio")
    return root


def test_a_folder_takes_overrides(tmp_path):
    parser = argparse.ArgumentParser()
    prepare.add_source_flags(parser)
    stage = prepare.stage_from_flags(
        parser.parse_args(["--folder", str(tmp_path)]),
        ["--config.supervised.data.allow_outside_root=True"],
    )
    assert stage.data.allow_outside_root and stage.data.path == str(tmp_path)


def test_it_prints_draws_and_lists(tmp_path, capsys):
    root, out = make_folder(tmp_path / "in"), tmp_path / "new" / "out"
    assert inspect.main(["--folder", str(root), "--output", str(out)]) == 0
    text = capsys.readouterr().out
    assert "13 recordings" in text and "unreadable: 1" in text and "cat/bad.wav" in text
    pictures = {"classes.png", "durations.png", "formats.png", "levels.png"}
    assert {path.name for path in out.iterdir()} == pictures | {"problems.csv"}
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    assert f"pictures and problems.csv: {out}: classes.png" in text
    with open(out / "problems.csv", newline="") as file:
        assert [(row["file"], row["problem"]) for row in csv.DictReader(file)] == [
            ("cat/bad.wav", "unreadable")
        ]


def test_mistakes_are_told(tmp_path):
    root, taken = make_folder(tmp_path / "in"), tmp_path / "in" / "cat" / "bad.wav"
    for flags, message in (
        (["--augment"], "--augment.*--output"),
        (
            ["--augment", "--output", str(tmp_path / "out")],
            "augment.waveform and augment.spectrogram are both empty",
        ),
        (["--output", str(taken)], f"--output {taken} cannot be written"),
    ):
        with pytest.raises(UserError, match=message):
            inspect.main(["--folder", str(root), *flags])
    with pytest.raises(UserError, match="there is no folder .*nowhere"):
        inspect.main(["--folder", str(tmp_path / "nowhere")])
