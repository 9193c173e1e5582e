"""The scores of a classifier, and its table of predictions."""

import dataclasses

import numpy as np

from sacjax.config.options import Options as OptionsBase
from sacjax.data.labels import label_array
from sacjax.evaluators.base import Evaluator, Judged, Scores, When
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

    def __call__(self, judged: Judged, part: str, *, final: bool) -> Scores:
        """Returns scores of a part's labelled, decodable clips, and rows of all decodable ones."""
        indices = judged.parts[part]
        logits, seen = judged.predict(indices)
        return score(judged, part, judged.objective.probabilities(logits), seen, final=final)


def score(
    judged: Judged, part: str, probabilities: np.ndarray, seen: np.ndarray, *, final: bool
) -> Scores:
    """Returns the scores of given probabilities [n, C] of a part's n clips; seen [n]."""
    recordings, stage = judged.recordings, judged.stage
    indices = judged.parts[part]
    labels = label_array(recordings, stage.data.multi_label, indices)
    known = (labels >= 0).all(-1) if labels.ndim == 2 else labels >= 0
    counted = seen & known
    values: dict[str, float] = {}
    if counted.any():
        values = scores(
            probabilities if counted.all() else probabilities[counted],  # no second copy
            labels if counted.all() else labels[counted],
            recordings.class_names,
            top_k=stage.eval.top_k,
            seed=judged.seed,
            bootstrap=BOOTSTRAP if final else 0,
            sigmoid=judged.objective.options.loss == "sigmoid",
        )
    rows = [
        {
            "file": recordings.names[i],
            "split": part,
            "label": "|".join(recordings.labels[i] or ()),
            "probabilities": probabilities[k],
            "index": int(i),
        }
        for k, i in enumerate(indices)
        if seen[k]
    ]
    return Scores(values, rows)
