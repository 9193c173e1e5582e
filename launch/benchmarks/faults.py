"""The README's table of what a run survives: killed, terminated and interrupted runs, broken files, a checkpoint cut short, memory.

    python launch/benchmarks/faults.py --output runs/faults                   # everything; about half an hour on two cores
    python launch/benchmarks/faults.py --output runs/faults --only killed     # some of it

Each part trains a small network on tones that it writes itself, by the same command as a user's, and prints a line of the table:
what was done how often, what must hold, and what was seen. `faults.json` keeps them. Tests hold the rest of what a run survives: updates that are not
finite (tests/test_faults.py), dead hosts and other numbers of devices (tests/test_distributed.py), full disks (tests/test_checkpoint.py).
"""

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import soundfile as sf
from flax import nnx

from sacjax import errors
from sacjax.train.checkpoint import complete, load_trained

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "data.sample_rate": 8000, "data.seconds": 0.5, "frontend.n_fft": 256, "frontend.hop_length": 128, "frontend.n_mels": 16,
    "model.name": "small_cnn", "model.encoder": "{}", "train.batch_size": 8, "eval.batch_size": 8, "train.log_every": 10,
    "train.evaluate_every": 10**6,
}  # fmt: skip


class Line(NamedTuple):
    """A line of the table."""

    done: str
    wanted: str
    seen: str
    holds: bool


def tones(folder: Path, count: int = 40) -> Path:
    """Writes DIR/<label>/*.wav: low and high tones of half a second at 8 kHz."""
    rng, moments = np.random.default_rng(0), np.arange(4000) / 8000
    for label, low, high in (("high", 1500, 3000), ("low", 100, 600)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            tone = 0.4 * np.sin(
                2 * np.pi * rng.uniform(low, high) * moments
            ) + 0.02 * rng.standard_normal(4000)
            sf.write(folder / label / f"{k:03d}.wav", tone, 8000)
    return folder


def command(data: Path, workdir: Path, **changes: object) -> list[str]:
    """Returns the command of a run; `changes` are keys of its stage, with __ for a point, or of the config, with config__ before."""
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    stage = CONFIG | {key: value for key, value in keys.items() if not key.startswith("config.")}
    flags = [f"--config.supervised.{key}={value}" for key, value in stage.items()]
    flags += [f"--{key}={value}" for key, value in keys.items() if key.startswith("config.")]
    start = [
        sys.executable,
        "-m",
        "sacjax.main",
        "--config",
        "configs/folder.py",
        "--workdir",
        str(workdir),
    ]
    return [*start, f"--config.supervised.data.path={data}", "--config.tensorboard=False", *flags]


def start(words: list[str]) -> subprocess.Popen:
    """Starts a command in a process group of its own."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    }
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(words: list[str]) -> str:
    """Runs a command to its end and returns what it printed. Raises UserError where it failed."""
    process = start(words)
    said, _ = process.communicate()
    if process.returncode:
        raise errors.UserError(f"{' '.join(words)}: exit code {process.returncode}\n{said[-2000:]}")
    return said


def log(workdir: Path) -> list[dict]:
    """Returns the metrics log so far; a line that is being written is left out."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def saving(workdir: Path) -> bool:
    """Returns whether a checkpoint is being written."""
    folder = workdir / "checkpoints" / "supervised"
    return folder.is_dir() and any(not p.name.isdecimal() and p.is_dir() for p in folder.iterdir())


def wait_for(what: Callable[[], bool], process: subprocess.Popen, seconds: float = 300) -> bool:
    """Returns whether it came true before the process ended or the time was up."""
    end = time.time() + seconds
    while time.time() < end and process.poll() is None:
        if what():
            return True
        time.sleep(0.002)
    return False


def without_time(workdir: Path) -> list[dict]:
    """Returns the metrics log without what differs from run to run: time."""
    return [
        {key: value for key, value in row.items() if not key.startswith("time/")}
        for row in log(workdir)
    ]


def parameters(workdir: Path) -> list[np.ndarray]:
    """Returns the numbers of the last checkpoint's model."""
    return jax.tree.leaves(
        jax.device_get(nnx.as_pure(nnx.state(load_trained(workdir, "last").model)))
    )


def killed(root: Path) -> Line:
    """SIGKILL at 20 moments, every other one while a checkpoint is being written."""
    data, whole, workdir = tones(root / "sounds"), root / "whole", root / "killed"
    changes = dict(train__steps=6000, config__checkpoint__every=100)
    finish(command(data, whole, **changes))
    draw, during, unreadable = random.Random(0), 0, 0
    for k in range(20):
        process, before = start(command(data, workdir, **changes)), len(log(workdir))
        if not wait_for(lambda before=before: len(log(workdir)) > before, process):  # type: ignore[misc]
            break
        if k % 2:
            wait_for(lambda: saving(workdir), process, 20)
        else:
            time.sleep(draw.uniform(0, 1.0))
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        during += saving(workdir)
        unreadable += "cannot be read" in said
    last = len(log(workdir))
    said = finish(command(data, workdir, **changes))
    unreadable += "cannot be read" in said
    same = all(
        np.array_equal(a, b) for a, b in zip(parameters(whole), parameters(workdir), strict=True)
    )
    logs = without_time(whole) == without_time(workdir)
    seen = f"parameters {'identical' if same else 'DIFFER'}, log {'identical' if logs else 'DIFFERS'}, {unreadable} checkpoints unreadable"
    done = f"SIGKILL at {k + 1} moments, {during} of them during a save (the last at line {last} of the log)"
    return Line(
        done,
        "ends bit-identical, log without gaps or repeats",
        seen,
        same and logs and not unreadable,
    )


def terminated(root: Path) -> Line:
    """SIGTERM, and how long until the run has saved and ended."""
    data, workdir, taken, codes = tones(root / "sounds"), root / "terminated", [], set()
    for _ in range(5):
        words, before = command(data, workdir, train__steps=10**6), len(log(workdir))
        process = start(words)
        wait_for(lambda before=before: len(log(workdir)) > before + 2, process)  # type: ignore[misc]
        began = time.time()
        process.send_signal(signal.SIGTERM)
        process.communicate()
        taken.append(time.time() - began)
        codes.add(process.returncode)
    saved = max(complete(workdir / "checkpoints" / "supervised"), default=0)
    seen = f"saved and ended in {max(taken):.1f} s at the most, exit code {sorted(codes)}, last checkpoint of step {saved}"
    return Line(
        "SIGTERM 5 times",
        "a checkpoint within 10 s, exit code 75",
        seen,
        max(taken) < 10 and codes == {75},
    )


def interrupted(root: Path) -> Line:
    """Ctrl-C of a run with decoding processes, and what is left of it."""
    import psutil

    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it, and so would what we start
    data, taken, left = tones(root / "sounds"), [], 0
    for k in range(3):
        workdir = root / f"interrupted{k}"
        process = start(command(data, workdir, train__steps=10**6, data__workers=2))
        wait_for(lambda workdir=workdir: len(log(workdir)) > 2, process)  # type: ignore[misc]
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
    seen = f"{max(taken):.1f} s at the most, {left} processes left"
    return Line(
        "Ctrl-C 3 times, 2 decoding processes",
        "all ends within 5 s",
        seen,
        max(taken) < 5 and not left,
    )


def broken(root: Path) -> Line:
    """A corpus of which 5 % cannot be decoded, in every way that files are broken."""
    data = tones(root / "broken_sounds", 95)
    whole = (data / "low" / "000.wav").read_bytes()
    loud = np.zeros(4000, np.float32)
    loud[::7] = np.nan
    kinds: dict[str, bytes | np.ndarray] = dict(
        empty=b"", header=whole[:44], text=b"no audio at all", cut=whole[:20], nan=loud, infinite=np.full(4000, np.inf, np.float32),
        silence_of_no_length=np.zeros(0, np.float32), noise=bytes(range(256)) * 8, flac=b"fLaC" + whole[4:200], ogg=b"OggS" + whole[4:200],
    )  # fmt: skip
    for name, content in kinds.items():
        path = data / "low" / f"broken_{name}.wav"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            sf.write(path, content, 8000, subtype="FLOAT")
    workdir = root / "broken"
    finish(command(data, workdir, train__steps=200, data__max_bad_fraction=0.1))
    with open(workdir / "bad_files.csv", newline="") as file:
        listed = {Path(row["file"]).name for row in csv.DictReader(file)}
    wanted = {f"broken_{name}.wav" for name in kinds}
    accuracy = json.loads((workdir / "results.json").read_text())["supervised"]["test/accuracy"]
    seen = f"{len(listed & wanted)} of {len(wanted)} listed, {len(listed - wanted)} others; test accuracy {100 * accuracy:.0f} %"
    return Line(
        f"{len(wanted)} broken files of {190 + len(wanted)}",
        "trains through, all are listed",
        seen,
        listed == wanted,
    )


def cut(root: Path) -> Line:
    """The last checkpoint loses the end of one of its files."""
    data, workdir, fell_back, tries = tones(root / "sounds"), root / "cut", 0, 0
    changes = dict(train__steps=200, config__checkpoint__every=100)
    finish(command(data, workdir, **changes))
    kept = root / "cut_kept"
    shutil.copytree(workdir, kept, dirs_exist_ok=True)
    files = [
        p
        for p in (kept / "checkpoints/supervised/200").rglob("*")
        if p.is_file() and p.stat().st_size > 100
    ]
    for path in random.Random(0).sample(sorted(files), min(5, len(files))):
        shutil.rmtree(workdir)
        shutil.copytree(kept, workdir)
        (workdir / "results.json").unlink()
        spoiled = workdir / path.relative_to(kept)
        spoiled.write_bytes(spoiled.read_bytes()[: spoiled.stat().st_size // 2])
        said = finish(command(data, workdir, **changes))
        fell_back += "goes on from step 100" in said or "goes on from step 200" in said
        tries += 1
    same = without_time(kept) == without_time(workdir)
    seen = f"{fell_back} of {tries} went on, from a checkpoint that is whole; the log is {'the same' if same else 'ANOTHER'}"
    return Line(
        f"{tries} files of the last checkpoint cut in half",
        "the one before is used",
        seen,
        fell_back == tries and same,
    )


def memory(root: Path) -> Line:
    """Resident memory of a run of 10,000 steps and its decoding processes."""
    import psutil

    data, workdir = tones(root / "sounds"), root / "memory"
    process = start(
        command(data, workdir, train__steps=10_000, data__workers=1, config__checkpoint__every=1000)
    )
    own, sizes = psutil.Process(process.pid), {}
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=0.2)  # read all the while: a full pipe would stop the run
        steps = [row["step"] for row in log(workdir)]
        if steps and steps[-1] // 500 * 500 not in sizes:
            try:
                family = [own, *own.children(recursive=True)]
                sizes[steps[-1] // 500 * 500] = sum(one.memory_info().rss for one in family) / 2**20
            except psutil.NoSuchProcess:
                break
    process.wait()
    early, late = (
        float(np.mean([size for step, size in sizes.items() if low <= step < high]))
        for low, high in ((2000, 4000), (8000, 10_001))
    )
    seen = f"{early:.0f} MiB at steps 2000 to 4000, {late:.0f} MiB at 8000 to 10,000"
    return Line(
        "10,000 steps",
        "resident memory is flat (within 2 %)",
        seen,
        process.returncode == 0 and late < 1.02 * early,
    )


PARTS = dict(
    killed=killed,
    terminated=terminated,
    interrupted=interrupted,
    broken=broken,
    cut=cut,
    memory=memory,
)


def main(argv: list[str] | None = None) -> int:
    """Runs the parts that are asked for and prints the table of all that `faults.json` has; 1 where something does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/faults"),
        help="a folder; what it held of a part is removed",
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args(argv)
    path = args.output / "faults.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for name in args.only:
        shutil.rmtree(args.output / name, ignore_errors=True)
        found[name] = PARTS[name](args.output.absolute() / name)._asdict()
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {found[name]['seen']}", flush=True)
    print("\n| what was done | what must hold | what was seen | |\n| --- | --- | --- | --- |")
    for line in found.values():
        print(
            f"| {line['done']} | {line['wanted']} | {line['seen']} | {'yes' if line['holds'] else 'no'} |"
        )
    return 0 if all(line["holds"] for line in found.values()) else 1


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
