"""The scores of a classifier, and its table of predictions."""

import dataclasses

import numpy as np

from sacjax.config.options import Options as OptionsBase
from sacjax.data.labels import label_array
from sacjax.evaluators.base import Evaluator, Judged, Scores, When
from sacjax.evaluators.probabilities import Probabilities, Rows
from sacjax.evaluators.scores import scores

BOOTSTRAP = 1000  # draws of an interval


@dataclasses.dataclass(frozen=True)
class Options(OptionsBase):
    """Options of the classifier's scores."""

    where = "eval.evaluators"

    when: When = "always"


class ClassificationEvaluator(Evaluator):
    """Accuracy with its interval, F1, top-k, ROC, average precision and calibration."""

    Options = Options
    needs_classes = True

    def __call__(self, judged: Judged, part: str, *, final: bool) -> Scores:
        """Returns scores of a part's labelled, decodable clips, and rows of all decodable ones."""
        indices = judged.parts[part]
        logits, seen = judged.predict(indices)
        return score(judged, part, probabilities_of(judged, logits), seen, final=final)


def probabilities_of(judged: Judged, logits: np.ndarray) -> Probabilities:
    """Returns the probabilities of a classifier's logits, float32 [n, C]."""
    objective = judged.objective
    sigmoid = objective.options.loss == "sigmoid"
    return Probabilities(logits, objective.temperature, sigmoid=sigmoid)


def score(
    judged: Judged,
    part: str,
    probabilities: np.ndarray | Probabilities,
    seen: np.ndarray,
    *,
    final: bool,
) -> Scores:
    """Returns the scores of given probabilities [n, C] of a part's n clips; seen [n]."""
    recordings, stage = judged.recordings, judged.stage
    indices = judged.parts[part]
    labels = label_array(recordings, stage.data.multi_label, indices)
    known = (labels >= 0).all(-1) if labels.ndim == 2 else labels >= 0
    counted = seen & known
    values: dict[str, float] = {}
    if counted.any():
        chosen = np.flatnonzero(counted)
        values = scores(
            probabilities if counted.all() else probabilities.take(chosen, axis=0),  # no copy
            labels if counted.all() else labels[chosen],
            recordings.class_names,
            top_k=stage.eval.top_k,
            seed=judged.seed,
            bootstrap=BOOTSTRAP if final else 0,
            sigmoid=judged.objective.options.loss == "sigmoid",
        )
    return Scores(values, Rows(recordings, part, indices, probabilities, seen))
