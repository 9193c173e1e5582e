"""Frozen encoders of several checkpoints, probed on the same clips.

One network is in memory at a time; of the clips, only their vectors are kept.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.evaluators import probes
from sacjax.inference.embedder import Embedder, Layer, embed_recordings
from sacjax.inference.model import Model, untrained

# Keys of `data` that say how a clip is read and fed, not which clips there are.
READING = (
    "sample_rate", "seconds", "crop", "pad", "balance", "cache", "on_device", "workers", "prefetch",
    "max_bad_fraction",
)  # fmt: skip


def names_of(checkpoints: Sequence[str]) -> list[str]:
    """Returns the end of each checkpoint's path, as long as tells it from the others.

    Raises:
      UserError: one is given twice.
    """
    folders = [text.removeprefix("hf:") for text in checkpoints]
    real = [os.path.realpath(folder) for folder in folders]
    for k, text in enumerate(checkpoints):
        if real[k] in real[:k]:
            raise UserError(
                f"--checkpoint {text} is given twice (as {checkpoints[real.index(real[k])]}); "
                "give each once"
            )
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    return [
        ("hf:" if text.startswith("hf:") else "") + _ending(own, [p for p in parts if p is not own])
        for text, own in zip(checkpoints, parts, strict=True)
    ]


def _ending(own: tuple[str, ...], others: list[tuple[str, ...]]) -> str:
    """Returns the shortest end of a path that none of the others has."""
    size = 1
    while size < len(own) and any(other[-size:] == own[-size:] for other in others):
        size += 1
    return str(Path(*own[-size:]))


def with_own_data(models: dict[str, Model], stage: str | None = None) -> Model:
    """Returns the first of the models that was trained here, whose data set all can be probed on.

    Where none was, it is the first of all.

    Args:
      models: {name: model}; their networks are not needed.
      stage: whose data it is; None: of the stage that trained each.

    Raises:
      UserError: they were trained on different clips.
    """
    trained = {name: model for name, model in models.items() if model.step}
    if not trained:
        return next(iter(models.values()))
    (first, model), *others = trained.items()
    for name, other in others:
        a, b = _clips(model, stage), _clips(other, stage)
        different = sorted(key for key in a | b if a.get(key) != b.get(key))
        if different:
            key = different[0]
            raise UserError(
                f"{first} and {name} were trained on different clips (data.{key} is "
                f"{a.get(key)!r} and {b.get(key)!r}): say by --config on which to probe all"
            )
    return model


def _clips(model: Model, stage: str | None) -> dict[str, Any]:
    """Returns the keys of a model's own `data` that say which clips there are."""
    data = model.config[stage if stage in model.config.stages else model.stage].data
    return {key: value for key, value in data.items() if key not in READING}


class Clips(NamedTuple):
    """What is probed."""

    recordings: Recordings
    labels: np.ndarray  # int [of all recordings], -1 unknown
    train: np.ndarray  # indices of labelled recordings
    test: np.ndarray


def clips_of(data: ConfigDict, recordings: Recordings | None = None) -> Clips:
    """Returns the labelled training and test clips of a `data` config.

    Args:
      data: says which they are.
      recordings: of `data`, where they are loaded.

    Raises:
      UserError: too few to probe.
    """
    from sacjax.data import sources, splits

    recordings = sources.load(data) if recordings is None else recordings
    labels = splits.first_labels(recordings)
    if (labels < 0).all():
        raise UserError(
            f"none of the {len(recordings)} clips of data.source={data.source} has a label: probe "
            "on labelled data by --config"
        )
    parts = splits.split(recordings, data)
    train, test = (parts[name][labels[parts[name]] >= 0] for name in ("train", "test"))
    probes.check(labels[train], labels[test])
    return Clips(recordings, labels, train, test)


@dataclasses.dataclass(frozen=True)
class Probed:
    """A checkpoint's results."""

    scores: dict[str, dict[str, Any]]
    """{'trained', and perhaps 'random', with fresh parameters: of `probes.all_scores`}."""

    vectors: np.ndarray
    """float32 [M, D] of the test clips, by the trained encoder."""


class Line(NamedTuple):
    """One encoder in a table or a picture."""

    title: str
    checkpoint: str  # '' of fresh parameters that are those of all
    is_trained: bool
    scores: dict[str, Any]


def lines_of(results: dict[str, Probed]) -> list[Line]:
    """Returns the encoders, each untrained one behind its own; once where all are the same."""
    fresh = [one.scores["random"] for one in results.values() if "random" in one.scores]
    shared = len(fresh) > 1 and all(scores == fresh[0] for scores in fresh)
    lines = []
    for name, one in results.items():
        lines.append(Line(name, name, True, one.scores["trained"]))
        if "random" in one.scores and not shared:
            lines.append(Line(f"{name}, untrained", name, False, one.scores["random"]))
    return [*lines, Line("untrained", "", False, fresh[0])] if shared else lines


Tables = dict[str, np.ndarray]  # {'trained' | 'random': vectors [n, D]}


def probe(
    models: Iterable[tuple[str, Model]],
    clips: Clips,
    *,
    layer: Layer = -1,
    pooling: str = "mean",
    random: bool = False,
    seed: int = 0,
    **options: Any,
) -> tuple[dict[str, Probed], Clips, dict[int, str]]:
    """Returns the results of each checkpoint, all on the same clips and the same draws.

    A clip that one encoder cannot be given is left out for all.

    Args:
      models: (name, model), made one at a time.
      clips: to probe on.
      layer: of the encoders.
      pooling: of their frames.
      random: also probes each encoder with fresh parameters, drawn by `seed`.
      seed: of draws, folds and fresh parameters.
      options: `neighbours`, `shots`, `draws` and `balance` of `probes.all_scores`.

    Returns:
      ({name: results}, the clips without those left out, {index: why it was left out}).

    Raises:
      UserError: too few clips can be read, or vectors that are not finite.
    """
    bad: dict[int, str] = {}
    indices = np.concatenate([clips.train, clips.test])
    good, tables = np.ones(len(indices), bool), dict[str, Tables]()
    for name, model in models:
        kinds = {"trained": model} | ({"random": untrained(model, seed)} if random else {})
        tables[name] = {}
        for kind, one in kinds.items():
            embedder = one.embedder(layer, pooling=pooling)
            tables[name][kind], seen = vectors_of(name, embedder, clips.recordings, indices, bad)
            good &= seen
    learned, tested = good[: len(clips.train)], good[len(clips.train) :]
    kept = clips._replace(train=clips.train[learned], test=clips.test[tested])
    y, wanted = kept.labels[kept.train], kept.labels[kept.test]
    probes.check(y, wanted)

    def scores(vectors: np.ndarray) -> dict[str, Any]:
        x, others = vectors[: len(learned)][learned], vectors[len(learned) :][tested]
        return probes.all_scores(x, y, others, wanted, seed=seed, **options)

    results = {
        name: Probed(
            {kind: scores(vectors) for kind, vectors in kinds.items()},
            kinds["trained"][len(learned) :][tested],
        )
        for name, kinds in tables.items()
    }
    return results, kept, bad


def vectors_of(
    name: str, embedder: Embedder, recordings: Recordings, indices: np.ndarray, bad: dict[int, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (vectors float32 [n, D], seen bool [n]) of the recordings at `indices` [n].

    Args:
      name: of the encoder, for the message.
      embedder: it.
      recordings, indices, bad: as of `embed_recordings`.

    Raises:
      UserError: vectors that are not finite.
    """
    vectors, seen = embed_recordings(embedder, recordings, indices, bad)
    _check_finite(name, vectors)
    return vectors, seen


def _check_finite(name: str, vectors: np.ndarray) -> None:
    wrong = int((~np.isfinite(vectors)).any(1).sum())
    if wrong:
        raise UserError(
            f"{name}: its vectors of {wrong} of {len(vectors)} clips are not finite: its training "
            "has diverged; probe an earlier checkpoint (--which best), or train it again"
        )
