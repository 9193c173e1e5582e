"""From probabilities to events, against SciPy's runs of ones and worked values."""

import numpy as np
import pytest
from scipy import ndimage

from sacjax.errors import UserError
from sacjax.inference.events import Event, EventOptions, EventTracker, Segment, events_of

LABELS = ("dog", "cat")


def segments(*rows, step=1.0):
    """Returns segments of a second each from rows of C probabilities."""
    return [Segment(k * step, (k + 1) * step, np.array(row)) for k, row in enumerate(rows)]


def of_dog(*values, **options):
    """Returns (start, end) of the events of one label's probabilities."""
    found = events_of(segments(*([v] for v in values)), ("dog",), EventOptions(**options))
    return [(event.start, event.end) for event in found]


def test_an_event_begins_at_one_threshold_and_ends_at_a_lower_one():
    values = (0.4, 0.6, 0.4, 0.3, 0.29, 0.4, 0.5)
    assert of_dog(*values) == [(1, 4), (6, 7)]  # off is 0.6 * 0.5 = 0.3
    assert of_dog(*values, off=0.5) == [(1, 2), (6, 7)]
    assert of_dog(*values, on=0.6, off=0.4) == [(1, 3)]
    assert of_dog(0.0, 0.1) == [] and of_dog() == []


def test_gaps_are_merged_before_short_events_are_left_out():
    values = (1, 0, 1, 0, 0, 1, 0, 0, 0, 1)
    assert of_dog(*values, merge_gap=1) == [(0, 3), (5, 6), (9, 10)]
    assert of_dog(*values, merge_gap=2) == [(0, 6), (9, 10)]
    assert of_dog(*values, merge_gap=1, min_duration=2) == [(0, 3)]
    assert of_dog(*values, min_duration=2) == []


def test_each_label_is_followed_by_itself_and_has_its_highest_probability():
    rows = segments((0.9, 0.6), (0.7, 0.8), (0.1, 0.9), (0.1, 0.1))
    both = [Event(0, 2, "dog", 0.9), Event(0, 3, "cat", 0.9)]
    assert sorted(events_of(rows, LABELS)) == sorted(both)
    assert events_of(rows, LABELS, EventOptions(ignore=("cat",))) == both[:1]


def runs(mask):
    """Returns (first, last + 1) of the runs of ones, by SciPy."""
    return [(s[0].start, s[0].stop) for s in ndimage.find_objects(ndimage.label(mask)[0])]


@pytest.mark.parametrize("seed", range(5))
def test_as_scipy_finds_runs_closes_gaps_and_drops_the_short(seed):
    values = np.random.default_rng(seed).random(300)
    on, off, gap, shortest = 0.8, 0.4, 2, 4
    high = [span for span in runs(values >= off) if (values[slice(*span)] >= on).any()]
    # Of such a run only the part from its first high value on.
    mask = np.zeros(len(values), bool)
    for first, last in high:
        mask[first + int(np.argmax(values[first:last] >= on)) : last] = True
    for first, last in runs(~mask):
        if 0 < first and last < len(mask) and last - first <= gap:
            mask[first:last] = True
    want = [span for span in runs(mask) if span[1] - span[0] >= shortest]
    options = dict(on=on, off=off, merge_gap=0.1 * gap, min_duration=0.1 * shortest)
    found = events_of(segments(*values[:, None], step=0.1), ("dog",), EventOptions(**options))
    assert want and [(round(10 * e.start), round(10 * e.end)) for e in found] == want
    peaks = [values[slice(*span)].max() for span in want]
    np.testing.assert_allclose([event.probability for event in found], peaks)


def test_events_are_told_once_as_soon_as_nothing_can_join_them():
    tracker = EventTracker(("dog",), EventOptions(merge_gap=1))
    parts = [tracker.push([segment]) for segment in segments((1,), (0,), (0,), (1,), (1,))]
    assert parts == [[], [], [Event(0, 1, "dog", 1.0)], [], []]
    assert tracker.finish() == [Event(3, 5, "dog", 1.0)] and tracker.finish() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(on=0.0), "--on is 0: it must be more than 0"),
        (dict(on=float("nan")), "--on is nan"),
        (dict(off=0.7), "--off is 0.7: it must be more than 0, and at most --on 0.5"),
        (dict(min_duration=-1), "--min_duration is -1: it must be 0 or more"),
        (dict(merge_gap=float("inf")), "--merge_gap is inf"),
        (dict(ignore=("cow", "dgo")), "--ignore is 'cow': the model has no such label"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        EventTracker(LABELS, EventOptions(**options))
