"""The few-label benchmark: what it runs, and how it sums up, over made-up results."""

import csv
import json

import numpy as np
import pytest

from launch.benchmarks import few_labels
from sacjax import config as config_lib
from sacjax.errors import UserError


def result(folder, accuracy):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"finetune": {"test/accuracy": accuracy}}))


def test_means_are_over_folds_and_draws_and_deviations_over_draws(tmp_path):
    table = {(1, 0): 0.5, (2, 0): 0.7, (1, 1): 0.6, (2, 1): 1.0}
    for (fold, draw), accuracy in table.items():
        result(tmp_path / f"fold{fold}" / f"pretrained_shots5_draw{draw}", accuracy)
    result(tmp_path / "fold1" / "scratch_shots10_draw0", 0.25)
    probe = {
        "trained": {"few_shot_accuracy": {"5": [0.1, 0.3]}},
        "random": {"few_shot_accuracy": {"5": [0.0, 0.2]}},
    }
    (tmp_path / "fold1" / "probe.json").write_text(json.dumps(probe))
    summary = few_labels.summarize("fsdd", tmp_path)
    cell = summary["pretrained"][5]
    assert cell["mean"] == pytest.approx(0.7) and cell["folds"] == [1, 2] and cell["draws"] == 2
    assert cell["std"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert summary["scratch"][10]["mean"] == 0.25 and summary["scratch"][10]["std"] is None
    assert summary["probe_pretrained"][5]["mean"] == pytest.approx(0.2)
    assert summary["probe_random"][5]["mean"] == pytest.approx(0.1)


def test_pretraining_comes_first_and_once_a_fold(tmp_path):
    first, second = few_labels.waves("fsdd", tmp_path, [1, 2], draws=3)
    assert len(first) == 2 and len(second) == 2 * (3 * 3 * 2 + 1)
    encoder = str(tmp_path / "fold2" / "pretrain")
    assert any(f"--config.finetune.init_from={encoder}" in job.command for job in second)
    for job in second:
        if "--config" in job.command:
            spec = job.command[job.command.index("--config") + 1]
            assert ("scratch" in spec) != ("--config.stages=('finetune',)" in job.command)


def test_finished_runs_are_left_alone_unless_they_are_of_another_config(tmp_path):
    spec, done = "configs/fsdd/wav2vec2.py:fold=1,shots=5,scratch", tmp_path / "done"
    result(done, 1.0)
    (done / "config.json").write_text(config_lib.to_json(config_lib.load(spec, [])))
    assert few_labels.training(spec, done, []) == []
    (job,) = few_labels.training(spec, tmp_path / "new", ["--config.seed=1"])
    assert job.command[-1] == "--config.seed=1" and job.result == tmp_path / "new"
    assert (
        few_labels.training(spec, done, ["--config.pretrain.train.steps=7"]) == []
    )  # of a stage that it does not run
    for change in ("--config.seed=1", "--config.finetune.train.steps=7"):
        with pytest.raises(UserError, match="holds results of a different config"):
            few_labels.training(spec, done, [change])


def test_reference_curves_are_those_of_the_log(tmp_path, monkeypatch):
    options = {
        "pretrain": {"objective": {"options": {"codebook_entries": 10}}, "train": {"steps": 40}}
    }
    (tmp_path / "config.json").write_text(json.dumps(options))
    rows = [
        {"stage": "pretrain", "step": step, "train/contrastive_accuracy": step / 100, "train/code_perplexity_1": 5.0, "x": 1.0}
        for step in (10, 20, 40)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(few_labels.plots, "HEALTHY", tmp_path / "healthy.csv")
    few_labels.write_reference(tmp_path)
    with open(tmp_path / "healthy.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["share_of_run"]) for row in table] == [0.25, 0.5, 1.0]
    assert [float(row["train/contrastive_accuracy"]) for row in table] == [0.1, 0.2, 0.4]
    assert {float(row["train/code_perplexity_1"]) for row in table} == {0.5} and "x" not in table[0]
    assert few_labels.plots.read_reference()["train/code_perplexity_1"] == (
        [0.25, 0.5, 1.0],
        [0.5] * 3,
    )
