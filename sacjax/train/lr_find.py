"""A learning-rate sweep (Smith 2017, "Cyclical Learning Rates").

The learning rate grows exponentially over a few hundred updates; the suggestion is where the
smoothed loss falls steepest. It trains a state of its own, and writes to no workdir.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sacjax import errors, init_from, objectives, stages
from sacjax.data.bad_files import BadFiles
from sacjax.train import sharding


def sweep(step: Any, state: Any, batches: Iterator[Any], rates: np.ndarray) -> np.ndarray:
    """Returns the loss before the update at each of `rates`; it is shorter where it diverged.

    Args:
      step: (state, batch) -> (state, loss); its k-th call is an update with learning rate
        `rates[k]`.
      state: the first state; it is not changed (a `step` that donates needs a copy).
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
    skip = min(len(slope) // 10, 10)  # the average fluctuates at first
    return float(rates[skip + int(np.argmin(slope[skip:]))])


def find(
    config: ConfigDict, stage_name: str, start: float, end: float, steps: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns (suggested learning rate, rates, losses) for a stage of a config.

    Raises UserError for bad data.
    """
    config = init_from.resolve(config)  # a copy
    stage = config[stage_name]
    kind = objectives.OBJECTIVES[stage.objective.name]
    for key, source in (
        ("init_from", stage.init_from),
        (f"objective.options.{kind.source_option}", kind.source(stage)),
    ):
        if source in config.stages:
            raise errors.UserError(
                f"config.{stage_name}.{key} is '{source}', which has not been trained here: give "
                f"the workdir of a finished run, --config.{stage_name}.{key}=WORKDIR"
            )
    stage.optimizer.schedule, stage.optimizer.learning_rate = "exponential", start
    stage.optimizer.final_fraction = end / start
    # The sweep is over updates.
    stage.optimizer.schedule_count = stage.optimizer.schedule_steps = 0
    stage.train.steps, stage.train.log_every = steps, 1
    rates = start * (end / start) ** (np.arange(steps) / max(steps - 1, 1))
    mesh = sharding.make_mesh(config.mesh)
    with tempfile.TemporaryDirectory() as folder:
        prepared = stages.Stage.prepare(stage_name, config, mesh, Path(folder), {})
        trainer = prepared.trainer
        bad = BadFiles(Path(folder), prepared.recordings, stage.data.max_bad_fraction)
        batches = prepared.batches()

        def step(state: Any, batch: dict) -> tuple[Any, float]:
            bad.note(batch)
            state = trainer.step(state, sharding.put_batch(batch, mesh))
            total, count = jax.device_get(state.sums["loss"])
            zero = jax.tree.map(np.zeros_like, jax.device_get(state.sums))
            return state._replace(
                sums=jax.device_put(zero, sharding.replicated(mesh))
            ), total / count if count else np.nan

        losses = sweep(step, trainer.init(*prepared.start()), batches, rates)
    return suggest(rates, losses), rates[: len(losses)], losses


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
