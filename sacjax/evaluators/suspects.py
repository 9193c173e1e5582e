"""Labels that may be wrong, and the training clips that a mistake resembles."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from sacjax.data.labels import first_labels
from sacjax.evaluators.base import Judged
from sacjax.evaluators.probes import FOLDS, classifier

MOST = 5000
"""Training clips that are looked at, drawn at random of more."""

NEIGHBOURS = 2


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A training clip whose label the other clips deny."""

    index: int
    label: int
    likely: int
    given: float
    """Cross-validated probability of its label."""

    denied: float
    """That of the likely one."""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What the embeddings of the training part tell."""

    suspects: list[Suspect]
    """The most suspicious first."""

    clips: int
    """Training clips that were looked at."""

    neighbours: dict[int, list[tuple[int, float]]]
    """{a clip: its nearest training clips, (index, cosine similarity)}."""


def find_suspects(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (examples whose label is probably wrong, the most suspicious first; likely classes).

    Confident learning (Northcutt, Jiang and Chuang 2021): a class is likely where its probability
    is at least the mean that it has on examples of its own; an example is suspicious whose most
    probable likely class is not its label. They are ordered by how far the label's probability is
    below the most probable other one's.

    Args:
      probabilities: of a model that has not learned from the example, [N, C]; a row of zeros is
        not judged, and judges none.
      labels: int [N].
    """
    count, classes = probabilities.shape
    own = probabilities[np.arange(count), labels]
    thresholds = np.full(classes, np.inf)
    judged = probabilities.any(1)
    for k in np.unique(labels[judged]):
        thresholds[k] = own[judged & (labels == k)].mean()
    likely = np.where(probabilities >= thresholds - 1e-12, probabilities, -1.0)
    found = np.flatnonzero((likely.max(1) > 0) & (likely.argmax(1) != labels))
    others = probabilities.copy()
    others[np.arange(count), labels] = -1
    margin = (own - others.max(1))[found]
    found = found[np.argsort(margin, kind="stable")]
    return found, likely[found].argmax(1)


def cross_validated(
    vectors: np.ndarray,
    labels: np.ndarray,
    classes: int,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Returns each example's probabilities by a classifier that has not seen it, [N, C].

    Logistic regression on standardized vectors, in stratified folds. A row is zeros where the rest
    has fewer than two classes, or none of the example's own class: all of it is in one group.

    Args:
      vectors: [N, D].
      labels: int [N], of two classes or more.
      classes: C.
      groups: [N], which no fold cuts; None: every example is one of its own.
      seed: of the folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    found = np.zeros([len(labels), classes])
    groups = np.arange(len(labels)) if groups is None else groups
    commonest = np.bincount(labels).max()
    number = min(FOLDS, len(np.unique(groups)), commonest)
    if number < 2:
        return found
    folds = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
    for train, test in folds.split(vectors, labels, groups):
        if len(np.unique(labels[train])) < 2:
            continue
        model = classifier().fit(vectors[train], labels[train])
        known = test[np.isin(labels[test], model.classes_)]
        if len(known):
            found[np.ix_(known, model.classes_)] = model.predict_proba(vectors[known])
    return found


def nearest(
    vectors: np.ndarray, others: np.ndarray, number: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (which of the others are nearest to each vector, their cosine similarities), [n, k].

    Args:
      vectors: [n, D].
      others: [N, D].
      number: k, or fewer where there are fewer.
    """
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    similar = unit(vectors) @ unit(others).T
    order = np.argsort(-similar, 1, kind="stable")[:, :number]
    return order, np.take_along_axis(similar, order, 1)


def analyse(judged: Judged, rows: Iterable[dict[str, Any]]) -> Analysis | None:
    """Returns suspicious training labels, and the training clips nearest to mistaken clips.

    By the embeddings that the head reads. None of data of several labels a clip, or where fewer
    than two classes can be read.

    Args:
      judged: a classifier and its data.
      rows: predictions of one part.
    """
    recordings = judged.recordings
    if judged.stage.data.multi_label:
        return None
    labels = first_labels(recordings)
    train = judged.parts["train"][labels[judged.parts["train"]] >= 0]
    train = np.random.default_rng(judged.seed).permutation(train)[:MOST]
    vectors, seen = judged.embed(train)
    train, vectors = train[seen], vectors[seen]
    if len(np.unique(labels[train])) < 2:
        return None
    groups = None
    if recordings.groups is not None:
        own = [recordings.groups[k] or f"\0{k}" for k in train]
        groups = np.unique(own, return_inverse=True)[1]
    p = cross_validated(vectors, labels[train], len(recordings.class_names), groups, judged.seed)
    suspects = []
    for k, likely in zip(*find_suspects(p, labels[train]), strict=True):
        index, label = int(train[k]), int(labels[train[k]])
        suspects.append(Suspect(index, label, int(likely), float(p[k, label]), float(p[k, likely])))
    wrong = np.array(
        [
            row["index"]
            for row in rows
            if labels[row["index"]] >= 0
            and int(np.argmax(row["probabilities"])) != labels[row["index"]]
        ],
        int,
    )
    neighbours: dict[int, list[tuple[int, float]]] = {}
    if len(wrong):
        asked, seen = judged.embed(wrong)
        order, similar = nearest(asked[seen], vectors)
        for index, places, values in zip(wrong[seen], order, similar, strict=True):
            neighbours[int(index)] = [
                (int(train[place]), float(value))
                for place, value in zip(places, values, strict=True)
            ]
    return Analysis(suspects, len(train), neighbours)
