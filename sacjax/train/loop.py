"""The train loop. It takes batches and makes steps; hooks do everything else."""

import collections
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sacjax.data import pipeline, splits
from sacjax.data.bad_files import BadFiles
from sacjax.data.resident import Resident
from sacjax.train.checkpoint import Checkpoints
from sacjax.train.faults import Skipped
from sacjax.train.metrics import Log, Progress
from sacjax.train.optimizer import make_schedule
from sacjax.train.sharding import put_batch
from sacjax.train.state import Pretrained, TrainState
from sacjax.train.trainer import Trainer

STEPS_IN_FLIGHT = 2  # steps enqueued at the most, as each holds a batch on the devices


class GoBack(Exception):
    """Asks the run to go back to its last checkpoint, with the data in another order."""


class Hook:
    """Something that happens before or after each step."""

    def before_step(self, run: "Run", batch: dict[str, Any]) -> None:
        """Is called with a host batch before step `run.step + 1`."""

    def after_step(self, run: "Run") -> None:
        """Is called after step `run.step`. May raise `GoBack`."""


@dataclasses.dataclass
class Task:
    """What a stage trains on and where it writes; it does not change during training."""

    name: str
    stage: ConfigDict
    config: ConfigDict
    objective: Any
    trainer: Trainer
    recordings: Any
    indices: np.ndarray
    """The training examples, as indices into `recordings`."""
    mesh: Mesh
    workdir: Path
    start: Callable[[], tuple[Pretrained | None, dict[str, Any]]] = lambda: (None, {})
    """Returns the pretrained encoder and the objective's artifacts; called without a checkpoint."""


@dataclasses.dataclass
class Record:
    """What a checkpoint holds beside the train state."""

    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    stopped: bool = False
    collapsed: int = 0
    order: int = 0
    """Number of times that the data were put in another order."""
    began: float = dataclasses.field(default_factory=time.time)
    productive: float = 0.0
    """Seconds spent on steps that are kept."""
    data: str | None = None
    """The position in the data, as JSON."""


class Run:
    """A stage's training in progress, which hooks read and change."""

    def __init__(self, task: Task):
        """Opens checkpoints and tables; call `resume` before the first step."""
        self.task = task
        stage, config, self.trainer = task.stage, task.config, task.trainer
        self.name, self.stage, self.config, self.workdir = task.name, stage, config, task.workdir
        examples = epoch_examples(task.recordings, task.indices, stage.data, config.seed)
        self.steps, self.epoch_steps = total_steps(stage.train, examples)
        self.schedule = make_schedule(stage.optimizer, self.steps)
        self.is_first_host = jax.process_index() == 0
        self.checkpoints = Checkpoints(
            task.workdir,
            task.name,
            config.checkpoint.keep,
            stage.eval.best_mode,
            config.checkpoint.asynchronous,
        )
        self.bad_files = BadFiles(task.workdir, task.recordings, stage.data.max_bad_fraction)
        self.skipped = Skipped(task.workdir, task.name, task.recordings)
        needs_labels = task.objective.needs_labels
        self.resident = (
            Resident(task.recordings, task.indices, stage.data, task.mesh, needs_labels)
            if stage.data.on_device
            else None
        )
        self.values: dict[str, float] = {}
        """Metrics of this step's log line and evaluation; empty if it has neither."""

    def resume(self, order: int = 0) -> None:
        """Starts from the last checkpoint, if any.

        Args:
          order: above 0, the data come in another order from there.
        """
        task, stage, record = self.task, self.stage, Record()
        if self.checkpoints.latest() is None:
            self.state = self.trainer.init(*task.start())
        else:
            self.state, saved = self.checkpoints.restore(self.trainer.state_shapes)
            record = Record(**saved)
        if order:
            record.order, record.data = order, None
        self.record = record
        self.batches = iter(
            pipeline.train_batches(
                task.recordings,
                task.indices,
                stage.data,
                stage.train.batch_size,
                self.config.seed + record.order,
                jax.process_index(),
                jax.process_count(),
                task.objective.needs_labels,
                self.resident,
            ),
        )
        if record.data:
            self.batches.set_state(json.loads(record.data))
        self.step = int(self.state.step)
        if self.is_first_host and self.step:
            print(f"{self.name}: goes on from step {self.step}")
        self.log = (
            Log(self.workdir, self.name, self.step, self.config.tensorboard)
            if self.is_first_host
            else None
        )
        self.progress = Progress(
            self.name,
            self.step,
            self.steps,
            stage.train.batch_size,
            stage.data.seconds,
            task.objective.display.bar,
            self.is_first_host,
            self.trainer.flops,
        )

    @property
    def is_last(self) -> bool:
        """Whether this was the last step."""
        return self.step == self.steps or self.record.stopped

    def save(self, metric: float | None = None) -> None:
        """Begins to save a checkpoint; `metric` is the value by which the best one is chosen."""
        self.bad_files.flush()
        if self.log:
            self.log.put()
        self.record.data = json.dumps(self.batches.get_state())
        self.checkpoints.save(self.step, self.state, dataclasses.asdict(self.record), metric)

    def write(self, values: dict[str, float]) -> None:
        """Writes metrics to the log and shows them beside the bar."""
        self.values |= values
        self.progress.show(values)
        if self.log and values:
            self.log.write(self.step, values)

    def end(self) -> None:
        """Closes the bar, the log and the list of bad files."""
        self.progress.close()
        self.bad_files.flush()
        if self.log:
            self.log.close()


def fit(task: Task, hooks: Sequence[Hook]) -> tuple[TrainState, Checkpoints]:
    """Trains one stage to its end, from its last checkpoint if there is one.

    Returns:
      (the last state, the stage's checkpoints, still open).

    Raises:
      UserError: too many undecodable files, a collapse, or updates that are not finite once more
        after the run went back.
      Terminated: SIGTERM came; the checkpoint is saved.
    """
    run = Run(task)
    run.resume()
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: run.end())  # also before an error is reported
        for hook in hooks:
            if isinstance(hook, contextlib.AbstractContextManager):
                stack.enter_context(hook)
        in_flight: collections.deque[jax.Array] = collections.deque()
        while run.step < run.steps and not run.record.stopped:
            batch = run.progress.wait(run.batches)
            run.bad_files.note(batch)
            for hook in hooks:
                hook.before_step(run, batch)
            batch = put_batch(batch, task.mesh)
            batch = run.resident.crop(batch) if run.resident else batch
            run.state = task.trainer.step(run.state, batch)
            run.step += 1
            in_flight.append(jnp.copy(run.state.step))  # the next step donates the state
            if len(in_flight) > STEPS_IN_FLIGHT:
                in_flight.popleft().block_until_ready()
            run.progress.tick()
            run.values = {}
            try:
                for hook in hooks:
                    hook.after_step(run)
            except GoBack:
                run.end()
                run.resume(order=1)
    run.checkpoints.wait()
    return run.state, run.checkpoints


def epoch_examples(recordings: Any, indices: np.ndarray, data: ConfigDict, seed: int) -> int:
    """Returns the number of examples in an epoch: the training part after `data.balance`."""
    return len(splits.balance(recordings, indices, data.balance, seed))


def total_steps(train: ConfigDict, examples: int) -> tuple[int, int]:
    """Returns (updates in all, updates an epoch); an epoch has at least one update."""
    epoch = max(examples // train.batch_size, 1)
    return (train.steps or max(round(train.epochs * examples / train.batch_size), 1)), epoch
