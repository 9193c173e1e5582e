"""Evaluators, which judge a model. A config lists them as it lists augmentations.

    c.eval.evaluators = (dict(name="objective"), dict(name="knn", examples=500))

An empty tuple means those that the objective suggests.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from ml_collections import ConfigDict

from sacjax import objectives
from sacjax.config import options
from sacjax.errors import UserError, nearest
from sacjax.evaluators.anomaly import AnomalyEvaluator
from sacjax.evaluators.base import Evaluator, Judged, Scores
from sacjax.evaluators.classification import ClassificationEvaluator
from sacjax.evaluators.objective import ObjectiveEvaluator
from sacjax.evaluators.probing import LinearProbe, NeighbourProbe
from sacjax.evaluators.screening import ScreeningEvaluator

EVALUATORS: dict[str, type[Evaluator]] = {
    "classification": ClassificationEvaluator,
    "objective": ObjectiveEvaluator,
    "knn": NeighbourProbe,
    "linear": LinearProbe,
    "anomaly": AnomalyEvaluator,
    "screening": ScreeningEvaluator,
}

__all__ = [
    "EVALUATORS",
    "Evaluator",
    "Judged",
    "NeighbourProbe",
    "Scores",
    "build",
    "check",
    "judge",
]


@dataclasses.dataclass(frozen=True)
class Options(options.Options):
    """`eval` of a stage."""

    where = "eval"

    evaluators: tuple[Any, ...] = ()  # dict(name=…, …) each; () = what the objective suggests
    batch_size: int = 64  # windows, over all devices and hosts
    overlap: float = 0.5  # of the windows of long clips
    best: str = "validation/accuracy"  # the metric that names the best checkpoint
    best_mode: Literal["max", "min"] = "max"
    checkpoint: Literal["last", "best"] = "last"  # which one the final evaluation uses
    splits: tuple[str, ...] = ("validation", "test")  # evaluated at the end; test never before
    temperature: bool = False  # True: probabilities are calibrated on the validation part
    top_k: int = 5
    analysis: bool = False  # True: the report also doubts training labels, and explains mistakes
    mistakes: int = 12  # most confident mistakes shown in the report

    def check(self) -> None:
        """Raises UserError for windows that overlap too much, or an unknown part."""
        self.require_positive("batch_size", "top_k")
        self.require_not_negative("mistakes")
        self.require_shares("overlap")
        self.require(self.overlap <= 0.95, "overlap", "it must be at most 0.95")
        parts = ("train", "validation", "test")
        known = all(part in parts for part in self.splits)
        self.require(known, "splits", f"name some of {', '.join(parts)}")


def build(stage: ConfigDict) -> list[Evaluator]:
    """Returns the evaluators of a stage's config. Raises UserError for an unknown one."""
    kind = objectives.OBJECTIVES[stage.objective.name]
    entries = stage.eval.evaluators or kind.evaluators
    made = [_make(k, entry, kind.needs_labels) for k, entry in enumerate(entries)]
    for evaluator in made:
        evaluator.check_stage(stage, kind)
    return made


def check(stage: ConfigDict) -> None:
    """Raises UserError for an unknown evaluator or option."""
    build(stage)


def _make(number: int, entry: Any, has_classes: bool) -> Evaluator:
    where = f"eval.evaluators.{number}"
    try:
        given = dict(entry)
        name = given.pop("name")
    except (TypeError, ValueError, KeyError):
        raise UserError(f"{where} is {entry!r}: give dict(name=…, …)") from None
    if name not in EVALUATORS:
        raise UserError(f"{where}.name is '{name}'{nearest(str(name), EVALUATORS)}")
    if EVALUATORS[name].needs_classes and not has_classes:
        raise UserError(f"{where}: an objective without labels gives no classes to score")
    options.check(where, name, given, EVALUATORS[name].Options)
    return EVALUATORS[name](**given)


def judge(evaluators: list[Evaluator], judged: Judged, part: str, *, final: bool) -> Scores:
    """Returns the scores of all evaluators on a part, as {'part/metric': value}, and the rows.

    An empty part has none. Evaluators with `when="end"` run only if `final`. Where two give a
    metric of one name, the first one's counts.
    """
    values: dict[str, float] = {}
    rows: Sequence[dict[str, Any]] = []
    if len(judged.parts[part]):
        for evaluator in evaluators:
            if final or evaluator.options.when == "always":
                scores = evaluator(judged, part, final=final)
                values = {f"{part}/{name}": v for name, v in scores.values.items()} | values
                rows = [*rows, *scores.rows] if rows and scores.rows else rows or scores.rows
    return Scores(values, rows)
