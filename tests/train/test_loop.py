"""The loop: kills, SIGTERM, how far the host is ahead, stopping early."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from processes import ROOT, run_python
from quick_stages import share_trainers, shared_trainer

from sacjax import config as config_lib
from sacjax import inference, stages
from sacjax.errors import Terminated
from sacjax.train import loop
from sacjax.train.loop import STEPS_IN_FLIGHT, total_steps


@pytest.fixture(autouse=True)
def quick_stages(monkeypatch):
    share_trainers(monkeypatch)


def test_total_steps_by_epochs_or_steps():
    train = config_lib.stage().train
    train.update(batch_size=32, epochs=10.0)
    assert total_steps(train, 320) == (100, 10)
    train.steps = 7
    assert total_steps(train, 10) == (7, 1)


def load(overrides, **more):
    """Returns configs/folder.py with overrides."""
    changes = [f"--config.{key}={value}" for key, value in more.items()]
    return config_lib.load(str(ROOT / "configs/folder.py"), [*overrides, *changes])


def reproducible(workdir):
    """Returns the metrics log without what differs from run to run: time."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def final_parameters(workdir):
    model = inference.load_trained(workdir, "last").module
    return jax.device_get(nnx.as_pure(nnx.state(model)))


# Trains as the command does, several times, each in a process of its own that sends itself a signal
# before a step; the modules are imported once.
KILLED = """
import json, os, sys
import sacjax.commands.predict, sacjax.commands.prepare, sacjax.stages
assert "tensorflow" not in sys.modules
from sacjax import errors
from sacjax.commands import train
from sacjax.train import loop

put_batch = loop.put_batch

def die_at(calls, sent):
    def counted(*args):
        nonlocal calls
        calls -= 1
        if not calls:
            os.kill(os.getpid(), sent)
        return put_batch(*args)
    loop.put_batch = counted

for calls, sent in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        die_at(calls, sent)
        errors.run(lambda: train.main(sys.argv[2:]))
    print("ENDED", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_runs_end_as_one_never_killed(tmp_path, small_overrides, monkeypatch, capsys):
    """SIGKILL while a checkpoint is saved and past it; SIGTERM, which saves; no TensorFlow."""
    changes = {
        "supervised.train.steps": 18,
        "checkpoint.every": 4,
        "supervised.optimizer.ema_decay": 0.9,
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    config = load(small_overrides, **changes)
    stages.run(config, whole)
    signals = [(5, signal.SIGKILL), (8, signal.SIGKILL), (6, signal.SIGTERM)]
    command = ["--config", "configs/folder.py", "--workdir", str(killed), *small_overrides]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    done = run_python("-c", KILLED, json.dumps(signals), *command)
    assert done.returncode == 0, done.stderr
    ends = [line for line in done.stdout.splitlines() if line.startswith("ENDED")]
    assert ends == ["ENDED -9", "ENDED -9", f"ENDED {os.EX_TEMPFAIL}"], done.stderr
    said = done.stderr.splitlines()[-1]
    assert "its checkpoint is saved, the same command goes on" in said
    assert "Traceback" not in done.stderr
    at = int(said.split("SIGTERM at step ")[1].split(";")[0])
    assert at in saved_steps(killed) and at < 18

    put, calls = loop.put_batch, []

    def terminated(*args):  # within the second step
        calls.append(0)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return put(*args)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched, pytest.raises(Terminated):
        patched.setattr(loop, "put_batch", terminated)
        stages.run(config, killed)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert f"goes on from step {at}" in capsys.readouterr().out
    assert max(saved_steps(killed)) == at + 2
    stages.run(config, killed)
    assert f"goes on from step {at + 2}" in capsys.readouterr().out
    assert reproducible(killed) == reproducible(whole)
    assert (killed / "results.json").read_text() == (whole / "results.json").read_text()
    jax.tree.map(np.testing.assert_array_equal, final_parameters(killed), final_parameters(whole))
    stages.run(config, killed)
    assert "already finished" in capsys.readouterr().out


def saved_steps(workdir):
    folder = workdir / "checkpoints" / "supervised"
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]


def test_the_host_is_only_a_few_steps_ahead_of_the_devices(tmp_path, small_overrides, monkeypatch):
    """Each step ahead holds a batch on the device, and makes SIGTERM wait longer."""

    @jax.jit
    def lengthen(x):
        slow = jax.lax.fori_loop(0, 40, lambda _, m: m @ m, jnp.eye(512))
        return (slow[0, 0] * x).astype(x.dtype)

    results, waiting = [], []

    def slow_trainer(*args):
        trainer = shared_trainer(*args)

        def step(state, batch):
            state = trainer.step(state, batch)
            results.append(lengthen(state.step))
            waiting.append(sum(not result.is_ready() for result in results))
            return state._replace(step=results[-1] + 0)

        return dataclasses.replace(trainer, step=step)

    monkeypatch.setattr(stages, "make_trainer", slow_trainer)
    keys = ("supervised.train.log_every", "supervised.train.evaluate_every")
    stages.run(load(small_overrides, **dict.fromkeys(keys, 100)), tmp_path / "run")
    # This step, and one that ends just now.
    assert len(waiting) == 12 and 2 <= max(waiting) <= STEPS_IN_FLIGHT + 2


def test_early_stopping_and_best_checkpoint(tmp_path, small_overrides):
    changes = {
        "supervised.train.steps": 60,
        "supervised.train.evaluate_every": 3,
        "supervised.train.early_stopping": 2,
        "supervised.optimizer.learning_rate": 0.0,
        "supervised.eval.best": "validation/loss",
        "supervised.eval.best_mode": "min",
    }
    stages.run(load(small_overrides, **changes), tmp_path / "run")
    steps = [row["step"] for row in reproducible(tmp_path / "run")]
    assert max(steps) == 9  # no better at 6 and 9
    assert 3 in saved_steps(tmp_path / "run")
    assert (tmp_path / "run" / "results.json").is_file()
