"""Wrong labels are found among right ones; neighbours are those of the largest cosine."""

from types import SimpleNamespace

import numpy as np
import pytest

from sacjax import config as config_lib
from sacjax.data.recordings import Recordings
from sacjax.evaluators import suspects


def blobs(count=240, wrong=12, seed=0):
    """Three groups of vectors [N, 5]; the first `wrong` labels are of another group."""
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % 3
    vectors = 3 * np.eye(3, 5)[truth] + rng.normal(0, 0.6, [count, 5])
    labels = truth.copy()
    labels[:wrong] = (truth[:wrong] + 1) % 3
    return vectors, labels, truth


def test_suspects_as_worked_out():
    """The thresholds are 0.6 (of 0.9, 0.7, 0.2) and 0.575 (of 0.8, 0.35)."""
    p = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.2, 0.8], [0.65, 0.35]])
    labels = np.array([0, 0, 0, 1, 1])
    found, likely = suspects.find_suspects(p, labels)
    assert found.tolist() == [2, 4] and likely.tolist() == [1, 0]  # margins -0.6 and -0.3
    # 0.65 is no longer likely where class 0 is always sure; what is likely of none is no suspect.
    p[2] = 0.9, 0.1
    found, _ = suspects.find_suspects(p, labels)
    assert found.tolist() == []


def test_suspects_are_those_of_cleanlab():
    cleanlab = pytest.importorskip("cleanlab.filter", reason="needs cleanlab")
    vectors, labels, _ = blobs(wrong=30, seed=4)
    p = suspects.cross_validated(vectors, labels, 3)
    want = cleanlab.find_label_issues(
        labels, p, filter_by="confident_learning", return_indices_ranked_by="normalized_margin"
    )
    assert suspects.find_suspects(p, labels)[0].tolist() == list(want)


def test_no_example_is_judged_by_what_has_learned_from_it():
    """Of vectors without meaning, labels cannot be foretold; groups are whole in a fold."""
    rng = np.random.default_rng(1)
    vectors, labels = rng.normal(size=[120, 60]), np.arange(120) % 2
    p = suspects.cross_validated(vectors, labels, 3)
    np.testing.assert_allclose(p.sum(1), 1)
    assert (p[:, 2] == 0).all() and abs((p.argmax(1) == labels).mean() - 0.5) < 0.2
    groups = np.arange(120) // 4  # clips of a group are alike, and share a label
    vectors = rng.normal(size=[30, 60])[groups] + 0.01 * rng.normal(size=[120, 60])
    labels = (groups * 7 % 2).astype(int)
    alone = suspects.cross_validated(vectors, labels, 2)
    apart = suspects.cross_validated(vectors, labels, 2, groups)
    assert (alone.argmax(1) == labels).mean() > 0.95 > 0.8 > (apart.argmax(1) == labels).mean()


def test_a_class_of_one_group_makes_no_suspects():
    """The classifier of its fold has not met the class, and cannot deny it."""
    vectors, labels, _ = blobs(count=90, wrong=0)
    vectors += np.random.default_rng(2).normal(0, 0.4, vectors.shape)  # some are not sure
    groups = np.where(labels == 2, 90, np.arange(90))
    p = suspects.cross_validated(vectors, labels, 3, groups)
    assert not p[labels == 2].any()
    found, likely = suspects.find_suspects(p, labels)
    assert 2 not in labels[found] and 2 not in likely
    rest = labels != 2
    alone, _ = suspects.find_suspects(p[rest], labels[rest])
    np.testing.assert_array_equal(found, np.flatnonzero(rest)[alone])


def test_nearest_by_cosine():
    others = np.array([[1.0, 0], [0, 5], [3, 3]])
    order, similar = suspects.nearest(np.array([[2.0, 0.1], [0, 0]]), others)
    assert order[0].tolist() == [0, 2]
    np.testing.assert_allclose(similar[0], [2 / 4.01**0.5, 2.1 / 8.02**0.5])
    np.testing.assert_allclose(similar[1], 0)


def test_the_analysis_of_a_data_set_with_wrong_labels():
    vectors, labels, truth = blobs()
    names = tuple("abc")
    clips = Recordings(
        [str(k) for k in range(240)], [(names[k],) for k in labels], names, lambda index: None
    )
    stage = config_lib.stage()
    seen = lambda indices: np.asarray(indices) != 5  # one cannot be read
    judged = SimpleNamespace(
        stage=stage,
        seed=0,
        recordings=clips,
        parts={"train": np.arange(200)},
        embed=lambda indices: (vectors[indices], seen(indices)),
    )
    rows = [
        dict(index=200, probabilities=np.eye(3)[labels[200]]),
        dict(index=201, probabilities=np.eye(3)[(labels[201] + 1) % 3]),
    ]
    found = suspects.analyse(judged, rows)
    assert found.clips == 199
    doubted = [s.index for s in found.suspects]
    assert set(doubted) <= set(range(12)) - {5} and len(doubted) >= 9
    for s in found.suspects:
        assert (s.label, s.likely) == (labels[s.index], truth[s.index]) and s.denied > s.given
    ((index, near),) = found.neighbours.items()
    assert index == 201 and [truth[k] for k, _ in near] == [truth[201]] * 2
    stage.data.multi_label = True
    assert suspects.analyse(judged, rows) is None
