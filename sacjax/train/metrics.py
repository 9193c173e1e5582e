"""Metrics as sums and counts, and their output.

Sums and counts add up over steps, devices and hosts. They are written to the console,
`metrics.jsonl` and TensorBoard.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sacjax import io
from sacjax.plan import flops

TIMES = "time/"  # metrics under this prefix differ from run to run; all others are reproducible

Sums = dict[str, tuple[Any, Any]]


def add(total: Any, new: Any) -> Any:
    """Adds metrics, a tree of (sum, count) pairs."""
    return jax.tree.map(lambda a, b: a + b, total, new)


def means(sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
    """Returns sum / count of each metric on the host; a metric with count 0 is left out."""
    host = jax.device_get(sums)
    return {name: float(total / count) for name, (total, count) in host.items() if count > 0}


class Log:
    """Writes a run's metrics: a line of `metrics.jsonl` and TensorBoard scalars per call.

    For one host only.
    """

    def __init__(self, workdir: Path, stage: str, resume_step: int, tensorboard: bool = True):
        """Opens the files of a stage.

        Lines of the stage past `resume_step` are dropped: the run that wrote them was killed before
        it saved a checkpoint.
        """
        self.stage = stage
        workdir = io.to_path(workdir)
        path = workdir / "metrics.jsonl"
        if path.is_file():
            lines = [
                line for line in path.read_text().splitlines() if _keep(line, stage, resume_step)
            ]
            io.write_text(path, "".join(line + "\n" for line in lines))
        self.file = io.Growing(path)
        self.events = _Events(workdir / "tensorboard" / stage, resume_step) if tensorboard else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one line and returns when it is on disk; into a bucket it may come later."""
        numbers = {name: value if np.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"stage": self.stage, "step": step, **numbers}) + "\n"
        self.file.write(line.encode())
        self.file.flush(durable=True)
        if self.events:
            self.events.write(step, values)

    def put(self) -> None:
        """Puts what a bucket has not yet, so that no line is missing before a checkpoint."""
        self.file.put()

    def close(self) -> None:
        """Closes the files."""
        self.file.close()
        if self.events:
            self.events.close()


def _keep(line: str, stage: str, resume_step: int) -> bool:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:  # a line cut short by a kill
        return False
    return row.get("stage") != stage or row["step"] <= resume_step


class _Events:
    """TensorBoard's event file, by TensorBoard's own writer, which needs no TensorFlow."""

    def __init__(self, folder: Path, resume_step: int):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        io.make_folder(folder)
        self.event, self.summary = event_pb2, summary_pb2.Summary
        name = f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        self.writer = RecordWriter(io.Growing(folder / name))
        self._add(file_version="brain.Event:2")
        if resume_step:  # hides what a killed run wrote past this step
            session = self.event.SessionLog(status=self.event.SessionLog.START)
            self._add(step=resume_step + 1, session_log=session)

    def write(self, step: int, values: dict[str, float]) -> None:
        scalars = [
            self.summary.Value(tag=name, simple_value=value) for name, value in values.items()
        ]
        self._add(step=step, summary=self.summary(value=scalars))
        self.writer.flush()

    def _add(self, **fields: Any) -> None:
        self.writer.write(self.event.Event(wall_time=time.time(), **fields).SerializeToString())

    def close(self) -> None:
        self.writer.close()


class Progress:
    """The console's progress bar, and the measurement of speed.

    It shows examples/s, seconds of audio/s, the share of the time spent waiting for data, and the
    time left.
    """

    def __init__(
        self,
        stage: str,
        start: int,
        steps: int,
        batch_size: int,
        seconds: float,
        shown: dict[str, str],
        show: bool = True,
        flops: Callable[[], float] = float,
    ):
        """Opens the bar.

        Args:
          stage: the label of the bar.
          start, steps: the first and the last step.
          batch_size: examples of a step, over all hosts.
          seconds: of audio in an example.
          shown: {label: metric} of an objective's `display.bar`.
          show: whether this host draws the bar.
          flops: tells those of the model in a step, at the first log line; 0: unknown.
        """
        self.labels = shown | {
            "knn": "validation/knn_accuracy",
            "ex/s": f"{TIMES}examples_per_second",
            "audio s/s": f"{TIMES}audio_seconds_per_second",
            "wait": f"{TIMES}data_wait_share",
        }
        self.shown: dict[str, str] = {}
        self.step, self.batch_size, self.seconds, self.flops = start, batch_size, seconds, flops
        self.peak: float | None = None
        self.bar = tqdm(
            total=steps,
            initial=start,
            desc=stage,
            unit="step",
            disable=not show,
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 20.0,
            dynamic_ncols=True,
        )
        self.bar.set_postfix_str("compiling")
        self.compiled = False
        self.reset()

    def reset(self) -> None:
        """Starts a new interval of measurement.

        The time between the last `rates` and this call is not counted.
        """
        self.began, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def wait(self, batches: Any) -> Any:
        """Returns the next batch and counts the time it took."""
        before = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - before
        return batch

    def tick(self) -> None:
        """Counts one step."""
        if not self.compiled:
            self.bar.unpause()  # the first step's time is mostly compilation
        self.step += 1
        self.steps += 1
        self.bar.update(1)
        if not self.compiled:
            self.compiled = True
            self.reset()

    def rates(self) -> dict[str, float]:
        """Returns the speed since the last reset, with names under `time/`.

        It is empty where the only step since then was the first one, which compiles.
        """
        if not self.steps:
            return {}
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        rate = self.steps / elapsed
        device = jax.local_devices()[0].memory_stats() or {}
        about = {f"{TIMES}device_bytes": device["bytes_in_use"]} if "bytes_in_use" in device else {}
        if model := self.flops():
            self.peak = self.peak or flops.peak()
            about |= {
                f"{TIMES}model_flops_per_second": rate * model,
                f"{TIMES}mfu": rate * model / self.peak,
            }
        return about | {
            f"{TIMES}productive_seconds": elapsed,
            f"{TIMES}step_seconds": 1 / rate,
            f"{TIMES}steps_per_second": rate,
            f"{TIMES}examples_per_second": rate * self.batch_size,
            f"{TIMES}audio_seconds_per_second": rate * self.batch_size * self.seconds,
            f"{TIMES}data_wait_share": self.waited / elapsed,
            f"{TIMES}eta_seconds": ((self.bar.total or self.step) - self.step) / rate,
        }

    def show(self, values: dict[str, float]) -> None:
        """Shows values beside the bar."""
        found = {label: values[name] for label, name in self.labels.items() if name in values}
        if "knn" not in found and "train/knn_accuracy" in values:
            found["knn"] = values["train/knn_accuracy"]
        self.shown |= {label: f"{value:.4g}" for label, value in found.items()}
        self.bar.set_postfix(self.shown)

    def close(self) -> None:
        """Ends the bar."""
        self.bar.close()
