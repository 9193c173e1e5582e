"""Folds and seeds from one compilation, against `sacjax train` of each alone."""

import functools
import json

import numpy as np
import pytest
import soundfile
from quick_stages import share_trainers

from launch.benchmarks import kfold, kfold_together
from sacjax import config as config_lib
from sacjax import stages
from sacjax.errors import UserError
from sacjax.train.replicas import make_replicas

RATE = 2000
RUNS = [(fold, seed) for seed in (3, 4) for fold in (1, 2)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Twenty-four clips of two pitches in noise, in two folds."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    rows = ["filename,label,fold"]
    for k in range(24):
        tone = 0.1 * np.sin(2 * np.pi * (200 + 300 * (k % 2)) * np.arange(900) / RATE)
        soundfile.write(folder / f"{k}.wav", tone + rng.normal(0, 0.2, 900), RATE)
        rows.append(f"{k}.wav,{'ab'[k % 2]},{1 + k // 12}")
    (folder / "list.csv").write_text("\n".join(rows))
    return folder / "list.csv"


def config_of(manifest, fold=1, seed=0):
    """A small network with dropout, mixing and crops, so that all that is drawn counts."""
    config = config_lib.default()
    config.seed, config.tensorboard = seed, False
    stage = config.supervised
    stage.data.update(source="manifest", path=str(manifest), sample_rate=RATE, seconds=0.4)
    stage.data.update(fold=fold, validation_fraction=0.0)
    stage.frontend.update(n_fft=64, hop_length=32, n_mels=8)
    stage.augment.waveform = (dict(name="gain"),)
    stage.augment.spectrogram = (dict(name="mixup", alpha=1.0),)
    stage.model.name, stage.model.dropout = "gru", 0.3
    stage.model.encoder = dict(width=8, layers=1)
    stage.optimizer.learning_rate = 1e-2
    stage.train.update(batch_size=4, steps=5, evaluate_every=10**6)
    stage.eval.splits = ("test",)
    return config


@pytest.fixture(scope="module")
def alone(manifest, tmp_path_factory):
    """The runs one by one: {(fold, seed): what `kfold.read_run` says}."""
    found, output = {}, tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        share_trainers(patch)
        for fold, seed in RUNS:
            workdir = output / f"fold{fold}_seed{seed}"
            stages.run(config_of(manifest, fold, seed), workdir)
            found[fold, seed] = kfold.read_run(workdir, fold, seed)
    return found


@pytest.mark.parametrize("how", ["turns", "vmap"])
def test_runs_together_are_the_runs_alone(manifest, alone, tmp_path, monkeypatch, how):
    share_trainers(monkeypatch)
    made = []
    keep = lambda *args: made.append(make_replicas(*args)) or made[-1]
    monkeypatch.setattr(kfold_together, "make_replicas", keep)
    where = {key: tmp_path / "fold{}_seed{}".format(*key) for key in RUNS}
    kfold_together.run([(where[key], config_of(manifest, *key)) for key in RUNS], how)
    for key, one in alone.items():
        found = kfold.read_run(where[key], *key)
        assert found["files"] == one["files"] and found["config"] == one["config"]
        np.testing.assert_allclose(found["probabilities"], one["probabilities"], atol=1e-5)
        ours, theirs = (
            json.loads((run["workdir"] / "results.json").read_text())["supervised"]
            for run in (found, one)
        )
        assert ours == pytest.approx(theirs, abs=1e-4)
    tables = [run["probabilities"] for run in alone.values()]
    assert all(np.abs(a - b).max() > 1e-3 for k, a in enumerate(tables) for b in tables[:k])
    assert made[0].compiled._cache_size() == 1


def test_what_cannot_go_together_is_told(manifest, tmp_path):
    def refused(match, config):
        with pytest.raises(UserError, match=match):
            kfold_together.run([(tmp_path / "run", config)])

    config = config_of(manifest)
    config.supervised.train.early_stopping = 3
    refused("--together: it cannot go with config.supervised.train.early_stopping", config)
    config = config_of(manifest)
    config.supervised.objective.options = dict(class_weights="balanced")
    refused("class_weights", config)
    two = config_lib.default(one=config_lib.stage(), two=config_lib.stage())
    refused("config.stages has 2 stages", two)


def test_folds_of_other_sizes_need_a_number_of_steps(manifest, tmp_path):
    rows = (manifest.parent / "list.csv").read_text().splitlines()
    short = manifest.parent / "short.csv"
    short.write_text("\n".join(rows[:-6]))  # fold 2 lacks six clips
    runs = []
    for fold in (1, 2):
        config = config_of(short, fold)
        config.supervised.train.update(steps=0, epochs=4)
        runs.append((tmp_path / str(fold), config))
    with pytest.raises(UserError, match="6 to 12 steps; set config.supervised.train.steps"):
        kfold_together.run(runs)


def test_the_command_runs_what_is_left_together(manifest, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(kfold_together, "run", lambda runs: seen.extend(runs))
    spec = tmp_path / "config.py"
    spec.write_text("from sacjax import config\n\ndef get_config():\n    return config.default()\n")
    own = ["--config.supervised.data.source=manifest", f"--config.supervised.data.path={manifest}"]
    run = functools.partial(kfold.run_all, str(spec), own, tmp_path / "out", None, [0, 7])
    run(together=True)
    told = [(path.name, c.seed, c.supervised.data.fold) for path, c in seen]
    assert told == [(f"fold{f}_seed{s}", s, f) for s in (0, 7) for f in (1, 2)]
