"""The objective's own loss and metrics on a part."""

import dataclasses

from sacjax.config.options import Options as OptionsBase
from sacjax.evaluators.base import Evaluator, Judged, Scores, When


@dataclasses.dataclass(frozen=True)
class Options(OptionsBase):
    """Options of the objective's own metrics."""

    where = "eval.evaluators"

    when: When = "always"


class ObjectiveEvaluator(Evaluator):
    """The objective's own loss and metrics, on clips that it does not learn from."""

    Options = Options

    def __call__(self, judged: Judged, part: str, *, final: bool) -> Scores:
        """Returns the objective's metrics of a part."""
        return Scores(judged.evaluate(judged.parts[part]), [])
