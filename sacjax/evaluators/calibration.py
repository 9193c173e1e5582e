"""How far probabilities can be believed: the reliability curve, and temperature scaling.

Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks".
"""

from typing import NamedTuple

import numpy as np

from sacjax.data.hosts import tell
from sacjax.data.labels import label_array
from sacjax.errors import UserError
from sacjax.evaluators.base import Judged
from sacjax.evaluators.probabilities import Probabilities, blocks

BINS = 15
LIMITS = (1e-2, 1e2)
"""Between which a temperature is sought."""


class Reliability(NamedTuple):
    """Decisions in equal bins of confidence; empty bins are left out."""

    confidence: np.ndarray
    """Mean of each bin [K]."""

    accuracy: np.ndarray
    """Share of each bin that is right [K]."""

    decisions: np.ndarray
    """How many each bin has, int [K]."""

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of both, by decisions."""
        distance = np.abs(self.accuracy - self.confidence)
        return float((self.decisions * distance).sum() / max(self.decisions.sum(), 1))


def reliability(
    probabilities: np.ndarray | Probabilities, truth: np.ndarray, multi: bool, bins: int = BINS
) -> Reliability:
    """Returns confidence and accuracy over equal bins of confidence.

    Args:
      probabilities: [N, C].
      truth: {0, 1} [N, C]; or int [N], the class of each clip.
      multi: whether each of the C is a decision, whose confidence is the probability of the side
        taken; else a clip is one decision, for its most probable class.
      bins: between 0 and 1.
    """
    count, confident, correct = np.zeros(bins, int), np.zeros(bins), np.zeros(bins)
    for part in blocks(len(truth)):
        p, true = probabilities[part], truth[part]
        if multi:
            confidence = np.maximum(p, 1 - p).ravel()
            right = ((p >= 0.5) == (true > 0)).ravel()
        else:
            confidence, chosen = p.max(1), p.argmax(1)
            right = true == chosen if true.ndim == 1 else true[np.arange(len(true)), chosen] > 0
        place = np.minimum((confidence * bins).astype(int), bins - 1)
        count += np.bincount(place, minlength=bins)
        confident += np.bincount(place, confidence, minlength=bins)
        correct += np.bincount(place, right.astype(float), minlength=bins)
    some = np.flatnonzero(count)
    return Reliability(confident[some] / count[some], correct[some] / count[some], count[some])


def fit_temperature(logits: np.ndarray, labels: np.ndarray, sigmoid: bool = False) -> float:
    """Returns the number by which to divide logits so that the labels are most likely.

    It changes no order of classes, and of a softmax no decision. Sought by SciPy's bounded search
    over its logarithm, within `LIMITS`; the likelihood has one maximum.

    Args:
      logits: [N, C].
      labels: int [N], or {0, 1} [N, C].
      sigmoid: whether each logit is a decision of its own.

    Raises:
      ValueError: no examples.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, labels = np.asarray(logits), np.asarray(labels)
    if not len(logits):
        raise ValueError("there are no examples to fit a temperature to")

    def summed(scaled: np.ndarray, label: np.ndarray) -> float:
        if sigmoid:
            truth = label if label.ndim == 2 else np.eye(scaled.shape[1])[label]
            return (np.logaddexp(0, scaled) - truth * scaled).sum() / scaled.shape[1]
        own = log_softmax(scaled, -1)
        return -(own * label if label.ndim == 2 else own[np.arange(len(own)), label]).sum()

    def loss(log_temperature: float) -> float:
        parts = blocks(len(logits))
        divisor = np.exp(log_temperature)
        return float(
            sum(summed(logits[k].astype(np.float64) / divisor, labels[k]) for k in parts)
            / len(logits)
        )

    bounds = tuple(np.log(LIMITS))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def calibrate(judged: Judged) -> float:
    """Fits the temperature of a classifier on its validation part, and gives it to its objective.

    Raises:
      UserError: the validation part has no labelled clip that can be read.
    """
    stage, indices = judged.stage, judged.parts["validation"]
    judged.objective.temperature = 1.0
    logits, seen = judged.predict(indices)
    labels = label_array(judged.recordings, stage.data.multi_label, indices)
    known = seen & ((labels >= 0).all(-1) if labels.ndim == 2 else labels >= 0)
    if not known.any():
        raise UserError(
            "eval.temperature=True needs labelled clips in the validation part: see "
            "data.validation_fraction and data.holdout"
        )
    sigmoid = judged.objective.options.loss == "sigmoid"
    judged.objective.temperature = fit_temperature(logits[known], labels[known], sigmoid)
    if judged.objective.temperature > 0.99 * LIMITS[1]:
        tell(
            f"the temperature is at its limit, {LIMITS[1]:g}: on the validation part the logits "
            "say nothing of the labels, and all probabilities become nearly equal"
        )
    return judged.objective.temperature
