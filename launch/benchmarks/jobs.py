"""Runs commands side by side, each on its share of the cores, and notes what they used.

Small models use one core far better than several.
"""

import concurrent.futures
import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import init_from, io
from sacjax.config import identity
from sacjax.errors import UserError


class Job(NamedTuple):
    """A command that leaves a result."""

    name: str
    command: list[str]
    result: Path  # what is printed as where it goes
    log: Path | None  # where its messages go; None: to the console


class Usage(NamedTuple):
    """What a command used of the machine, its own children included."""

    cpu_seconds: float
    peak_mib: float  # of resident memory, and no less than that of the process that started it
    wall_seconds: float

    def and_then(self, other: "Usage") -> "Usage":
        """Returns what two attempts used, one after the other."""
        return Usage(
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_mib, other.peak_mib),
            self.wall_seconds + other.wall_seconds,
        )


def training(spec: str, workdir: Path, overrides: Sequence[str]) -> list[str]:
    """Returns the command that trains a config, `FILE[:ARG]`, in a workdir."""
    start = [sys.executable, "-m", "sacjax.main", "--config", spec, "--workdir", str(workdir)]
    return [*start, *overrides]


def write_whole(path: Path, text: str) -> None:
    """Writes a file of results whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def keep(path: Path, rows: dict[str, Any]) -> dict[str, Any]:
    """Adds rows to a JSON file of results, in which others may write too; returns all rows."""
    with io.alone(path):
        found = (json.loads(path.read_text()) if path.is_file() else {}) | rows
        write_whole(path, json.dumps(found, indent=1) + "\n")
    return found


def finished(workdir: Path, config: ConfigDict) -> bool:
    """Returns whether a workdir holds all results of a config, as `sacjax.main` would say.

    Raises:
      UserError: it holds results of another experiment, which would be passed off as this one's.
    """
    path, saved = workdir / "results.json", workdir / "config.json"
    if not path.is_file():
        return False
    if saved.is_file():
        # As it would run there: encoder options that it inherits from a checkpoint are filled in.
        config = init_from.resolve(config, workdir)
        told = identity.difference(
            json.loads(saved.read_text()), json.loads(config_lib.to_json(config))
        )
        if told:
            raise UserError(
                f"{workdir} holds results of a different experiment: {told}; choose another folder "
                "for the runs, or leave out what starts runs to summarize what is there"
            )
    return not set(config.stages) - set(json.loads(path.read_text()))


def run(jobs: Sequence[Job], count: int) -> None:
    """Runs all jobs, `count` at a time; a failure lets those that run end, and starts no more.

    Raises:
      UserError: a count below 1, or a job that failed.
    """
    if count < 1:
        raise UserError(f"--jobs is {count}: give a number of runs of at least 1")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    free: queue.Queue[list[int]] = queue.Queue()
    for k in range(count):
        free.put(cores[k::count] or cores)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(_run, job, free) for job in jobs]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _run(job: Job, free: "queue.Queue[list[int]]") -> None:
    """Runs a job on one of the free shares of the cores. Raises UserError where it fails."""
    print(f"{job.name} → {job.result}", flush=True)
    if job.log is None:
        code, where = subprocess.run(job.command).returncode, "its own message is above"
    else:
        own = free.get()
        if own:
            os.sched_setaffinity(0, own)  # this thread's, which what it starts inherits
        code = _run_logged(job, job.log)
        free.put(own)
        where = f"its messages are in {job.log}"
    if code:
        raise UserError(
            f"{job.name} ended with exit code {code}; {where}; the same command resumes"
        )


def usage_path(log: Path) -> Path:
    """Returns where it is written what a job with that log used: NAME.usage.json."""
    return log.with_suffix(".usage.json")


def _run_logged(job: Job, log: Path) -> int:
    """Runs a job and adds what it used to what its earlier attempts did; returns its exit code.

    An attempt whose starter was killed is not counted; one that left no result to resume is
    forgotten.
    """
    path = usage_path(log)
    before = Usage(0.0, 0.0, 0.0)
    if job.result.exists() and path.is_file():
        before = Usage(**json.loads(path.read_text()))
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:
        code, used = measured(job.command, file)
    rounded = {key: round(value, 2) for key, value in before.and_then(used)._asdict().items()}
    write_whole(path, json.dumps(rounded) + "\n")
    return code


def measured(command: Sequence[str], output: IO[str]) -> tuple[int, Usage]:
    """Runs a command with its messages to a file; returns its exit code and what it used."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    # That process alone: RUSAGE_CHILDREN would add what other threads' commands used meanwhile.
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    units = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss in a MiB
    seconds = time.monotonic() - began
    usage = Usage(used.ru_utime + used.ru_stime, used.ru_maxrss / units, seconds)
    return process.returncode, usage
