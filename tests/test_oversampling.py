"""Synthetic vectors: against imbalanced-learn's own, and where they must lie."""

import sys

import numpy as np
import pytest
from imblearn.over_sampling import ADASYN, SMOTE, BorderlineSMOTE

from sacjax import oversampling
from sacjax.errors import UserError


def vectors(counts, spread=2.0, seed=0):
    """Returns (vectors [N, 3], labels): clouds of so many vectors each, around corners."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    corners = np.eye(3)[labels]
    return (corners + spread * rng.standard_normal([len(labels), 3])).astype(np.float32), labels


def on_a_line(new, own):
    """Whether each new vector lies between two of its own class."""
    pairs = [(a, b) for a in own for b in own]
    for x in new:
        share = [np.dot(x - a, b - a) / max(np.dot(b - a, b - a), 1e-9) for a, b in pairs]
        at = [a + np.clip(s, 0, 1) * (b - a) for s, (a, b) in zip(share, pairs, strict=True)]
        if min(np.linalg.norm(x - y) for y in at) > 1e-4:
            return False
    return True


@pytest.mark.parametrize(
    ("sampler", "theirs"),
    [
        ("smote", SMOTE(random_state=2001)),
        ("borderline_smote", BorderlineSMOTE(random_state=2001)),
        ("adasyn", ADASYN(random_state=2001)),
    ],
)
def test_of_two_classes_it_is_what_imbalanced_learn_makes(sampler, theirs):
    x, labels = vectors([40, 12], 1.0)
    want = theirs.fit_resample(x, labels)[0][52:]
    found, of = oversampling.balanced(x, labels, sampler, seed=2)
    np.testing.assert_array_equal(found[:52], x)
    np.testing.assert_array_equal(of, np.r_[labels, np.ones(28, int)])
    size = min(len(want), 28)
    assert size > 20
    np.testing.assert_allclose(found[52 : 52 + size], want[:size], rtol=1e-6)


@pytest.mark.parametrize("sampler", ["over", "smote", "borderline_smote", "adasyn"])
def test_all_classes_are_as_frequent_and_new_vectors_lie_among_their_own(sampler):
    x, labels = vectors([20, 3, 9])
    found, of = oversampling.balanced(x, labels, sampler, seed=1)
    np.testing.assert_array_equal(found[:32], x)
    assert np.bincount(of).tolist() == [20, 20, 20] and found.dtype == np.float32
    for label in (1, 2):
        new = found[32:][of[32:] == label]
        assert on_a_line(new, x[labels == label])
        old = {tuple(row) for row in x[labels == label]}
        assert all(tuple(row) in old for row in new) == (sampler == "over")


@pytest.mark.parametrize("sampler", ["borderline_smote", "adasyn"])
def test_a_class_far_from_all_others_is_filled_by_smote(sampler):
    x, labels = vectors([20, 8], 0.01)
    filled = oversampling.balanced(x, labels, sampler)
    for a, b in zip(filled, oversampling.balanced(x, labels, "smote"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sampler", ["smote", "borderline_smote", "adasyn"])
def test_one_vector_of_a_class_is_repeated(sampler):
    x, labels = vectors([6, 1])
    found, of = oversampling.balanced(x, labels, sampler)
    np.testing.assert_array_equal(found[7:], np.repeat(x[6:], 5, 0))
    assert np.bincount(of).tolist() == [6, 6]


def test_without_imbalanced_learn_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "imblearn.over_sampling", None)
    oversampling._samplers.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'sacjax\[imbalance\]'"):
        oversampling.check_installed()
    x, labels = vectors([6, 2])
    assert len(oversampling.balanced(x, labels, "over")[0]) == 12  # needs none
