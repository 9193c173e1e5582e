"""Stages in turn: what they hand over, what is refused, which checkpoint is judged."""

import dataclasses
import itertools
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from processes import run_python
from quick_stages import share_trainers

from sacjax import checks, inference, init_from, objectives, stages
from sacjax import config as config_lib
from sacjax.data import pipeline, sources, splits
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.inference.evaluate import evaluate_workdirs
from sacjax.objectives.base import Frozen, Loss, Objective, build_encoder
from sacjax.train.checkpoint import Checkpoints
from sacjax.train.checkpoint_files import write_labels

CONFIG = """
from sacjax import config as config_lib

def get_config():
    c = config_lib.default(first=config_lib.stage(), second=config_lib.stage())
    c.tensorboard = False
    for s in (c.first, c.second):
        s.data.source, s.data.examples = "synthetic", 100
        s.data.sample_rate, s.data.seconds = 8000, 0.25
        s.frontend.n_fft, s.frontend.hop_length, s.frontend.n_mels = 256, 128, 16
        s.model.name, s.model.encoder = "small_cnn", dict(channels=(4, 4), hidden=8)
        s.train.batch_size, s.train.steps, s.eval.batch_size = 8, 1, 16
    c.second.init_from, c.second.optimizer.freeze = "first", (("encoder", 0),)
    return c
"""

# The command to train and the one to evaluate, one after the other.
COMMANDS = """
import sys
from sacjax.commands import train
train.main(["--config", sys.argv[1], "--workdir", sys.argv[2]])
print("EVALUATED")
train.main(["--mode=eval", "--workdir", sys.argv[2]])
"""


@pytest.fixture(autouse=True)
def quick_stages(monkeypatch):
    share_trainers(monkeypatch)


@pytest.fixture
def load(tmp_path):
    """Loads the config above with overrides, such as 'first.train.steps=2'."""
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return lambda *changes: config_lib.load(str(path), [f"--config.{c}" for c in changes])


ONLY_FIRST = "stages=('first',)"


def encoder_of(workdir, stage=None):
    return nnx.state(inference.load_trained(workdir, "last", stage).module.encoder, nnx.Param)


def test_a_stage_starts_from_an_earlier_ones_encoder_on_two_devices(tmp_path):
    config, workdir = tmp_path / "config.py", tmp_path / "run"
    config.write_text(CONFIG)
    done = run_python("-c", COMMANDS, config, workdir, devices=2)
    assert done.returncode == 0, done.stderr[-2000:]
    trained, evaluated = done.stdout.split("EVALUATED")
    assert "second: test accuracy" in trained
    results = json.loads((workdir / "results.json").read_text())
    both = [100 * scores["test/accuracy"] for scores in results.values()]
    assert f"test accuracy: first {both[0]:.1f} %, second {both[1]:.1f} %" in trained
    first, second = (encoder_of(workdir, name) for name in ("first", "second"))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert "test/accuracy" in evaluated
    page = (workdir / "report.html").read_text()
    assert "Training of first" in page and "Training of second" in page
    lead = f"first: {both[0]:.1f} % of 20 test clips are right"
    assert lead in page and f"; second: {both[1]:.1f} % (" in page
    kept = [(workdir / "predictions" / f"{name}.csv").read_text() for name in results]
    assert len(kept) == 2 and kept[1] == (workdir / "predictions.csv").read_text()


SHARED = "config.first trains on .* of the clips that config.second is tested on, such as"
NO_VALIDATION = "needs a validation part, which is empty"
WITHOUT_VALIDATION = "second.data.holdout=(0.8,0.0,0.2)", "second.data.validation_fraction=0.0"


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
        (("first.data.holdout=(0.9,0.0,0.1)", "transductive=True"), SHARED),
        (
            (*WITHOUT_VALIDATION, "second.train.early_stopping=2"),
            f"config.second.train.early_stopping {NO_VALIDATION}",
        ),
        (
            (*WITHOUT_VALIDATION, "second.eval.checkpoint=best"),
            f"config.second.eval.checkpoint=best {NO_VALIDATION}",
        ),
        (
            "first.data.holdout=(0.0,0.5,0.5)",
            "config.first.data: the training part is empty; see data.fold, data.holdout",
        ),
        (
            (
                "second.data.multi_label=True",
                "second.objective.options={'loss': 'sigmoid'}",
                "second.eval.analysis=True",
            ),
            "config.second.eval.analysis is True, but it is for data of one label a clip",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_stage_trains(tmp_path, load, change, message):
    changes = (change,) if isinstance(change, str) else change
    with pytest.raises(UserError, match=message):
        stages.run(load(*changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_would_learn_only_after_the_last_update_is_told(tmp_path, load, capsys):
    """As where a config freezes an encoder for 150 updates and an override cuts them to 100."""
    freeze = "second.optimizer.freeze=(('dense',1),('encoder',2))"
    config = load("second.init_from=''", "second.train.steps=2", freeze)
    mesh = stages.sharding.make_mesh(config.mesh)
    stages.Stage.prepare("second", config, mesh, tmp_path / "run", {})
    told = capsys.readouterr().err
    assert "config.second.optimizer.freeze: 'encoder' never learns" in told
    assert "'dense'" not in told


# Clips that an earlier stage trains on and a later one is tested on


def prepared(train, test, supervised=False, **source):
    """Returns a stage as `check_leaks` sees it: its data, and whether it learns labels."""
    names = [f"clip{k}" for k in range(6)]
    data = dict(source="folder", path="/sounds", name="", split_seed=0)
    data.update({key: value for key, value in source.items() if key != "paths"})
    recordings = Recordings(names, [()] * 6, (), lambda k: None, paths=source.get("paths"))
    return SimpleNamespace(
        name="",
        stage=SimpleNamespace(data=SimpleNamespace(**data)),
        recordings=recordings,
        parts={"train": np.array(train, int), "test": np.array(test, int)},
        objective=SimpleNamespace(needs_labels=supervised),
    )


def check_leaks(transductive=False, **made):
    for name, stage in made.items():
        stage.name = name
    checks.check_leaks(SimpleNamespace(transductive=transductive), made)


LEAK = "config.pretrain trains on 1 of the clips that config.finetune is tested on, such as clip2"


def test_pretraining_on_clips_of_a_later_test_is_refused_unless_the_config_says_transductive():
    made = dict(pretrain=prepared([0, 1, 2], [5]), finetune=prepared([0, 1], [2, 3], True))
    with pytest.raises(UserError, match=f"{LEAK}: .*or set config.transductive=True"):
        check_leaks(**made)
    check_leaks(**made, transductive=True)
    check_leaks(pretrain=prepared([0, 1], [5]), finetune=prepared([0, 1], [2, 3], True))
    check_leaks(finetune=made["finetune"], pretrain=made["pretrain"])  # it comes later


def test_a_supervised_stage_never_trains_on_clips_of_a_later_test():
    made = dict(pretrain=prepared([0, 2], [5], True), finetune=prepared([0, 1], [2, 3], True))
    for transductive in (False, True):
        with pytest.raises(UserError, match=LEAK) as told:
            check_leaks(**made, transductive=transductive)
        assert "transductive" not in str(told.value)


def test_files_are_the_same_clips_whatever_lists_them_and_records_by_their_data_set():
    files = [f"/sounds/{k}.wav" for k in range(6)]
    later = prepared([0], [2], True, paths=files)
    shifted = [f"/sounds/{k + 1}.wav" for k in range(6)]
    listed = dict(source="manifest", path="/sounds/list.csv", paths=shifted)
    with pytest.raises(UserError, match="such as /sounds/2.wav"):
        check_leaks(pretrain=prepared([1], [], **listed), finetune=later)
    check_leaks(pretrain=prepared([2], [], **listed), finetune=later)
    esc10 = prepared([0], [2], True, source="tfds", path="", name="esc50/esc10")
    with pytest.raises(UserError, match="such as clip2"):
        esc50 = prepared([2], [], source="tfds", path="", name="esc50/all")
        check_leaks(pretrain=esc50, finetune=esc10)
    other = prepared([2], [], source="tfds", path="", name="fsdd")
    check_leaks(pretrain=other, finetune=esc10)
    hub = dict(source="huggingface", path="")
    voices = prepared([0], [2], True, name="org/voices:de@main", **hub)
    other = prepared([2], [], name="org/birds", **hub)
    check_leaks(pretrain=other, finetune=voices)  # of one owner
    with pytest.raises(UserError, match="such as clip2"):
        check_leaks(pretrain=prepared([2], [], name="org/voices:all", **hub), finetune=voices)
    numbered, rows = (
        prepared([2], [], name="org/voices:all", **hub),
        [f"train/{k:07d}" for k in range(6)],
    )
    numbered.recordings.names = voices.recordings.names = rows
    check_leaks(pretrain=numbered, finetune=voices)  # of another config
    made, other = (
        prepared([2], [2], True, source="synthetic", path="", split_seed=k) for k in (0, 1)
    )
    with pytest.raises(UserError, match="such as clip2"):
        check_leaks(pretrain=made, finetune=made)
    check_leaks(pretrain=other, finetune=made)  # other sounds by the same names


# Checkpoints


@pytest.mark.parametrize("own", ["first", "elsewhere"])
def test_the_checkpoint_that_hands_over_is_the_one_that_was_evaluated(
    tmp_path, monkeypatch, load, own
):
    """`load_trained` takes it from the other stage's `eval.checkpoint` where it is not told."""
    config = load(f"second.init_from='{own}'")
    asked = []
    monkeypatch.setattr(inference, "load_trained", lambda *args: asked.append(args) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        init_from.pretrained_of(config.second, config, tmp_path)
    assert asked == [(tmp_path, None, "first") if own == "first" else (own, None)]


def test_results_evaluation_and_inference_are_of_one_checkpoint_that_of_the_config(tmp_path, load):
    changes = [
        ONLY_FIRST,
        "first.train.steps=3",
        "first.train.evaluate_every=1",
        "first.optimizer.learning_rate=0.02",
        "first.eval.best=validation/loss",
        "first.eval.best_mode=min",
    ]
    losses = []
    for which in ("last", "best"):
        workdir = tmp_path / which
        results = stages.run(load(*changes, f"first.eval.checkpoint={which}"), workdir)["first"]
        checkpoints = Checkpoints(workdir, "first", mode="min")
        best, last = checkpoints.best(), checkpoints.latest()
        assert best < last == 3
        model = inference.load_trained(workdir)
        assert model.step == (last if which == "last" else best)
        scores = evaluate_workdirs([str(workdir)], [], "test")
        judged = {name: value for name, value in results.items() if name.startswith("test/")}
        assert scores == pytest.approx(judged, rel=1e-5)
        losses.append(results["test/loss"])
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_a_workdirs_encoder_gives_its_shape_and_asks_for_its_sample_rate(tmp_path, load):
    source = tmp_path / "source"
    encoder = {"channels": (4, 4), "hidden": 12}
    stages.run(load(ONLY_FIRST, f"first.model.encoder={encoder}"), source)
    config = load("stages=('second',)", f"second.init_from={source}", "second.model.encoder={}")
    assert init_from.resolve(config).second.model.encoder.to_dict() == encoder
    stages.run(config, tmp_path / "run")
    trained = (encoder_of(folder) for folder in (source, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, *trained)
    config.second.data.sample_rate = 16000
    wanted = f"sample_rate is 16000, but {source} was trained at 8000 Hz: set it to that"
    with pytest.raises(UserError, match=wanted):
        stages.run(config, tmp_path / "other")
    config.second.data.sample_rate, config.second.model.name = 8000, "spectrogram_resnet"
    wanted = f"init_from={source} needs config.second.model.name=small_cnn"
    with pytest.raises(UserError, match=wanted):
        stages.run(config, tmp_path / "other")
    config.second.init_from = str(tmp_path / "nowhere")
    wanted = "not a workdir of sacjax .* a folder of transformers' is hf:"
    with pytest.raises(UserError, match=wanted):
        init_from.resolve(config)


# Runs that go on


def test_a_workdir_is_another_experiments_only_once_something_is_saved(tmp_path, monkeypatch, load):
    def fail(*args):
        raise UserError("too many bad files")

    with monkeypatch.context() as broken:
        broken.setattr(stages, "fit", fail)
        with pytest.raises(UserError, match="too many bad files"):
            stages.run(load(ONLY_FIRST), tmp_path / "run")
    stages.run(load(ONLY_FIRST, "first.data.examples=90"), tmp_path / "run")
    wanted = "holds a different experiment: config.first.data.examples is 90 there"
    with pytest.raises(UserError, match=wanted):
        stages.run(load(ONLY_FIRST), tmp_path / "run")


def test_a_run_goes_on_where_only_how_it_is_carried_out_has_changed(tmp_path, load, capsys):
    start = [ONLY_FIRST, "checkpoint.every=1", "first.train.steps=2"]
    results = stages.run(load(*start), tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    capsys.readouterr()
    changed = load(
        *start,
        "checkpoint.keep=1",
        "mesh.fsdp=-1",
        "mesh.data=1",
        "profile=True",
        "first.data.cache=True",
    )
    again = stages.run(changed, tmp_path / "run")
    assert "first: goes on from step 2" in capsys.readouterr().out
    assert again["first"]["test/loss"] == pytest.approx(results["first"]["test/loss"], rel=1e-5)
    with pytest.raises(UserError, match="config.first.train.steps is 2 there and 3 here"):
        stages.run(load(*start, "first.train.steps=3"), tmp_path / "run")


def test_a_run_does_not_go_on_with_other_labels(tmp_path, load, monkeypatch):
    """Else what was learned as `bell` would be called by whatever name is in its place now."""
    config = load(ONLY_FIRST, "checkpoint.every=1")
    stages.run(config, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    found = sources.load(config.first.data)
    renamed = [("zebra",) if own == ("bell",) else own for own in found.labels]
    names = tuple(sorted({name for (name,) in renamed}))
    changed = dataclasses.replace(found, labels=renamed, class_names=names)
    monkeypatch.setattr(sources, "load", lambda data: changed)
    with pytest.raises(UserError, match="config.first.data: its labels are others than when"):
        stages.run(config, tmp_path / "run")


@pytest.mark.parametrize("done", [(), ("first",)])
def test_a_run_does_not_go_on_with_other_training_clips(tmp_path, load, monkeypatch, done):
    """Else clips that it trained on before a file was added are among those that it is tested on.

    So are those of a stage that is done, by a later one.
    """
    config = load("second.init_from=''", "second.optimizer.freeze=()")
    results = stages.run(config, tmp_path / "run")
    told = json.dumps({name: results[name] for name in done})
    (tmp_path / "run" / "results.json").write_text(told)
    if done:
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "second")
    found = sources.load(config.first.data)
    swap = dict(train="test", test="train", validation="validation")
    swapped = [swap[part] for part in found.splits]
    moved = dataclasses.replace(found, splits=swapped)
    monkeypatch.setattr(sources, "load", lambda data: moved)
    with pytest.raises(UserError, match="config.first.data: its training clips are others than"):
        stages.run(config, tmp_path / "run")


def test_a_run_of_a_version_that_told_no_clips_goes_on(tmp_path):
    write_labels(tmp_path, "first", ("a", "b"), "others")
    (tmp_path / "checkpoints" / "first" / "10").mkdir()
    with pytest.raises(UserError, match="config.first.data: its training clips are others than"):
        checks.check_same_clips("these", "first", tmp_path)
    (tmp_path / "checkpoints" / "first" / "labels.json").write_text('{"class_names": ["a", "b"]}')
    checks.check_same_clips("these", "first", tmp_path)


def test_a_classifier_without_a_label_to_train_on_is_refused(tmp_path, load, monkeypatch):
    config = load(ONLY_FIRST)
    found = sources.load(config.first.data)
    train = set(splits.split(found, config.first.data)["train"].tolist())
    labels = [None if i in train else own for i, own in enumerate(found.labels)]
    monkeypatch.setattr(sources, "load", lambda data: dataclasses.replace(found, labels=labels))
    with pytest.raises(UserError, match="none of the .* clips to train on has a label"):
        stages.run(config, tmp_path / "run")


def test_a_stage_that_was_killed_goes_on_without_its_source(tmp_path, load):
    """The source of a stage that has a checkpoint is not read again."""
    source, workdir = tmp_path / "source", tmp_path / "run"
    stages.run(load(ONLY_FIRST), source)
    config = load("stages=('second',)", f"second.init_from={source}", "checkpoint.every=1")
    results = stages.run(config, workdir)
    (workdir / "results.json").unlink()
    source.rename(tmp_path / "gone")
    assert json.loads(json.dumps(stages.run(config, workdir))) == results


# An objective that prepares something on the host


class Centroid(Objective):
    """Frames are near what the first two training batches sound like, on average."""

    prepared = 0

    def prepare(self, batches):
        """Mean level of the batches, [1]."""
        type(self).prepared += 1
        given = itertools.islice(batches(), 2)
        return {"level": np.float32([np.mean([np.abs(b["audio"]).mean() for b in given])])}

    def build(self, rngs, artifacts=None):
        """An encoder with a variable that stays as it is."""
        model = nnx.Module()
        model.encoder = build_encoder(self.stage, rngs)
        model.level = Frozen(jnp.zeros([1]) if artifacts is None else artifacts["level"])
        return model

    def loss(self, model, batch, ctx):
        """Squares of the differences."""
        embedding = self.embed(model, batch, ctx)
        errors = ((embedding - model.level[...]) ** 2).mean(-1) * batch["mask"]
        total = errors.sum(), batch["mask"].sum()
        return Loss(*total, {"loss": total})


def test_what_an_objective_prepares_is_made_once_of_its_batches_and_kept(
    tmp_path, monkeypatch, load
):
    monkeypatch.setitem(objectives.OBJECTIVES, "centroid", Centroid)
    config = load(
        ONLY_FIRST, "first.objective.name=centroid", "checkpoint.every=1", "first.train.steps=2"
    )
    results = stages.run(config, tmp_path / "run")
    data = config.first.data
    recordings = sources.load(data)
    train = splits.split(recordings, data)["train"]
    batches = iter(pipeline.train_batches(recordings, train, data, 8, config.seed, labels=False))
    want = np.mean([np.abs(next(batches)["audio"]).mean() for _ in range(2)])
    model = inference.load_trained(tmp_path / "run").module
    np.testing.assert_allclose(model.level[...], [want], rtol=1e-6)
    assert np.isfinite(results["first"]["test/loss"]) and Centroid.prepared == 1
    (tmp_path / "run" / "results.json").unlink()
    assert stages.run(config, tmp_path / "run") == results  # it goes on, and prepares nothing
    assert Centroid.prepared == 1
