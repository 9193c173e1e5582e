"""Probabilities kept as logits, and the lazy table of predictions."""

import types

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as sk

from sacjax.evaluators.probabilities import BLOCK, Probabilities, Rows
from sacjax.evaluators.scores import scores

CLIPS = BLOCK + 700  # more than one block
NAMES = ("a", "b", "c")


def made_up():
    """Logits of a very confident model: in float32 most probabilities would be 1."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(NAMES), CLIPS)
    logits = rng.normal(0, 12, [CLIPS, len(NAMES)]) + 15 * np.eye(len(NAMES))[labels]
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("sigmoid", [False, True])
def test_they_are_those_of_scipy_however_they_are_looked_at(sigmoid):
    logits, _ = made_up()
    scaled = logits.astype(np.float64) / 1.7
    want = expit(scaled) if sigmoid else softmax(scaled, -1)
    found = Probabilities(logits, 1.7, sigmoid=sigmoid)
    assert found.shape == want.shape and len(found) == CLIPS and found[:].dtype == np.float64
    np.testing.assert_allclose(found[:], want, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(found[5], want[5], rtol=1e-12)
    np.testing.assert_allclose(found[:, 2], want[:, 2], rtol=1e-12, atol=1e-300)
    some = np.array([7, 3, CLIPS - 1])
    np.testing.assert_allclose(found.take(some, axis=0)[:], want[some], rtol=1e-12, atol=1e-300)
    with pytest.raises(ValueError, match="axis is 1"):
        found.take(some, axis=1)


def test_scores_of_a_confident_model_agree_with_scikit_learn():
    logits, labels = made_up()
    p = softmax(logits.astype(np.float64), -1)
    assert (p.astype(np.float32) == 1).mean() > 0.1  # where float32 would make ties
    found = scores(Probabilities(logits), labels, NAMES, top_k=2, bootstrap=0)
    want = {
        "accuracy": sk.accuracy_score(labels, p.argmax(1)),
        "top_2_accuracy": sk.top_k_accuracy_score(labels, p, k=2),
        "roc_auc": sk.roc_auc_score(labels, p, multi_class="ovr"),
        "mean_average_precision": sk.average_precision_score(np.eye(3)[labels], p),
        "loss": -np.log(np.clip(p[np.arange(CLIPS), labels], 1e-12, 1)).mean(),
    }
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_scores_of_several_labels_agree_with_scikit_learn():
    logits, _ = made_up()
    truth = (np.random.default_rng(1).normal(0, 12, logits.shape) + logits > 0).astype(int)
    p = expit(logits.astype(np.float64))
    found = scores(Probabilities(logits, sigmoid=True), truth, NAMES, bootstrap=0)
    clipped = np.clip(np.where(truth, p, 1 - p), 1e-12, 1)
    want = {
        "accuracy": sk.accuracy_score(truth, p >= 0.5),
        "macro_f1": sk.f1_score(truth, p >= 0.5, average="macro"),
        "roc_auc": sk.roc_auc_score(truth, p, average="macro"),
        "mean_average_precision": sk.average_precision_score(truth, p),
        "loss": -np.log(clipped).mean(),
    }
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("kept", [lambda p, logits: p, lambda p, logits: Probabilities(logits)])
def test_rows_are_those_of_the_clips_that_were_seen(kept):
    logits, _ = made_up()
    p = softmax(logits.astype(np.float64), -1)
    indices = np.arange(CLIPS)[::-1] + 100
    seen = np.arange(CLIPS) % 3 > 0
    recordings = types.SimpleNamespace(
        names=[f"{i}.wav" for i in range(CLIPS + 100)],
        labels=[None if i % 2 else ("a", "b") for i in range(CLIPS + 100)],
    )
    rows = Rows(recordings, "test", indices, kept(p, logits), seen)
    assert len(rows) == seen.sum() and len(list(rows)) == len(rows)
    for k, (row, place) in enumerate(zip(rows, np.flatnonzero(seen), strict=True)):
        index = int(indices[place])
        assert row["index"] == index and row["file"] == f"{index}.wav" and row["split"] == "test"
        assert row["label"] == ("" if index % 2 else "a|b")
        np.testing.assert_allclose(row["probabilities"], p[place], rtol=1e-12, atol=1e-300)
        if k > 50:
            break
    assert rows[-1]["index"] == int(indices[np.flatnonzero(seen)[-1]])
    np.testing.assert_allclose(rows[3]["probabilities"], p[np.flatnonzero(seen)[3]], rtol=1e-12)
