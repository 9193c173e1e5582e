"""Stages in turn, and what they hand over."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from processes import run_python

from sacjax import config as config_lib
from sacjax import stages as experiment
from sacjax.errors import UserError
from sacjax.train import checkpoint

CONFIG = """
from sacjax import config as config_lib

def get_config():
    c = config_lib.default(first=config_lib.stage(), second=config_lib.stage())
    c.tensorboard = False
    for s in (c.first, c.second):
        s.data.source, s.data.examples, s.data.sample_rate, s.data.seconds = "synthetic", 100, 8000, 0.25
        s.frontend.n_fft, s.frontend.hop_length, s.frontend.n_mels = 256, 128, 16
        s.model.name, s.model.encoder = "small_cnn", dict(channels=(4, 4), hidden=8)
        s.train.batch_size, s.train.steps, s.eval.batch_size = 8, 1, 16
    c.second.init_from, c.second.optimizer.freeze = "first", (("encoder", 0),)
    return c
"""


def test_a_stage_starts_from_an_earlier_ones_encoder_on_two_devices(tmp_path):
    config, workdir = tmp_path / "config.py", tmp_path / "run"
    config.write_text(CONFIG)
    done = run_python("-m", "sacjax.main", "--config", config, "--workdir", workdir, devices=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "second: test accuracy" in done.stdout
    both = [
        100 * scores["test/accuracy"]
        for scores in json.loads((workdir / "results.json").read_text()).values()
    ]
    assert f"test accuracy: first {both[0]:.1f} %, second {both[1]:.1f} %" in done.stdout
    first, second = (
        checkpoint.load_trained(workdir, "last", name).model.encoder for name in ("first", "second")
    )
    jax.tree.map(
        np.testing.assert_array_equal, nnx.state(first, nnx.Param), nnx.state(second, nnx.Param)
    )
    evaluated = run_python("-m", "sacjax.main", "--mode=eval", "--workdir", workdir, devices=2)
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    assert "test/accuracy" in evaluated.stdout
    page = (workdir / "report.html").read_text()
    assert "Training of first" in page and "Training of second" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "second.data.sample_rate=16000",
            "config.second.data.sample_rate is 16000, but first was trained at 8000 Hz",
        ),
        (
            "second.model.encoder.hidden=16",
            "first: the checkpoint is of another model: 'encoder.dense",
        ),
        ("second.optimizer.multipliers=(('encodr',0.1),)", "encodr"),
        (
            "second.init_from='second'",
            "config.second.init_from is 'second', which does not run before second",
        ),
        (
            "first.init_from='second'",
            "config.first.init_from is 'second', which does not run before first",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_stage_trains(tmp_path, change, message):
    (tmp_path / "config.py").write_text(CONFIG)
    with pytest.raises(UserError, match=message):
        experiment.run(
            config_lib.load(str(tmp_path / "config.py"), [f"--config.{change}"]), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("own", ["first", "elsewhere"])
def test_the_checkpoint_that_hands_over_is_the_one_that_was_evaluated(tmp_path, monkeypatch, own):
    """`load_trained` takes it from the other stage's `eval.checkpoint` where it is not told."""
    (tmp_path / "config.py").write_text(CONFIG)
    config = config_lib.load(str(tmp_path / "config.py"), [f"--config.second.init_from='{own}'"])
    asked = []
    monkeypatch.setattr(
        experiment.checkpoint, "load_trained", lambda *args: asked.append(args) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        experiment.start_from(config.second, config, tmp_path)
    assert asked == [(tmp_path, None, "first") if own == "first" else (own, None)]


def test_a_workdirs_encoder_gives_its_shape_and_asks_for_its_sample_rate(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    source, encoder = tmp_path / "source", "{'channels': (4, 4), 'hidden': 12}"
    config = config_lib.load(
        str(tmp_path / "config.py"),
        ["--config.stages=('first',)", f"--config.first.model.encoder={encoder}"],
    )
    experiment.run(config, source)
    overrides = [
        "--config.stages=('second',)",
        f"--config.second.init_from={source}",
        "--config.second.model.encoder={}",
    ]
    config = config_lib.load(str(tmp_path / "config.py"), overrides)
    assert experiment.resolve(config).second.model.encoder.to_dict() == {
        "channels": (4, 4),
        "hidden": 12,
    }
    experiment.run(config, tmp_path / "run")
    trained = (
        checkpoint.load_trained(folder, "last").model.encoder
        for folder in (source, tmp_path / "run")
    )
    jax.tree.map(
        np.testing.assert_array_equal, *(nnx.state(encoder, nnx.Param) for encoder in trained)
    )
    config.second.data.sample_rate = 16000
    with pytest.raises(
        UserError,
        match=f"sample_rate is 16000, but {source} was trained at 8000 Hz: set it to that",
    ):
        experiment.run(config, tmp_path / "other")
    config.second.data.sample_rate, config.second.model.name = 8000, "spectrogram_resnet"
    with pytest.raises(
        UserError, match=f"init_from={source} needs config.second.model.name=small_cnn"
    ):
        experiment.run(config, tmp_path / "other")
    with pytest.raises(
        UserError, match="not a workdir of sacjax .* a folder of transformers' is hf:"
    ):
        config.second.init_from = str(tmp_path / "nowhere")
        experiment.resolve(config)


def test_a_workdir_is_another_experiments_only_once_something_is_saved(tmp_path, monkeypatch):
    (tmp_path / "config.py").write_text(CONFIG)
    load = lambda *changes: config_lib.load(  # noqa: E731
        str(tmp_path / "config.py"),
        ["--config.stages=('first',)", *(f"--config.first.{change}" for change in changes)],
    )
    with monkeypatch.context() as broken:
        broken.setattr(
            experiment, "fit", lambda *args: (_ for _ in ()).throw(UserError("too many bad files"))
        )
        with pytest.raises(UserError, match="too many bad files"):
            experiment.run(load(), tmp_path / "run")
    experiment.run(load("data.examples=90"), tmp_path / "run")
    with pytest.raises(
        UserError, match="holds a different experiment: config.first.data.examples is 90 there"
    ):
        experiment.run(load(), tmp_path / "run")


def test_a_run_goes_on_where_only_how_it_is_carried_out_has_changed(tmp_path, capsys):
    (tmp_path / "config.py").write_text(CONFIG)
    start = [
        "--config.stages=('first',)",
        "--config.checkpoint.every=1",
        "--config.first.train.steps=2",
    ]
    config = config_lib.load(str(tmp_path / "config.py"), start)
    results = experiment.run(config, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    capsys.readouterr()
    changes = [
        "checkpoint.keep=1",
        "mesh.fsdp=-1",
        "mesh.data=1",
        "profile=True",
        "first.data.cache=True",
    ]
    changed = config_lib.load(
        str(tmp_path / "config.py"), [*start, *(f"--config.{change}" for change in changes)]
    )
    again = experiment.run(changed, tmp_path / "run")
    assert "first: goes on from step 2" in capsys.readouterr().out
    assert again["first"]["test/loss"] == pytest.approx(results["first"]["test/loss"], rel=1e-5)
    with pytest.raises(UserError, match="config.first.train.steps is 2 there and 3 here"):
        experiment.run(
            config_lib.load(str(tmp_path / "config.py"), [*start, "--config.first.train.steps=3"]),
            tmp_path / "run",
        )


def test_a_stage_that_was_killed_goes_on_without_its_source(tmp_path):
    """The source of a stage that has a checkpoint is not read again."""
    (tmp_path / "config.py").write_text(CONFIG)
    source, workdir = tmp_path / "source", tmp_path / "run"
    config = config_lib.load(str(tmp_path / "config.py"), ["--config.stages=('first',)"])
    experiment.run(config, source)
    overrides = [
        "--config.stages=('second',)",
        f"--config.second.init_from={source}",
        "--config.checkpoint.every=1",
    ]
    config = config_lib.load(str(tmp_path / "config.py"), overrides)
    results = experiment.run(config, workdir)
    (workdir / "results.json").unlink()
    source.rename(tmp_path / "gone")
    assert json.loads(json.dumps(experiment.run(config, workdir))) == results


@pytest.mark.parametrize(("shuffled", "warned"), [(0.05, False), (0.21, True)])
def test_a_pretraining_that_is_no_better_than_chance_says_so(capsys, shuffled, warned):
    stage = config_lib.stage()
    stage.eval.splits = ("validation",)
    scores = dict(
        contrastive_accuracy=0.22,
        chance_accuracy=0.05,
        shuffled_accuracy=shuffled,
        code_perplexity_1=41.7,
    )
    experiment.print_scores(
        "pretrain", {f"validation/{key}": value for key, value in scores.items()}, stage
    )
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0]
        == "pretrain: validation contrastive accuracy 22.0 % (chance 5.0 %), code perplexity 41.7"
    )
    assert any("encoder/conv" in line for line in lines[1:]) == warned
