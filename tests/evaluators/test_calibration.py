"""The reliability curve against worked values, the temperature against what it must satisfy."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from sacjax.evaluators.calibration import LIMITS, fit_temperature, reliability


def test_reliability_as_worked_out():
    # Confidence 0.9, half of it right; confidence 0.6, all right: (2 * 0.4 + 2 * 0.4) / 4.
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    found = reliability(p, np.eye(2, dtype=int)[[0, 1, 0, 0]], multi=False)
    np.testing.assert_allclose(found.confidence, [0.6, 0.9])
    np.testing.assert_allclose(found.accuracy, [1.0, 0.5])
    assert found.decisions.tolist() == [2, 2] and found.error == pytest.approx(0.4)
    sure = np.eye(2)[[0, 1]]
    assert reliability(sure, sure.astype(int), multi=False).error == 0.0
    # Multi-label: both sides of a decision count with the confidence of the side taken.
    decision = reliability(np.array([[0.8, 0.2]]), np.array([[1, 0]]), multi=True)
    assert decision.error == pytest.approx(0.2) and decision.decisions.tolist() == [2]


def test_bins_agree_with_scikit_learns_curve():
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 500)
    right = rng.uniform(size=500) < p**2
    both = np.stack([p, 1 - p], 1)
    found = reliability(both, np.stack([right, ~right], 1), multi=False, bins=10)
    accuracy, confidence = calibration_curve(right, p, n_bins=10)
    np.testing.assert_allclose(found.accuracy, accuracy)
    np.testing.assert_allclose(found.confidence, confidence)


def test_the_temperature_that_made_logits_too_sure_is_found():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, [20_000, 5])
    labels = np.array([rng.choice(5, p=p) for p in softmax(logits, -1)])
    found = fit_temperature(3 * logits, labels)
    assert found == pytest.approx(3, rel=0.03)
    # Where the likelihood is highest, the labels' logits add up to what is expected of them.
    scaled = softmax(3 * logits / found, -1)
    expected = (scaled * logits).sum(-1).mean()
    assert logits[np.arange(len(labels)), labels].mean() == pytest.approx(expected, abs=1e-4)


def test_the_temperature_of_decisions_of_their_own():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, [8000, 3])
    labels = (rng.uniform(size=logits.shape) < expit(logits)).astype(int)
    assert fit_temperature(0.5 * logits, labels, sigmoid=True) == pytest.approx(0.5, rel=0.04)


def test_labels_that_are_all_right_are_made_as_sure_as_it_goes():
    logits = np.array([[4.0, 0], [0, 4.0]])
    found = fit_temperature(logits, np.array([0, 1]))
    assert found >= LIMITS[0] and softmax(logits / found, -1).max(-1).min() > 1 - 1e-9
    with pytest.raises(ValueError, match="no examples"):
        fit_temperature(np.zeros([0, 2]), np.zeros(0, int))
