"""Fuzzing: mutated sound files, manifests, configs and checkpoints, and what becomes of them.

    python launch/benchmarks/fuzz.py --output runs/fuzz               # everything; about an hour
    python launch/benchmarks/fuzz.py --output runs/fuzz --only wav mp3 --count 50
    python launch/benchmarks/fuzz.py --only wav --seed 17             # one input, in this process

Each input is a small one of ours with mutations drawn from its seed. It is read as a user's command
reads it, and has to be taken or refused: by a UserError, or as a bad clip with a reason. A finding
is any other exception, a process that crashes, one that hangs, and one that takes more memory than
a small input can need. The inputs are read by a process of their own, which is started anew where
it ends. What was found is kept in OUTPUT/findings/KIND_SEED; `fuzz.json` has all figures.
"""

import argparse
import collections
import faulthandler
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launch.benchmarks.fuzz_cases import CASES
from launch.benchmarks.jobs import keep
from sacjax import errors

FINDINGS = ("exception", "crash", "hang", "memory")
ADDRESSES = 4 << 30  # bytes of addresses that a process may take beyond what it starts with
GROWTH = 512  # MiB by which an input may raise the most that its process has taken


def read_one(kind: str, seed: int, corpus: Path, folder: Path) -> tuple[str, str]:
    """Reads an input in this process; returns (outcome, why)."""
    rng = np.random.default_rng([seed, list(CASES).index(kind)])
    try:
        reason = CASES[kind].check(rng, corpus, folder)
    except errors.UserError as error:
        return "refused", " ".join(str(error).split())[:300]
    except MemoryError:
        return "memory", _where(sys.exc_info()[1])
    except BaseException as error:  # SystemExit too: nothing of ours may raise it here
        return "exception", _where(error)
    return ("refused", reason) if reason else ("read", "")


def _where(error: BaseException | None) -> str:
    """Returns an exception and the last of our lines that it came through."""
    frames = traceback.extract_tb(error.__traceback__ if error else None)
    ours = [frame for frame in frames if "/sacjax/" in frame.filename] or frames
    name = ours[-1].filename.split("/sacjax/")[-1]
    said = errors.first_line(error)[:150] if error else ""
    return f"{type(error).__name__}: {said} ({name}:{ours[-1].lineno}, {ours[-1].name})"


def serve(kind: str, root: Path, patience: float, pipe: Any) -> None:
    """What a process of its own does: reads the inputs whose seeds it is sent, and answers."""
    log = os.open(root / f"{kind}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()
    corpus, folder = root / "corpus" / kind, root / "input" / kind
    if not corpus.is_dir():
        corpus.mkdir(parents=True)
        CASES[kind].corpus(corpus)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    read_one(kind, 0, corpus, folder)  # what is loaded and started once
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (addresses + ADDRESSES,) * 2)
    pipe.send(None)
    while (seed := pipe.recv()) is not None:
        shutil.rmtree(folder)
        folder.mkdir()
        before, begin = _peak(), time.monotonic()
        faulthandler.dump_traceback_later(patience, exit=True)
        outcome, why = read_one(kind, seed, corpus, folder)
        faulthandler.cancel_dump_traceback_later()
        grown = _peak() - before
        if grown > GROWTH:
            outcome, why = "memory", f"{grown:.0f} MiB; {outcome} {why}"
        pipe.send((outcome, why, time.monotonic() - begin, grown))


def _peak() -> float:
    """Returns the most memory that this process has taken so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Reader:
    """A process that reads inputs of one kind; started anew after one that ended it."""

    def __init__(self, kind: str, root: Path, patience: float):
        self.kind, self.root, self.patience = kind, root, patience
        self.process: Any = None
        self.pipe: Any = None

    def start(self) -> None:
        """Starts the process."""
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        args = (self.kind, self.root, self.patience, there)
        self.process = context.Process(target=serve, args=args, daemon=True)
        self.process.start()
        there.close()
        self.pipe.recv()

    def __call__(self, seed: int) -> tuple[str, str, float, float]:
        """Returns (outcome, why, seconds, MiB) of an input."""
        if self.process is None:
            self.start()
        begin = time.monotonic()
        self.pipe.send(seed)
        try:
            if self.pipe.poll(2 * self.patience + 60):
                return self.pipe.recv()
        except EOFError:
            pass
        taken = time.monotonic() - begin
        self.process.kill()
        self.process.join()
        code, self.process = self.process.exitcode, None
        if taken >= self.patience:
            return "hang", f"more than {self.patience:g} s; {self.kind}.log has where", taken, 0.0
        return "crash", f"exit code {code}; {self.kind}.log has where", taken, 0.0

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.pipe.send(None)
            self.process.join()


def fuzz(kind: str, count: int, root: Path, patience: float) -> dict[str, Any]:
    """Reads `count` inputs of a kind; returns its figures, and what was found."""
    (root / f"{kind}.log").unlink(missing_ok=True)
    reader, outcomes = Reader(kind, root, patience), collections.Counter[str]()
    slowest, most, findings = 0.0, 0.0, []
    for seed in range(1, count + 1):
        outcome, why, seconds, grown = reader(seed)
        outcomes[outcome] += 1
        slowest, most = max(slowest, seconds), max(most, grown)
        if outcome in FINDINGS:
            findings.append(dict(seed=seed, outcome=outcome, why=why))
            kept = root / "findings" / f"{kind}_{seed}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(root / "input" / kind, kept, symlinks=True)
            print(f"{kind} {seed}: {outcome}: {why}", flush=True)
    reader.close()
    shutil.rmtree(root / "input" / kind, ignore_errors=True)
    return dict(
        inputs=count,
        read=outcomes["read"],
        refused=outcomes["refused"],
        **{outcome: outcomes[outcome] for outcome in FINDINGS},
        slowest_seconds=round(slowest, 2),
        most_mib=round(most),
        findings=findings,
    )


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns the figures in Markdown."""
    lines = [
        "| input | inputs | read | refused with a reason | other exceptions | crashes | hangs "
        "| too much memory | slowest, s | most memory, MiB |",
        "| --- " * 10 + "|",
    ]
    keys = ("inputs", "read", "refused", *FINDINGS, "slowest_seconds", "most_mib")
    for kind, row in found.items():
        lines.append(f"| {' | '.join([kind, *(str(row[key]) for key in keys)])} |")
    return "\n".join(lines)


def places(found: dict[str, dict[str, Any]]) -> str:
    """Returns the findings by the line that they come from, in Markdown; '' for none."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for kind, row in found.items():
        for finding in row["findings"]:
            place = finding["why"].rpartition(" (")[2].rstrip(")")
            groups.setdefault((kind, place), []).append(finding)
    if not groups:
        return ""
    lines = ["", "", "| input | where | how often | seed of one | what |", "| --- " * 5 + "|"]
    for (kind, place), group in groups.items():
        what = group[0]["why"].rpartition(" (")[0] or group[0]["why"]
        cells = [kind, place, str(len(group)), str(group[0]["seed"]), what.replace("|", "/")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def show(kind: str, seed: int) -> int:
    """Reads one input in this process and prints what became of it, with its traceback."""
    with tempfile.TemporaryDirectory() as name:
        corpus, folder = Path(name) / "corpus", Path(name) / "input"
        corpus.mkdir()
        folder.mkdir()
        CASES[kind].corpus(corpus)
        rng = np.random.default_rng([seed, list(CASES).index(kind)])
        try:
            reason = CASES[kind].check(rng, corpus, folder)
        except errors.UserError as error:
            reason = str(error)
        print(f"refused: {reason}" if reason else "read")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Fuzzes what is asked for; prints the table of all that `fuzz.json` has, 1 for findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--count", type=int, help="inputs of each kind (default: 500, or 200)")
    parser.add_argument("--seed", type=int, help="read this input of --only alone, here")
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds after which an input hangs"
    )
    args = parser.parse_args(argv)
    if args.seed is not None:
        return show(args.only[0], args.seed)
    root = args.output.absolute()
    root.mkdir(parents=True, exist_ok=True)
    path = root / "fuzz.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for kind in args.only:
        found = keep(
            path, {kind: fuzz(kind, args.count or CASES[kind].inputs, root, args.patience)}
        )
    print(table(found) + places(found))
    return int(any(row["findings"] for row in found.values()))


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
