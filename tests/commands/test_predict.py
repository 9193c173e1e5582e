"""`python -m sacjax.commands.predict` with made-up models: which files, what is printed, ensembles, bad files."""

import csv
import io
import json
import os

import numpy as np
import pytest
import soundfile as sf
from workdirs import write_workdir

from sacjax import config as config_lib
from sacjax import errors
from sacjax.commands import predict
from sacjax.errors import UserError
from sacjax.train.checkpoint import Trained

RATE = 8000


def trained(names=("high", "low", "other"), scale=1.0, rate=RATE, multi_label=False):
    """A model that hears how often the sign changes: above 1 kHz 'high', below 'low'; `scale` says how sure it is."""
    config = config_lib.default().unlock()
    config.supervised.data.sample_rate, config.supervised.data.seconds = rate, 0.5
    config.supervised.data.multi_label = multi_label
    config.supervised.data.workers, config.supervised.data.cache = (
        2,
        True,
    )  # of the training, not of predict

    def apply(audio, length):
        logits = np.zeros([len(audio), len(names)], np.float32)
        for row, (samples, n) in enumerate(zip(np.asarray(audio), length, strict=True)):
            crossings = np.count_nonzero(np.diff(np.signbit(samples[:n]))) / max(n, 1) * rate / 2
            logits[row, 0 if crossings > 1000 else 1] = scale
        return logits

    def probabilities(logits):
        return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    return Trained(config, "supervised", 1, tuple(names), apply, probabilities, None)


def tone(path, frequency, seconds=0.5, rate=RATE, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    sf.write(
        path, np.tile(0.5 * np.sin(2 * np.pi * frequency * time + 0.1)[:, None], channels), rate
    )
    return str(path)


@pytest.fixture
def workdirs(monkeypatch):
    """Makes `load_classifier` answer from a dict."""
    models = {"one": trained(), "sure": trained(scale=4.0), "other": trained(("a", "b", "c"))}
    models["44k"] = trained(scale=2.0, rate=44100)
    models["multi"] = trained(multi_label=True)
    monkeypatch.setattr(predict, "load_classifier", lambda workdir, which: models[workdir])
    return models


def run(capsys, *args):
    code = predict.main(list(map(str, args)))
    out, err = capsys.readouterr()
    return code, out, err


def test_any_rate_length_and_channels(workdirs, tmp_path, capsys):
    tone(tmp_path / "a.wav", 3000, rate=44100)
    tone(tmp_path / "sub" / "b.flac", 200, seconds=3.3, rate=22050, channels=2)
    tone(tmp_path / "sub" / "c.WAV", 2500, seconds=0.03, rate=16000)
    tone(tmp_path / "d.ogg", 300, rate=48000)
    (tmp_path / "notes.txt").write_text("not audio")
    (tmp_path / ".hidden.wav").write_text("not looked at")
    code, out, err = run(capsys, "--checkpoint", "one", "--format", "json", tmp_path)
    rows = {os.path.relpath(row["file"], tmp_path): row["labels"] for row in json.loads(out)}
    assert code == 0 and err == ""
    best = {name: labels[0]["label"] for name, labels in rows.items()}
    assert best == {"a.wav": "high", "d.ogg": "low", "sub/b.flac": "low", "sub/c.WAV": "high"}
    for labels in rows.values():
        assert len(labels) == 3 and sum(row["probability"] for row in labels) == pytest.approx(1)


def test_formats(workdirs, tmp_path, capsys):
    high, low = tone(tmp_path / "hi, there.wav", 3000), tone(tmp_path / "ünï.wav", 200)
    args = (
        "--checkpoint",
        "one",
        "--top_k",
        "2",
        high,
        low,
        high,
    )  # a file named twice is labelled once
    code, out, _ = run(capsys, *args)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 2
    assert lines[0].startswith(high) and lines[0].endswith("high  57.6 %  low  21.2 %")
    assert lines[0].index("  high") == lines[1].index("  low")  # aligned
    _, out, _ = run(capsys, *args, "--format", "csv")
    head, *rows = csv.reader(io.StringIO(out))
    assert head == ["file", "rank", "label", "probability"]
    assert (
        rows[0] == [high, "1", "high", "0.576117"]
        and rows[2][:3] == [low, "1", "low"]
        and len(rows) == 4
    )
    _, out, _ = run(capsys, *args, "--format", "json")
    assert [row["file"] for row in json.loads(out)] == [high, low]
    assert len(json.loads(out)[0]["labels"]) == 2
    _, out, _ = run(capsys, *args, "--format", "json", "--top_k", "99")
    assert len(json.loads(out)[0]["labels"]) == 3


def test_long_clips_by_mean_logits_of_windows(workdirs, tmp_path, capsys):
    # 1.5 s in five windows of 0.5 s: 0 to 0.5, 0.25 to 0.75, … ; the last two are high.
    path = tmp_path / "two.wav"
    time = np.arange(12000) / RATE
    sf.write(
        path,
        np.where(
            time < 1.0, np.sin(2 * np.pi * 200 * time + 0.1), np.sin(2 * np.pi * 3900 * time + 0.1)
        )
        / 2,
        RATE,
    )
    _, out, _ = run(capsys, "--checkpoint", "sure", "--format", "json", path)
    got = {row["label"]: row["probability"] for row in json.loads(out)[0]["labels"]}
    logits = np.array([4 * 2 / 5, 4 * 3 / 5, 0.0])
    want = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose([got["high"], got["low"], got["other"]], want, atol=1e-6)


def test_ensembles_average_probabilities_each_at_its_own_rate(workdirs, tmp_path, capsys):
    path = tone(tmp_path / "a.wav", 3000)
    _, out, _ = run(capsys, "--checkpoint", "one", "--checkpoint", "44k", "--format", "json", path)
    got = json.loads(out)[0]["labels"][0]
    one, two = np.exp(1) / (np.exp(1) + 2), np.exp(2) / (np.exp(2) + 2)
    assert got["label"] == "high" and got["probability"] == pytest.approx((one + two) / 2, abs=1e-6)


@pytest.mark.parametrize("other", ["other", "multi"])
def test_ensembles_need_equal_labels(workdirs, tmp_path, other):
    path = tone(tmp_path / "a.wav", 3000)
    with pytest.raises(UserError, match="different labels"):
        predict.main(["--checkpoint", "one", "--checkpoint", other, path])


def test_unreadable_files_are_listed_and_skipped(workdirs, tmp_path, capsys):
    good = tone(tmp_path / "good.wav", 3000)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no sound")
    sf.write(tmp_path / "header.wav", np.zeros(0), RATE)
    sf.write(tmp_path / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    code, out, err = run(
        capsys, "--checkpoint", "one", "--checkpoint", "44k", "--format", "json", tmp_path
    )
    assert code == 0 and [row["file"] for row in json.loads(out)] == [good]
    lines = err.splitlines()
    assert {line.split(": ")[0] for line in lines} == {
        f"skipped {tmp_path / name}" for name in ("empty.wav", "text.wav", "header.wav", "nan.wav")
    }
    assert all(line.split(": ", 1)[1] for line in lines)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_nothing_readable_is_exit_code_1(workdirs, tmp_path, capsys, form):
    (tmp_path / "text.wav").write_text("this is no sound")
    code, out, err = run(capsys, "--checkpoint", "one", "--format", form, tmp_path)
    assert code == 1 and "text.wav" in err
    assert out.strip() == {"table": "", "csv": "file,rank,label,probability", "json": "[]"}[form]


def test_names_that_are_not_utf8_are_printed(workdirs, tmp_path, monkeypatch):
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


def test_mistakes_of_the_user(workdirs, tmp_path, capsys):
    with pytest.raises(UserError, match="no file or folder '.*nowhere"):
        predict.main(["--checkpoint", "one", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="no sound files"):
        predict.main(["--checkpoint", "one", str(tmp_path)])
    path = tone(tmp_path / "a.wav", 3000)
    with pytest.raises(UserError, match="--top_k is 0"):
        predict.main(["--checkpoint", "one", "--top_k", "0", path])


def test_a_workdir_that_is_none(tmp_path, capsys):
    path = tone(tmp_path / "a.wav", 3000)
    with pytest.raises(SystemExit) as exit:
        errors.run(lambda: predict.main(["--checkpoint", str(tmp_path / "none"), path]))
    err = capsys.readouterr().err
    assert exit.value.code == 2 and err.count("\n") == 1 and "not a workdir" in err


def test_a_checkpoint_trained_without_labels_is_refused(tmp_path):
    write_workdir(tmp_path / "pretrained", "wav2vec2", "contrastive")
    path = tone(tmp_path / "a.wav", 3000)
    with pytest.raises(UserError, match="stage .* was trained without labels.*sacjax.embed"):
        predict.main(["--checkpoint", str(tmp_path / "pretrained"), path])
