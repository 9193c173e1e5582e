"""What every objective has; see `sacjax.objectives` for what it must add."""

from typing import Any

from sacjax.train import metrics

Sums = dict[str, tuple[Any, Any]]


class Objective:
    """Defaults of what the train loop asks of an objective."""

    needs_labels = True  # whether training examples without a label are useless to it
    num_classes = 0
    collapse_patience = 0  # log lines in a row that look collapsed before a run stops; 0 = never
    advice = ""  # what helps against a collapse

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Returns the metrics on the host."""
        return metrics.means(sums)

    def collapse(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''."""
        return ""
