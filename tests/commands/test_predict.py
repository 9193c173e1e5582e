"""`sacjax predict`: what is printed, in which form, and how it ends."""

import csv
import io
import json
import os

import crossings
import pytest
from crossings import tone

from sacjax import errors, inference
from sacjax.commands import predict
from sacjax.errors import UserError


@pytest.fixture(autouse=True)
def workdirs(request, monkeypatch):
    """Makes `load_classifier` answer from a dict, but for tests of real workdirs."""
    models = {"one": crossings.model(), "44k": crossings.model(scale=2.0, rate=44100)}
    if "networks" not in request.fixturenames:
        monkeypatch.setattr(inference, "load_classifier", lambda workdir, which: models[workdir])


def run(capsys, *args):
    code = predict.main(list(map(str, args)))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_folder_of_any_sounds(tmp_path, capsys):
    tone(tmp_path / "a.wav", 3000, rate=44100)
    tone(tmp_path / "sub" / "b.flac", 200, seconds=3.3, rate=22050, channels=2)
    (tmp_path / "notes.txt").write_text("not audio")
    code, out, err = run(capsys, "--checkpoint", "one", "--format", "json", tmp_path)
    rows = {os.path.relpath(row["file"], tmp_path): row["labels"] for row in json.loads(out)}
    assert code == 0 and err == ""
    assert {name: labels[0]["label"] for name, labels in rows.items()} == {
        "a.wav": "high",
        "sub/b.flac": "low",
    }
    for labels in rows.values():
        assert len(labels) == 3 and sum(row["probability"] for row in labels) == pytest.approx(1)


def test_formats(tmp_path, capsys):
    high, low = tone(tmp_path / "hi, there.wav", 3000), tone(tmp_path / "ünï.wav", 200)
    # A file that is named twice is labelled once.
    args = ("--checkpoint", "one", "--top_k", "2", high, low, high)
    code, out, _ = run(capsys, *args)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 2
    assert lines[0].startswith(high) and lines[0].endswith("high  57.6 %  low  21.2 %")
    assert lines[0].index("  high") == lines[1].index("  low")  # aligned
    _, out, _ = run(capsys, *args, "--format", "csv")
    head, *rows = csv.reader(io.StringIO(out))
    assert head == ["file", "rank", "label", "probability"]
    assert rows[0] == [high, "1", "high", "0.576117"]
    assert rows[2][:3] == [low, "1", "low"] and len(rows) == 4
    _, out, _ = run(capsys, *args, "--format", "json")
    assert [row["file"] for row in json.loads(out)] == [high, low]
    assert len(json.loads(out)[0]["labels"]) == 2
    _, out, _ = run(capsys, *args, "--format", "json", "--top_k", "99")
    assert len(json.loads(out)[0]["labels"]) == 3


def test_several_checkpoints_are_an_ensemble(tmp_path, capsys):
    path = tone(tmp_path / "a.wav", 3000)
    both = ("--checkpoint", "one", "--checkpoint", "44k")
    _, out, _ = run(capsys, *both, "--format", "json", path)
    (row,) = json.loads(out)
    want = inference.ensemble([crossings.model(), crossings.model(scale=2.0, rate=44100)], path)
    (top,) = want.top(3)
    assert [(best["label"], best["probability"]) for best in row["labels"]] == top


def test_unreadable_files_are_listed_and_skipped(tmp_path, capsys):
    good = tone(tmp_path / "good.wav", 3000)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no sound")
    both = ("--checkpoint", "one", "--checkpoint", "44k")
    code, out, err = run(capsys, *both, "--format", "json", tmp_path)
    assert code == 0 and [row["file"] for row in json.loads(out)] == [good]
    lines = err.splitlines()
    assert {line.split(": ")[0] for line in lines} == {
        f"skipped {tmp_path / name}" for name in ("empty.wav", "text.wav")
    }
    assert all(line.split(": ", 1)[1] for line in lines)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_nothing_readable_is_exit_code_1(tmp_path, capsys, form):
    (tmp_path / "text.wav").write_text("this is no sound")
    code, out, err = run(capsys, "--checkpoint", "one", "--format", form, tmp_path)
    assert code == 1 and "text.wav" in err
    assert out.strip() == {"table": "", "csv": "file,rank,label,probability", "json": "[]"}[form]


def test_names_that_are_not_utf8_are_printed(tmp_path, monkeypatch):
    tone(tmp_path / "a.wav", 3000)
    try:
        odd = os.fsdecode(os.fsencode(str(tmp_path / "a")) + b"\xff.wav")
        os.rename(tmp_path / "a.wav", odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    good = tone(tmp_path / "good.wav", 3000)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    assert predict.main(["--checkpoint", "one", "--format", "json", str(tmp_path)]) == 0
    out.flush(), err.flush()
    files = [row["file"] for row in json.loads(out.buffer.getvalue())]
    skipped = err.buffer.getvalue().decode()
    assert good in files and (odd in files or "a\\udcff.wav" in skipped)


def test_mistakes_of_the_user(tmp_path):
    with pytest.raises(UserError, match="no file or folder '.*nowhere"):
        predict.main(["--checkpoint", "one", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="no sound files"):
        predict.main(["--checkpoint", "one", str(tmp_path)])
    path = tone(tmp_path / "a.wav", 3000)
    with pytest.raises(UserError, match="--top_k is 0"):
        predict.main(["--checkpoint", "one", "--top_k", "0", path])


def test_a_workdir_that_is_none(networks, tmp_path, capsys):
    path = tone(tmp_path / "a.wav", 3000)
    with pytest.raises(SystemExit) as exit:
        errors.run(lambda: predict.main(["--checkpoint", str(tmp_path / "none"), path]))
    err = capsys.readouterr().err
    assert exit.value.code == 2 and err.count("\n") == 1 and "not a workdir" in err


def test_a_checkpoint_trained_without_labels_is_refused(networks, tmp_path):
    path = tone(tmp_path / "a.wav", 3000)
    with pytest.raises(UserError, match="stage .* was trained without labels.*sacjax embed"):
        predict.main(["--checkpoint", str(networks["wav2vec2"]), path])
