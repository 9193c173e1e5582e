"""Finding 22: what an evaluation allocates follows the part that is evaluated, not the data set."""

import tracemalloc

import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics
import sklearn.neighbors  # noqa: F401 - what imports take is not what is measured
from evaluators.made_up import batches_of, judge_of

from sacjax.evaluators import EVALUATORS, Judged
from sacjax.evaluators.predictions import predict

RECORDINGS, CLASSES = 200_000, 527
PART = np.random.default_rng(0).choice(RECORDINGS, 50, replace=False)
TRAIN = np.setdiff1d(np.arange(0, RECORDINGS, 100), PART)


def peak(function):
    """Returns (what a function gives, the most bytes that it held at once)."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def values(index, width=CLASSES):
    """Vectors that tell which clip it is."""
    return np.sin(np.outer(index + 1.0, np.arange(1, width + 1))).astype(np.float32)


def test_predictions_of_a_part():
    """Of all recordings they would take 843 MB."""
    batch = lambda b: values(np.maximum(b["index"], 0))
    (found, seen), most = peak(lambda: predict(batch, batches_of(PART), PART, CLASSES))
    np.testing.assert_allclose(found, values(PART), rtol=1e-6)
    assert seen.all() and most < 4e6


@pytest.fixture(scope="module")
def judged() -> Judged:
    names = tuple(f"class {k}" for k in range(CLASSES))
    labels = [(names[k % 7],) for k in range(RECORDINGS)]
    return judge_of(labels, {"train": TRAIN, "test": PART}, values, names=names, multi_label=True)


@pytest.mark.parametrize(("name", "examples"), [("knn", 60), ("linear", 10)])
def test_probes_of_a_part(judged, name, examples):
    """Vectors of all recordings would take 843 MB; a number for each takes a few."""
    probe = EVALUATORS[name](examples=examples)
    found, most = peak(lambda: probe(judged, "test", final=False))
    assert 0 <= found.values[f"{name}_accuracy"] <= 1 and most < 20e6


def test_labels_and_scores_of_a_part(judged):
    """A row of labels for each recording would take 422 MB."""
    evaluator = EVALUATORS["classification"]()
    found, most = peak(lambda: evaluator(judged, "test", final=False))
    assert len(found.rows) == 50 and "mean_average_precision" in found.values and most < 20e6


def test_a_classifier_keeps_its_logits_in_float32_alone():
    """In float64 the logits, and the probabilities made of them, would take 16 bytes a number."""
    clips, classes = 40_000, 40
    names = tuple(f"class {k}" for k in range(classes))
    labels = [(names[k % classes],) for k in range(clips)]
    part = np.arange(clips)
    logits = lambda index: values(index, classes)
    judged = judge_of(labels, {"train": part[:2], "test": part}, logits, names=names)
    evaluator = EVALUATORS["classification"]()
    found, most = peak(lambda: evaluator(judged, "test", final=False))
    assert len(found.rows) == clips and most < 14 * clips * classes
    _, most = peak(lambda: sum(row["probabilities"][0] for row in found.rows))
    assert most < 8 * clips * classes
