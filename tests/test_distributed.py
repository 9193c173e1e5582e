"""Several hosts: processes on this machine, joined as hosts are."""

import json
import shutil
import socket
import time

import numpy as np
import pytest
from conftest import LESS_AUGMENTED, overrides_for, write_tones
from processes import Python, run_python

from sacjax import distributed
from sacjax.commands import train
from sacjax.errors import UserError

# Runs commands one after the other, of which the first joins the hosts.
COMMANDS = """
import json, sys
from sacjax.commands import train

for argv in json.loads(sys.argv[1]):
    train.main(argv)
"""
LOGGED = ["--config.tensorboard=False", "--config.supervised.train.log_every=1"]


def hosts(*commands, count=2, devices=4):
    """Starts so many hosts, with so many devices each, that run the commands."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    joined = ["--coordinator", f"localhost:{port}", "--process_count", str(count)]
    processes = []
    for k in range(count):
        first = [*commands[0], *joined, "--process_id", str(k)]
        arguments = json.dumps([first, *commands[1:]])
        processes.append(Python("-c", COMMANDS, arguments, devices=devices))
    return processes


def training(workdir, overrides):
    return ["--config", "configs/folder.py", "--workdir", str(workdir), *overrides]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def scores(workdir):
    return json.loads((workdir / "results.json").read_text())["supervised"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(a run on eight devices of one host, its overrides)."""
    root = tmp_path_factory.mktemp("whole")
    overrides = [*overrides_for(write_tones(root / "sounds")), *LESS_AUGMENTED, *LOGGED]
    overrides += ["--config.mesh.fsdp=2", "--config.checkpoint.every=6"]
    done = run_python("-m", "sacjax.main", *training(root / "run", overrides), devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(losses(root / "run")) == list(range(1, 13))
    return root / "run", overrides


def halfway(whole, copy):
    """Returns a copy of a run whose last checkpoint is of step 6."""
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "checkpoints" / "supervised" / "12")
    (copy / "results.json").unlink()
    return copy


def assert_same_run(workdir, whole):
    assert losses(workdir).keys() == losses(whole).keys()
    np.testing.assert_allclose(
        list(losses(workdir).values()), list(losses(whole).values()), rtol=1e-5
    )
    assert scores(workdir).keys() == scores(whole).keys()
    np.testing.assert_allclose(
        list(scores(workdir).values()), list(scores(whole).values()), rtol=1e-3
    )


def test_two_hosts_of_four_devices_are_one_of_eight(whole, tmp_path):
    """The same losses and scores, of a run from its start and of one that goes on from step 6."""
    run, overrides = whole
    goes_on = halfway(run, tmp_path / "goes_on")
    both = hosts(training(tmp_path / "new", overrides), training(goes_on, overrides))
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said[0][1][-3000:]
    assert "goes on from step 6" in said[0][0]
    assert_same_run(tmp_path / "new", run)
    assert_same_run(goes_on, run)


def test_a_run_saved_on_eight_devices_goes_on_on_one(whole, tmp_path, capsys):
    run, overrides = whole
    workdir = halfway(run, tmp_path / "one")
    train.main(training(workdir, [*overrides, "--config.mesh.fsdp=1"]))
    assert "goes on from step 6" in capsys.readouterr().out
    assert_same_run(workdir, run)


def test_a_host_that_dies_ends_the_others_and_the_run_goes_on(tmp_path, small_overrides):
    workdir = tmp_path / "run"
    command = training(workdir, [*small_overrides, *LOGGED])
    command += [
        "--config.supervised.augment.waveform=()",
        "--config.supervised.augment.spectrogram=()",
        "--config.checkpoint.every=5",
        "--config.supervised.train.steps=100000",
        "--config.supervised.train.evaluate_every=100000",
    ]
    first, second = hosts(command, devices=1)
    saved = lambda: [
        int(p.name) for p in (workdir / "checkpoints").glob("supervised/*") if p.name.isdecimal()
    ]
    while not saved() and first.poll() is None:
        time.sleep(0.1)
    second.kill()
    second.communicate()
    _, err = first.communicate()
    assert first.returncode != 0
    said = ("peer", "heartbeat", "distributed service")
    assert any(word in err.lower() for word in said), err[-2000:]
    last, again = max(saved()), hosts(command, devices=1)
    while max(saved()) <= last and again[0].poll() is None:
        time.sleep(0.1)
    assert max(saved()) > last
    for process in again:
        process.kill()
        process.communicate()


def test_flags_that_do_not_go_together(monkeypatch):
    start = ["--config", "configs/folder.py", "--workdir", "x"]
    with pytest.raises(UserError, match="given together"):
        train.main([*start, "--coordinator", "localhost:1"])
    with pytest.raises(UserError, match="--process_id is 2: it must lie between"):
        train.main(
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
