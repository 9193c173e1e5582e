"""Runs that meet updates that are not finite. (SIGTERM: test_loop.py.)"""

import csv
import json

import numpy as np
import pytest
from quick_stages import share_trainers

from sacjax import config as config_lib
from sacjax import stages
from sacjax.errors import UserError
from sacjax.train import loop


@pytest.fixture(autouse=True)
def quick_stages(monkeypatch, request):
    share_trainers(monkeypatch, reports="report" in request.node.name)


@pytest.fixture
def config(small_overrides):
    c = config_lib.load("configs/folder.py", small_overrides)
    c.tensorboard, c.checkpoint.every = False, 4
    c.supervised.train.update(log_every=1, max_skipped=3, evaluate_every=100)
    c.supervised.augment.waveform = c.supervised.augment.spectrogram = ()
    return c


@pytest.fixture
def spoil(monkeypatch):
    """Makes the sound of the n-th batches that are trained on not a number."""
    put, calls = loop.put_batch, []

    def spoiled(which):
        def put_batch(batch, mesh):
            calls.append(batch["index"])
            bad = np.float32(np.nan if which(len(calls)) else 1)
            return put(batch | {"audio": batch["audio"].astype(np.float32) / 32768 * bad}, mesh)

        monkeypatch.setattr(loop, "put_batch", put_batch)
        return calls

    return spoiled


def log_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_one_skipped_update_is_counted_and_its_files_are_named(tmp_path, config, spoil):
    calls = spoil(lambda n: n == 6)
    results = stages.run(config, tmp_path / "run")
    assert results["supervised"]["test/accuracy"] > 0.5
    (line,) = [line for line in log_of(tmp_path / "run") if "train/skipped_updates" in line]
    assert line["step"] == 6 and line["train/skipped_updates"] == 1 and "train/loss" not in line
    with open(tmp_path / "run" / "skipped_updates.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    sounds = sorted(path.stem for path in (tmp_path / "sounds").rglob("*.wav"))
    named = [name.rsplit("/", 1)[-1].removesuffix(".wav") for name in row["files"].split("|")]
    assert row["step"] == "6" and named == [sounds[i] for i in calls[5]]


def test_several_in_a_row_go_back_once_and_take_another_order(tmp_path, config, spoil, capsys):
    calls = spoil(lambda n: n in (6, 7, 8))
    stages.run(config, tmp_path / "run")
    assert "3 updates in a row up to step 8" in (said := capsys.readouterr().out)
    assert "back to step 4, with the data in another order" in said
    assert "goes on from step 4" in said
    assert len(calls) == 8 + 8  # 1 to 8, then 5 to 12
    assert not np.array_equal(calls[4:8], calls[8:12])
    lines = [line for line in log_of(tmp_path / "run") if "learning_rate" in line]
    assert [line["step"] for line in lines] == list(range(1, 13))  # no gap and no repeat
    assert all(np.isfinite(line["train/loss"]) for line in lines)


def test_a_run_that_stays_not_finite_stops_with_a_report(tmp_path, config, spoil):
    calls = spoil(lambda n: n > 5)
    wanted = "were not finite .skipped_updates.csv.*lower optimizer.learning_rate"
    with pytest.raises(UserError, match=wanted):
        stages.run(config, tmp_path / "run")
    assert len(calls) == 8 + 3 and not (tmp_path / "run" / "results.json").exists()
    assert "Training of supervised" in (tmp_path / "run" / "report.html").read_text()
