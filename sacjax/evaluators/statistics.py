"""Paired tests and intervals of two classifiers, over folds and over clips."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROUNDING = 1e-12  # differences of accuracies that are closer than this are equal


class PairedTest(NamedTuple):
    """A corrected resampled t-test between two classifiers."""

    difference: float  # mean score of the first less that of the second
    p: float | None  # two-sided; None where there is nothing to estimate the spread from
    note: str  # why there is no p; '' where there is one


class McNemar(NamedTuple):
    """McNemar's exact test between two classifiers on the same clips."""

    only_a: int  # clips that the first alone has right
    only_b: int
    p: float | None  # two-sided; None where no clip tells the two apart
    note: str  # why there is no p; '' where there is one


def paired_test(
    a: np.ndarray | Sequence[Sequence[float]],
    b: np.ndarray | Sequence[Sequence[float]],
    test_share: float,
) -> PairedTest:
    """Returns the corrected resampled t-test (Nadeau and Bengio 2003) of scores of two classifiers.

    The seeds of a fold share its clips, so they are averaged first and the folds are the sample.
    Training sets of different folds overlap, so the differences of folds are not independent
    either: the variance of their mean is taken as (1/n + test/train) times their sample variance,
    with n - 1 degrees of freedom.

    Args:
      a: scores [folds, seeds] of the first classifier.
      b: scores of the second, with the same folds and seeds in the same order.
      test_share: share of all clips that a fold tests, between 0 and 1.

    Raises:
      ValueError: scores of other shapes, none at all, or a share that is none.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 2 or a.shape != b.shape or not a.size:
        raise ValueError(f"scores must be two equal [folds, seeds], not {a.shape} and {b.shape}")
    if not 0 < test_share <= 1:
        raise ValueError(f"test_share is {test_share}: it must lie between 0 and 1")
    folds = (a - b).mean(1)
    mean, count = float(folds.mean()), len(folds)
    if count < 2:
        return PairedTest(mean, None, "one fold alone has no spread to test against")
    if np.ptp(folds) < ROUNDING:
        return PairedTest(
            mean, None, "the difference is the same in every fold: there is no spread"
        )
    if test_share == 1:
        return PairedTest(mean, None, "every fold tests all clips: none is left to train on")
    from scipy import stats  # here: it takes long to import

    overlap = test_share / (1 - test_share)
    error = np.sqrt((1 / count + overlap) * folds.var(ddof=1))
    return PairedTest(mean, float(2 * stats.t.sf(abs(mean) / error, count - 1)), "")


def mcnemar(right_a: np.ndarray | Sequence[bool], right_b: np.ndarray | Sequence[bool]) -> McNemar:
    """Returns McNemar's exact test (binomial, any number of clips) of which clips are right.

    It compares two trained classifiers; the variation between training runs is not in it.

    Args:
      right_a: bool [clips], whether the first classifier has the clip right.
      right_b: the same clips, of the second.

    Raises:
      ValueError: other numbers of clips.
    """
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if right_a.shape != right_b.shape:
        raise ValueError(f"{right_a.shape} and {right_b.shape} are not the same clips")
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if not only_a + only_b:
        return McNemar(0, 0, None, "no clip tells the two apart")
    from scipy import stats  # here: it takes long to import

    return McNemar(only_a, only_b, float(stats.binomtest(only_a, only_a + only_b).pvalue), "")


def paired_interval(
    right_a: np.ndarray | Sequence[bool],
    right_b: np.ndarray | Sequence[bool],
    seed: int = 0,
    draws: int = 10_000,
) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of a difference of accuracies on the same clips.

    Clips are drawn with replacement, each with what both classifiers say of it. A draw depends
    only on how many of its clips one of the two alone has right, so these counts are drawn.

    Args:
      right_a: bool [clips], whether the first classifier has the clip right.
      right_b: the same clips, of the second, whose accuracy is taken away.
      seed: of the draws.
      draws: how many.

    Raises:
      ValueError: other numbers of clips, or none.
    """
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if right_a.shape != right_b.shape or not right_a.size:
        raise ValueError(f"{right_a.shape} and {right_b.shape} are not the same clips, one or more")
    count = len(right_a)
    only_a, only_b = (right_a & ~right_b).mean(), (right_b & ~right_a).mean()
    shares = [only_a, only_b, max(1 - only_a - only_b, 0.0)]
    drawn = np.random.default_rng(seed).multinomial(count, shares, draws)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / count, [2.5, 97.5])
    return float(low), float(high)


def precision_draws(
    probabilities: np.ndarray, truth: np.ndarray, seed: int = 0, draws: int = 500
) -> np.ndarray:
    """Returns the mean average precision of bootstrap draws of clips, float [draws].

    Draws of one seed and number of clips are of the same clips, so those of two classifiers pair
    up. A class that no clip of a draw carries is left out of its mean, as `scores` does.

    Args:
      probabilities: float [N, C].
      truth: {0, 1} [N, C].
      seed: of the draws.
      draws: how many.
    """
    count, classes = truth.shape
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), draws).astype(np.float64)
    total, present = np.zeros(draws), np.zeros(draws)
    for k in range(classes):
        order = np.argsort(-probabilities[:, k], kind="stable")
        ends = np.flatnonzero(np.diff(probabilities[order, k], append=-np.inf))  # ties are one
        drawn = weights[:, order]
        found = np.cumsum(drawn * truth[order, k], 1)[:, ends]
        listed = np.cumsum(drawn, 1)[:, ends]
        gained = np.diff(found, axis=1, prepend=0.0)
        area = (gained * found / np.maximum(listed, 1)).sum(1)
        total += area / np.maximum(found[:, -1], 1)
        present += found[:, -1] > 0
    return total / np.maximum(present, 1)
