"""(g) From a command to the end of its first step, with an empty and a filled compilation cache."""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from launch.benchmarks.speed_cases import case
from launch.benchmarks.speed_cases.case import ROOT, SMALL, Sizes
from launch.benchmarks.speed_cases.ours import Ours, pretraining_config, resnet_config
from sacjax import compilation, errors
from sacjax.commands import train
from sacjax.train import hooks
from sacjax.train.loop import Hook, Run

SCRIPT = ROOT / "launch" / "benchmarks" / "speed.py"
FIRST_STEPS: dict[str, tuple[Callable[[Sizes], ConfigDict], str]] = {
    "ResNet-18": (resnet_config, "supervised"),
    "wav2vec 2.0 pretraining": (pretraining_config, "pretrain"),
}
QUICKSTART = "configs/quickstart.py"  # the whole command, with its data
NAMES = (*FIRST_STEPS, QUICKSTART)


def first_step_of(name: str, small: bool) -> None:
    """What a process does: a training step, as `sacjax.main` starts it; prints when it was done."""
    if name == QUICKSTART:
        first_step_of_a_run(name, small)
        return
    compilation.start()
    make, stage = FIRST_STEPS[name]
    Ours(make(SMALL if small else Sizes()), stage).step()
    print(time.time())


def first_step_of_a_run(config: str, small: bool) -> None:
    """Does what `sacjax train` does with a config, data and all, to the end of its first step."""
    hooks.default_hooks = lambda validate: [_Stop()]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Stop.Stopped):
        command = ["--config", str(ROOT / config), "--workdir", str(Path(folder) / "run")]
        command += ["--config.stages=('scratch',)"] * small
        errors.run(lambda: train.main(command))


class _Stop(Hook):
    """Ends a run after its first step, and prints when that was done."""

    class Stopped(Exception):
        """The first step is done."""

    def after_step(self, run: Run) -> None:
        jax.block_until_ready(run.state)
        print(time.time())
        raise self.Stopped


def seconds_of(name: str, small: bool, cache: Path) -> float:
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
        return seconds_of(name, small, Path(cache))


def cases(sizes: Sizes) -> Iterator[case.Case]:
    """Yields a case for each of NAMES."""
    small = sizes == SMALL
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(NAMES):
            peers: dict[str, case.Run] = {"sacjax, cold": functools.partial(cold, name, small)}
            warm = functools.partial(seconds_of, name, small, Path(folder) / str(number))
            what = f"from the command to the end of its first step, warm, {name}"
            yield case.Case(what, warm, peers, seconds=5.0 if name == QUICKSTART else 0.0)
