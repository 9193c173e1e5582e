"""Probes of a frozen encoder as evaluators: nearest neighbours and a linear classifier."""

import dataclasses

import numpy as np

from sacjax import oversampling
from sacjax.config.options import Options as OptionsBase
from sacjax.data import splits
from sacjax.evaluators import probes
from sacjax.evaluators.base import Evaluator, Judged, Scores, When


@dataclasses.dataclass(frozen=True)
class NeighbourOptions(OptionsBase):
    """Options of the nearest-neighbour probe."""

    where = "eval.evaluators"

    when: When = "always"
    examples: int = 1000  # labelled training clips at the most, always the same ones; 0 = all
    neighbours: int = 10

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        self.require_not_negative("examples")
        self.require_positive("neighbours")


@dataclasses.dataclass(frozen=True)
class LinearOptions(OptionsBase):
    """Options of the linear probe."""

    where = "eval.evaluators"

    when: When = "end"
    examples: int = 0  # labelled training clips at the most, always the same ones; 0 = all
    balance: probes.Balance = "none"  # of classes of unequal size; smote and its kin are an extra

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        self.require_not_negative("examples")
        if self.balance not in ("none", "weights", "over"):
            oversampling.check_installed()


class NeighbourProbe(Evaluator):
    """Accuracy of the majority of the nearest labelled training clips, by cosine of embeddings."""

    Options = NeighbourOptions

    def __call__(self, judged: Judged, part: str, *, final: bool) -> Scores:
        """Returns `knn_accuracy`; on the training part, the leave-one-out accuracy.

        There is no score with fewer than two classes, or nothing to test.
        """
        train, test, labels = probed_clips(judged, part, self.options.examples)
        if part == "train":
            test = test[:0]
        x, y, others, wanted = embedded(judged, train, test, labels)
        if len(set(y)) < 2 or (part != "train" and not len(wanted)):
            return Scores({}, [])
        if part == "train":
            accuracy = probes.knn(x, y, None, None, self.options.neighbours)
        else:
            accuracy = probes.knn(x, y, others, wanted, self.options.neighbours)
        return Scores({"knn_accuracy": accuracy}, [])


class LinearProbe(Evaluator):
    """Accuracy of logistic regression on embeddings of labelled training clips."""

    Options = LinearOptions

    def __call__(self, judged: Judged, part: str, *, final: bool) -> Scores:
        """Returns `probes.linear_scores`; nothing for the training part or without two classes."""
        train, test, labels = probed_clips(judged, part, self.options.examples)
        if part == "train":
            return Scores({}, [])
        x, y, others, wanted = embedded(judged, train, test, labels)
        if len(set(y)) < 2 or not len(wanted):
            return Scores({}, [])
        scores = probes.linear_scores(x, y, others, wanted, judged.seed, self.options.balance)
        return Scores(scores, [])


def probed_clips(
    judged: Judged, part: str, examples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (training clips, clips to test, first labels [N] of the data set)."""
    labels = splits.first_labels(judged.recordings)
    train, test = (judged.parts[p][labels[judged.parts[p]] >= 0] for p in ("train", part))
    train = np.random.default_rng(judged.seed).permutation(train)
    return train[: examples or None], test, labels


def embedded(
    judged: Judged, train: np.ndarray, test: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (training vectors, their labels, test vectors, their labels) of decodable clips."""
    if len(set(labels[train])) < 2:  # nothing to learn, so nothing to read
        train, test = train[:0], test[:0]
    vectors, seen = judged.embed(np.concatenate([train, test]))
    learned, tested = seen[: len(train)], seen[len(train) :]
    return (
        vectors[: len(train)][learned],
        labels[train[learned]],
        vectors[len(train) :][tested],
        labels[test[tested]],
    )
