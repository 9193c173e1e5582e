"""Event scores, against worked values and the sed_eval toolbox."""

import math
import sys
import types

import numpy as np
import pytest

from sacjax.inference.event_scores import Score, event_counts, score, scores, segment_counts
from sacjax.inference.events import Event

LABELS = ("dog", "cat", "cow")


def test_segments_by_hand():
    want = [Event(0.2, 1.9, "dog"), Event(3, 4, "dog"), Event(0, 1, "cat")]
    got = [Event(1, 3.5, "dog"), Event(9, 9.5, "cow")]
    # dog: true in seconds 0, 1, 3; found in 1, 2, 3.
    counts = segment_counts(want, got, LABELS)
    assert counts.tolist() == [[2, 3, 3], [0, 1, 0], [0, 0, 1]]
    assert segment_counts([], [], LABELS).tolist() == [[0, 0, 0]] * 3
    assert segment_counts(want[:1], got[:1], LABELS, 0.1)[0].tolist() == [9, 17, 25]


def test_events_by_hand():
    want = [Event(1, 2, "dog"), Event(5, 9, "dog"), Event(5, 9, "cat")]
    # 0.2 s late is a hit; an end may be off by half of the length; a label must be right.
    assert event_counts(want, [Event(1.2, 2.5, "dog")], LABELS)[0].tolist() == [1, 2, 1]
    assert event_counts(want, [Event(1.2, 2.51, "dog")], LABELS)[0].tolist() == [0, 2, 1]
    assert event_counts(want, [Event(5.21, 9, "dog")], LABELS)[0].tolist() == [0, 2, 1]
    assert event_counts(want, [Event(5, 7, "cow")], LABELS)[2].tolist() == [0, 0, 1]
    assert event_counts(want, [Event(5, 7, "dog")] * 3, LABELS)[0].tolist() == [1, 2, 3]
    # The first found event fits both true ones, the second only the first: both are hits.
    true = [Event(1, 2, "dog"), Event(1.3, 2.3, "dog")]
    found = [Event(1.15, 2.15, "dog"), Event(0.9, 2, "dog")]
    assert event_counts(true, found, LABELS)[0].tolist() == [2, 2, 2]


def test_scores_of_counts():
    assert score(np.array([2, 4, 3])) == Score(4 / 7, 2 / 3, 0.5)
    found = scores(np.array([[2, 4, 3], [0, 0, 0], [0, 2, 0]]), LABELS)
    assert set(found.labels) == {"dog", "cow"}
    assert found.labels["cow"][0] == 0 and math.isnan(found.labels["cow"].precision)
    assert found.micro == Score(4 / 9, 2 / 3, 2 / 6)
    assert found.macro == pytest.approx((2 / 7, 1 / 3, 1 / 4))
    assert all(map(math.isnan, scores(np.zeros([3, 3], int), LABELS).macro))


def random_events(rng, near=()):
    """Returns events that do not overlap within a label; some are near others."""
    events = []
    for label in LABELS:
        at = 0.0
        for _ in range(rng.integers(0, 8)):
            start = at + rng.uniform(0.05, 2)
            at = start + rng.uniform(0.1, 3)
            events.append(Event(start, at, label))
    for event in near:
        if rng.uniform() < 0.7:
            shift = rng.uniform(-0.3, 0.3, 2)
            start = max(event.start + shift[0], 0)
            events.append(Event(start, max(event.end + 2 * shift[1], start + 0.05), event.label))
    return events


@pytest.mark.parametrize("seed", range(8))
def test_as_sed_eval(seed, monkeypatch):
    """sed_eval needs pkg_resources, which setuptools has no more, for its banner alone."""
    monkeypatch.setitem(sys.modules, "pkg_resources", types.ModuleType("pkg_resources"))
    sed_eval = pytest.importorskip("sed_eval", exc_type=ImportError, reason="the reference")
    by_segment = sed_eval.sound_event.SegmentBasedMetrics(list(LABELS), time_resolution=1.0)
    by_event = sed_eval.sound_event.EventBasedMetrics(
        list(LABELS), t_collar=0.2, percentage_of_length=0.5, event_matching_type="optimal"
    )
    import dcase_util

    rng, counts, of_events = np.random.default_rng(seed), 0, 0
    for number in range(3):
        want = random_events(rng)
        got = random_events(rng, want)
        lists = [
            dcase_util.containers.MetaDataContainer(
                [
                    dict(filename=f"{number}.wav", onset=e.start, offset=e.end, event_label=e.label)
                    for e in events
                ]
            )
            for events in (want, got)
        ]
        for metric in (by_segment, by_event):
            metric.evaluate(reference_event_list=lists[0], estimated_event_list=lists[1])
        counts = counts + segment_counts(want, got, LABELS)
        of_events = of_events + event_counts(want, got, LABELS)
    for ours, theirs in ((counts, by_segment), (of_events, by_event)):
        measure = theirs.results_overall_metrics()["f_measure"]
        names = ("f_measure", "precision", "recall")
        found = scores(ours, LABELS)
        np.testing.assert_allclose(found.micro, [measure[name] for name in names])
        classes = theirs.results_class_wise_metrics()
        for label, own in found.labels.items():
            # Theirs is NaN where nothing is found.
            theirs_of_label = np.nan_to_num(classes[label]["f_measure"]["f_measure"])
            np.testing.assert_allclose(own.f1, theirs_of_label)
        assert 0 < found.micro.f1 < 1
