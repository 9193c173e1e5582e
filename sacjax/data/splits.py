"""Which recordings train, validate and test: official folds and splits, or stratified, group-aware hold-outs."""

import warnings
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict
from sklearn.model_selection import StratifiedGroupKFold

from sacjax.data.recordings import Recordings
from sacjax.errors import UserError

PARTS = ("train", "validation", "test")
Parts = dict[str, np.ndarray]


def split(recordings: Recordings, data: ConfigDict) -> Parts:
    """Returns {'train', 'validation', 'test'} → sorted indices: disjoint, no group in two of them, parts may be empty.

    In this order: `data.fold` (test = that fold), the data set's own splits, `data.holdout`. Under the first two
    `data.validation_fraction` of the rest becomes the validation part where the data set has none.

    Raises:
      UserError: a fold that does not exist, or groups that the data set's own folds or splits share.
    """
    everything, seed = np.arange(len(recordings)), data.split_seed
    if data.fold:
        folds = np.asarray(recordings.folds if recordings.folds is not None else [], int)
        if data.fold not in folds:
            known = ", ".join(map(str, sorted(set(folds.tolist())))) or "none"
            raise UserError(f"data.fold is {data.fold}: the data set's folds are: {known}")
        parts = {"test": everything[folds == data.fold]}
        parts |= _validation(recordings, everything[folds != data.fold], data.validation_fraction, seed)
    elif recordings.splits is not None:
        official = np.asarray(recordings.splits)
        parts = {name: everything[official == name] for name in PARTS}
        if not len(parts["validation"]):
            parts |= _validation(recordings, parts["train"], data.validation_fraction, seed)
    else:
        _, validation, test = data.holdout
        rest, held = hold_out(recordings, everything, test, seed)
        parts = {"test": held} | _validation(recordings, rest, validation / max(1 - test, 1e-9), seed + 1)
    shared = leak(recordings, parts)
    if shared:
        raise UserError(
            f"the data set's parts share the group {shared[0]!r} (and {len(shared) - 1} more): its folds or splits leak"
        )
    parts["train"] = subset(recordings, parts["train"], data)
    return {name: np.sort(parts[name]) for name in PARTS}


def _validation(recordings: Recordings, indices: np.ndarray, fraction: float, seed: int) -> Parts:
    rest, held = hold_out(recordings, indices, fraction, seed)
    return {"train": rest, "validation": held}


def hold_out(recordings: Recordings, indices: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits `indices` into (rest, held out): about `fraction` of each class, groups kept whole.

    By scikit-learn's StratifiedGroupKFold over fine folds, of which as many are held out as come closest to `fraction`.
    """
    if fraction <= 0 or len(indices) < 2:
        return indices, indices[:0]
    if fraction >= 1:
        return indices[:0], indices
    groups = _groups(recordings)[indices]
    smallest = np.bincount(first_labels(recordings)[indices] + 1)
    smallest = smallest[smallest > 0].min()
    best = min(range(2, int(np.clip(max(smallest, round(1 / fraction)), 2, 20)) + 1),
               key=lambda n: (round(abs(max(round(fraction * n), 1) / n - fraction), 3), n))  # fmt: skip
    folds = kfold(recordings, min(best, len(set(groups))), seed, indices)
    held = np.isin(folds, np.arange(max(round(fraction * best), 1)))
    return indices[~held], indices[held]


def kfold(recordings: Recordings, folds: int, seed: int, indices: np.ndarray | None = None) -> np.ndarray:
    """Returns the fold (0-based) of each of `indices` (default: all): stratified by first label, groups kept whole.

    Raises:
      UserError: fewer groups than folds.
    """
    indices = np.arange(len(recordings)) if indices is None else indices
    groups = _groups(recordings)[indices]
    labels = first_labels(recordings)[indices]
    most = int(np.bincount(labels + 1).max(initial=0))
    if min(len(set(groups)), most) < folds or folds < 2:
        raise UserError(
            f"{len(indices)} clips in {len(set(groups))} groups, {most} of the most frequent label, are too few for a "
            f"{folds}-way split: set data.holdout, data.validation_fraction or data.fold to fit"
        )
    result = np.zeros(len(indices), int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes with fewer clips than folds are spread as far as they go
        for fold, (_, held) in enumerate(splitter.split(indices, labels, groups)):
            result[held] = fold
    return result


def leak(recordings: Recordings, parts: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the groups that are in more than one part, sorted."""
    if recordings.groups is None:
        return []
    groups = np.asarray(recordings.groups, object)
    sets = [set(groups[index]) - {""} for index in parts.values()]
    return sorted({g for a in range(len(sets)) for b in range(a) for g in sets[a] & sets[b]})


def subset(recordings: Recordings, train: np.ndarray, data: ConfigDict) -> np.ndarray:
    """Returns the training part cut down to `labels_per_class` or `label_fraction`, by `data.split_seed`."""
    if not data.labels_per_class and data.label_fraction >= 1:
        return train
    rng, labels = np.random.default_rng([data.split_seed, 77]), first_labels(recordings)[train]
    kept: list[np.ndarray] = []
    for label in np.unique(labels[labels >= 0]):
        own = rng.permutation(train[labels == label])
        kept.append(own[: data.labels_per_class or max(round(data.label_fraction * len(own)), 1)])
    return np.sort(np.concatenate(kept)) if kept else train[:0]


def balance(recordings: Recordings, train: np.ndarray, how: str, seed: int) -> np.ndarray:
    """Returns training indices with every class equally often: `over` repeats the rare ones, `under` drops the frequent."""
    if how == "none":
        return train
    labels, rng = first_labels(recordings)[train], np.random.default_rng([seed, 78])
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    size = counts.max() if how == "over" else counts.min()
    kept = []
    for label in classes:
        own = rng.permutation(train[labels == label])
        kept.append(np.resize(own, size))  # np.resize repeats in order: each clip nearly equally often
    return np.concatenate(kept) if kept else train


def first_labels(recordings: Recordings) -> np.ndarray:
    """Returns int [N]: the index of each recording's first label, -1 where it has none."""
    place = {name: k for k, name in enumerate(recordings.class_names)}
    return np.asarray([place[labels[0]] if labels else -1 for labels in recordings.labels], int)


def class_counts(recordings: Recordings, indices: np.ndarray) -> np.ndarray:
    """Returns int [C]: how many of `indices` carry each label."""
    place = {name: k for k, name in enumerate(recordings.class_names)}
    counts = np.zeros(len(recordings.class_names), int)
    for i in indices:
        for label in recordings.labels[i]:
            counts[place[label]] += 1
    return counts


def _groups(recordings: Recordings) -> np.ndarray:
    """Returns a group for each recording; those without one are groups of their own."""
    own = recordings.groups or [""] * len(recordings)
    return np.unique([group or f"\0{k}" for k, group in enumerate(own)], return_inverse=True)[1]
