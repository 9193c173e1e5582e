"""Folds and seeds from one compilation: what `kfold.py --together` runs.

Every run is a replica (`sacjax.train.replicas`) with the data, order, augmentation and parameters
that it has alone. Written are the same files in the same
folders, but no checkpoints and no curves: it is for small models, whose runs take minutes.
"""

import collections
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from sacjax import checks, compilation, objectives
from sacjax import config as config_lib
from sacjax.data import sources, splits
from sacjax.data.bad_files import BadFiles
from sacjax.errors import UserError
from sacjax.io import write_text
from sacjax.stages import Stage
from sacjax.train import sharding
from sacjax.train.checkpoint_files import write_labels
from sacjax.train.loop import STEPS_IN_FLIGHT, epoch_examples, total_steps
from sacjax.train.replicas import How, Replicas, make_replicas

Run = tuple[Path, ConfigDict]  # (workdir, its config)
PREPARE = objectives.Objective.prepare  # of an objective that prepares nothing


def run(runs: list[Run], how: How | None = None) -> None:
    """Trains and evaluates all runs together, in this process.

    Args:
      runs: that are not finished; their configs differ in the seed and the fold alone.
      how: of `make_replicas`; None: what suits the device.

    Raises:
      UserError: a config of which runs cannot go together, several devices, folds of other numbers
        of steps, or updates that were not finite.
    """
    compilation.start()
    (name,) = check(runs[0][1])
    mesh = sharding.make_mesh(runs[0][1].mesh)
    if mesh.size > 1:
        raise UserError(f"--together runs on one device, and there are {mesh.size}")
    replicas = prepare(name, runs, mesh)
    own, seeds = replicas[0], [config.seed for _, config in runs]
    steps = {steps_of(replica) for replica in replicas}
    if len(steps) > 1:
        raise UserError(
            f"--together: the folds have {min(steps)} to {max(steps)} steps; set "
            f"config.{name}.train.steps"
        )
    how = how or ("turns" if jax.default_backend() == "cpu" else "vmap")
    compiled = make_replicas(own.trainer, seeds, how)
    states = train(replicas, compiled, steps.pop())
    for number, (replica, (workdir, config)) in enumerate(zip(replicas, runs, strict=True)):
        state = compiled.state(states, number)
        if jax.device_get(state.skips).any():
            raise UserError(f"{workdir}: updates were not finite; run it without --together")
        write_text(workdir / "config.json", config_lib.to_json(config))
        write_labels(workdir, name, replica.recordings.class_names, replica.clips)
        replica.conclude(state, {})


def check(config: ConfigDict) -> tuple[str, ...]:
    """Returns the config's one stage.

    Raises:
      UserError: a config whose runs need more than steps: several stages, an encoder from
        elsewhere, artifacts, or a choice among checkpoints; or whose loss depends on the fold.
    """
    told = ""
    if len(config.stages) != 1:
        told = f"config.stages has {len(config.stages)} stages, and one may have"
    for name in config.stages:
        stage = config[name]
        kind = objectives.OBJECTIVES[stage.objective.name]
        for key, bad in (
            ("init_from", bool(stage.init_from)),
            (f"objective.name={stage.objective.name}", kind.prepare is not PREPARE),
            ("objective.options.class_weights", _is_balanced(stage)),
            ("train.early_stopping", bool(stage.train.early_stopping)),
            ("eval.checkpoint=best", stage.eval.checkpoint == "best"),
        ):
            told = told or (f"it cannot go with config.{name}.{key}" if bad else "")
    if told:
        raise UserError(f"--together: {told}; run without it")
    return tuple(config.stages)


def _is_balanced(stage: ConfigDict) -> bool:
    return stage.objective.options.get("class_weights", "none") != "none"


def prepare(name: str, runs: list[Run], mesh: Any) -> list[Stage]:
    """Returns the stage of each run. All share what the first compiles, and one data set."""
    replicas: list[Stage] = []
    for workdir, config in runs:
        workdir.mkdir(parents=True, exist_ok=True)
        if not replicas:
            replicas.append(Stage.prepare(name, config, mesh, workdir, {}))
            continue
        data = config[name].data
        same = sources.same(replicas[0].stage.data, data)
        recordings = replicas[0].recordings if same else sources.load(data)
        parts = splits.split(recordings, data)
        checks.check_parts(name, config[name], recordings, parts)
        replicas.append(Stage(name, config, mesh, workdir, recordings, parts))
        replicas[-1].trainer = replicas[0].trainer
    return replicas


def steps_of(replica: Stage) -> int:
    """Returns the updates of a run."""
    stage, indices = replica.stage, replica.parts["train"]
    examples = epoch_examples(replica.recordings, indices, stage.data, replica.config.seed)
    return total_steps(stage.train, examples)[0]


def train(replicas: list[Stage], compiled: Replicas, steps: int) -> Any:
    """Returns the replicas' last states."""
    batches = [replica.batches() for replica in replicas]
    tables = [BadFiles(r.workdir, r.recordings, r.stage.data.max_bad_fraction) for r in replicas]
    states = compiled.init()
    in_flight: collections.deque[jax.Array] = collections.deque()
    for _ in tqdm(range(steps), desc=f"{len(replicas)} runs", unit="step"):
        taken = [next(source) for source in batches]
        for table, batch in zip(tables, taken, strict=True):
            table.note(batch)
        states = compiled.step(states, taken)
        # The next step donates the states.
        in_flight.append(jax.numpy.copy(compiled.state(states, len(replicas) - 1).step))
        if len(in_flight) > STEPS_IN_FLIGHT:
            in_flight.popleft().block_until_ready()
    for table in tables:
        table.flush()
    return states
