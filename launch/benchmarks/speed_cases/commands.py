"""(i) How soon Python and the console answer: `import sacjax`, and `sacjax predict` on one file."""

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from launch.benchmarks.speed_cases.case import ROOT, Case, Run, Sizes

TRAINED = (  # one step of the quickstart's network, to have a checkpoint
    "--config.stages=('scratch',)",
    "--config.scratch.train.steps=1",
    "--config.scratch.eval.splits=()",
    "--config.scratch.data.examples=200",
    "--config.scratch.data.labels_per_class=2",
)


def seconds_of(arguments: list[str], cache: Path | None = None) -> float:
    """Returns how long Python takes with these arguments; a cache of None: an empty one."""
    with tempfile.TemporaryDirectory() as empty:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        own = {"JAX_COMPILATION_CACHE_DIR": str(cache or empty), "PYTHONPATH": paths}
        own["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        command, begin = [sys.executable, *arguments], time.perf_counter()
        done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
        seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-400:]}")
    return seconds


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yields the two cases."""
    ours = functools.partial(seconds_of, ["-c", "import sacjax"])
    peers: dict[str, Run] = {"import jax": functools.partial(seconds_of, ["-c", "import jax"])}
    yield Case("import sacjax, the process with it", ours, peers, seconds=0.5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sound, workdir, cache = folder / "noise.wav", folder / "run", folder / "cache"
        soundfile.write(sound, np.random.default_rng(0).normal(0, 0.1, 8000), 8000)
        config = str(ROOT / "configs" / "quickstart.py")
        command = ["-m", "sacjax", "train", "--config", config, "--workdir", str(workdir)]
        seconds_of([*command, *TRAINED], cache)
        predict = ["-m", "sacjax", "predict", "--checkpoint", str(workdir), str(sound)]
        warm = functools.partial(seconds_of, predict, cache)
        peers = {"sacjax, cold": functools.partial(seconds_of, predict)}
        yield Case("sacjax predict on one file, warm", warm, peers, seconds=4.0)
