"""`sacjax prepare`."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sacjax import config as config_lib
from sacjax.commands import prepare as command
from sacjax.data import sources
from sacjax.errors import UserError


def load(folder: Path):
    data = config_lib.stage().data
    data.source, data.path = "arrayrecord", str(folder)
    return sources.load(data)


def make_folder(root: Path) -> Path:
    for label in ("cat", "dög"):
        (root / label).mkdir(parents=True)
        for i in range(3):
            x = np.random.default_rng(i + len(label)).integers(-9999, 9999, 1000).astype(np.int16)
            soundfile.write(root / label / f"{i}.flac", x, 16000, subtype="PCM_16")
    (root / "cat" / "bad.wav").write_bytes(b"RIFF")
    return root


def test_command_on_a_folder(tmp_path, capsys):
    root, out = make_folder(tmp_path / "in"), tmp_path / "out"
    assert command.main(["--folder", str(root), "--output", str(out), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "6 recordings" in said and "2 classes" in said and "1 skipped" in said
    got = load(out)
    assert got.class_names == ("cat", "dög") and "bad.wav" in (out / "skipped.csv").read_text()
    for k, name in enumerate(got.names):
        expected, _ = soundfile.read(root / name, dtype="float32", always_2d=True)
        np.testing.assert_array_equal(got.open(k).read(0, 9999), expected)
    (root / "cat" / "4.wav").write_bytes((root / "cat" / "bad.wav").read_bytes())
    with pytest.raises(UserError, match="holds another data set"):
        command.main(["--folder", str(root), "--output", str(out)])


def test_command_mistakes(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        command.main(["--folder", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")])
    with pytest.raises(UserError, match="unknown argument '--x'"):
        command.main(["--folder", str(tmp_path), "--output", str(tmp_path / "out"), "--x"])
    with pytest.raises(UserError, match="--per-shard is -1"):
        command.main(
            [
                "--folder",
                str(make_folder(tmp_path / "in")),
                "--output",
                str(tmp_path / "out"),
                "--per-shard",
                "-1",
            ]
        )
    assert not (tmp_path / "out").exists()
