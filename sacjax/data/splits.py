"""Which recordings train, validate and test: official folds and splits, or stratified, group-aware hold-outs."""

import warnings
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from sacjax.data.recordings import Recordings
from sacjax.errors import UserError

PARTS = ("train", "validation", "test")
Parts = dict[str, np.ndarray]


def split(recordings: Recordings, data: ConfigDict) -> Parts:
    """Returns {'train', 'validation', 'test'} → sorted indices: disjoint, no group in two of them, parts may be empty.

    In this order: `data.fold` (test = that fold), the data set's own splits, `data.holdout`. Under the first two
    `data.validation_fraction` of the rest becomes the validation part where the data set has none.

    Raises:
      UserError: a fold that does not exist, shares that are none, or groups that the data set's own folds or splits share.
    """
    everything, seed = np.arange(len(recordings)), data.split_seed
    if data.fold:
        folds = np.asarray(recordings.folds if recordings.folds is not None else [], int)
        if data.fold not in folds:
            known = ", ".join(map(str, sorted(set(folds.tolist())))) or "none"
            raise UserError(f"data.fold is {data.fold}: the data set's folds are: {known}")
        parts = {"test": everything[folds == data.fold]}
        parts |= _validation(
            recordings, everything[folds != data.fold], data.validation_fraction, seed
        )
    elif recordings.splits is not None and set(recordings.splits) != {
        "train"
    }:  # 'train' alone is no split
        official = np.asarray(recordings.splits)
        parts = {name: everything[official == name] for name in PARTS}
        if not len(parts["validation"]):
            parts |= _validation(recordings, parts["train"], data.validation_fraction, seed)
    else:
        shares = tuple(data.holdout)
        if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise UserError(
                f"data.holdout is {shares}: it must be three shares that sum to 1: train, validation, test"
            )
        _, validation, test = shares
        rest, held = hold_out(recordings, everything, test, seed)
        parts = {"test": held} | _validation(
            recordings, rest, validation / max(1 - test, 1e-9), seed + 1
        )
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


def hold_out(
    recordings: Recordings, indices: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits `indices` at random into (rest, held out): `fraction` of each class, groups kept whole.

    Of clips without groups, each class gives its share rounded up or down and all together theirs to the nearest. Groups are taken as
    they fit, so the share is about the wanted one. A clip, or group, that holds all there is of its classes stays in the rest. (scikit-learn has stratified shares, and stratified groups, but not both.)
    """
    if fraction <= 0 or len(indices) < 2:
        return indices, indices[:0]
    if fraction >= 1:
        return indices[:0], indices
    rng = np.random.default_rng([seed, 79])
    labels = np.unique(first_labels(recordings)[indices], return_inverse=True)[1]
    groups = np.unique(_groups(recordings)[indices], return_inverse=True)[1]
    pick = _pick_clips if groups.max() + 1 == len(indices) else _pick_groups
    held = pick(labels, groups, fraction, rng)
    return indices[~held], indices[held]


def _pick_clips(
    labels: np.ndarray, _: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns bool [N]: in the order of (class, chance), each clip at which the running sum of shares passes a whole number."""
    counts = np.bincount(labels)
    order = np.lexsort((rng.random(len(labels)), rng.permutation(len(counts))[labels]))
    order = order[counts[labels[order]] > 1]
    held = np.zeros(len(labels), bool)
    held[order[np.diff(np.floor(np.arange(len(order) + 1) * fraction + 0.5)) > 0]] = True
    full = np.bincount(labels, held) == counts
    for label in np.flatnonzero(full):
        held[rng.choice(np.flatnonzero(labels == label))] = False
    return held


def _pick_groups(
    labels: np.ndarray, groups: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns bool [N]: goes through the groups by chance and takes each that brings the classes' shares closer to `fraction`."""
    total = np.bincount(labels)
    cells, counts = np.unique(
        np.stack([groups, labels], 1), axis=0, return_counts=True
    )  # sorted by group
    ends = np.searchsorted(cells[:, 0], np.arange(groups.max() + 2))
    table = [(cells[a:b, 1], counts[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    # The others hold all there is of their classes.
    movable = np.array([(count < total[own]).any() for own, count in table])
    best, least = np.zeros(len(table), bool), np.inf
    for _ in range(10 if len(table) < 1000 else 1):
        off = -fraction * total  # what is held out of each class, less what should be
        taken = np.zeros(len(table), bool)
        for group in rng.permutation(np.flatnonzero(movable)):
            own, count = table[group]
            if (count * (2 * off[own] + count) / total[own]).sum() < 0:
                off[own] += count
                taken[group] = True
        cost = (off**2 / total).sum()
        if 0 < taken.sum() < len(table) and cost < least:
            best, least = taken, cost
    if not best.any() and movable.any():  # too large, each of them: the one that does least harm
        harm = [(count * (count / total[own] - 2 * fraction)).sum() for own, count in table]
        best[int(np.argmin(np.where(movable, harm, np.inf)))] = True
    return best[groups]


def kfold(
    recordings: Recordings, folds: int, seed: int, indices: np.ndarray | None = None
) -> np.ndarray:
    """Returns the fold (0-based) of each of `indices` (default: all): stratified by first label, groups kept whole.

    Raises:
      UserError: fewer groups than folds.
    """
    from sklearn.model_selection import (  # here: decoding processes do without it
        StratifiedGroupKFold,
        StratifiedKFold,
    )

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
    alone = len(set(groups)) == len(groups)
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(
        folds, shuffle=True, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # classes with fewer clips than folds are spread as far as they go
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
    """Returns the training part cut down by `data.split_seed`: `labels_per_class` clips, or `label_fraction`, of each class.

    A smaller subset is part of a larger one.
    """
    if not data.labels_per_class and data.label_fraction >= 1:
        return train
    labels, kept = first_labels(recordings)[train], [train[:0]]
    for label in np.unique(labels):
        own = np.random.default_rng([data.split_seed, 77, label + 1]).permutation(
            train[labels == label]
        )
        if data.labels_per_class:
            kept.append(own[: data.labels_per_class * bool(label >= 0)])
        else:
            kept.append(own[: max(round(data.label_fraction * len(own)), 1)])
    return np.sort(np.concatenate(kept))


def balance(recordings: Recordings, train: np.ndarray, how: str, seed: int) -> np.ndarray:
    """Returns training indices with every class equally often: `over` repeats the rare ones, `under` drops the frequent.

    By first labels; clips without one are dropped, unless none has one.
    """
    labels, rng = first_labels(recordings)[train], np.random.default_rng([seed, 78])
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if how == "none" or not len(classes):
        return train
    size = counts.max() if how == "over" else counts.min()
    # np.resize repeats in order: each clip of a class equally often, but for one.
    return np.concatenate(
        [np.resize(rng.permutation(train[labels == label]), size) for label in classes]
    )


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
