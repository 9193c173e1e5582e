"""The main command: bad input gets one line, a non-zero exit, and leaves earlier results as they were; eval mode."""

import json
import shutil

import numpy as np
import pytest
import soundfile as sf
from processes import run_python

from sacjax import main as main_lib
from sacjax.errors import UserError


def arguments(workdir, overrides, *more):
    return [
        "--config",
        "configs/folder.py",
        "--workdir",
        str(workdir),
        *overrides,
        *(f"--config.{m}" for m in more),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir trained on tones, its data, and the overrides that made it."""
    root = tmp_path_factory.mktemp("trained")
    rng, time = np.random.default_rng(0), np.arange(4000) / 8000
    for label, low, high in (("high", 1500, 3000), ("low", 100, 600)):
        (root / "sounds" / label).mkdir(parents=True)
        for k in range(12):
            tone = 0.4 * np.sin(
                2 * np.pi * rng.uniform(low, high) * time
            ) + 0.02 * rng.standard_normal(4000)
            sf.write(root / "sounds" / label / f"{k:02d}.wav", tone, 8000)
    overrides = [
        f"--config.supervised.data.path={root / 'sounds'}", "--config.supervised.data.sample_rate=8000",
        "--config.supervised.data.seconds=0.5", "--config.supervised.frontend.n_fft=256",
        "--config.supervised.frontend.hop_length=128", "--config.supervised.frontend.n_mels=16",
        "--config.supervised.model.name=small_cnn", "--config.supervised.model.encoder={}",
        "--config.supervised.train.batch_size=8", "--config.supervised.train.steps=30",
        "--config.supervised.train.evaluate_every=10", "--config.supervised.eval.batch_size=8", "--config.profile=True",
    ]  # fmt: skip
    workdir = root / "run"
    done = run_python("-m", "sacjax.main", *arguments(workdir, overrides))
    assert done.returncode == 0, done.stderr
    return workdir, root / "sounds", overrides


def test_a_run_leaves_all_its_files(trained):
    workdir, _, _ = trained
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
    _, _, overrides = trained
    with pytest.raises(UserError, match=message):
        main_lib.main(arguments(tmp_path / "new", overrides, override))
    assert not (tmp_path / "new" / "checkpoints").exists()


def test_the_command_says_it_in_one_line_and_exits_2(tmp_path):
    done = run_python(
        "-m", "sacjax.main", *arguments(tmp_path, [], "supervised.data.path=/nowhere")
    )
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1].startswith("error: ")
        and "Traceback" not in done.stderr
    )


def test_a_batch_that_does_not_divide_over_the_devices(trained, tmp_path):
    _, _, overrides = trained
    more = ["--config.supervised.train.batch_size=12"]
    done = run_python("-m", "sacjax.main", *arguments(tmp_path, overrides + more), devices=8)
    assert done.returncode == 2 and "must divide by the 8 devices" in done.stderr


def test_empty_and_one_class_data(trained, tmp_path):
    _, sounds, overrides = trained
    (tmp_path / "empty").mkdir()
    shutil.copytree(sounds / "low", tmp_path / "one" / "low")
    for name, message in (("empty", "no sound files"), ("one", "1 class found")):
        with pytest.raises(UserError, match=message):
            main_lib.main(
                arguments(tmp_path / "run", overrides, f"supervised.data.path={tmp_path / name}")
            )


def test_a_workdir_of_another_experiment_is_left_alone(trained):
    workdir, _, overrides = trained
    before = (workdir / "results.json").read_bytes()
    with pytest.raises(
        UserError,
        match="holds a different experiment: config.supervised.train.steps is 30 there and 31 here",
    ):
        main_lib.main(arguments(workdir, overrides, "supervised.train.steps=31"))
    assert (workdir / "results.json").read_bytes() == before


def test_a_workdir_that_cannot_be_written(trained, tmp_path):
    _, _, overrides = trained
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        main_lib.main(arguments(tmp_path / "file" / "run", overrides))


def test_a_checkpoint_of_another_model(trained, tmp_path):
    workdir, _, overrides = trained
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    (copy / "results.json").unlink()
    config = (
        (copy / "config.json").read_text().replace('"encoder": {}', '"encoder": {"hidden": 64}')
    )
    (copy / "config.json").write_text(config)
    with pytest.raises(UserError, match="the checkpoint is of another model"):
        main_lib.main(arguments(copy, overrides, "supervised.model.encoder.hidden=64"))


def test_eval_mode_on_its_own_splits_and_on_other_data(trained, tmp_path, capsys):
    workdir, sounds, _ = trained
    main_lib.main(
        [
            "--mode=eval",
            "--workdir",
            str(workdir),
            "--split",
            "validation",
            "--output",
            str(tmp_path / "v"),
        ]
    )
    scores = json.loads((tmp_path / "v" / "scores.json").read_text())
    results = json.loads((workdir / "results.json").read_text())["supervised"]
    assert scores["validation/accuracy"] == results["validation/accuracy"]
    other = tmp_path / "other"
    shutil.copytree(sounds / "low", other / "low")
    shutil.copytree(sounds / "high", other / "high")
    for k in range(3):
        (other / "high" / f"0{k}.wav").unlink()
    main_lib.main([
        "--mode=eval", "--workdir", str(workdir), "--workdir", str(workdir), "--split", "all",
        f"--config.supervised.data.path={other}", "--output", str(tmp_path / "all"),
    ])  # fmt: skip
    assert len((tmp_path / "all" / "predictions.csv").read_text().splitlines()) == 1 + 21
    assert "all/accuracy" in capsys.readouterr().out
    (other / "low").rename(other / "unheard_of")
    with pytest.raises(UserError, match="labels that the model does not know: unheard_of"):
        main_lib.main([
            "--mode=eval", "--workdir", str(workdir), "--split", "all", f"--config.supervised.data.path={other}",
            "--output", str(tmp_path / "x"),
        ])  # fmt: skip
    with pytest.raises(UserError, match="--split is 'tset'"):
        main_lib.main(
            [
                "--mode=eval",
                "--workdir",
                str(workdir),
                "--split",
                "tset",
                "--output",
                str(tmp_path / "x"),
            ]
        )
    assert not (tmp_path / "x").exists()
    with pytest.raises(
        UserError, match=f"--output {other / 'low' / '00.wav'}.*: cannot be written"
    ):
        (other / "unheard_of").rename(other / "low")
        main_lib.main(
            [
                "--mode=eval",
                "--workdir",
                str(workdir),
                "--output",
                str(other / "low" / "00.wav" / "x"),
            ]
        )


def test_eval_mode_says_that_nothing_has_a_label(trained, tmp_path, capsys):
    workdir, sounds, _ = trained
    shutil.copytree(sounds / "low", tmp_path / "flat")
    main_lib.main([
        "--mode=eval", "--workdir", str(workdir), "--split", "all", f"--config.supervised.data.path={tmp_path / 'flat'}",
        "--output", str(tmp_path / "out"),
    ])  # fmt: skip
    assert "no clip of the all part has a label" in capsys.readouterr().out
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 1 + 12


def test_a_metric_that_is_not_measured_cannot_name_the_best_checkpoint(trained, tmp_path):
    _, _, overrides = trained
    with pytest.raises(
        UserError, match="eval.best: there is no metric 'validation/f1'; did you mean 'validation/"
    ):
        change = ("supervised.eval.best=validation/f1", "supervised.eval.checkpoint=best")
        main_lib.main(arguments(tmp_path / "new", overrides, *change))


def test_a_workdir_may_not_be_the_data_set(trained):
    _, sounds, overrides = trained
    with pytest.raises(UserError, match="is config.supervised.data.path: choose another folder"):
        main_lib.main(arguments(sounds, overrides))


def test_broken_files_are_skipped_listed_and_stop_the_run_only_past_the_limit(
    trained, tmp_path, capsys
):
    _, sounds, overrides = trained
    broken = tmp_path / "sounds"
    shutil.copytree(sounds, broken)
    (broken / "high" / "not_audio.wav").write_bytes(b"this is not audio")
    (broken / "low" / "empty.wav").write_bytes(b"")
    overrides = [*overrides, f"--config.supervised.data.path={broken}"]
    with pytest.raises(
        UserError, match="files cannot be decoded, more than data.max_bad_fraction=0.01"
    ):
        main_lib.main(
            arguments(tmp_path / "strict", overrides, "supervised.data.max_bad_fraction=0.01")
        )
    main_lib.main(arguments(tmp_path / "run", overrides, "supervised.data.max_bad_fraction=0.2"))
    assert "2 files were skipped, see bad_files.csv" in capsys.readouterr().out
    listed = (tmp_path / "run" / "bad_files.csv").read_text()
    assert "high/not_audio.wav" in listed and "low/empty.wav" in listed
    assert (tmp_path / "run" / "results.json").is_file()


def test_encoder_of_another_run_is_taken(trained, tmp_path):
    workdir, _, overrides = trained
    main_lib.main(
        arguments(
            tmp_path / "tuned",
            overrides,
            f"supervised.init_from={workdir}",
            "supervised.train.steps=2",
        )
    )
    assert (tmp_path / "tuned" / "results.json").is_file()
