"""Sensitivity and specificity of finding one class among the others, with intervals."""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sacjax.config.options import Options as OptionsBase
from sacjax.data import hosts, splits
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.evaluators.base import Evaluator, Judged, Scores, When, check_label
from sacjax.evaluators.classification import probabilities_of
from sacjax.evaluators.probabilities import Probabilities

NO_DEVICE = (
    "warning: this is no medical device. Its figures are of these recordings alone, are validated "
    "by nobody, and must not be used to judge anyone's health"
)


@dataclasses.dataclass(frozen=True)
class Options(OptionsBase):
    """Options of the screening scores."""

    where = "eval.evaluators"

    when: When = "end"
    positive: str = ""  # the label that is to be found
    threshold: float = 0.5  # of its probability, from which on it is found

    def check(self) -> None:
        """Raises UserError for a missing label, or a threshold that is none."""
        self.require(bool(self.positive), "positive", "give the label that is to be found")
        self.require_shares("threshold")


class ScreeningEvaluator(Evaluator):
    """Sensitivity and specificity of one label with 95 % intervals, and its ROC area, by person."""

    Options = Options
    needs_classes = True

    def __call__(self, judged: Judged, part: str, *, final: bool) -> Scores:
        """Returns `sensitivity` and `specificity`, each with `_low` and `_high`, and others.

        The recordings of a group, such as a patient, are one: its probability is their mean, and it
        is positive if one of them is. So the intervals count people, not recordings. There are also
        `screened_positive` and `screened_negative`, how many there are, and `screening_auc`. A
        figure of which there is no case is left out. It also prints `NO_DEVICE`.

        Raises:
          UserError: a label that the data do not have, or probabilities that are not finite, as a
            diverged model gives.
        """
        indices = np.asarray(judged.parts[part], int)
        self.check_clips(judged.recordings, indices)
        labels = splits.first_labels(judged.recordings)[indices]
        indices = indices[labels >= 0]
        logits, seen = judged.predict(indices)
        p = probabilities_of(judged, logits)
        return Scores(self.of_probabilities(judged, indices, p, seen), [])

    def of_probabilities(
        self,
        judged: Judged,
        indices: np.ndarray,
        probabilities: np.ndarray | Probabilities,
        seen: np.ndarray,
    ) -> dict[str, float]:
        """Returns the figures of given probabilities [n, C] of some clips; seen [n].

        Clips without a label are left out. Raises UserError as a call does.
        """
        self.check_clips(judged.recordings, indices)
        target = judged.recordings.class_names.index(self.options.positive)
        labels = splits.first_labels(judged.recordings)[indices]
        counted = seen & (labels >= 0)
        if not counted.any():
            return {}
        p = probabilities[:, target][counted]
        if not np.isfinite(p).all():
            raise UserError(
                f"the probabilities of {int((~np.isfinite(p)).sum())} of {len(p)} clips are not "
                "finite: the training diverged; lower optimizer.learning_rate"
            )
        groups = judged.recordings.groups or [""] * len(judged.recordings)
        owners = [groups[k] or f"\0{k}" for k in indices[counted]]
        positive = labels[counted] == target
        hosts.tell(NO_DEVICE)
        return screening(*by_owner(p, positive, owners), self.options.threshold)

    def check_stage(self, stage: ConfigDict, objective: Any) -> None:
        """Raises UserError for clips of several labels."""
        if stage.data.multi_label:
            raise UserError(
                "eval.evaluators: screening needs clips of one label, not data.multi_label"
            )

    def check_clips(self, recordings: Recordings, indices: np.ndarray) -> None:
        """Raises UserError for a label that the data do not have."""
        check_label("screening", "positive", self.options.positive, recordings)


def by_owner(
    probabilities: np.ndarray, positive: np.ndarray, owners: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean probability, whether any is positive) of each owner's recordings.

    Args:
      probabilities: float [N].
      positive: bool [N].
      owners: N names; the result is in their alphabetical order.
    """
    which = np.unique(np.asarray(owners, object), return_inverse=True)[1]
    counts = np.bincount(which)
    return np.bincount(which, probabilities) / counts, np.bincount(which, positive) > 0


def screening(
    probabilities: np.ndarray, positive: np.ndarray, threshold: float = 0.5
) -> dict[str, float]:
    """Returns the figures of a screening of N people.

    Sensitivity is the share of the positive that are found, specificity that of the others that are
    not. Intervals are Wilson's (1927), 95 %, by SciPy; the area under the ROC curve scikit-learn's.

    Args:
      probabilities: float [N], of being positive.
      positive: bool [N].
      threshold: of the probability, from which on a person is found.
    """
    from scipy.stats import binomtest  # here: they take long to import
    from sklearn.metrics import roc_auc_score

    positive = np.asarray(positive, bool)
    found = np.asarray(probabilities) >= threshold
    count = int(positive.sum())
    values = {"screened_positive": float(count), "screened_negative": float(len(positive) - count)}
    for name, own, right in (
        ("sensitivity", positive, found),
        ("specificity", ~positive, ~found),
    ):
        if own.any():
            cases, correct = int(own.sum()), int((own & right).sum())
            interval = binomtest(correct, cases).proportion_ci(0.95, method="wilson")
            values[name] = correct / cases
            values[f"{name}_low"], values[f"{name}_high"] = (
                float(interval.low),
                float(interval.high),
            )
    if 0 < count < len(positive):
        values["screening_auc"] = float(roc_auc_score(positive, probabilities))
    return values
