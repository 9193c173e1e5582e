"""Scores against scikit-learn and worked values."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from sacjax.errors import UserError
from sacjax.evaluators.scores import scores

NAMES = tuple("abcdef")


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def made_up(seed=0, size=120):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(NAMES), size)
    logits = rng.standard_normal([size, len(NAMES)]) + 1.5 * np.eye(len(NAMES))[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def test_single_label_agrees_with_sklearn():
    p, labels = made_up()
    guess, got = p.argmax(1), scores(p, labels, NAMES, top_k=2)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, guess)
    want = {
        "accuracy": sk.accuracy_score(labels, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, guess),
        "top_2_accuracy": sk.top_k_accuracy_score(labels, p, k=2),
        "macro_precision": precision.mean(),
        "macro_recall": recall.mean(),
        "macro_f1": f1.mean(),
        "roc_auc": sk.roc_auc_score(labels, p, multi_class="ovr"),
        "mean_average_precision": sk.average_precision_score(np.eye(6)[labels], p),
        "loss": sk.log_loss(labels, p),
    }
    for k, name in enumerate(NAMES):
        want |= {
            f"precision/{name}": precision[k],
            f"recall/{name}": recall[k],
            f"f1/{name}": f1[k],
        }
    for name, value in want.items():
        assert got[name] == pytest.approx(value, abs=1e-12), name
    assert set(got) == set(want) | {"accuracy_low", "accuracy_high", "expected_calibration_error"}
    assert all(type(value) is float for value in got.values())


def test_multi_label_agrees_with_sklearn():
    rng = np.random.default_rng(1)
    truth = (rng.random([90, 6]) < 0.3).astype(np.float32)
    p = np.clip(0.5 * rng.random([90, 6]) + 0.4 * truth, 0, 1)
    got = scores(p, truth, NAMES)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(truth, p >= 0.5))
    assert got["macro_f1"] == pytest.approx(sk.f1_score(truth, p >= 0.5, average="macro"))
    assert got["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, p))
    assert got["mean_average_precision"] == pytest.approx(sk.average_precision_score(truth, p))
    assert got["loss"] == pytest.approx(
        np.mean([sk.log_loss(truth[:, k], p[:, k]) for k in range(6)])
    )
    assert "balanced_accuracy" not in got and "top_5_accuracy" not in got
    for k, name in enumerate(NAMES):
        area = sk.average_precision_score(truth[:, k], p[:, k])
        assert got[f"average_precision/{name}"] == pytest.approx(area)
        assert got[f"support/{name}"] == truth[:, k].sum() > 0


def test_absent_classes_are_left_out_without_nan_or_warnings():
    p, _ = made_up(size=40)
    labels = np.repeat([0, 1], 20)  # c to f are predicted, but never true
    got = scores(p, labels, NAMES)
    assert np.isfinite(list(got.values())).all()
    f1 = [sk.f1_score(labels == k, p.argmax(1) == k) for k in (0, 1)]
    assert got["macro_f1"] == pytest.approx(np.mean(f1))
    assert got["balanced_accuracy"] == pytest.approx(
        np.mean([(p[:20].argmax(1) == 0).mean(), (p[20:].argmax(1) == 1).mean()])
    )
    assert got["roc_auc"] == pytest.approx(
        np.mean([sk.roc_auc_score(labels == k, p[:, k]) for k in (0, 1)])
    )
    assert {name for name in got if name.startswith("f1/")} == {"f1/a", "f1/b"}


def test_a_class_that_is_never_predicted_has_precision_zero():
    got = scores(np.tile([0.9, 0.1], (4, 1)), np.array([0, 0, 1, 1]), ("a", "b"))
    assert got["precision/b"] == got["recall/b"] == got["f1/b"] == 0.0
    assert got["precision/a"] == 0.5 and got["recall/a"] == 1.0


def test_one_class_only():
    p, _ = made_up(size=30)
    got = scores(p, np.full(30, 2), NAMES)
    assert np.isfinite(list(got.values())).all() and "roc_auc" not in got
    assert got["mean_average_precision"] == 1.0
    truth = np.zeros([30, 6])
    assert scores(p, truth, NAMES)["macro_f1"] == 0.0
    truth[:, 3] = 1
    got = scores(p, truth, NAMES)
    assert np.isfinite(list(got.values())).all() and "roc_auc" not in got


def test_what_cannot_be_scored_is_refused():
    p, labels = made_up(size=10)
    with pytest.raises(ValueError, match="no examples"):
        scores(p[:0], labels[:0], NAMES)
    with pytest.raises(ValueError, match="from 0 to 5"):
        scores(p, np.full(10, -1), NAMES)  # NumPy would take it for the last class
    with pytest.raises(ValueError, match="from 0 to 5"):
        scores(p, np.full(10, 6), NAMES)
    with pytest.raises(ValueError, match="from 0 to 1"):
        scores(p, np.full([10, 6], 0.5), NAMES)
    with pytest.raises(ValueError, match="do not fit 5 classes"):
        scores(p, labels % 5, NAMES[:5])
    p[3, 2] = np.nan
    with pytest.raises(UserError, match="of 1 of 10 clips are not finite.*optimizer.learning_rate"):
        scores(p, labels, NAMES)


def test_bootstrap_interval_agrees_with_scipy():
    from scipy import stats

    p, labels = made_up(size=200)
    got = scores(p, labels, NAMES, seed=3, bootstrap=4000)
    correct = (p.argmax(1) == labels).astype(float)
    want = stats.bootstrap(
        (correct,), np.mean, n_resamples=4000, method="percentile", random_state=0
    ).confidence_interval
    assert got["accuracy_low"] == pytest.approx(want.low, abs=0.01)
    assert got["accuracy_high"] == pytest.approx(want.high, abs=0.01)
    assert got == scores(p, labels, NAMES, seed=3, bootstrap=4000)
    assert "accuracy_low" not in scores(p, labels, NAMES, bootstrap=0)


def test_the_loss_of_one_decision_a_class_is_that_of_all_decisions_also_of_one_label():
    p, labels = made_up()
    got = scores(p, labels, NAMES, sigmoid=True)
    want = np.mean([sk.log_loss(labels == k, p[:, k]) for k in range(6)])
    assert got["loss"] == pytest.approx(want)
    assert {k: v for k, v in scores(p, labels, NAMES).items() if k != "loss"} == {
        k: v for k, v in got.items() if k != "loss"
    }
