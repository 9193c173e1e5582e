"""How well found events fit a reference: segment-based and event-based F1.

The metrics of Mesaros, Heittola and Virtanen 2016, "Metrics for polyphonic sound event detection",
as DCASE counts them and the sed_eval toolbox computes them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from sacjax.inference.events import ROUNDING, Event

SEGMENT = 1.0  # seconds
COLLAR = 0.2  # seconds
SHARE = 0.5  # of an event's length, by which its end may be off


class Score(NamedTuple):
    """Of one label, or of all; NaN where there is nothing to count."""

    f1: float
    precision: float
    recall: float


class Scores(NamedTuple):
    """Of a metric."""

    labels: dict[str, Score]
    micro: Score
    """Of the counts of all labels together."""

    macro: Score
    """The mean over labels; a ratio of nothing counts as 0."""


def segment_counts(
    reference: Sequence[Event],
    found: Sequence[Event],
    labels: Sequence[str],
    segment: float = SEGMENT,
) -> Int[np.ndarray, "labels 3"]:
    """Returns for each label (hits, in the reference, found): segments in which it is active.

    Args:
      reference: of one recording.
      found: of the same.
      labels: the C names; events of others are not counted.
      segment: seconds; a segment is active if any of an event is in it.
    """
    end = max((event.end for event in (*reference, *found)), default=0.0)
    count = math.ceil(end / segment) + 1
    want, got = (_active(events, labels, segment, count) for events in (reference, found))
    return np.stack([(want & got).sum(1), want.sum(1), got.sum(1)], 1)


def _active(
    events: Sequence[Event], labels: Sequence[str], segment: float, count: int
) -> np.ndarray:
    """Returns bool [C, count]."""
    active = np.zeros([len(labels), count], bool)
    for event in events:
        if event.label in labels:
            first = math.floor((event.start + ROUNDING) / segment)
            last = math.ceil((event.end - ROUNDING) / segment)
            active[labels.index(event.label), first:last] = True
    return active


def event_counts(
    reference: Sequence[Event],
    found: Sequence[Event],
    labels: Sequence[str],
    collar: float = COLLAR,
    share: float = SHARE,
) -> Int[np.ndarray, "labels 3"]:
    """Returns for each label (hits, in the reference, found): whole events.

    Each event is matched with one at the most, so that there are as many hits as there can be.

    Args:
      reference: of one recording.
      found: of the same.
      labels: the C names; events of others are not counted.
      collar: seconds by which a hit's start, and its end, may be off.
      share: of the length of the reference's event; the end may be off by so much if it is more
        than the collar.
    """
    counts = np.zeros([len(labels), 3], int)
    for k, label in enumerate(labels):
        want = [event for event in reference if event.label == label]
        got = [event for event in found if event.label == label]
        counts[k] = (_matches(want, got, collar, share) if want and got else 0, len(want), len(got))
    return counts


def _matches(want: list[Event], got: list[Event], collar: float, share: float) -> int:
    start, end = (np.array([[e[k] for e in want]]).T for k in (0, 1))
    its_start, its_end = (np.array([[e[k] for e in got]]) for k in (0, 1))
    allowed = np.maximum(collar, share * (end - start)) + ROUNDING
    hit = (np.abs(its_start - start) <= collar + ROUNDING) & (np.abs(its_end - end) <= allowed)
    return int((maximum_bipartite_matching(csr_array(hit)) >= 0).sum())


def score(counts: Int[np.ndarray, "3"]) -> Score:
    """Returns the scores of counts (hits, in the reference, found)."""
    hits, wanted, found = map(int, counts)
    ratio = lambda a, b: a / b if b else math.nan
    return Score(ratio(2 * hits, wanted + found), ratio(hits, found), ratio(hits, wanted))


def scores(counts: Int[np.ndarray, "labels 3"], labels: Sequence[str]) -> Scores:
    """Returns the scores of counts of C labels.

    Labels that are neither in the reference nor found have none, and do not count.
    """
    found = {label: score(row) for label, row in zip(labels, counts, strict=True) if row.any()}
    columns = zip(*found.values(), strict=True)
    mean = [float(np.nan_to_num(column).mean()) for column in columns] or [math.nan] * 3
    return Scores(found, score(counts.sum(0)), Score(*mean))
