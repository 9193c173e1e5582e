"""The loop: accumulation, devices, kills. Runs that need their own process or devices get one."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from processes import ROOT, run_python

from sacjax import config as config_lib
from sacjax import stages as experiment
from sacjax.train import sharding
from sacjax.train.loop import AHEAD, make_program, total_steps


class MaskedRegression:
    """An objective whose loss is averaged over a count that differs between micro-batches: the masked rows."""

    num_classes, needs_labels = 2, True

    def build(self, rngs):
        return nnx.Linear(16, 2, rngs=rngs)

    def loss(self, model, batch, rngs=None):
        errors = ((model(batch["inputs"]) - batch["label"]) ** 2).sum(-1)
        total = (errors * batch["mask"]).sum(), batch["mask"].sum()
        return total, {"loss": total}


def tiny_stage(**optimizer):
    stage = config_lib.stage()
    stage.data.update(sample_rate=16, seconds=1.0)
    stage.model.name = "audionet"  # waveforms go in as they are
    stage.optimizer.update(
        dict(schedule="constant", warmup_fraction=0.0, weight_decay=0.0) | optimizer
    )
    stage.train.batch_size = 8
    return stage


def batches(steps):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        mask = (rng.uniform(size=8) < 0.6).astype(np.float32)
        mask[rng.integers(8)] = 1
        yield dict(
            audio=rng.standard_normal([8, 16]).astype(np.float32), length=np.full(8, 16, np.int32),
            label=rng.integers(0, 2, 8).astype(np.int32), index=np.arange(8, dtype=np.int32), mask=mask,
        )  # fmt: skip


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulation_gives_the_update_of_the_whole_batch_when_counts_differ(optimizer):
    mesh = sharding.make_mesh(config_lib.default().mesh)
    finals = []
    for accumulation in (1, 4):
        stage = tiny_stage(name=optimizer, learning_rate=0.01, accumulation=accumulation, eps=1e-3)
        program = make_program(MaskedRegression(), stage, mesh, 5, seed=0)
        state = program.init()
        for batch in batches(5):
            state = program.step(state, sharding.put_batch(batch, mesh))
        finals.append(jax.device_get(state.params))
        sums = jax.device_get(state.sums["loss"])
    for a, b in zip(*map(jax.tree.leaves, finals), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert sums[1] == sum(b["mask"].sum() for b in batches(5))


def test_one_sgd_step_as_worked_by_hand():
    mesh = sharding.make_mesh(config_lib.default().mesh)
    stage = tiny_stage(name="sgd", momentum=0.0, learning_rate=0.1, clip_norm=0.0, accumulation=2)
    program = make_program(MaskedRegression(), stage, mesh, 1, seed=3)
    state = program.init()
    kernel, bias = np.asarray(state.params["kernel"]), np.asarray(state.params["bias"])
    batch = next(batches(1))
    target = np.eye(2)[batch["label"]]
    error = (
        2 * (batch["audio"] @ kernel + bias - target) * batch["mask"][:, None] / batch["mask"].sum()
    )
    after = program.step(state, sharding.put_batch(batch, mesh))
    np.testing.assert_allclose(
        after.params["kernel"], kernel - 0.1 * batch["audio"].T @ error, atol=1e-5
    )
    np.testing.assert_allclose(after.params["bias"], bias - 0.1 * error.sum(0), atol=1e-5)


def test_nothing_is_computed_for_what_never_trains():
    mesh = sharding.make_mesh(config_lib.default().mesh)
    batch = next(batches(1))
    bare, held = ({"freeze": freeze} for freeze in ((), (("kernel", 0),)))
    flops, norms = [], []
    for more in (bare, held):
        stage = tiny_stage(name="sgd", momentum=0.0, learning_rate=0.1, clip_norm=0.0, **more)
        program = make_program(MaskedRegression(), stage, mesh, 1, seed=3)
        state = program.init()
        kernel, bias = np.asarray(state.params["kernel"]), np.asarray(state.params["bias"])
        flops.append(
            program.step.lower(state, sharding.put_batch(batch, mesh))
            .compile()
            .cost_analysis()["flops"]
        )
        after = program.step(state, sharding.put_batch(batch, mesh))
        norms.append(float(after.sums["gradient_norm"][0]))
    error = (
        2 * (batch["audio"] @ kernel + bias - np.eye(2)[batch["label"]]) * batch["mask"][:, None]
    )
    np.testing.assert_array_equal(after.params["kernel"], kernel)
    np.testing.assert_allclose(
        norms[1], np.linalg.norm(error.sum(0)) / batch["mask"].sum(), rtol=1e-5
    )
    assert norms[1] < norms[0] and flops[1] < flops[0] - 2 * 8 * 16 * 2


def test_a_number_that_the_optimizer_makes_not_finite_stays_as_it_was():
    mesh = sharding.make_mesh(config_lib.default().mesh)
    program = make_program(
        MaskedRegression(), tiny_stage(name="adamw", learning_rate=0.01, eps=0.0), mesh, 9, seed=0
    )
    (batch,) = batches(1)
    batch["audio"][:, 3] = 0  # so that Adam divides 0 by 0
    state = program.init()
    before = np.asarray(state.params["kernel"])
    after = jax.device_get(program.step(state, sharding.put_batch(batch, mesh)))
    moved = after.params["kernel"] != before
    assert after.skipped == 0 and not moved[3].any() and moved[np.arange(len(moved)) != 3].all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])  # the square of the last overflows
def test_an_update_that_is_not_finite_leaves_nothing_but_that_it_was(value):
    mesh = sharding.make_mesh(config_lib.default().mesh)
    stage = tiny_stage(name="adamw", learning_rate=0.01, accumulation=2, ema_decay=0.9)
    program = make_program(MaskedRegression(), stage, mesh, 9, seed=0)
    first, spoiled, third = batches(3)
    spoiled["audio"][np.argmax(spoiled["mask"]), 3] = value
    state = program.step(program.init(), sharding.put_batch(first, mesh))
    before = jax.device_get(state)
    state = program.step(state, sharding.put_batch(spoiled, mesh))
    after = jax.device_get(state)
    assert after.step == 2 and after.skipped == 1 and np.flatnonzero(after.skips).tolist() == [1]
    for field in ("params", "extra", "opt_state", "ema", "sums", "progress"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, field), getattr(before, field))
    last = jax.device_get(program.step(state, sharding.put_batch(third, mesh)))
    assert last.skipped == 0 and last.sums["loss"][1] == first["mask"].sum() + third["mask"].sum()
    assert (
        not np.array_equal(last.params["kernel"], after.params["kernel"])
        and np.isfinite(last.params["kernel"]).all()
    )


def test_total_steps_by_epochs_or_steps():
    train = config_lib.stage().train
    train.update(batch_size=32, epochs=10.0)
    assert total_steps(train, 320) == (100, 10)
    train.steps = 7
    assert total_steps(train, 10) == (7, 1)


def command(workdir, overrides, **more):
    return [
        "-m", "sacjax.main", "--config", "configs/folder.py", "--workdir", str(workdir), *overrides,
        *(f"--config.{key}={value}" for key, value in more.items()),
    ]  # fmt: skip


def reproducible(workdir):
    """The metrics log without what differs from run to run: time."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def final_parameters(workdir):
    from sacjax.train.checkpoint import load_trained

    return jax.device_get(nnx.as_pure(nnx.state(load_trained(workdir, "last").model)))


def test_killed_runs_end_as_one_never_killed(tmp_path, small_overrides):
    changes = {
        "supervised.train.steps": 18,
        "checkpoint.every": 4,
        "supervised.optimizer.ema_decay": 0.9,
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run_python(*command(whole, small_overrides, **changes))
    assert done.returncode == 0, done.stderr
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    for wanted in (5, 11):  # kill once so many steps are in the log
        process = subprocess.Popen(
            [sys.executable, *command(killed, small_overrides, **changes)], cwd=ROOT, env=env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.time() + 120
        while process.poll() is None and time.time() < deadline:
            path = killed / "metrics.jsonl"
            rows = path.read_text().splitlines() if path.is_file() else []
            if any(f'"step": {step},' in rows[-1] for step in range(wanted, 19) if rows):
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = run_python(*command(killed, small_overrides, **changes))
    assert done.returncode == 0, done.stderr
    assert reproducible(killed) == reproducible(whole)
    assert (killed / "results.json").read_text() == (whole / "results.json").read_text()
    jax.tree.map(np.testing.assert_array_equal, final_parameters(killed), final_parameters(whole))
    again = run_python(*command(killed, small_overrides, **changes))
    assert again.returncode == 0 and "already finished" in again.stdout


def test_the_host_is_only_a_few_steps_ahead_of_the_devices(tmp_path, small_overrides, monkeypatch):
    """Each step ahead holds a batch on the device, and makes SIGTERM wait longer."""
    lengthen = jax.jit(
        lambda x: (jax.lax.fori_loop(0, 40, lambda _, m: m @ m, jnp.eye(512))[0, 0] * x).astype(
            x.dtype
        )
    )
    results, waiting = [], []

    def slow_program(*args):
        program = make_program(*args)

        def step(state, batch):
            state = program.step(state, batch)
            results.append(lengthen(state.step))
            waiting.append(sum(not result.is_ready() for result in results))
            return state._replace(step=results[-1] + 0)

        return program._replace(step=step)

    monkeypatch.setattr(experiment, "make_program", slow_program)
    changes = [f"--config.supervised.train.{key}=100" for key in ("log_every", "evaluate_every")]
    experiment.run(
        config_lib.load("configs/folder.py", [*small_overrides, *changes]), tmp_path / "run"
    )
    assert (
        len(waiting) == 12 and 2 <= max(waiting) <= AHEAD + 2
    )  # this one, and one that ends just now


def test_early_stopping_and_best_checkpoint(tmp_path, small_overrides):
    changes = {
        "supervised.train.steps": 60, "supervised.train.evaluate_every": 3, "supervised.train.early_stopping": 2,
        "supervised.optimizer.learning_rate": 0.0, "supervised.eval.best": "validation/loss",
        "supervised.eval.best_mode": "min",
    }  # fmt: skip
    done = run_python(*command(tmp_path / "run", small_overrides, **changes))
    assert done.returncode == 0, done.stderr
    steps = [row["step"] for row in reproducible(tmp_path / "run")]
    assert max(steps) < 60
    assert (tmp_path / "run" / "results.json").is_file()


def test_jit_sees_no_tensorflow():
    code = "import sys, sacjax.stages, sacjax.commands.predict, sacjax.commands.prepare; assert 'tensorflow' not in sys.modules"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
