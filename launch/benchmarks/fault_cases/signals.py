"""Runs that are killed, told to end, or interrupted."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

from launch.benchmarks.fault_cases import runs
from launch.benchmarks.fault_cases.runs import Line, log
from sacjax.train.checkpoint_files import complete


def killed(root: Path, count: int) -> Line:
    """SIGKILL at some moments, every other one while a checkpoint is being written."""
    data, whole, workdir = runs.tones(root / "sounds"), root / "whole", root / "killed"
    changes = dict(train__steps=6000, config__checkpoint__every=100)
    runs.finish(runs.command(data, whole, **changes))
    draw, during, said = random.Random(0), 0, ""
    for k in range(count):
        process = runs.start(runs.command(data, workdir, **changes))
        if not _goes_on(process, workdir):
            break
        if k % 2:
            runs.wait_for(lambda: runs.saving(workdir), process, 20)
        else:
            time.sleep(draw.uniform(0, 1.0))
        os.killpg(process.pid, signal.SIGKILL)
        said += process.communicate()[0]
        during += runs.saving(workdir)
    last = len(log(workdir))
    said += runs.finish(runs.command(data, workdir, **changes))
    unreadable = said.count("cannot be read") + said.count("left out")
    same = runs.same_parameters(whole, workdir)
    logs = runs.without_time(whole) == runs.without_time(workdir)
    return Line(
        f"SIGKILL at {k + 1} moments, {during} of them during a save (the last at line {last} of "
        "the log)",
        "ends bit-identical, log without gaps or repeats",
        f"parameters {'identical' if same else 'DIFFER'}, log "
        f"{'identical' if logs else 'DIFFERS'}, {unreadable} checkpoints unreadable",
        same and logs and not unreadable,
    )


def _goes_on(process: subprocess.Popen, workdir: Path, lines: int = 1) -> bool:
    """Waits until a run has written so many more lines of its log; False where it ended."""
    wanted = len(log(workdir)) + lines
    return runs.wait_for(lambda: len(log(workdir)) >= wanted, process)


def terminated(root: Path, count: int) -> Line:
    """SIGTERM, and how long until the run has saved and ended."""
    data, workdir = runs.tones(root / "sounds"), root / "terminated"
    taken, codes = [], set()
    for _ in range(count):
        process = runs.start(runs.command(data, workdir, train__steps=10**6))
        _goes_on(process, workdir, lines=3)
        began = time.time()
        process.send_signal(signal.SIGTERM)
        process.communicate()
        taken.append(time.time() - began)
        codes.add(process.returncode)
    saved = max(complete(runs.checkpoints(workdir)), default=0)
    return Line(
        f"SIGTERM {count} times",
        "a checkpoint within 10 s, exit code 75",
        f"saved and ended in {max(taken):.1f} s at the most, exit code {sorted(codes)}, last "
        f"checkpoint of step {saved}",
        max(taken) < 10 and codes == {75},
    )


def interrupted(root: Path, count: int) -> Line:
    """Ctrl-C of a run with decoding processes, and what is left of it."""
    import psutil

    # A shell's background job ignores it, and so would what we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    data, taken, left = runs.tones(root / "sounds"), [], 0
    for k in range(count):
        workdir = root / f"interrupted{k}"
        changes = dict(train__steps=10**6, data__workers=2)
        process = runs.start(runs.command(data, workdir, **changes))
        _goes_on(process, workdir, lines=3)
        family = psutil.Process(process.pid).children(recursive=True)
        began = time.time()
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=10)
        taken.append(time.time() - began)
        left += len(alive)
    return Line(
        f"Ctrl-C {count} times, 2 decoding processes",
        "all ends within 5 s",
        f"{np.max(taken):.1f} s at the most, {left} processes left",
        max(taken) < 5 and not left,
    )
