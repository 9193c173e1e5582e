"""Several hosts: processes on this machine, joined as hosts are."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from processes import ROOT, run_python, simulated

from sacjax import distributed
from sacjax import main as main_lib
from sacjax.errors import UserError


def hosts(workdir, overrides, count=2, devices=4):
    """Starts `sacjax.main` as so many hosts with so many devices each; returns the processes."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    env = os.environ | {
        "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": simulated(devices)
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "sacjax.main",
        "--config",
        "configs/folder.py",
        "--workdir",
        str(workdir),
        *overrides,
    ]
    command += ["--coordinator", f"localhost:{port}", "--process_count", str(count)]
    return [
        subprocess.Popen(
            [*command, "--process_id", str(k)],
            cwd=ROOT,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for k in range(count)
    ]


PLAIN = [
    "--config.supervised.augment.waveform=()",
    "--config.supervised.augment.spectrogram=()",
    "--config.tensorboard=False",
]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def test_two_hosts_of_four_devices_are_one_of_eight(tmp_path, small_overrides):
    """The same losses and the same scores; and one that dies takes the others with it, and not their checkpoints."""
    more = [
        "--config.supervised.train.log_every=1",
        "--config.mesh.fsdp=2",
        "--config.tensorboard=False",
    ]
    done = run_python(
        "-m",
        "sacjax.main",
        "--config",
        "configs/folder.py",
        "--workdir",
        tmp_path / "one",
        *small_overrides,
        *more,
        devices=8,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    both = hosts(tmp_path / "two", [*small_overrides, *more])
    for process in both:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-3000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(two) == list(range(1, 13)) == list(one)
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-5)
    scores = [
        json.loads((tmp_path / name / "results.json").read_text())["supervised"]
        for name in ("one", "two")
    ]
    assert scores[0].keys() == scores[1].keys()
    np.testing.assert_allclose(list(scores[0].values()), list(scores[1].values()), rtol=1e-3)


def test_a_run_saved_on_8_devices_goes_on_on_fewer_and_on_two_hosts(tmp_path, small_overrides):
    more = [*PLAIN, "--config.supervised.train.log_every=1", "--config.checkpoint.every=6"]
    command = [
        "-m",
        "sacjax.main",
        "--config",
        "configs/folder.py",
        *small_overrides,
        *more,
        "--workdir",
    ]
    whole = tmp_path / "whole"
    done = run_python(*command, whole, devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    for devices in (1, "two hosts"):
        workdir = tmp_path / str(devices)
        shutil.copytree(whole, workdir)
        shutil.rmtree(workdir / "checkpoints" / "supervised" / "12")
        (workdir / "results.json").unlink()
        if devices == "two hosts":
            assert [process.wait(300) for process in hosts(workdir, [*small_overrides, *more])] == [
                0,
                0,
            ]
        else:
            done = run_python(*command, workdir, devices=devices)
            assert "goes on from step 6" in done.stdout, done.stderr[-3000:]
        np.testing.assert_allclose(
            list(losses(workdir).values()), list(losses(whole).values()), rtol=1e-5
        )


def test_a_host_that_dies_ends_the_others_within_a_minute_and_the_run_goes_on(
    tmp_path, small_overrides
):
    workdir = tmp_path / "run"
    more = [*PLAIN, "--config.supervised.train.log_every=1", "--config.checkpoint.every=5"]
    more += [
        "--config.supervised.train.steps=100000",
        "--config.supervised.train.evaluate_every=100000",
    ]
    first, second = hosts(workdir, [*small_overrides, *more], devices=1)
    saved = lambda: [
        int(p.name) for p in (workdir / "checkpoints").glob("supervised/*") if p.name.isdecimal()
    ]  # noqa: E731
    deadline = time.time() + 200
    while not saved() and time.time() < deadline and first.poll() is None:
        time.sleep(0.1)
    second.kill()
    second.communicate()
    began = time.time()
    _, err = first.communicate(timeout=120)
    assert first.returncode != 0 and time.time() - began < 60, err[-2000:]
    assert (
        "peer" in err.lower() or "heartbeat" in err.lower() or "distributed service" in err.lower()
    ), err[-2000:]
    last, again = max(saved()), hosts(workdir, [*small_overrides, *more], devices=1)
    deadline = time.time() + 200
    while max(saved()) <= last and time.time() < deadline and again[0].poll() is None:
        time.sleep(0.1)
    assert max(saved()) > last
    for process in again:
        process.kill()
        process.communicate()


def test_flags_that_do_not_go_together(monkeypatch):
    start = ["--config", "configs/folder.py", "--workdir", "x"]
    with pytest.raises(UserError, match="given together"):
        main_lib.main([*start, "--coordinator", "localhost:1"])
    with pytest.raises(UserError, match="--process_id is 2: it must lie between"):
        main_lib.main(
            [*start, "--coordinator", "localhost:1", "--process_count", "2", "--process_id", "2"]
        )


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_where_several_hosts_are_expected(monkeypatch, environment, several):
    for name in (
        "SLURM_STEP_NUM_TASKS",
        "OMPI_COMM_WORLD_SIZE",
        "MEGASCALE_NUM_SLICES",
        "TPU_WORKER_HOSTNAMES",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.expected() == several
