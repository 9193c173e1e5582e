"""The contract of an evaluator, and the trained model that it judges."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.evaluators.predictions import predict
from sacjax.evaluators.probabilities import Probabilities
from sacjax.train import metrics

When = Literal["always", "end"]


class Scores(NamedTuple):
    """The result of an evaluator on a part."""

    values: dict[str, float]
    """{metric: value}."""

    rows: Sequence[dict[str, Any]]
    """Rows of the table of predictions: `file, split, label, probabilities, index`; may be none."""


@dataclasses.dataclass
class Judged:
    """A model, and the data set on which it is judged."""

    stage: ConfigDict
    seed: int
    objective: Any
    recordings: Any
    parts: dict[str, np.ndarray]
    """{'train', 'validation', 'test'} → indices into `recordings`."""

    batches: Callable[[np.ndarray], Iterator[dict[str, Any]]]
    """Indices → host batches of evaluation windows."""

    logits: Callable[[dict[str, Any]], Any]
    """Host batch → [B, C]."""

    embeddings: Callable[[dict[str, Any]], Any]
    """Host batch → [B, D]."""

    sums: Callable[[dict[str, Any]], metrics.Sums]
    """Host batch → {metric: (sum, count)} of the objective."""

    losses: Callable[[dict[str, Any]], Any] | None = None
    """Host batch → [B, 1], the objective's loss of each example alone."""

    def predict(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (logits float32 [n, C] of clips, seen [n]); see `predictions.predict`."""
        classes = len(self.recordings.class_names)
        return predict(self.logits, self.batches(indices), indices, classes, np.float32)

    def embed(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (embeddings [n, D] of clips, seen [n])."""
        width = self.objective.features
        return predict(self.embeddings, self.batches(indices), indices, width)

    def losses_of(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (the loss [n] of each clip, averaged over its windows; seen [n])."""
        assert self.losses is not None
        values, seen = predict(self.losses, self.batches(indices), indices, 1)
        return values[:, 0], seen

    def evaluate(self, indices: np.ndarray) -> dict[str, float]:
        """Returns the objective's own metrics of clips."""
        total: Any = None
        for batch in self.batches(indices):
            sums = jax.device_get(self.sums(batch))
            total = sums if total is None else metrics.add(total, sums)
        return {} if total is None else self.objective.summarize(total)


class Evaluator:
    """Judges a model on a part of a data set.

    A subclass sets `Options` and `__call__`. Its class docstring's first line is what
    `sacjax list evaluators` shows.
    """

    Options: type
    """Frozen dataclass of the config entry's options; `when` is among them."""

    needs_classes = False
    """Whether it scores classes, which an objective without labels does not tell."""

    def __init__(self, **options: Any):
        """Takes the options of a config's entry. Raises UserError for a bad one."""
        self.options = self.Options(**options)

    def __call__(self, judged: Judged, part: str, *, final: bool) -> Scores:
        """Returns the scores of a part.

        Args:
          judged: the model and its data.
          part: train, validation or test.
          final: whether training is over; slow scores, such as intervals, are then added.
        """
        raise NotImplementedError

    def of_probabilities(
        self,
        judged: Judged,
        indices: np.ndarray,
        probabilities: np.ndarray | Probabilities,
        seen: np.ndarray,
    ) -> dict[str, float]:
        """Returns what follows from probabilities alone, which an ensemble has too; {} if nothing.

        Args:
          judged: the data, and a model.
          indices: int [n], the clips.
          probabilities: [n, C].
          seen: bool [n], which of the clips could be read.
        """
        return {}

    def check_stage(self, stage: ConfigDict, objective: Any) -> None:
        """Raises UserError where it could not judge a stage, whatever its clips.

        Args:
          stage: its config.
          objective: the class of its objective.
        """

    def check_clips(self, recordings: Recordings, indices: np.ndarray) -> None:
        """Raises UserError where it could not judge these clips; it is called before training.

        Args:
          recordings: of the data set.
          indices: int [n], the clips of all parts that are judged.
        """


def check_label(evaluator: str, option: str, label: str, recordings: Recordings) -> None:
    """Raises UserError for an evaluator's option that is no label of the data."""
    if label not in recordings.class_names:
        raise UserError(
            f"eval.evaluators: {evaluator}: {option} is '{label}', but the labels are "
            f"{', '.join(recordings.class_names) or 'none'}"
        )
