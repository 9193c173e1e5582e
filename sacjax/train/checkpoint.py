"""Orbax checkpoints: model, training state, data position and label names, one folder a stage.

<workdir>/checkpoints/<stage>/labels.json          label names, digest of clips
<workdir>/checkpoints/<stage>/<step>/model         parameters, batch statistics, EMA
<workdir>/checkpoints/<stage>/<step>/training      optimizer, step, metric sums
<workdir>/checkpoints/<stage>/<step>/meta          JSON: data position, best metric so far
<workdir>/checkpoints/<stage>/<step>/metrics       JSON: the metric that names the best, if any
<workdir>/checkpoints/<stage>/<step>/files.json    the files of these folders and their sizes
<workdir>/checkpoints/<stage>/<step>.damaged       a checkpoint that lost files, out of the way

In a bucket nothing is renamed: a step is whole when Orbax has put its `commit_success.txt`, and has
no `files.json`, for an object is there whole or not at all.

A checkpoint is left out only where `files.json` tells that a file is missing or short, and none is
deleted because it cannot be read: a file system has bad moments.
"""

import contextlib
import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from sacjax import distributed, io
from sacjax.errors import UserError, first_line
from sacjax.train.checkpoint_files import (
    COMMITTED,
    complete,
    metric_of,
    survey,
    write_sizes,
)
from sacjax.train.optimizer import name_of

MODEL = ("params", "buffers", "ema")  # fields of a train state that inference needs
T = TypeVar("T")


def named(tree: Any) -> dict[str, Any]:
    """Returns a tree as {name: leaf}, with '.' for '/' so that names are valid in any store."""
    return {
        name_of(path).replace("/", "."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def from_named(like: Any, leaves: dict[str, Any]) -> Any:
    """Returns a tree of the structure of `like` with the leaves of {name: leaf}."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in named(like)])


def _split(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (model part, training part) of a train state as name → field."""
    fields = state._asdict()
    return {k: fields[k] for k in MODEL}, {k: v for k, v in fields.items() if k not in MODEL}


def is_better(value: float | None, best: float | None, mode: str) -> bool:
    """Returns whether a metric is better than the best before it: of equals, the first is the best.

    A value that is not finite is better than none.

    Args:
      value: of this step; None: it has none.
      best: of an earlier step; None: no step has had one.
      mode: `max` or `min`, which is better.
    """
    if value is None or not math.isfinite(value):
        return False
    return best is None or (value > best if mode == "max" else value < best)


def best_of(metrics: Mapping[int, float | None], mode: str) -> int | None:
    """Returns the step with the best of {step: metric}, as `is_better` says, or None."""
    best: int | None = None
    for step in sorted(metrics):
        if is_better(metrics[step], None if best is None else metrics[best], mode):
            best = step
    return best


@dataclasses.dataclass
class LatestAndBest:
    """Orbax's policy of what to keep: the last checkpoints, and the best by `best_of`."""

    keep: int
    """How many of the last."""

    mode: str
    """`max` or `min`."""

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Returns for each checkpoint, in the order of their steps, whether it is kept."""
        metrics = {info.step: metric_of(info.metrics) for info in checkpoints}
        latest = sorted(metrics, reverse=True)[: self.keep]
        kept = {*latest, best_of(metrics, self.mode)}
        return [info.step in kept for info in checkpoints]


class Checkpoints:
    """Saves and restores the train states of one stage; keeps the last few and the best.

    On several hosts, each of them makes it and calls `save`, `restore`, `back_before`, `wait` and
    `close` in the same order; the first one's view of the files is that of all.
    """

    def __init__(
        self, workdir: Path, stage: str, keep: int = 2, mode: str = "max", asynchronous: bool = True
    ):
        """Looks at what is there; writes nothing before the first `save`.

        Args:
          workdir: of the run; not there yet, or of any state.
          stage: the stage's name.
          keep: how many of the last checkpoints stay.
          mode: `max` or `min`: whether the highest or the lowest metric is the best; it stays too.
          asynchronous: whether `save` returns while the files are being written.

        Raises:
          UserError: on another host the folder cannot be read.
          OSError: here it cannot.
        """
        self.folder = io.absolute(io.to_path(workdir)) / "checkpoints" / stage
        self.keep, self.mode, self.asynchronous = keep, mode, asynchronous
        self._metrics: dict[int, float | None] = {}  # of the checkpoints that are whole
        self._damaged: dict[int, str] = {}  # step → what is missing
        self._saving = 0
        self._manager: ocp.CheckpointManager | None = None
        self._look()

    def latest(self) -> int | None:
        """Returns the step of the last whole checkpoint, or None where there is no checkpoint.

        Raises:
          UserError: there are some, but none is whole.
        """
        if self._damaged and not self._metrics:
            raise UserError(
                f"{self.folder}: none of its checkpoints is whole; nothing is removed: to begin "
                "anew, give the folder another name"
            )
        return max(self._metrics, default=None)

    def best(self) -> int | None:
        """Returns the step of the checkpoint with the best metric, or None where none has one.

        Of those that are whole; of equals, the first, as the train loop notes it (`is_better`).
        """
        return best_of(self._metrics, self.mode)

    def save(self, step: int, state: Any, meta: dict[str, Any], metric: float | None) -> None:
        """Begins to save; returns when the state is copied.

        A step that is already saved is left alone. A damaged checkpoint makes way: it gets another
        name.

        Args:
          step: updates done.
          state: a NamedTuple of trees of arrays.
          meta: what JSON can hold.
          metric: what names the best checkpoint; None or not finite: this is not the best.

        Raises:
          UserError: this checkpoint, or the one before it, cannot be written.
        """
        if step in self._metrics:
            return
        model, training = _split(state)
        metric = float(metric) if metric is not None and math.isfinite(metric) else None
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(named(model)),
            training=ocp.args.StandardSave(named(training)),
            meta=ocp.args.JsonSave(meta),
        )
        self._write(step, items, metric)

    def _write(self, step: int, items: ocp.args.Composite, metric: float | None) -> None:
        metrics = None if metric is None else {"best": metric}
        with self._told():
            manager = self._writer()
            manager.wait_until_finished()
            self._saving = step
            # `force`: else Orbax leaves out, without a word, a step below one that is there.
            manager.save(step, args=items, metrics=metrics, force=True)
            if not self.asynchronous:
                manager.wait_until_finished()
        known = self._metrics | {step: metric}
        self._metrics = {s: known[s] for s in manager.all_steps() if s in known}

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tells in one line why a checkpoint cannot be written, now or in the background."""
        try:
            yield
        except jax.errors.JaxRuntimeError:  # another host is gone: no mistake, but to start again
            raise
        except Exception as error:  # Orbax, TensorStore and the file system each raise their own
            good = sorted(set(complete(self.folder)) - set(self._damaged))
            last = f"the last good one is of step {good[-1]}" if good else "there is none yet"
            raise UserError(
                f"{self.folder}: a checkpoint cannot be written ({first_line(error)}); {last}"
            ) from error

    def _writer(self) -> ocp.CheckpointManager:
        """Returns Orbax's manager, when what is damaged is out of its way.

        Orbax would count a damaged checkpoint among those that it keeps, refuse to save a step
        below it, and overwrite it.
        """
        if self._damaged:
            distributed.on_all_hosts(self._set_aside, f"{self.folder}")
            self._damaged.clear()
            if self._manager is not None:
                self._manager.reload()
        if self._manager is None:
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=LatestAndBest(self.keep, self.mode),
                    best_fn=lambda metrics: metrics["best"],
                    best_mode=self.mode,
                    async_options=ocp.options.AsyncOptions(
                        post_finalization_callback=self._write_sizes
                    ),
                ),
            )
        return self._manager

    def _set_aside(self) -> None:
        """Gives damaged checkpoints another name, on the first host."""
        if jax.process_index():
            return
        for step in self._damaged:
            old = self.folder / str(step)
            names = (f"{step}.damaged{k or ''}" for k in range(sys.maxsize))
            new = next(p for p in map(self.folder.joinpath, names) if not p.exists())
            if old.exists():
                os.rename(old, new)
                print(f"{old}: is now {new.name}, to make way for new checkpoints", file=sys.stderr)

    def _write_sizes(self) -> None:
        """Lists a checkpoint's files, when all are written and just before it gets its name."""
        folder = self.folder / f"{self._saving}.orbax-checkpoint-tmp"
        if folder.is_dir():  # not in an object store: there, nothing is ever cut short
            write_sizes(folder)

    def _look(self) -> None:
        """Finds the checkpoints, as the first host sees them; says once which are damaged."""
        found = distributed.from_first_host(
            functools.partial(survey, self.folder), f"{self.folder}"
        )
        for step, damage, _ in found:
            if damage and step not in self._damaged and jax.process_index() == 0:
                path = self.folder / str(step)
                print(f"{path}: left out: {damage}; nothing is removed", file=sys.stderr)
        self._damaged = {step: damage for step, damage, _ in found if damage}
        self._metrics = {step: metric for step, damage, metric in found if not damage}

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Returns (state, meta) of a step (default: the last whole one), placed as asked.

        An error that may pass is tried again; any other is raised, and nothing is deleted.

        Args:
          abstract_state: a NamedTuple of trees of `jax.ShapeDtypeStruct` with shardings, or of
            arrays, of which only shapes, types and shardings are looked at.
          step: of `latest()` or `best()`.

        Raises:
          UserError: the checkpoint holds another model, or is damaged; none is whole; or another
            host cannot read it.
          Exception: whatever the file system or a library raised here.
        """
        self.wait()
        self._look()
        step = self._whole(step)
        parts = _split(abstract_state)

        def read() -> tuple[dict[str, Any], ...]:
            model = self._read(step, "model", parts[0])
            training = self._read(step, "training", parts[1])
            meta = ocp.JsonCheckpointHandler().restore(self.folder / str(step) / "meta")
            return model, training, dict(meta)

        model, training, meta = self._read_alike(step, read)
        return type(abstract_state)(**model, **training), meta

    def restore_fields(self, abstract: dict[str, Any], step: int) -> dict[str, Any]:
        """Returns the model part of a step alone, for inference.

        Args:
          abstract: {field: tree} of all fields of `MODEL`, each as of `restore`.
          step: of `latest()` or `best()`.

        Raises:
          UserError, Exception: as `restore` does.
        """
        step = self._whole(step)
        return self._read_alike(step, lambda: self._read(step, "model", abstract))

    def _whole(self, step: int | None) -> int:
        """Returns the step, or the last one. Raises UserError where it has no whole checkpoint."""
        step = self.latest() if step is None else step
        if step not in self._metrics:
            damage = self._damaged.get(step, "") if step is not None else ""
            raise UserError(f"{self.folder}: no checkpoint of step {step}{damage and ': '}{damage}")
        return step

    def _read(self, step: int, item: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Returns `fields` with their values, read from a step's `model` or `training`."""
        folder = self.folder / str(step) / item
        wanted = {name: _abstract(leaf) for name, leaf in named(fields).items()}
        with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            if item == "model":
                check_same(wanted, _stored(handler, folder), self.folder)
            return from_named(
                fields, handler.restore(folder, args=ocp.args.StandardRestore(wanted))
            )

    def _read_alike(self, step: int, read: Callable[[], T]) -> T:
        """Returns what `read` gives, on all hosts or on none."""
        path = self.folder / str(step)
        try:
            return distributed.on_all_hosts(read, f"{path}")
        except UserError:
            raise
        except Exception as error:
            error.add_note(f"{path} cannot be read; nothing of it is removed")
            raise

    def back_before(self, step: int) -> bool:
        """Removes the checkpoints past `step`; returns False where none would be left."""
        self.wait()
        if min(self._metrics, default=step + 1) > step:
            return False
        with self._told():
            manager = self._writer()
            for late in [s for s in self._metrics if s > step]:
                if io.in_bucket(self.folder) and jax.process_index() == 0:
                    # Its objects go one by one: a kill must not leave it for a whole one.
                    (self.folder / str(late) / COMMITTED).unlink()
                manager.delete(late)
                del self._metrics[late]
        return True

    def wait(self) -> None:
        """Waits for a save under way. Raises UserError where it has failed."""
        if self._manager is not None:
            with self._told():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for a save under way, and ends."""
        self.wait()
        if self._manager is not None:
            self._manager.close()


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _stored(handler: ocp.StandardCheckpointHandler, folder: Path) -> dict[str, Any]:
    """Returns {name: what has its shape} of what a folder holds."""
    metadata = handler.metadata(folder)
    tree = getattr(metadata, "item_metadata", metadata)
    return dict(getattr(tree, "tree", tree))


def check_same(wanted: dict[str, Any], stored: dict[str, Any], folder: Path) -> None:
    """Raises UserError for the first parameter that differs in name or shape."""
    for name in sorted(set(wanted) ^ set(stored)):
        where = "the config's model" if name in wanted else "the checkpoint"
        raise UserError(
            f"{folder}: the checkpoint is of another model: '{name}' is only in {where}"
        )
    for name, leaf in wanted.items():
        if tuple(stored[name].shape) != tuple(leaf.shape):
            raise UserError(
                f"{folder}: the checkpoint is of another model: '{name}' has shape "
                f"{tuple(stored[name].shape)}, the config's model {tuple(leaf.shape)}"
            )
