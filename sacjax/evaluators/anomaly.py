"""An objective's loss of each clip as a score of how unusual it is: machine anomaly."""

import dataclasses
import re
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sacjax.config.options import Options as OptionsBase
from sacjax.data import splits
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.evaluators.base import Evaluator, Judged, Scores, When, check_label


@dataclasses.dataclass(frozen=True)
class Options(OptionsBase):
    """Options of the anomaly score."""

    where = "eval.evaluators"

    when: When = "end"
    normal: str = "normal"  # the label of normal clips; all others are anomalies
    max_false_positives: float = 0.1  # the partial area's share of false alarms
    by: str = ""  # regular expression on the clips' names: areas for each machine, and their mean

    def check(self) -> None:
        """Raises UserError for a share that is none, or a bad expression."""
        good = 0 < self.max_false_positives <= 1
        self.require(good, "max_false_positives", "it must be above 0 and at most 1")
        try:
            re.compile(self.by)
        except re.error as error:
            self.require(False, "by", f"it is no regular expression ({error})")


class AnomalyEvaluator(Evaluator):
    """Areas under the ROC curve of a clip's loss as its anomaly, whole and at few false alarms."""

    Options = Options

    def __call__(self, judged: Judged, part: str, *, final: bool) -> Scores:
        """Returns `anomaly_auc` and `anomaly_partial_auc`, and of each machine `…/<machine>`.

        The first two are means over the machines that have both kinds of clips that can be read;
        there are none without such a machine, as in a training part of normal clips alone.

        Raises:
          UserError: no clip has the label of normal ones, or `by` finds nothing in a name.
        """
        indices = _labelled(judged.recordings, judged.parts[part])
        self.check_clips(judged.recordings, indices)
        normal = judged.recordings.class_names.index(self.options.normal)
        anomalous = splits.first_labels(judged.recordings)[indices] != normal
        machines = np.array([self._machine(judged.recordings.names[k]) for k in indices])
        both = [m for m in np.unique(machines) if len(set(anomalous[machines == m])) == 2]
        if not both:
            return Scores({}, [])
        losses, seen = judged.losses_of(indices)
        found = {}
        for machine in both:
            own = (machines == machine) & seen
            if len(set(anomalous[own])) == 2:
                found[str(machine)] = areas(
                    losses[own], anomalous[own], self.options.max_false_positives
                )
        if not found:
            return Scores({}, [])
        values: dict[str, float] = {}
        for k, name in enumerate(("anomaly_auc", "anomaly_partial_auc")):
            values[name] = float(np.mean([own[k] for own in found.values()]))
            if self.options.by:
                values |= {f"{name}/{machine}": own[k] for machine, own in found.items()}
        return Scores(values, [])

    def check_stage(self, stage: ConfigDict, objective: Any) -> None:
        """Raises UserError for an objective whose loss is not of one clip alone."""
        if objective.needs_labels or objective.views > 1:
            raise UserError(
                f"eval.evaluators: anomaly takes the loss of each clip, but objective.name is "
                f"{stage.objective.name}, which needs labels or several views: an autoencoder, a "
                "masked one or a predictive one has it"
            )

    def check_clips(self, recordings: Recordings, indices: np.ndarray) -> None:
        """Raises UserError where no clip has the label of normal ones, or `by` finds nothing."""
        check_label("anomaly", "normal", self.options.normal, recordings)
        for k in _labelled(recordings, indices):
            self._machine(recordings.names[k])

    def _machine(self, name: str) -> str:
        if not self.options.by:
            return ""
        match = re.search(self.options.by, name)
        if match is None:
            raise UserError(f"eval.evaluators: anomaly: by {self.options.by!r} is not in '{name}'")
        return next(filter(None, match.groups()), match.group())


def _labelled(recordings: Recordings, indices: np.ndarray) -> np.ndarray:
    """Returns those of `indices` whose recordings have a label."""
    indices = np.asarray(indices, int)
    return indices[splits.first_labels(recordings)[indices] >= 0]


def areas(
    scores: np.ndarray, anomalous: np.ndarray, max_false_positives: float
) -> tuple[float, float]:
    """Returns the area under the ROC curve, and that up to a share of false alarms.

    The partial one is scaled so that chance is 0.5 and the best 1 (McClish 1989), as DCASE's task 2
    has it (Koizumi et al. 2020). Both are scikit-learn's.

    Args:
      scores: float [N], higher for what is more unusual.
      anomalous: bool [N], of both kinds.
      max_false_positives: above 0 to 1.

    Raises:
      UserError: scores that are not finite, as a diverged model gives.
    """
    from sklearn.metrics import roc_auc_score  # here: it takes long to import

    if not np.isfinite(scores).all():
        raise UserError(
            f"the losses of {int((~np.isfinite(scores)).sum())} of {len(scores)} clips are not "
            "finite: the training diverged; lower optimizer.learning_rate"
        )
    whole = roc_auc_score(anomalous, scores)
    return float(whole), float(roc_auc_score(anomalous, scores, max_fpr=max_false_positives))
