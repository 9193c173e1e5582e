"""`python -m sacjax.lr_find --config FILE[:ARG] [--output DIR] [--config.key=value …]`: a learning-rate sweep.

The learning rate grows exponentially over a few hundred updates (Smith 2017, "Cyclical Learning Rates"); the suggestion is where the
smoothed loss falls steepest. It trains a state of its own: workdirs and checkpoints are left as they are.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sacjax import compilation, errors
from sacjax import config as config_lib
from sacjax import stages as experiment
from sacjax.data import pipeline
from sacjax.data.bad_files import BadFiles
from sacjax.train import sharding


def sweep(step: Any, state: Any, batches: Iterator[Any], rates: np.ndarray) -> np.ndarray:
    """Returns the loss before each update at each of `rates` (shorter than `rates` where it diverged).

    Args:
      step: (state, batch) -> (state, loss); its k-th call is an update with learning rate `rates[k]`.
      state: where to start; it is not changed (callers that donate must pass a copy).
    """
    losses: list[float] = []
    for _ in rates:
        state, loss = step(state, next(batches))
        losses.append(float(loss))
        if not np.isfinite(losses[-1]) or losses[-1] > 4 * min(losses) + 1e-6:
            break
    return np.asarray(losses)


def smooth(losses: np.ndarray, beta: float = 0.9) -> np.ndarray:
    """Returns the bias-corrected exponential moving average of the losses."""
    average, out = 0.0, []
    for k, loss in enumerate(losses, 1):
        average = beta * average + (1 - beta) * loss
        out.append(average / (1 - beta**k))
    return np.asarray(out)


def suggest(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns the rate where the smoothed loss falls steepest in log rate, before its minimum.

    Raises:
      UserError: the loss never falls.
    """
    finite = np.isfinite(losses)
    rates, losses = rates[: len(losses)][finite], losses[finite]
    curve = smooth(losses)
    lowest = int(np.argmin(curve))
    if lowest < 3:
        raise errors.UserError(
            "the loss does not fall at any learning rate of the sweep: try a lower --start"
        )
    slope = np.gradient(curve[: lowest + 1], np.log(rates[: lowest + 1]))
    skip = min(len(slope) // 10, 10)  # the average is unsteady at first
    return float(rates[skip + int(np.argmin(slope[skip:]))])


def find(
    config: ConfigDict, stage_name: str, start: float, end: float, steps: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns (suggested learning rate, rates, losses) for a stage of a config. Raises UserError for bad data."""
    config = experiment.resolve(config)  # a copy
    stage = config[stage_name]
    if stage.init_from in config.stages:
        raise errors.UserError(
            f"config.{stage_name}.init_from is '{stage.init_from}', which has not been trained here: give the workdir of a "
            f"finished run, --config.{stage_name}.init_from=WORKDIR"
        )
    stage.optimizer.schedule, stage.optimizer.learning_rate = "exponential", start
    stage.optimizer.final_fraction = end / start
    stage.optimizer.schedule_frames, stage.optimizer.schedule_steps = (
        0,
        0,
    )  # the sweep is over updates
    stage.train.steps, stage.train.log_every = steps, 1
    rates = start * (end / start) ** (np.arange(steps) / max(steps - 1, 1))
    mesh = sharding.make_mesh(config.mesh)
    with tempfile.TemporaryDirectory() as folder:
        prepared = experiment.Stage.prepare(stage_name, config, mesh, Path(folder), {})
        program = prepared.program
        bad = BadFiles(Path(folder), prepared.recordings, stage.data.max_bad_fraction)
        batches = iter(
            pipeline.train_batches(
                prepared.recordings, prepared.parts["train"], stage.data, stage.train.batch_size, config.seed,
                jax.process_index(), jax.process_count(), labels=prepared.objective.needs_labels,
            )
        )  # fmt: skip

        def step(state: Any, batch: dict) -> tuple[Any, float]:
            bad.note(batch)
            state = program.step(state, sharding.put_batch(batch, mesh))
            total, count = jax.device_get(state.sums["loss"])
            zero = jax.tree.map(np.zeros_like, jax.device_get(state.sums))
            return state._replace(
                sums=jax.device_put(zero, sharding.replicated(mesh))
            ), total / count if count else np.nan

        losses = sweep(step, program.init(prepared.start), batches, rates)
    return suggest(rates, losses), rates[: len(losses)], losses


def main(argv: list[str] | None = None) -> int:
    """Parses flags, sweeps, writes `lr_find.csv` and `lr_find.png` and prints the suggestion."""
    compilation.start()
    parser = argparse.ArgumentParser(
        prog="python -m sacjax.lr_find",
        description="Sweeps the learning rate and suggests one.",
        allow_abbrev=False,
    )
    config_lib.add_flags(parser)
    parser.add_argument("--stage", help="which stage of the config (default: the first)")
    parser.add_argument("--start", type=float, default=1e-6, help="lowest learning rate")
    parser.add_argument("--end", type=float, default=1.0, help="highest learning rate")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--output", default=".", help="folder for lr_find.csv and lr_find.png")
    args, unknown = parser.parse_known_args(argv)
    config = config_lib.from_flags(args, unknown)
    if not 0 < args.start < args.end or args.steps < 10:
        raise errors.UserError(
            "--start must lie above 0 and below --end, and --steps be 10 or more"
        )
    best, rates, losses = find(
        config, config_lib.stage_name(config, args.stage), args.start, args.end, args.steps
    )
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lr_find.csv", "w", newline="") as file:
        csv.writer(file).writerows([("learning_rate", "loss"), *zip(rates, losses, strict=True)])
    plot(rates, losses, best, folder / "lr_find.png")
    print(
        f"suggested learning rate: {best:.2g} (steepest descent; curve in {folder / 'lr_find.png'})"
    )
    return 0


def plot(rates: np.ndarray, losses: np.ndarray, best: float, path: Path) -> None:
    """Draws loss over learning rate, with the suggestion marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(rates, losses, color="0.8", label="loss")
    axes.semilogx(rates, smooth(losses), label="smoothed")
    axes.axvline(best, color="tab:red", linestyle="--", label=f"suggestion {best:.2g}")
    axes.set(xlabel="learning rate", ylabel="training loss")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
