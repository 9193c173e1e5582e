"""(g) From a command to the end of its first step, with an empty and a filled compilation cache."""

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ml_collections import ConfigDict

from launch.benchmarks.speed_cases.case import ROOT, SMALL, Case, Run, Sizes
from launch.benchmarks.speed_cases.ours import Ours, pretraining_config, resnet_config
from sacjax import compilation

SCRIPT = ROOT / "launch" / "benchmarks" / "speed.py"
FIRST_STEPS: dict[str, tuple[Callable[[Sizes], ConfigDict], str]] = {
    "ResNet-18": (resnet_config, "supervised"),
    "wav2vec 2.0 pretraining": (pretraining_config, "pretrain"),
}


def first_step_of(name: str, small: bool) -> None:
    """What a process does: a training step, as `sacjax.main` starts it; prints when it was done."""
    compilation.start()
    make, stage = FIRST_STEPS[name]
    Ours(make(SMALL if small else Sizes()), stage).step()
    print(time.time())


def run(name: str, small: bool, cache: Path) -> float:
    """Returns the seconds from the command to the end of its first step."""
    command = [sys.executable, str(SCRIPT), "--first-step", name, *["--small"] * small]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": paths}
    begin = time.time()
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1]) - begin


def cold(name: str, small: bool) -> float:
    """Returns the same with a cache that is empty."""
    with tempfile.TemporaryDirectory() as cache:
        return run(name, small, Path(cache))


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yields a case for each of FIRST_STEPS."""
    small = sizes == SMALL
    with tempfile.TemporaryDirectory() as folder:
        for name in FIRST_STEPS:
            peers: dict[str, Run] = {"sacjax, cold": functools.partial(cold, name, small)}
            warm = functools.partial(run, name, small, Path(folder) / name.replace(" ", "_"))
            yield Case(f"from the command to the end of its first step, warm, {name}", warm, peers)
