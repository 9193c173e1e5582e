"""Frozen encoders probed on a list of tasks, as in HEAR (Turian et al. 2022).

What was computed is kept in a file, by what it depends on, and is not computed again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from sacjax import io
from sacjax.data import sources
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.evaluators import probes
from sacjax.inference.comparison import Clips, clips_of, vectors_of
from sacjax.inference.embedder import Layer
from sacjax.inference.model import Model
from sacjax.inference.tasks import Task

QUICK_SPLITS = 2
QUICK_TRAIN, QUICK_TEST = 20, 10  # clips a class


@dataclasses.dataclass(frozen=True)
class Settings:
    """How encoders are probed."""

    layer: Layer = -1
    pooling: str = "mean"
    neighbours: int = 10
    shots: tuple[int, ...] = (10,)  # labels a class
    draws: int = 5  # of few labels, in each split
    seed: int = 0
    quick: bool = False  # two splits at the most, and few clips a class


class Prepared(NamedTuple):
    """A task whose clips are loaded and split."""

    name: str
    task: Task
    splits: list[Clips]
    """Splits of the same recordings share them."""

    known: dict[str, Any]
    """What its scores depend on beside the encoder, as JSON has it."""


def prepare(name: str, task: Task, settings: Settings) -> Prepared:
    """Returns a task with its splits, of few clips in a quick run.

    Raises:
      UserError: data that cannot be read, or too few to probe.
    """
    configs = task.configs()[: QUICK_SPLITS if settings.quick else None]
    loaded: list[tuple[Any, Recordings]] = []
    splits = []
    for data in configs:
        try:
            shared = [own for other, own in loaded if sources.same(data, other)]
            recordings = shared[0] if shared else sources.load(data)
            clips = clips_of(data, recordings)
        except UserError as error:
            raise UserError(f"task {name}: {error}") from error
        loaded.append((data, recordings))
        if settings.quick:
            train = _first_of_each_class(clips.labels, clips.train, QUICK_TRAIN, settings.seed)
            test = _first_of_each_class(clips.labels, clips.test, QUICK_TEST, settings.seed)
            clips = clips._replace(train=train, test=test)
        splits.append(clips)
    known = {
        "data": [json.loads(data.to_json()) for data in configs],
        "clips": [_digest(_clip_names(clips)) for clips in splits],
        "metric": task.metric,
        **dataclasses.asdict(settings),
    }
    return Prepared(name, task, splits, json.loads(json.dumps(known)))


def _clip_names(clips: Clips) -> bytes:
    """Returns the names and labels of a split's clips as text."""
    parts = [
        [(clips.recordings.names[k], int(clips.labels[k])) for k in part]
        for part in (clips.train, clips.test)
    ]
    return json.dumps(parts).encode()


def _first_of_each_class(
    labels: np.ndarray, indices: np.ndarray, most: int, seed: int
) -> np.ndarray:
    """Returns, sorted, `most` random ones of `indices` of each class, or all it has."""
    order = probes.shuffled_classes(labels[indices], seed, 0)
    return np.sort(np.concatenate([indices[own[:most]] for own in order]))


def scores_of(
    name: str, model: Model, prepared: Prepared, settings: Settings, bad: dict[str, str]
) -> list[dict[str, Any]]:
    """Returns the scores of `probes.all_scores` on each split of a task.

    Each clip is embedded once. One that cannot be read is left out, with the reason in `bad`.

    Args:
      name: of the encoder, for messages.
      model: of `inference.load`.
      prepared: the task.
      settings: how it is probed.
      bad: {name of a clip: why it was left out}, to be added to.

    Raises:
      UserError: too few clips can be read, or vectors that are not finite.
    """
    embedder = model.embedder(settings.layer, pooling=settings.pooling)
    scores: list[dict[str, Any]] = [{} for _ in prepared.splits]
    for numbers in _sharing(prepared.splits):
        of_all = prepared.splits[numbers[0]]
        parts = [
            part for k in numbers for part in (prepared.splits[k].train, prepared.splits[k].test)
        ]
        indices = np.unique(np.concatenate(parts))
        unread: dict[int, str] = {}
        vectors, seen = vectors_of(name, embedder, of_all.recordings, indices, unread)
        bad |= {of_all.recordings.names[k]: why for k, why in unread.items()}
        for k in numbers:
            split = prepared.splits[k]
            rows = [np.searchsorted(indices, part) for part in (split.train, split.test)]
            train, test = (own[seen[own]] for own in rows)
            y, wanted = (of_all.labels[indices[own]] for own in (train, test))
            probes.check(y, wanted)
            scores[k] = probes.all_scores(
                vectors[train],
                y,
                vectors[test],
                wanted,
                neighbours=settings.neighbours,
                shots=settings.shots,
                draws=settings.draws,
                seed=settings.seed,
                metric=prepared.task.metric,
            )
    return scores


def _sharing(splits: list[Clips]) -> Iterator[list[int]]:
    """Yields the numbers of the splits that are of the same recordings."""
    owners = [id(clips.recordings) for clips in splits]
    for owner in dict.fromkeys(owners):
        yield [k for k, own in enumerate(owners) if own == owner]


def fingerprint(model: Model) -> str:
    """Returns a digest of an encoder's values and of the config by which it hears."""
    stage = model.stage_config
    heard = {key: stage[key].to_dict() for key in ("frontend", "model")}
    heard["data"] = {key: stage.data[key] for key in ("sample_rate", "seconds", "pad")}
    heard["eval"] = {key: stage.eval[key] for key in ("overlap",)}
    text = json.dumps(heard, sort_keys=True, default=str)
    leaves = jax.device_get(jax.tree.leaves(nnx.state(model.module.encoder)))
    return _digest(text.encode(), *(np.ascontiguousarray(leaf).tobytes() for leaf in leaves))


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


class Store:
    """Scores that were computed, {digest of what they depend on: entry}, in a JSON file."""

    def __init__(self, path: Path | None):
        """Takes the file; None: it is kept in memory alone.

        Raises:
          UserError: a file that is not of this kind.
        """
        self.path = path
        self.entries = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            return dict(json.loads(self.path.read_text())["benchmark"])
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise UserError(
                f"{self.path}: holds no scores of a benchmark; give another --output"
            ) from error

    @staticmethod
    def key(weights: str, prepared: Prepared) -> str:
        """Returns the digest of an encoder's `fingerprint` and of a task."""
        text = json.dumps([weights, prepared.known], sort_keys=True)
        return _digest(text.encode())

    def put(self, key: str, entry: dict[str, Any]) -> None:
        """Keeps an entry and writes the file, with what other processes have written there."""
        self.entries[key] = entry
        if self.path is not None:
            with io.alone(self.path):
                self.entries = self._read() | self.entries
                io.write_json(self.path, {"benchmark": self.entries}, indent=1)


Results = dict[str, dict[str, list[dict[str, Any]]]]
"""{task: {encoder: the scores on each split; [] where it could not be probed}}."""


def run(
    encoders: dict[str, Callable[[], dict[str, Model]]],
    tasks: list[Prepared],
    settings: Settings,
    store: Store,
    tell: Callable[[str], None],
) -> Results:
    """Returns the scores of all encoders on all tasks; what is in the store is not computed.

    Every encoder is loaded once before any is probed, so that a bad one is known at once. A task on
    which one cannot be probed, by `scores_of`, is left out for it alone.

    Args:
      encoders: {checkpoint: loads {title: its encoder, and perhaps the same untrained}}.
      tasks: to probe on.
      settings: how.
      store: where scores are kept.
      tell: is given a line for each clip that is left out, also of stored scores, and for each
        new result, or why there is none.

    Raises:
      UserError: an encoder that cannot be loaded or lacks the layer.
    """
    digests: dict[str, dict[str, str]] = {}
    for checkpoint, load in encoders.items():
        digests[checkpoint] = {}
        for title, model in load().items():
            model.embedder(settings.layer, pooling=settings.pooling)
            digests[checkpoint][title] = fingerprint(model)
    results: Results = {task.name: {} for task in tasks}
    for checkpoint, load in encoders.items():
        keys = {
            (title, task.name): store.key(digest, task)
            for title, digest in digests[checkpoint].items()
            for task in tasks
        }
        models = {} if all(key in store.entries for key in keys.values()) else load()
        for (title, name), key in keys.items():
            if key not in store.entries:
                (task,) = (task for task in tasks if task.name == name)
                bad: dict[str, str] = {}
                try:
                    scores = scores_of(title, models[title], task, settings, bad)
                except UserError as error:
                    tell(f"{name}, {title}: left out: {error}")
                    results[name][title] = []
                    continue
                about = {"task": name, "encoder": title, "checkpoint": checkpoint, "skipped": bad}
                store.put(key, about | {"known": task.known, "splits": scores})
                mean = np.mean([one["linear_accuracy"] for one in scores])
                tell(f"{name}, {title}: linear probe {100 * mean:.1f} %")
            for clip, why in sorted(store.entries[key].get("skipped", {}).items()):
                tell(f"{name}, {title}: skipped {clip}: {why}")
            results[name][title] = store.entries[key]["splits"]
    return results
