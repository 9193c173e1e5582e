"""Checkpoints that are whole, and whose restoring fails: on one host, and on one of two."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from launch.benchmarks.fault_cases import runs
from launch.benchmarks.fault_cases.runs import Line

# {fault: what the run's message has to hold}.
KINDS = {
    "stale": "Stale file handle",
    "io": "Input/output error",
    "memory": "RESOURCE_EXHAUSTED",
    "leaf": "a library has added a leaf",
    "interrupt": "interrupted",
}
CHANGES = dict(train__steps=200, config__checkpoint__every=100)


def trained(root: Path) -> tuple[Path, Path]:
    """Returns (sounds, the workdir of a run of which only the results are missing)."""
    data, workdir = runs.tones(root / "sounds"), root / "trained"
    runs.finish(runs.command(data, workdir, **CHANGES))
    runs.unfinish(workdir)
    return data, workdir


def restore(root: Path, count: int) -> Line:
    """Restoring raises errors of five kinds; then it works again."""
    data, kept = trained(root)
    told = whole = went_on = tracebacks = 0
    kinds = list(KINDS.items())[:count]
    for kind, message in kinds:
        workdir = root / kind
        shutil.copytree(kept, workdir)
        fault = {"restore": {"kind": kind}}
        process = runs.start(runs.injected(fault, runs.flags(data, workdir, **CHANGES)))
        (ended,) = runs.end([process], workdir)
        told += ended.code > 0 and message in ended.said
        tracebacks += ended.traceback
        saved = runs.checkpoints(workdir)
        whole += runs.contents(saved) == runs.contents(runs.checkpoints(kept))
        said = runs.finish(runs.command(data, workdir, **CHANGES))
        went_on += runs.resumed_at(said) == 200
    total = len(kinds)
    return Line(
        f"restoring fails: {', '.join(kind for kind, _ in kinds)}",
        "ends with the message, nothing is deleted, the next run goes on",
        f"{told} of {total} with the message ({tracebacks} with a traceback), {whole} left all "
        f"checkpoints as they were, {went_on} next runs went on from the last",
        told == whole == went_on == total,
    )


def two_hosts(root: Path, count: int) -> Line:
    """Two processes, of which one meets each of these errors, or cannot read its sounds."""
    data, kept = trained(root)
    faults: dict[str, dict[str, object]] = {kind: {"restore": {"kind": kind}} for kind in KINDS}
    faults["reads"] = {"reads": {"folder": str(data), "share": 1.0}}
    messages = KINDS | {"reads": "cannot be read"}
    both = told = whole = tracebacks = 0
    kinds = list(faults)[:count]
    for kind in kinds:
        workdir = root / kind
        shutil.copytree(kept, workdir)
        ended = runs.end(start_two(faults[kind], runs.flags(data, workdir, **CHANGES)), workdir)
        both += all(one.code not in (0, -signal.SIGKILL) for one in ended)
        # The first host is not told why a host that is interrupted leaves it.
        hearing = ended[1:] if kind == "interrupt" else ended
        told += all(messages[kind] in one.said for one in hearing)
        tracebacks += any(one.traceback for one in ended)
        saved = runs.contents(runs.checkpoints(workdir))
        whole += saved == runs.contents(runs.checkpoints(kept))
    total = len(kinds)
    return Line(
        f"one of two hosts meets: {', '.join(kinds)}",
        "both end with the message, nothing is deleted",
        f"{both} of {total} ended on both, {told} with the message ({tracebacks} with a traceback),"
        f" {whole} left all checkpoints as they were",
        both == told == whole == total,
    )


def start_two(fault: Mapping[str, object], words: list[str]) -> list[subprocess.Popen]:
    """Starts a run of two processes, of which the second meets the fault."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [*words, "--coordinator", f"localhost:{port}", "--process_count", "2", "--process_id"]
    return [
        runs.start(runs.injected(one, [*both, str(host)])) for host, one in enumerate(({}, fault))
    ]
