"""Sums and counts, and the three places they are written to."""

import json

import jax.numpy as jnp
import pytest

from sacjax.train import metrics


def test_means_of_sums_weigh_by_count():
    a = {"loss": (jnp.asarray(2.0), jnp.asarray(1.0))}
    b = {"loss": (jnp.asarray(1.0), jnp.asarray(3.0))}
    assert metrics.means(metrics.add(a, b)) == {"loss": 0.75}
    assert metrics.means({"loss": (jnp.asarray(0.0), jnp.asarray(0.0))}) == {}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_log_appends_and_drops_what_a_killed_run_had_not_saved(tmp_path):
    log = metrics.Log(tmp_path, "supervised", 0)
    for step in (10, 20, 30):
        log.write(step, {"train/loss": 1 / step, "bad": float("nan")})
    log.close()
    other = metrics.Log(tmp_path, "pretrain", 0, tensorboard=False)
    other.write(30, {"train/loss": 1.0})
    other.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "supervised", "st')  # cut short
    log = metrics.Log(tmp_path, "supervised", 20)
    log.write(30, {"train/loss": 0.5})
    log.close()
    rows = lines(tmp_path / "metrics.jsonl")
    assert [(row["stage"], row["step"], row["train/loss"]) for row in rows] == [
        ("supervised", 10, 0.1),
        ("supervised", 20, 0.05),
        ("pretrain", 30, 1.0),
        ("supervised", 30, 0.5),
    ]
    assert rows[0]["bad"] is None


def test_tensorboard_reads_the_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = metrics.Log(tmp_path, "supervised", 0)
    log.write(5, {"train/loss": 0.5})
    log.write(10, {"train/loss": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "supervised"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(5, 0.5), (10, 0.25)]


def test_progress_counts_what_happened(capsys):
    progress = metrics.Progress("supervised", 0, 10, 4, seconds=2.0, shown={}, show=False)
    batches = iter([1, 2])
    assert progress.wait(batches) == 1
    progress.tick()
    assert progress.rates() == {}  # that step's time was the compiler's
    assert progress.wait(batches) == 2
    progress.tick()
    rates = progress.rates()
    assert rates["time/step_seconds"] == pytest.approx(1 / rates["time/steps_per_second"])
    assert "time/mfu" not in rates
    assert 0 <= rates["time/data_wait_share"] <= 1
    sound = rates["time/audio_seconds_per_second"]
    assert abs(sound - 2 * rates["time/examples_per_second"]) < 1e-3
    assert abs(rates["time/eta_seconds"] * rates["time/steps_per_second"] - 8) < 1e-6
    progress.close()


def test_the_bar_shows_what_the_objective_names_and_keeps_it(capsys):
    shown = {"loss": "train/loss", "val": "validation/accuracy"}
    progress = metrics.Progress("supervised", 0, 10, 4, seconds=2.0, shown=shown)
    progress.show({"train/loss": 0.51234, "train/other": 7.0, "validation/accuracy": 1.0})
    progress.show({"train/loss": 0.25, "train/knn_accuracy": 0.75})
    progress.show({"validation/knn_accuracy": 0.5})
    assert progress.shown == {"loss": "0.25", "val": "1", "knn": "0.5"}
    progress.close()
    assert "loss=0.5123" in (bar := capsys.readouterr().err) and "knn=0.5" in bar
