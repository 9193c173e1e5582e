"""Metrics of predictions, computed by scikit-learn."""

from collections.abc import Sequence

import numpy as np

from sacjax.errors import UserError
from sacjax.evaluators.calibration import reliability
from sacjax.evaluators.probabilities import Probabilities, blocks

OF_CLASSES = ("precision", "recall", "f1", "average_precision", "support")
"""Metrics that each class has too, as `f1/<class>`."""


def scores(
    probabilities: np.ndarray | Probabilities,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    top_k: int = 5,
    seed: int = 0,
    bootstrap: int = 1000,
    sigmoid: bool = False,
) -> dict[str, float]:
    """Returns the metrics of N predictions, computed by scikit-learn.

    Single-label: accuracy (with `accuracy_low` and `accuracy_high`, its 95 % bootstrap interval
    over clips), balanced_accuracy, top_{k}_accuracy, macro_precision, macro_recall, macro_f1,
    precision/, recall/ and f1/<class>, roc_auc (one-vs-rest, macro), mean_average_precision
    (macro), expected_calibration_error, loss. Multi-label: the same, where accuracy is the share of
    clips whose every decision at 0.5 is right, as scikit-learn counts it, and top-k and balanced
    accuracy are left out; average_precision/ and support/<class>, the clips that carry it, come in.

    Classes without a true example are left out of macro averages, and have no entry of their own;
    clips wrongly predicted as such a class count as errors of their true class. A macro average
    over no class is 0. A class that is never predicted has precision 0. roc_auc also leaves out
    classes that every clip has. It is absent where no class is left, and mean_average_precision is
    absent where no class has a true example. No score is ever NaN.

    Args:
      probabilities: float [N, C].
      labels: int [N], or {0, 1} [N, C] for multi-label.
      class_names: C names.
      top_k: k of the top-k accuracy; left out where C <= k.
      seed: of the bootstrap.
      bootstrap: samples of the interval; 0 leaves it out.
      sigmoid: whether each probability is an independent decision, although a clip has one label.
        The loss is then the mean over all decisions, as in training; with several labels it always
        is.

    Raises:
      ValueError: no examples, shapes that do not fit, or labels that are not of the C classes, such
        as -1 for unknown.
      UserError: probabilities that are not finite, as a diverged model gives.
    """
    from sklearn import metrics as sk  # here: it takes long to import

    if not isinstance(probabilities, Probabilities):
        probabilities = np.asarray(probabilities, np.float64)
    labels = np.asarray(labels)
    multi = labels.ndim == 2
    _check(probabilities, labels, len(class_names))
    # A number of a clip and class takes one byte here: a test set may have millions of clips.
    truth = labels.astype(bool) if multi else labels.astype(int)
    carriers = lambda k: truth[:, k] if multi else truth == k
    present = np.flatnonzero(truth.any(0)) if multi else np.unique(truth)
    decided = np.zeros(truth.shape, truth.dtype)
    for part in blocks(len(truth)):
        p = probabilities[part]
        decided[part] = p >= 0.5 if multi else p.argmax(1)
    result: dict[str, float] = {}
    correct = ((decided == truth).all(1) if multi else decided == truth).astype(float)
    result["accuracy"] = float(correct.mean())
    if bootstrap:
        rng = np.random.default_rng(seed)
        size = len(correct)
        # One by one, as N may be large.
        draws = [correct[rng.integers(0, size, size)].mean() for _ in range(bootstrap)]
        result["accuracy_low"], result["accuracy_high"] = map(
            float, np.percentile(draws, [2.5, 97.5])
        )
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        truth, decided, labels=present, average=None, zero_division=0
    )
    of_classes = {"precision": precision, "recall": recall, "f1": f1}
    for name, values in of_classes.items():
        result[f"macro_{name}"] = float(np.mean(values)) if len(present) else 0.0
    if not multi:
        result["balanced_accuracy"] = result["macro_recall"]
        if len(class_names) > top_k:
            result[f"top_{top_k}_accuracy"] = _top_accuracy(probabilities, truth, top_k)
    split = [k for k in present if not carriers(k).all()]  # both sides are needed for a curve
    if split:
        areas = [sk.roc_auc_score(carriers(k), probabilities[:, k]) for k in split]
        result["roc_auc"] = float(np.mean(areas))
    if len(present):
        areas = [sk.average_precision_score(carriers(k), probabilities[:, k]) for k in present]
        result["mean_average_precision"] = float(np.mean(areas))
        if multi:
            of_classes |= {"average_precision": areas, "support": support}
    for name, values in of_classes.items():
        for k, value in zip(present, values, strict=True):
            result[f"{name}/{class_names[int(k)]}"] = float(value)
    result["expected_calibration_error"] = reliability(probabilities, truth, multi).error
    result["loss"] = cross_entropy(probabilities, truth, multi or sigmoid)
    return result


def _top_accuracy(
    probabilities: np.ndarray | Probabilities, labels: np.ndarray, top_k: int
) -> float:
    """Returns the share of clips whose class is among the first `top_k`; of equals, the first."""
    found = 0
    for part in blocks(len(labels)):
        p, label = probabilities[part], labels[part, None]
        own = np.take_along_axis(p, label, 1)
        earlier = np.arange(p.shape[1]) < label
        before = (p > own).sum(1) + ((p == own) & earlier).sum(1)
        found += int((before < top_k).sum())
    return found / len(labels)


def _check(probabilities: np.ndarray | Probabilities, labels: np.ndarray, classes: int) -> None:
    """Raises the errors that `scores` documents.

    Without it NumPy would read the label -1 as the last class.
    """
    if not len(labels):
        raise ValueError("there are no examples to score")
    if probabilities.shape != (len(labels), classes) or (
        labels.ndim == 2 and labels.shape != probabilities.shape
    ):
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {labels.shape} do not fit {classes} "
            "classes"
        )
    top = 1 if labels.ndim == 2 else classes - 1
    if labels.min() < 0 or labels.max() > top or (labels != labels.astype(int)).any():
        raise ValueError(
            f"labels must be whole numbers from 0 to {top}; leave out clips whose label is unknown"
        )
    bad = sum(int((~np.isfinite(probabilities[part])).any(1).sum()) for part in blocks(len(labels)))
    if bad:
        raise UserError(
            f"the model's probabilities of {bad} of {len(labels)} clips are not finite: its "
            "training diverged; lower optimizer.learning_rate, or set optimizer.clip_norm"
        )


def cross_entropy(
    probabilities: np.ndarray | Probabilities, truth: np.ndarray, sigmoid: bool
) -> float:
    """Returns the mean negative log likelihood (sigmoid: over all decisions).

    Args:
      probabilities: [N, C].
      truth: int [N], or {0, 1} [N, C].
      sigmoid: whether each of the C is a decision.
    """
    total = count = 0.0
    for part in blocks(len(truth)):
        p, true = probabilities[part], truth[part]
        right = true > 0 if true.ndim == 2 else true[:, None] == np.arange(p.shape[1])
        of_truth = np.where(right, p, 1 - p) if sigmoid else p[right]
        total -= float(np.log(np.clip(of_truth, 1e-12, 1.0)).sum())
        count += of_truth.size
    return total / count
