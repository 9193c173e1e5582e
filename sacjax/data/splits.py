"""Which recordings train, validate and test.

Official folds and splits, or hold-outs that are stratified and keep groups whole.
"""

import dataclasses
import functools
import hashlib
import logging
import warnings
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from sacjax.data import labels
from sacjax.data.labels import class_counts, first_labels
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError

__all__ = [
    "PARTS",
    "balance",
    "class_counts",
    "digest",
    "first_labels",
    "hold_out",
    "kfold",
    "leak",
    "split",
]
PARTS = ("train", "validation", "test")
Parts = dict[str, np.ndarray]


def split(recordings: Recordings, data: ConfigDict) -> Parts:
    """Returns {'train', 'validation', 'test'} → sorted indices: disjoint, no group in two of them.

    Parts may be empty. In this order: `data.fold` (test = that fold), the data set's own splits,
    `data.holdout`. Under the first two `data.validation_fraction` of the rest becomes the
    validation part where the data set has none. A class without a training clip is warned of.

    Raises:
      UserError: a fold that does not exist, shares that are none, or groups that the data set's own
        folds or splits share.
    """
    official = set(recordings.splits or ())
    if data.fold:
        parts = _by_fold(recordings, data)
    elif official and official != {"train"}:  # 'train' alone is no split
        parts = _by_official_splits(recordings, data)
    else:
        parts = _by_shares(recordings, data)
    shared = leak(recordings, parts)
    if shared:
        more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
        raise UserError(
            f"the data set's parts share the group {shared[0]!r}{more}: its folds or splits leak; "
            "mend them, or the groups (a manifest's 'group' column, or data.group_pattern)"
        )
    _warn_of_lost_classes(recordings, parts)
    parts["train"] = subset(recordings, parts["train"], data)
    return {name: np.sort(parts[name]) for name in PARTS}


def _by_fold(recordings: Recordings, data: ConfigDict) -> Parts:
    everything = np.arange(len(recordings))
    folds = np.asarray(recordings.folds if recordings.folds is not None else [], int)
    if data.fold not in folds:
        known = ", ".join(map(str, sorted(set(folds.tolist())))) or "none"
        raise UserError(f"data.fold is {data.fold}: the data set's folds are: {known}")
    rest = everything[folds != data.fold]
    return {"test": everything[folds == data.fold]} | _validation(
        recordings, rest, data.validation_fraction, data.split_seed
    )


def _by_official_splits(recordings: Recordings, data: ConfigDict) -> Parts:
    official = np.asarray(recordings.splits)
    parts = {name: np.flatnonzero(official == name) for name in PARTS}
    if not len(parts["validation"]):
        parts |= _validation(recordings, parts["train"], data.validation_fraction, data.split_seed)
    return parts


def _by_shares(recordings: Recordings, data: ConfigDict) -> Parts:
    shares = tuple(data.holdout)
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            f"data.holdout is {shares}: it must be three shares that sum to 1: "
            "train, validation, test"
        )
    _, validation, test = shares
    rest, held = hold_out(recordings, np.arange(len(recordings)), test, data.split_seed)
    return {"test": held} | _validation(
        recordings, rest, validation / max(1 - test, 1e-9), data.split_seed + 1
    )


def _validation(recordings: Recordings, indices: np.ndarray, fraction: float, seed: int) -> Parts:
    rest, held = hold_out(recordings, indices, fraction, seed)
    return {"train": rest, "validation": held}


def _warn_of_lost_classes(recordings: Recordings, parts: Parts) -> None:
    """Warns, once, of the classes that validation or test have and training has not."""
    train, *others = (class_counts(recordings, parts[part]) for part in PARTS)
    lost = [recordings.class_names[k] for k in np.flatnonzero((train == 0) & (sum(others) > 0))]
    if lost and len(parts["train"]):
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        _warn(
            f"no training clip has the label {', '.join(map(repr, lost[:5]))}{more}: all of its "
            "clips are in the validation or test part, where their groups, folds or splits put them"
        )


@functools.cache
def _warn(message: str) -> None:
    """Logs a warning, once for all stages of a run."""
    logging.getLogger(__name__).warning(message)


def hold_out(
    recordings: Recordings, indices: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits `indices` at random into (rest, held out): `fraction` of each class, groups whole.

    Of clips without groups, each class gives its share rounded up or down and all together theirs
    to the nearest. Groups are taken as they fit, so the share is about the wanted one. The rest
    keeps a clip of every class, unless each group has all clips of some class. A clip, or group,
    that holds all there is of its classes stays in the rest. (scikit-learn has stratified shares,
    and stratified groups, but not both.)
    """
    if fraction <= 0 or len(indices) < 2:
        return indices, indices[:0]
    if fraction >= 1:
        return indices[:0], indices
    rng = np.random.default_rng([seed, 79])
    strata = np.unique(labels.strata(recordings)[indices], return_inverse=True)[1]
    groups = np.unique(_groups(recordings)[indices], return_inverse=True)[1]
    alone = groups.max() + 1 == len(indices)
    units = np.arange(len(indices)) if alone else groups
    carried = _Carried.of(recordings, indices, units)
    if alone:
        held = _pick_clips(strata, carried, fraction, rng)
    else:
        held = _pick_groups(strata, groups, carried, fraction, rng)[groups]
    return indices[~held], indices[held]


@dataclasses.dataclass
class _Carried:
    """Which classes are in which units (clips or groups), and how many clips: a sparse table."""

    unit: np.ndarray  # int [cells], of `units`
    label: np.ndarray  # int [cells]
    count: np.ndarray  # int [cells]: clips of that label in that unit
    total: np.ndarray  # int [classes]: clips of that label
    units: int

    @classmethod
    def of(cls, recordings: Recordings, indices: np.ndarray, units: np.ndarray) -> "_Carried":
        """Counts all labels, not the first alone; `units` is int [N], that of each of `indices`."""
        clip, label = labels.occurrences(recordings, indices)
        classes = max(len(recordings.class_names), 1)
        cells, count = np.unique(units[clip] * classes + label, return_counts=True)
        total = np.bincount(label, minlength=classes)
        return cls(cells // classes, cells % classes, count, total, int(units.max()) + 1)

    def may_go(self) -> np.ndarray:
        """Returns bool [units]: the others hold all there is of a class."""
        free = np.ones(self.units, bool)
        free[self.unit[self.count == self.total[self.label]]] = False
        return free

    def release(self, held: np.ndarray) -> bool:
        """Lets units out of `held`, bool [units], until the rest has every class; whether it did.

        A unit that `may_go` alone is never the last to be let out, so that something stays held.
        """
        left = self.total - np.bincount(
            self.label, self.count * held[self.unit], minlength=len(self.total)
        )
        missing = np.flatnonzero((left == 0) & (self.total > 0))
        for label in missing:
            if left[label] == 0:  # no unit let out before had it
                own = self.label == label
                unit = self.unit[own][np.argmin(self.count[own])]  # all of them are held
                held[unit] = False
                cells = self.unit == unit
                left[self.label[cells]] += self.count[cells]
        return bool(len(missing))


def _pick_clips(
    strata: np.ndarray, carried: _Carried, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns bool [N]: which clips to hold out.

    In the order of (class, chance), each clip at which the running sum of shares passes a whole
    number.
    """
    counts = np.bincount(strata)
    order = np.lexsort((rng.random(len(strata)), rng.permutation(len(counts))[strata]))
    order = order[counts[strata[order]] > 1]
    free = carried.may_go()[order]
    if free.any() and not free.all():  # some have a second label that no other clip has
        fraction = min(fraction / free.mean(), max(fraction, 0.5))
        order = order[free]
    held = np.zeros(len(strata), bool)
    held[order[np.diff(np.floor(np.arange(len(order) + 1) * fraction + 0.5)) > 0]] = True
    full = np.bincount(strata, held) == counts
    for stratum in np.flatnonzero(full):
        held[rng.choice(np.flatnonzero(strata == stratum))] = False
    if free.any():
        carried.release(held)
    return held


def _pick_groups(
    strata: np.ndarray,
    groups: np.ndarray,
    carried: _Carried,
    fraction: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns bool [groups]: which groups to hold out.

    Goes through the groups by chance and takes each that brings the classes' shares closer to
    `fraction`; the best of ten such choices.
    """
    total = np.bincount(strata)
    cells, counts = np.unique(np.stack([groups, strata], 1), axis=0, return_counts=True)
    ends = np.searchsorted(cells[:, 0], np.arange(groups.max() + 2))  # cells are sorted by group
    table = [(cells[a:b, 1], counts[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    # The others hold all there is of their classes.
    movable = np.array([(count < total[own]).any() for own, count in table])
    free = movable & carried.may_go()
    spare = free.any()  # else a class is lost, whichever group goes
    allowed = free if spare else movable
    best, least = np.zeros(len(table), bool), np.inf
    for _ in range(10 if len(table) < 1000 else 1):
        off = -fraction * total  # what is held out of each class, less what should be
        taken = np.zeros(len(table), bool)
        for group in rng.permutation(np.flatnonzero(movable)):
            own, count = table[group]
            if allowed[group] and (count * (2 * off[own] + count) / total[own]).sum() < 0:
                off[own] += count
                taken[group] = True
        if spare and carried.release(taken):
            held = np.bincount(cells[:, 1], counts * taken[cells[:, 0]])
            off = held - fraction * total
        cost = (off**2 / total).sum()
        if 0 < taken.sum() < len(table) and cost < least:
            best, least = taken, cost
    if not best.any() and allowed.any():  # too large, each of them: the one that does least harm
        harm = [(count * (count / total[own] - 2 * fraction)).sum() for own, count in table]
        best[int(np.argmin(np.where(allowed, harm, np.inf)))] = True
    return best


def kfold(
    recordings: Recordings, folds: int, seed: int, indices: np.ndarray | None = None
) -> np.ndarray:
    """Returns the fold (0-based) of each of `indices` (default: all).

    Stratified by first label, groups kept whole.

    Raises:
      UserError: fewer groups than folds.
    """
    from sklearn.model_selection import (  # here: decoding processes do without it
        StratifiedGroupKFold,
        StratifiedKFold,
    )

    indices = np.arange(len(recordings)) if indices is None else indices
    groups = _groups(recordings)[indices]
    strata = labels.strata(recordings)[indices]
    most = int(np.bincount(strata + 1).max(initial=0))
    if min(len(set(groups)), most) < folds or folds < 2:
        raise UserError(
            f"{len(indices)} clips in {len(set(groups))} groups, {most} of the most frequent "
            f"label, are too few for a {folds}-way split: set data.holdout, "
            "data.validation_fraction or data.fold to fit"
        )
    result = np.zeros(len(indices), int)
    alone = len(set(groups)) == len(groups)
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(
        folds, shuffle=True, random_state=seed
    )
    with warnings.catch_warnings():
        # Classes with fewer clips than folds are spread as far as they go.
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, held) in enumerate(splitter.split(indices, strata, groups)):
            result[held] = fold
    return result


def leak(recordings: Recordings, parts: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the groups that are in more than one part, sorted."""
    if recordings.groups is None:
        return []
    groups = np.asarray(recordings.groups, object)
    sets = [set(groups[index]) - {""} for index in parts.values()]
    return sorted({g for a in range(len(sets)) for b in range(a) for g in sets[a] & sets[b]})


def digest(recordings: Recordings, indices: np.ndarray) -> str:
    """Returns a digest of the names of some recordings, in hexadecimal digits."""
    found = hashlib.sha256()
    for index in indices:
        found.update(recordings.names[index].encode("utf-8", "backslashreplace") + b"\n")
    return found.hexdigest()[:16]


def subset(recordings: Recordings, train: np.ndarray, data: ConfigDict) -> np.ndarray:
    """Returns the training part cut down to `labels_per_class` or `label_fraction` of each class.

    By `data.split_seed`; a smaller subset is part of a larger one. Clips that are known to have no
    label are a class here. Unlabelled clips are dropped under `labels_per_class`.
    """
    if not data.labels_per_class and data.label_fraction >= 1:
        return train
    strata, kept = labels.strata(recordings)[train], [train[:0]]
    for stratum in np.unique(strata):
        rng = np.random.default_rng([data.split_seed, 77, stratum + 1])
        own = rng.permutation(train[strata == stratum])
        if data.labels_per_class:
            kept.append(own[: data.labels_per_class * bool(stratum >= 0)])
        else:
            kept.append(own[: max(round(data.label_fraction * len(own)), 1)])
    return np.sort(np.concatenate(kept))


def balance(recordings: Recordings, train: np.ndarray, how: str, seed: int) -> np.ndarray:
    """Returns training indices with every class equally often.

    `over` repeats the rare ones, `under` drops the frequent. By first labels; clips that are known
    to have none are a class, unlabelled ones are dropped, unless all are unlabelled.
    """
    strata, rng = labels.strata(recordings)[train], np.random.default_rng([seed, 78])
    classes, counts = np.unique(strata[strata >= 0], return_counts=True)
    if how == "none" or not len(classes):
        return train
    size = counts.max() if how == "over" else counts.min()
    # np.resize repeats in order: each clip of a class equally often, but for one.
    return np.concatenate(
        [np.resize(rng.permutation(train[strata == label]), size) for label in classes]
    )


def _groups(recordings: Recordings) -> np.ndarray:
    """Returns a group for each recording; those without one are groups of their own."""
    if not recordings.groups:
        return np.arange(len(recordings))
    # NumPy would make every name as long as the longest.
    own = [group or f"\0{k}" for k, group in enumerate(recordings.groups)]
    rank = {group: k for k, group in enumerate(sorted(set(own)))}
    return np.fromiter(map(rank.__getitem__, own), int, len(own))
