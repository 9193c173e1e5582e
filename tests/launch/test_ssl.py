"""The fair table's script: what it runs, what it reads, and what it makes of it."""

import csv
import json

import numpy as np
import pytest
from family import config_of

from launch.benchmarks import ssl
from sacjax import config as config_lib
from sacjax.errors import UserError

SIMCLR = ssl.Pretraining("fsdd", "simclr", "resnet", "speech", 5.0)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path):
    """A folder of results: an encoder fine-tuned and probed, the same from scratch."""
    encoder = SIMCLR.workdir(tmp_path)
    for fold, draw, accuracy in ((4, 0, 0.7), (4, 1, 0.8), (5, 0, 0.6), (5, 1, 0.5), (1, 0, 0.1)):
        write(
            encoder / "fsdd_finetune_10" / f"fold{fold}_draw{draw}" / "results.json",
            {"finetune": {"test/accuracy": accuracy}},
        )
        write(
            tmp_path / "fsdd_scratch_resnet_10" / f"fold{fold}_draw{draw}" / "results.json",
            {"scratch": {"test/accuracy": accuracy - 0.1}},
        )
    table = {"knn_accuracy": 0.5, "linear_accuracy": 0.6, "few_shot_accuracy": {"10": [0.3, 0.5]}}
    probe = {"trained": table, "random": table | {"knn_accuracy": 0.2}}
    for fold in (1, 4, 5):
        write(encoder / f"fsdd_probe_fold{fold}.json", probe)
    return tmp_path


def test_the_table_has_means_over_the_folds_that_were_not_chosen_on(runs):
    rows = ssl.summarize(ssl.read_results(runs))
    cells = {(r["method"], r["protocol"], r["labels"]): r for r in rows}
    tuned = cells["simclr", "finetune", "10"]
    expected = np.array([70, 80, 60, 50])  # fold 1 is a development fold
    assert float(tuned["mean"]) == pytest.approx(expected.mean())
    assert float(tuned["std"]) == pytest.approx(expected.std(ddof=1), abs=0.005)
    assert (tuned["folds"], tuned["draws"], tuned["budget_minutes"]) == (2, 2, "5")
    assert tuned["pretraining"] == "speech" and tuned["encoder"] == "resnet"
    for method in ("scratch", "supervised"):
        assert float(cells[method, "finetune", "10"]["mean"]) == pytest.approx(55)
    assert float(cells["simclr", "knn", "all"]["mean"]) == 50
    assert float(cells["untrained", "knn", "all"]["mean"]) == 20
    assert float(cells["simclr", "linear", "10"]["mean"]) == 40


def test_the_csv_and_the_markdown_hold_all_rows(runs):
    rows = ssl.summarize(ssl.read_results(runs))
    ssl.write_csv(rows, runs / "ssl.csv")
    with open(runs / "ssl.csv", newline="") as file:
        again = list(csv.DictReader(file))
    assert [row["mean"] for row in again] == [row["mean"] for row in rows]
    assert tuple(again[0]) == tuple(ssl.COLUMNS)
    table = ssl.show(rows, "fsdd")
    assert "| simclr | resnet | speech | 5 | 65.0 ± 12.9 (2×2) |" in table


def test_what_is_there_is_not_run_again(runs):
    jobs = ssl.finetuning_jobs("fsdd", SIMCLR, (4, 5, 6), 10, 2, runs)
    missing = [job.result.name for job in jobs]
    assert missing == ["fold6_draw0", "fold6_draw1"]
    assert not ssl.scratch_jobs("fsdd", "resnet", (4, 5), 10, 2, runs)
    assert not ssl.probing_jobs("fsdd", SIMCLR, (4, 5), 2, runs)


def test_a_budget_is_updates_by_their_cost(runs):
    write(runs / "costs.json", {"simclr_resnet_speech": 0.5})
    assert ssl.steps_of(SIMCLR, runs) == 600
    (job,) = ssl.pretraining_job(SIMCLR, runs)
    assert "steps=600" in " ".join(job.command)


@pytest.mark.parametrize("task", list(ssl.TASKS))
def test_every_run_is_a_config(task, monkeypatch, runs):
    monkeypatch.chdir(ssl.Path(ssl.__file__).parents[2])
    nobody = ssl.Pretraining(task, "simclr", "resnet", "train", 5.0, fold=2)
    config = config_lib.load(nobody.spec(30, runs))
    assert config.stages == ("pretrain",) and config.pretrain.train.steps == 30
    spec = f"{ssl.CONFIG}:{ssl._labelled(task, nobody, 2, 4, 1)},stages=scratch"
    config = config_lib.load(spec)
    assert config.scratch.data.labels_per_class == 4 and config.scratch.data.fold == 2
    assert config.seed == 1 and config.scratch.data.split_seed == 1


def test_an_unknown_method_is_refused():
    with pytest.raises(UserError, match="simclear is none of .*simclr"):
        ssl.natural_encoder("simclear")


def test_speech_and_training_speakers_are_listed_without_the_test_speaker(real_data, tmp_path):
    path = ssl.manifest("fsdd", 4, tmp_path)
    names = path.read_text().splitlines()[1:]
    digits = [name for name in names if "/fsdd/" in name]
    speakers = {name.rpartition("/")[2].split("_")[1] for name in digits}
    assert len(digits) == 2500 and len(speakers) == 5 and "nicolas" not in speakers
    assert len(names) - len(digits) == 8170


def test_the_cost_of_an_update_is_measured_on_real_batches(monkeypatch):
    config = config_of("simclr")
    monkeypatch.setattr(config_lib, "load", lambda spec: config)
    monkeypatch.setattr(ssl, "WARM", 1)
    assert 0 < ssl.measure("configs/any.py", updates=1) < 600
