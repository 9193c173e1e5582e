"""Runs of a small network on tones, by the same command as a user's, and what is left of them."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import soundfile as sf
from flax import nnx

from sacjax import errors
from sacjax.inference import load_trained

ROOT = Path(__file__).resolve().parents[3]
INJECT = Path(__file__).with_name("inject.py")
STAGE = "supervised"
CONFIG: dict[str, object] = {
    "data.sample_rate": 8000,
    "data.seconds": 0.5,
    "frontend.n_fft": 256,
    "frontend.hop_length": 128,
    "frontend.n_mels": 16,
    "model.name": "small_cnn",
    "model.encoder": "{}",
    "train.batch_size": 8,
    "eval.batch_size": 8,
    "train.log_every": 10,
    "train.evaluate_every": 10**6,
}


class Line(NamedTuple):
    """A line of the table."""

    done: str
    wanted: str
    seen: str
    holds: bool


def tones(folder: Path, count: int = 40, kinds: tuple[str, ...] = ("wav",)) -> Path:
    """Writes DIR/<label>/*: low and high tones of half a second at 8 kHz, of each kind in turn."""
    rng, moments = np.random.default_rng(0), np.arange(4000) / 8000
    for label, low, high in (("high", 1500, 3000), ("low", 100, 600)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            pitch = rng.uniform(low, high)
            tone = 0.4 * np.sin(2 * np.pi * pitch * moments) + 0.02 * rng.standard_normal(4000)
            sf.write(folder / label / f"{k:03d}.{kinds[k % len(kinds)]}", tone, 8000)
    return folder


def flags(data: Path, workdir: Path, **changes: object) -> list[str]:
    """Returns the flags of a run.

    `changes` are keys of its stage, with __ for a point, or of the config, with config__ before.
    """
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    stage = CONFIG | {key: value for key, value in keys.items() if not key.startswith("config.")}
    words = ["--config", "configs/folder.py", "--workdir", str(workdir)]
    words += [f"--config.{STAGE}.data.path={data}", "--config.tensorboard=False"]
    words += [f"--config.{STAGE}.{key}={value}" for key, value in stage.items()]
    return words + [f"--{key}={value}" for key, value in keys.items() if key.startswith("config.")]


def command(data: Path, workdir: Path, **changes: object) -> list[str]:
    """Returns the command of a run, as `flags` says."""
    return [sys.executable, "-m", "sacjax.main", *flags(data, workdir, **changes)]


def injected(fault: Mapping[str, object], words: list[str]) -> list[str]:
    """Returns the command of a run with these flags in which faults happen; see `inject.py`."""
    return [sys.executable, str(INJECT), json.dumps(fault), *words]


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
    folder = checkpoints(workdir)
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
        jax.device_get(nnx.as_pure(nnx.state(load_trained(workdir, "last").module)))
    )


def same_parameters(a: Path, b: Path) -> bool:
    """Returns whether the last checkpoints of two runs hold the same numbers."""
    return all(np.array_equal(x, y) for x, y in zip(parameters(a), parameters(b), strict=True))


class Ended(NamedTuple):
    """How a run ended."""

    code: int
    said: str

    @property
    def traceback(self) -> bool:
        """Whether it ended with a traceback instead of a message."""
        return "Traceback (most recent call last)" in self.said


def end(processes: list[subprocess.Popen], log: Path, seconds: float = 600) -> list[Ended]:
    """Waits for processes and returns how each ended; one that hangs is killed, with code -9.

    What they said is kept in `<log>.<number>.txt`.
    """
    limit, ended = time.time() + seconds, []
    try:
        for k, process in enumerate(processes):
            try:
                said, _ = process.communicate(timeout=max(limit - time.time(), 1))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said = process.communicate()[0]
            log.with_name(f"{log.name}.{k}.txt").write_text(said)
            ended.append(Ended(process.returncode, said))
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return ended


def contents(folder: Path) -> dict[str, bytes]:
    """Returns {name: bytes} of all files under a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def resumed_at(said: str) -> int | None:
    """Returns the step that a run went on from, None where it began anew."""
    found = re.search(r"goes on from step (\d+)", said)
    return int(found[1]) if found else None


def checkpoints(workdir: Path) -> Path:
    """Returns the folder of a run's checkpoints."""
    return workdir / "checkpoints" / STAGE


def unfinish(workdir: Path) -> None:
    """Takes away the results, so that the same command goes on from the last checkpoint."""
    (workdir / "results.json").unlink()
