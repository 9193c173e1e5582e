"""The few-label benchmark: what it runs, and how it sums up, over made-up results."""

import csv
import json
import runpy
import sys

import numpy as np
import pytest

from launch.benchmarks import few_labels
from sacjax import config as config_lib
from sacjax.errors import UserError
from sacjax.objectives import wav2vec2


def result(root, name, fold, draw, accuracy, steps=100):
    """A finished run, and of its config what tells experiments apart."""
    folder = root / f"fold{fold}" / f"{name}_draw{draw}"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"finetune": {"test/accuracy": accuracy}}))
    stage = {
        "data": {"fold": fold, "labels_per_class": 5, "split_seed": draw},
        "init_from": f"runs/fold{fold}/pretrain",
        "train": {"steps": steps},
    }
    config = {"seed": draw, "stages": ["finetune"], "finetune": stage}
    (folder / "config.json").write_text(json.dumps(config))


def probe(root, fold, trained, random, layer="mean"):
    (root / f"fold{fold}").mkdir(exist_ok=True)
    tables = {
        "about": {"layer": layer, "seed": 0, "neighbours": 10, "train_clips": fold},
        "trained": {"few_shot_accuracy": {"5": trained}},
        "random": {"few_shot_accuracy": {"5": random}},
    }
    (root / f"fold{fold}" / "probe.json").write_text(json.dumps(tables))


def test_the_command_of_the_probes_probes(tmp_path, monkeypatch, capsys):
    (job,) = few_labels.probing(4, tmp_path / "nowhere", tmp_path / "probe.json", (1,), 1)
    _, is_module, module, *flags = job.command
    monkeypatch.setattr(sys, "argv", [module, *flags])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert is_module == "-m" and ended.value.code == 2
    assert "nowhere: not a workdir of sacjax" in capsys.readouterr().err


def test_means_are_over_folds_and_draws_and_deviations_over_draws(tmp_path):
    table = {(1, 0): 0.5, (2, 0): 0.7, (1, 1): 0.6, (2, 1): 1.0}
    for (fold, draw), accuracy in table.items():
        result(tmp_path, "pretrained_shots5", fold, draw, accuracy)
    result(tmp_path, "scratch_shots10", 1, 0, 0.25)
    for fold in (1, 2):
        probe(tmp_path, fold, [0.1, 0.3], [0.0, 0.2])
    summary = few_labels.summarize(few_labels.read_results(tmp_path))
    cell = summary["pretrained"][5]
    assert cell["mean"] == pytest.approx(0.7) and cell["folds"] == [1, 2] and cell["draws"] == 2
    assert cell["std"] == pytest.approx(np.std([0.6, 0.8], ddof=1)) and not cell["left_out"]
    assert summary["scratch"][10]["mean"] == 0.25 and summary["scratch"][10]["std"] is None
    assert summary["probe_pretrained"][5]["mean"] == pytest.approx(0.2)
    assert summary["probe_random"][5]["mean"] == pytest.approx(0.1)


def test_rows_are_compared_over_the_folds_and_draws_that_all_of_them_have(tmp_path):
    for fold, draw in ((4, 0), (5, 0), (6, 0), (4, 1), (5, 1), (4, 2)):
        result(tmp_path, "pretrained_shots5", fold, draw, fold / 10 + draw / 100)
    for fold, draw in ((4, 0), (5, 0), (4, 1), (5, 1), (4, 2), (5, 2)):
        result(tmp_path, "scratch_shots5", fold, draw, 0.2)
    for fold in (4, 5, 6):
        probe(tmp_path, fold, [fold / 10] * fold, [0.0] * 6)  # of fold 4 only four draws
    summary = few_labels.summarize(few_labels.read_results(tmp_path))
    cells = {method: summary[method][5] for method in few_labels.METHODS}
    assert all(cell["folds"] == [4, 5] for cell in cells.values())
    assert [cell["draws"] for cell in cells.values()] == [2, 2, 4, 4]
    assert cells["pretrained"]["mean"] == pytest.approx(np.mean([0.4, 0.5, 0.41, 0.51]))
    assert cells["pretrained"]["left_out"] == ["fold 4, draw 2", "fold 6, draw 0"]
    assert cells["probe_pretrained"]["mean"] == pytest.approx(0.45)
    table = few_labels.show("fsdd", summary)
    assert "| pretrained, fine-tuned |  | 45.5 ± 0.7 |  |" in table
    assert "5 labels a class: means over folds 4, 5; not in all rows: 6" in table
    assert "5 labels a class, from scratch: left out fold 4, draw 2; fold 5, draw 2" in table


def test_rows_without_a_common_fold_have_no_means(tmp_path):
    result(tmp_path, "pretrained_shots5", 4, 0, 0.5)
    result(tmp_path, "scratch_shots5", 5, 0, 0.5)
    summary = few_labels.summarize(few_labels.read_results(tmp_path))
    assert summary["pretrained"][5]["mean"] is None and summary["pretrained"][5]["draws"] == 0
    table = few_labels.show("fsdd", summary)
    assert "5 labels a class: no fold is there in all rows, so there are no means" in table


def test_runs_of_different_experiments_are_not_averaged(tmp_path):
    result(tmp_path, "pretrained_shots5", 4, 0, 0.5)
    result(tmp_path, "pretrained_shots5", 5, 1, 0.5, steps=10)
    told = "fold5.pretrained_shots5_draw1: it is another .*train.steps is 100 there and 10 here"
    with pytest.raises(UserError, match=told):
        few_labels.read_results(tmp_path)


def test_probes_of_another_layer_are_not_averaged(tmp_path):
    probe(tmp_path, 4, [0.5], [0.5])
    probe(tmp_path, 5, [0.5], [0.5], layer="last")
    with pytest.raises(UserError, match="layer is last, but mean in .*fold4"):
        few_labels.read_results(tmp_path)


def test_probes_with_too_few_draws_run_again(tmp_path):
    probe(tmp_path, 4, [0.5] * 2, [0.5] * 3)
    path = tmp_path / "fold4" / "probe.json"
    assert few_labels.probing(4, tmp_path, path, (5,), draws=2) == []
    for shots, draws in (((5,), 3), ((5, 10), 2)):
        (job,) = few_labels.probing(4, tmp_path, path, shots, draws)
        assert job.command[-4:] == ["--draws", str(draws), "--output", str(path)]


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
    done.mkdir()
    (done / "results.json").write_text(json.dumps({"finetune": {"test/accuracy": 1.0}}))
    (done / "config.json").write_text(config_lib.to_json(config_lib.load(spec, [])))
    assert few_labels.training(spec, done, []) == []
    (job,) = few_labels.training(spec, tmp_path / "new", ["--config.seed=1"])
    assert job.command[-1] == "--config.seed=1" and job.result == tmp_path / "new"
    assert (
        few_labels.training(spec, done, ["--config.pretrain.train.steps=7"]) == []
    )  # of a stage that it does not run
    for change in ("--config.seed=1", "--config.finetune.train.steps=7"):
        with pytest.raises(UserError, match="holds results of a different experiment"):
            few_labels.training(spec, done, [change])


def test_reference_curves_are_those_of_the_log(tmp_path, monkeypatch):
    config = config_lib.default(pretrain=config_lib.stage())
    config.unlock().pretrain.objective.update(name="wav2vec2", options=dict(codebook_entries=10))
    config.pretrain.train.steps = 40
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    rows = [
        {
            "stage": "pretrain",
            "step": step,
            "train/contrastive_accuracy": step / 100,
            "train/code_perplexity_1": 5.0,
            "x": 1.0,
        }
        for step in (10, 20, 40)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(wav2vec2, "HEALTHY", tmp_path / "healthy.csv")
    few_labels.write_reference(tmp_path)
    with open(tmp_path / "healthy.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["share_of_run"]) for row in table] == [0.25, 0.5, 1.0]
    assert [float(row["train/contrastive_accuracy"]) for row in table] == [0.1, 0.2, 0.4]
    assert {float(row["train/code_perplexity_1"]) for row in table} == {0.5} and "x" not in table[0]
    assert few_labels.plots.read_reference(tmp_path / "healthy.csv")["train/code_perplexity_1"] == (
        [0.25, 0.5, 1.0],
        [0.5] * 3,
    )
