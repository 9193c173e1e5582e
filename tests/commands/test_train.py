"""`sacjax train`: what a run leaves, and mistakes, which leave earlier results as they were."""

import json
import shutil

import pytest
from quick_stages import share_trainers

from sacjax.commands import train
from sacjax.errors import UserError


def arguments(workdir, overrides, *more):
    changes = (f"--config.{m}" for m in more)
    return ["--config", "configs/folder.py", "--workdir", str(workdir), *overrides, *changes]


def test_a_run_leaves_all_its_files(trained):
    workdir = trained.workdir
    results = json.loads((workdir / "results.json").read_text())["supervised"]
    assert results["test/accuracy"] >= 0.8 and "validation/macro_f1" in results
    for name in (
        "config.json",
        "metrics.jsonl",
        "predictions.csv",
        "report.html",
        "plots/confusion_matrix.png",
    ):
        assert (workdir / name).stat().st_size > 100, name
    lines = (workdir / "predictions.csv").read_text().splitlines()
    assert lines[0] == "file,split,label,prediction,high,low" and len(lines) == 1 + 5 + 5
    assert list((workdir / "tensorboard" / "supervised").iterdir())
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    speeds = [line for line in lines if "time/mfu" in line]
    assert speeds and all(
        0 < line["time/goodput"] <= 1 and line["time/model_flops_per_second"] > 0 for line in speeds
    )


def test_a_finished_run_says_so_and_changes_nothing(trained, capsys):
    before = {p: p.stat().st_mtime_ns for p in trained.workdir.rglob("*") if p.is_file()}
    assert train.main(arguments(trained.workdir, trained.overrides)) == 0
    assert "already finished; results.json holds its results" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in trained.workdir.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("supervised.data.pth=x", "did you mean 'path'"),
        ("supervised.train.batch_size=many", "expected int"),
        ("supervised.data.path=/nowhere/at/all", "there is no folder '/nowhere/at/all'"),
        ("supervised.data.fold=3", "data.fold is 3"),
        ("mesh.data=3", "does not fit 1 devices"),
        ("supervised.optimizer.freeze=(('nothing',0),)", "no parameter's name matches 'nothing'"),
        ("supervised.init_from=/nowhere", "not a workdir"),
        ("supervised.model.encoder.chanels=(1,2)", "did you mean 'channels'"),
    ],
)
def test_bad_overrides_stop_before_anything_is_written(trained, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train.main(arguments(tmp_path / "new", trained.overrides, override))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("flag", [("--split", "all"), ("--which", "best"), ("--output", "out")])
def test_a_flag_of_the_evaluation_is_refused(tmp_path, flag):
    with pytest.raises(UserError, match=f"{flag[0]} is for --mode=eval"):
        train.main([*arguments(tmp_path / "new", []), *flag])
    assert not (tmp_path / "new").exists()


def test_empty_and_one_class_data(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copytree(trained.sounds / "low", tmp_path / "one" / "low")
    for name, message in (
        ("empty", "no sound files"),
        ("one", "1 class found"),
        ("one/low", "no classes found"),
    ):
        path = f"supervised.data.path={tmp_path / name}"
        with pytest.raises(UserError, match=message):
            train.main(arguments(tmp_path / "run", trained.overrides, path))


def test_a_workdir_of_another_experiment_is_left_alone(trained):
    before = (trained.workdir / "results.json").read_bytes()
    with pytest.raises(
        UserError,
        match="holds a different experiment: config.supervised.train.steps is 30 there and 31 here",
    ):
        train.main(arguments(trained.workdir, trained.overrides, "supervised.train.steps=31"))
    assert (trained.workdir / "results.json").read_bytes() == before


def test_a_workdir_that_cannot_be_written(trained, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        train.main(arguments(tmp_path / "file" / "run", trained.overrides))


def test_a_checkpoint_of_another_model(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained.workdir, copy)
    (copy / "results.json").unlink()
    text = (copy / "config.json").read_text()
    text = text.replace('"encoder": {}', '"encoder": {"hidden": 64}')
    (copy / "config.json").write_text(text)
    with pytest.raises(UserError, match="the checkpoint is of another model"):
        train.main(arguments(copy, trained.overrides, "supervised.model.encoder.hidden=64"))


def test_a_metric_that_is_not_measured_cannot_name_the_best_checkpoint(trained, tmp_path):
    with pytest.raises(
        UserError, match="eval.best: there is no metric 'validation/f1'; did you mean 'validation/"
    ):
        change = ("supervised.eval.best=validation/f1", "supervised.eval.checkpoint=best")
        train.main(arguments(tmp_path / "new", trained.overrides, *change))


def test_a_workdir_may_not_be_the_data_set(trained):
    with pytest.raises(UserError, match="is config.supervised.data.path: choose another folder"):
        train.main(arguments(trained.sounds, trained.overrides))


def test_broken_files_are_skipped_listed_and_stop_the_run_only_past_the_limit(
    trained, tmp_path, capsys, monkeypatch
):
    share_trainers(monkeypatch)
    broken = tmp_path / "sounds"
    shutil.copytree(trained.sounds, broken)
    (broken / "high" / "not_audio.wav").write_bytes(b"this is not audio")
    (broken / "low" / "empty.wav").write_bytes(b"")
    changes = [f"supervised.data.path={broken}", "supervised.train.steps=12"]
    with pytest.raises(
        UserError, match="files cannot be decoded, more than data.max_bad_fraction=0.01"
    ):
        strict = "supervised.data.max_bad_fraction=0.01"
        train.main(arguments(tmp_path / "strict", trained.overrides, *changes, strict))
    changes += ["supervised.data.max_bad_fraction=0.2", "profile=False"]
    train.main(arguments(tmp_path / "run", trained.overrides, *changes))
    assert "2 files were skipped, see bad_files.csv" in capsys.readouterr().out
    listed = (tmp_path / "run" / "bad_files.csv").read_text()
    assert "high/not_audio.wav" in listed and "low/empty.wav" in listed
    assert (tmp_path / "run" / "results.json").is_file()


def test_encoder_of_another_run_is_taken(trained, tmp_path, monkeypatch):
    share_trainers(monkeypatch)
    changes = [f"supervised.init_from={trained.workdir}", "supervised.train.steps=2"]
    train.main(arguments(tmp_path / "tuned", trained.overrides, *changes, "profile=False"))
    assert (tmp_path / "tuned" / "results.json").is_file()
