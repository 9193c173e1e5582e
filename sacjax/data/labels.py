"""From the label names of recordings to the numbers that a model learns, and what is not known.

`Recordings.labels[i]` is None where nothing is known, () where the clip is known to carry no label,
else the names. Without `data.multi_label` every clip has one label: () says nothing there and
`checked` makes it None.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from sacjax.data.recordings import Recordings
from sacjax.errors import UserError


def checked(recordings: Recordings, multi_label: bool) -> Recordings:
    """Returns the recordings with labels that fit `data.multi_label`.

    Raises:
      UserError: a clip with several labels where `multi_label` is False.
    """
    if multi_label:
        return recordings
    several = [i for i, labels in enumerate(recordings.labels) if labels and len(labels) > 1]
    if several:
        name, labels = recordings.names[several[0]], recordings.labels[several[0]] or ()
        more = f" (and so have {len(several) - 1} more clips)" if len(several) > 1 else ""
        raise UserError(
            f"'{name}' has several labels '{'|'.join(labels)}'{more}; "
            "set data.multi_label=True and objective.options.loss=sigmoid for that"
        )
    if () not in recordings.labels:
        return recordings
    return dataclasses.replace(recordings, labels=[labels or None for labels in recordings.labels])


class LabelRows:
    """The label of each recording as a model takes it, made when it is asked for.

    A table of all of them would be large: 4 GB for 2 million clips and 527 classes.
    """

    def __init__(self, recordings: Recordings, multi_label: bool, withheld: bool = False):
        """Makes rows of `recordings`; all of them are unknown if `withheld`."""
        self.labels = None if withheld else recordings.labels
        self.class_index = {name: k for k, name in enumerate(recordings.class_names)}
        self.multi_label = multi_label
        self.unknown = (
            np.full(len(self.class_index), -1, np.float32) if multi_label else np.int32(-1)
        )

    def __getitem__(self, index: int) -> np.ndarray | np.int32:
        """Returns int32 (-1: unknown), or float32 [C] of zeros and ones (all -1: unknown)."""
        labels = self.labels[index] if self.labels is not None else None
        if labels is None or not (labels or self.multi_label):
            return self.unknown
        if not self.multi_label:
            return np.int32(self.class_index[labels[0]])
        row = np.zeros(len(self.class_index), np.float32)
        row[[self.class_index[label] for label in labels]] = 1
        return row


def label_array(
    recordings: Recordings, multi_label: bool, indices: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """Returns the labels of `indices` (default: all) as a model takes them.

    Returns:
      int32 [N], -1 where unknown; for multi-label float32 [N, C] of zeros and ones, where a row of
      -1 is unknown and a row of zeros is a clip that is known to have none of the labels.
    """
    rows = LabelRows(recordings, multi_label)
    indices = range(len(recordings)) if indices is None else indices
    table = np.zeros([len(indices), *np.shape(rows.unknown)], np.asarray(rows.unknown).dtype)
    for k, index in enumerate(indices):
        table[k] = rows[index]
    return table


def first_labels(recordings: Recordings) -> np.ndarray:
    """Returns int [N]: the index of each recording's first label, -1 where it has none."""
    class_index = {name: k for k, name in enumerate(recordings.class_names)}
    first = (class_index[labels[0]] if labels else -1 for labels in recordings.labels)
    return np.fromiter(first, int, len(recordings))


def strata(recordings: Recordings) -> np.ndarray:
    """Returns int [N]: as `first_labels`, but C for clips that are known to have no label."""
    known_none = (labels is not None and not labels for labels in recordings.labels)
    none = np.fromiter(known_none, bool, len(recordings))
    return np.where(none, len(recordings.class_names), first_labels(recordings))


def occurrences(
    recordings: Recordings, indices: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (k [M], class [M]): clip `indices[k]` carries that class, for each such pair."""
    class_index = {name: k for k, name in enumerate(recordings.class_names)}
    rows = [recordings.labels[index] or () for index in indices]
    clip = np.repeat(np.arange(len(rows)), np.fromiter(map(len, rows), int, len(rows)))
    label = np.fromiter((class_index[name] for row in rows for name in row), int, len(clip))
    return clip, label


def class_counts(recordings: Recordings, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns int [C]: how many of `indices` carry each label."""
    return np.bincount(
        occurrences(recordings, indices)[1], minlength=len(recordings.class_names)
    ).astype(int)
