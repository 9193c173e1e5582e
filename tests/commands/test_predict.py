"""`sacjax predict`: what is printed, in which form, and how it ends."""

import csv
import io
import json
import os

import crossings
import numpy as np
import pytest
import soundfile as sf
from crossings import tone

from sacjax import errors, inference
from sacjax.commands import predict
from sacjax.errors import UserError
from sacjax.inference import timeline
from sacjax.inference.event_files import read_events


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


def sound_of(tmp_path, name="long.wav"):
    """Writes 1 s low, 1 s high, 1.3 s low; returns the path."""
    tones = [crossings.sine(f, s) for f, s in ((200, 1.0), (3000, 1.0), (200, 1.3))]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    sf.write(tmp_path / name, np.concatenate(tones), crossings.RATE)
    return str(tmp_path / name)


def test_a_timeline_of_a_long_recording(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timeline, "BLOCK", 0.7)  # it is read in pieces
    path, out = sound_of(tmp_path), tmp_path / "out" / "events.csv"
    flags = ("--checkpoint", "one", "--timeline", out, "--hop", "0.1", "--on", "0.55")
    code, said, err = run(capsys, *flags, path)
    assert code == 0 and err == "" and said == f"{out}: 3 events of 1 recordings\n"
    found = sorted(read_events(out)[os.path.realpath(path)])
    assert [event.label for event in found] == ["low", "high", "low"]
    times = [t for event in found for t in event[:2]]
    # A window that is 2/7 high crosses zero 1,000 times a second: its middle is 0.107 s early.
    want = [0, 0.893, 0.893, 2.107, 2.107, 3.3]
    np.testing.assert_allclose(times, want, atol=0.051)  # half a hop
    run(capsys, *flags, "--ignore", "low", path)
    assert [e.label for e in read_events(out)[os.path.realpath(path)]] == ["high"]
    run(capsys, *flags, "--min_duration", "1", path)  # the first is 0.9 s long
    assert [e.start for e in read_events(out)[os.path.realpath(path)]] == times[2::2]
    run(capsys, *flags, "--merge_gap", "1.2", "--ignore", "high", path)
    assert [e[:2] for e in read_events(out)[os.path.realpath(path)]] == [(0, 3.3)]


def test_an_ensemble_over_time(tmp_path, capsys, monkeypatch):
    models = {"one": crossings.model(), "two": crossings.model(scale=3.0)}
    models["44k"] = crossings.model(rate=44100)
    monkeypatch.setattr(inference, "load_classifier", lambda workdir, which: models[workdir])
    path, out = sound_of(tmp_path), tmp_path / "events.jsonl"
    flags = ("--timeline", out, "--on", "0.5")
    run(capsys, "--checkpoint", "one", "--checkpoint", "two", *flags, path)
    first = json.loads(out.read_text().splitlines()[0])
    one, two = (np.exp(x) / (np.exp(x) + 2) for x in (1.0, 3.0))
    assert first["probability"] == pytest.approx((one + two) / 2, abs=1e-4)
    with pytest.raises(UserError, match="different sample rate .8000 and 44100."):
        run(capsys, "--checkpoint", "one", "--checkpoint", "44k", *flags, path)


def test_a_timeline_is_scored_by_a_reference(tmp_path, capsys):
    path, other = sound_of(tmp_path / "in"), sound_of(tmp_path / "in", "other.wav")
    (tmp_path / "in" / "bad.wav").write_text("no sound")
    reference = tmp_path / "in" / "true.csv"
    rows = ["filename,start,end,label", "long.wav,0,1,low", "long.wav,1,2,high"]
    rows += ["long.wav,2,3.3,low", "bad.wav,0,1,high", "gone.wav,,,"]
    reference.write_text("\n".join(rows))
    flags = ("--checkpoint", "one", "--timeline", tmp_path / "e.csv", "--on", "0.55")
    flags += ("--hop", "0.1", "--reference", reference)
    code, out, err = run(capsys, *flags, tmp_path / "in")
    assert code == 0 and "6 events of 2 recordings" in out
    assert "skipped" in err and "bad.wav" in err
    assert "1 recordings are not in" in err and "were not heard" in err
    table = {line[:22].strip(): line[22:].split() for line in out.splitlines()[2:]}
    assert table["low"] == ["100.0"] * 6
    # High is found from 0.9 to 2.1 s, so in three segments instead of one. In the file that is no
    # sound nothing is found.
    assert table["high"] == ["40.0", "33.3", "50.0", "66.7", "100.0", "50.0"]
    assert table["all together (micro)"][3:] == ["85.7", "100.0", "75.0"]
    assert table["mean of labels (macro)"][3:] == ["83.3", "100.0", "75.0"]
    reference.write_text("filename,start,end,label\nlong.wav,0,1,hihg\n")
    with pytest.raises(UserError, match="the model has no label 'hihg'; did you mean 'high'"):
        run(capsys, *flags, path)
    reference.write_text("filename,start,end,label\ngone.wav,0,1,high\n")
    with pytest.raises(UserError, match="it names none of the 1 recordings"):
        run(capsys, *flags, other)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--reference", "x.csv"), "--reference needs --timeline"),
        (("--windows",), "--windows needs --timeline"),
        (("--on", "0.3"), "--on needs --timeline"),
        (("--timeline", "out.csv", "--collar", "1"), "--collar needs --reference"),
        (("--timeline", "x.mp3"), "must end in .csv"),
        (("--timeline", "x.csv", "--hop", "0.6"), "--hop is 0.6: the model hears 0.5 s"),
        (("--timeline", "x.csv", "--on", "0"), "--on is 0"),
        (("--timeline", "x.csv", "--ignore", "hgih"), "--ignore is 'hgih'.*'high'"),
        (("--timeline", "x.csv", "--collar", "nan"), "--collar is nan"),
        (("--timeline", "x.csv", "--reference", "none.csv"), "there is no file of events"),
        (("--timeline", "x.csv", "--reference", "./x.csv"), "it would overwrite --reference"),
        (("--timeline", "x.csv", "--format", "json"), "--format is of whole files' labels"),
        (("--timeline", "x.csv", "--top_k", "1"), "--top_k is of whole files' labels"),
    ],
)
def test_mistakes_over_time(tmp_path, monkeypatch, flags, message):
    path = tone(tmp_path / "a.wav", 3000)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        predict.main(["--checkpoint", "one", *flags, path])
    assert not (tmp_path / "x.csv").exists()


def test_a_timeline_without_events_tells_the_highest_probability(tmp_path, capsys):
    flags = ("--checkpoint", "one", "--timeline", tmp_path / "x.csv", "--hop", "0.1", "--on", "1")
    code, said, _ = run(capsys, *flags, sound_of(tmp_path))
    assert code == 0 and "0 events of 1 recordings\n" in said
    assert "no probability reaches --on 1: the highest is 0." in said


def test_a_timeline_of_nothing_readable_is_exit_code_1(tmp_path, capsys):
    (tmp_path / "text.wav").write_text("this is no sound")
    out = tmp_path / "x.csv"
    code, said, err = run(capsys, "--checkpoint", "one", "--timeline", out, tmp_path)
    assert code == 1 and "text.wav" in err and "0 events of 0 recordings" in said


def test_ctrl_c_writes_the_recordings_that_were_heard(tmp_path, capsys, monkeypatch):
    hear, heard = timeline.timeline, []

    def until_the_second(listeners, file):
        heard.append(file)
        if len(heard) == 2:
            raise KeyboardInterrupt
        return hear(listeners, file)

    monkeypatch.setattr(timeline, "timeline", until_the_second)
    paths, out = [sound_of(tmp_path, name) for name in ("a.wav", "b.wav")], tmp_path / "x.csv"
    flags = ("--checkpoint", "one", "--timeline", out, "--hop", "0.1", "--on", "0.55")
    code, said, err = run(capsys, *flags, *paths)
    assert code == 130 and "3 events of 1 recordings" in said
    assert err == f"interrupted at {paths[1]}: what was heard before it is written\n"
    assert list(read_events(out)) == [os.path.realpath(paths[0])]


def test_ctrl_c_before_a_recording_was_heard_leaves_an_earlier_table(tmp_path, capsys, monkeypatch):
    def interrupted(listeners, file):
        raise KeyboardInterrupt

    monkeypatch.setattr(timeline, "timeline", interrupted)
    (out := tmp_path / "x.csv").write_text("of yesterday")
    with pytest.raises(KeyboardInterrupt):
        run(capsys, "--checkpoint", "one", "--timeline", out, sound_of(tmp_path))
    assert out.read_text() == "of yesterday"
