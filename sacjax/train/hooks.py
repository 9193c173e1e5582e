"""What happens around the steps of training: log, evaluate, save, watch, profile, stop."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sacjax import io
from sacjax.errors import Terminated, UserError, nearest
from sacjax.train.checkpoint import is_better
from sacjax.train.faults import Termination
from sacjax.train.loop import GoBack, Hook, Record, Run
from sacjax.train.state import TrainState
from sacjax.train.step import schedule_progress

PROFILED_STEPS = 5
FIRST_PROFILED = 3  # steps after the run's first, so that no compilation is profiled

Validate = Callable[[TrainState], dict[str, float]]


def default_hooks(validate: Validate) -> list[Hook]:
    """Returns the hooks of a stage, in the order in which they act after a step.

    Args:
      validate: state → metrics of the validation part.
    """
    return [
        ProfileHook(),
        SkippedHook(),
        LogHook(),
        GiveUpHook(),
        HealthHook(),
        EvaluateHook(validate),
        SaveHook(),
        TerminationHook(),
    ]


def is_logged(run: Run, step: int) -> bool:
    """Returns whether a step ends a log line.

    Each evaluation does where the best checkpoint is named by a metric of training.
    """
    named = run.stage.eval.best.startswith("train/") and is_evaluated(run, step)
    return step % run.stage.train.log_every == 0 or step == run.steps or named


class ProfileHook(Hook):
    """Writes a jax.profiler trace of five steps under `<workdir>/profile`, if `config.profile`."""

    def __init__(self) -> None:
        """Chooses the profiled steps when the run's first step comes."""
        self.first: int | None = None
        self.folder: Path | None = None
        """Where the trace is written; None before it has begun."""
        self.traced: Run | None = None
        """The run, while it is traced."""

    def before_step(self, run: Run, batch: dict[str, Any]) -> None:
        """Starts the trace."""
        if self.first is None:
            self.first = run.step + FIRST_PROFILED
        if run.config.profile and run.step == self.first and self.folder is None:
            bucket = io.in_bucket(run.workdir)
            self.folder = Path(tempfile.mkdtemp()) if bucket else run.workdir / "profile"
            jax.profiler.start_trace(str(self.folder))
            self.traced = run

    def after_step(self, run: Run) -> None:
        """Ends the trace."""
        if run.step == (self.first or 0) + PROFILED_STEPS:
            self._end()

    def __enter__(self) -> "ProfileHook":
        """Begins a stage."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the trace of a stage that ended before: the next one begins another."""
        self._end()

    def _end(self) -> None:
        if self.traced is None or self.folder is None:
            return
        run, self.traced = self.traced, None
        jax.block_until_ready(run.state)
        jax.profiler.stop_trace()
        if io.in_bucket(run.workdir):  # where the profiler cannot write
            io.copy_folder(self.folder, run.workdir / "profile")
            shutil.rmtree(self.folder)


class SkippedHook(Hook):
    """Lists the updates that were skipped, with their clips."""

    def before_step(self, run: Run, batch: dict[str, Any]) -> None:
        """Remembers the clips of an update."""
        run.skipped.note(run.step + 1, batch)

    def after_step(self, run: Run) -> None:
        """Writes the table, and counts the skipped updates for the log line."""
        if not is_logged(run, run.step):
            return
        skips = jax.device_get(run.state.skips)
        first = max(run.step - len(skips), 0) + 1
        lost = [s for s in range(first, run.step + 1) if skips[(s - 1) % len(skips)]]
        run.skipped.write(lost)
        run.state = run.state._replace(skips=jnp.zeros_like(run.state.skips))
        if lost:
            run.values["train/skipped_updates"] = float(len(lost))


class LogHook(Hook):
    """Writes the metrics since the last log line, the learning rate and the speed."""

    def __init__(self) -> None:
        """Begins at the start of the schedule."""
        self.progress: Any = 0.0

    def before_step(self, run: Run, batch: dict[str, Any]) -> None:
        """Keeps the schedule's progress before the step, which sets its learning rate."""
        if is_logged(run, run.step + 1):
            options = run.stage.optimizer
            self.progress = schedule_progress(run.step, run.state.progress, options.schedule_count)

    def after_step(self, run: Run) -> None:
        """Writes the line and starts new sums."""
        if not is_logged(run, run.step):
            return
        sums = run.task.objective.summarize(run.state.sums)
        values = {f"train/{key}": value for key, value in sums.items()} | run.values
        run.state = run.state._replace(sums=jax.tree.map(jnp.zeros_like, run.state.sums))
        rates = run.progress.rates()
        record = run.record
        record.productive += rates.get("time/productive_seconds", 0.0)
        # The share of the time since the run first began that was spent on steps that are kept.
        rates["time/goodput"] = record.productive / max(time.time() - record.began, 1e-9)
        values["learning_rate"] = float(run.schedule(self.progress))
        values["epoch"] = run.step / run.epoch_steps
        run.write(values | rates)
        run.progress.reset()


class GiveUpHook(Hook):
    """Goes back to a checkpoint after many skipped updates in a row; the second time, gives up."""

    def after_step(self, run: Run) -> None:
        """Raises GoBack, or UserError where the run went back before."""
        if not is_logged(run, run.step):
            return
        in_row = int(run.state.skipped)
        if in_row < run.stage.train.max_skipped:
            return
        what = (
            f"stage {run.name}: {in_row} updates in a row up to step {run.step} were not finite "
            f"({run.skipped.path.name} lists their clips)"
        )
        if run.record.order or not run.checkpoints.back_before(run.step - in_row):
            raise UserError(f"{what}: lower optimizer.learning_rate, or set optimizer.clip_norm")
        if run.is_first_host:
            last = run.checkpoints.latest()
            print(f"{what}: back to step {last}, with the data in another order")
        raise GoBack


class HealthHook(Hook):
    """Stops a run that has collapsed, as its objective judges by the log lines."""

    def after_step(self, run: Run) -> None:
        """Raises UserError after `collapse_patience` log lines in a row that look collapsed."""
        if not is_logged(run, run.step):
            return
        objective, record = run.task.objective, run.record
        prefix = "train/"
        values = {k.removeprefix(prefix): v for k, v in run.values.items() if k.startswith(prefix)}
        reason = objective.health(values)
        record.collapsed = record.collapsed + 1 if reason else 0
        patience = objective.options.collapse_patience
        if patience and record.collapsed >= patience:
            raise UserError(
                f"stage {run.name} has collapsed ({record.collapsed} log lines in a row, up to "
                f"step {run.step}): {reason}; {objective.advice}"
            )


class EvaluateHook(Hook):
    """Evaluates the validation part, notes the best step and stops early."""

    def __init__(self, validate: Validate):
        """Takes the function from a state to the metrics of the validation part."""
        self.validate = validate

    def after_step(self, run: Run) -> None:
        """Evaluates if an evaluation is due."""
        if not is_evaluated(run):
            return
        values = self.validate(run.state)
        run.write(values)
        patience = run.stage.train.early_stopping
        needed = bool(patience) or run.stage.eval.checkpoint == "best"
        note_best(run.record, run.values, run.stage.eval, run.step, needed)
        run.record.stopped = bool(patience and run.record.since_best >= patience)
        run.progress.reset()


class SaveHook(Hook):
    """Saves at each evaluation, or every `checkpoint.every` steps and the best and last step."""

    def after_step(self, run: Run) -> None:
        """Saves if a checkpoint is due."""
        every, evaluated = run.config.checkpoint.every, is_evaluated(run)
        is_best = evaluated and run.record.best_step == run.step
        due = run.step % every == 0 if every else evaluated
        if due or is_best or run.is_last:
            run.save(run.values.get(run.stage.eval.best))
        if evaluated:
            run.progress.reset()


class TerminationHook(Hook, Termination):
    """Saves and ends a run that SIGTERM asks to end."""

    def after_step(self, run: Run) -> None:
        """Saves a checkpoint and raises Terminated."""
        if not run.is_last and self.asked(run.step):
            run.save()
            run.checkpoints.close()
            raise Terminated(
                f"stage {run.name}: SIGTERM at step {run.step}; its checkpoint is saved, the same "
                "command goes on"
            )


def is_evaluated(run: Run, step: int | None = None) -> bool:
    """Returns whether the validation part is evaluated after a step; None: this one."""
    train, step = run.stage.train, run.step if step is None else step
    every = train.evaluate_every or max(run.epoch_steps, train.log_every)
    return step % every == 0 or step == run.steps


def note_best(
    record: Record, values: dict[str, float], evaluation: ConfigDict, step: int, needed: bool
) -> None:
    """Records whether this evaluation is the best so far; of equal ones the first is the best.

    A value that is not finite is never the best.

    Raises:
      UserError: there is no such metric, and it is `needed`.
    """
    value = values.get(evaluation.best)
    if value is None:
        if needed:
            hint = nearest(evaluation.best, values)
            raise UserError(f"eval.best: there is no metric '{evaluation.best}'{hint}")
        return
    if is_better(value, record.best, evaluation.best_mode):
        record.best, record.best_step, record.since_best = float(value), step, 0
    else:
        record.since_best += 1
