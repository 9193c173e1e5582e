"""The probes as evaluators, against the probes of the vectors that they ask for."""

import numpy as np
import pytest
from evaluators.made_up import judge_of

from sacjax.evaluators import EVALUATORS, probes

LABELS = np.arange(60) % 3
NAMES = ("a", "b", "c")
TRAIN, TEST = np.arange(40), np.arange(40, 60)


def vectors(seed=0, spread=0.8):
    rng = np.random.default_rng(seed)
    return np.eye(8)[LABELS] + spread * rng.standard_normal([60, 8])


def judged(table, labels=None, broken=(), **parts):
    labels = [(NAMES[k],) for k in LABELS] if labels is None else labels
    parts = {"train": TRAIN, "test": TEST} | parts
    return judge_of(labels, parts, lambda index: table[index], broken=broken)


def score(name, model, part="test", **options):
    return EVALUATORS[name](**options)(model, part, final=True).values


def test_accuracies_are_those_of_the_probes():
    table = vectors()
    order = np.random.default_rng(3).permutation(TRAIN)
    four = lambda train: (table[train], LABELS[train], table[TEST], LABELS[TEST])
    assert score("knn", judged(table)) == {"knn_accuracy": probes.knn(*four(order), 10)}
    assert score("knn", judged(table), neighbours=3) == {
        "knn_accuracy": probes.knn(*four(order), 3)
    }
    found = score("linear", judged(table))
    assert found == probes.linear_scores(*four(order), 3)
    assert 0.4 < found["linear_accuracy"] < 1


def test_some_examples_are_always_the_same_ones():
    table, kept = vectors(), np.random.default_rng(3).permutation(TRAIN)[:12]
    want = probes.knn(table[kept], LABELS[kept], table[TEST], LABELS[TEST], 10)
    assert score("knn", judged(table), examples=12) == {"knn_accuracy": want}
    want = probes.linear_scores(table[kept], LABELS[kept], table[TEST], LABELS[TEST], 3)
    assert score("linear", judged(table), examples=12) == want
    four = table[kept], LABELS[kept], table[TEST], LABELS[TEST]
    balanced = score("linear", judged(table), examples=12, balance="smote")
    assert balanced == probes.linear_scores(*four, 3, "smote")


def test_of_the_training_part_each_clip_is_left_out_in_turn():
    table = vectors(spread=1e-3)
    assert score("knn", judged(table), "train", neighbours=5) == {"knn_accuracy": 1.0}
    want = probes.knn(table[TRAIN], LABELS[TRAIN], None, None, 39)  # all the others
    assert score("knn", judged(table), "train", neighbours=99) == {"knn_accuracy": want} != 1.0
    assert score("linear", judged(table), "train") == {}


def test_unlabelled_and_broken_clips_are_left_out():
    """They have the vectors of another class, which would spoil the accuracy."""
    table = 0.01 * vectors() + np.eye(8)[LABELS]
    labels = [(NAMES[k],) for k in LABELS]
    unlabelled, broken = [1, 2, 41, 42], [3, 4, 43, 44]
    for k in unlabelled:
        labels[k] = ()
    table[[*unlabelled, *broken]] = np.eye(8)[(LABELS[[*unlabelled, *broken]] + 1) % 3]
    for name in ("knn", "linear"):
        found = score(name, judged(table, labels, broken))
        assert set(found.values()) == {1.0}


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_nothing_to_learn_from_or_to_test_gives_nothing(name):
    table, unlabelled = vectors(), [()] * 60
    assert score(name, judged(table, unlabelled)) == {}
    assert score(name, judged(table, train=np.arange(0, 40, 3))) == {}  # one class
    assert score(name, judged(table, train=TRAIN[:0])) == {}
    half = [(NAMES[k],) if i < 40 else () for i, k in enumerate(LABELS)]
    assert score(name, judged(table, half)) == {}
