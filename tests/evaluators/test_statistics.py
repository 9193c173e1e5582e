"""Paired tests of two classifiers, against worked values, scipy and simulated cross-validations."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from sacjax.evaluators.statistics import mcnemar, paired_interval, paired_test, precision_draws

FOLDS = 5


def test_the_corrected_t_test_is_the_formula_worked_by_hand():
    # Differences 1 to 5 points: mean 3, variance 2.5; (1/5 + 1/4) of it is 1.125; t = 2.828 of 4.
    b = np.full((5, 1), 0.5)
    found = paired_test(b + np.arange(1, 6)[:, None] / 100, b, test_share=0.2)
    assert found.difference == pytest.approx(0.03) and not found.note
    assert found.p == pytest.approx(0.047421, abs=1e-6)  # 2 (1 - F(2.828427)), from a table of t


def test_without_overlap_and_seeds_it_is_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.7, 0.9, (2, 6, 4))
    expected = stats.ttest_rel(a.mean(1), b.mean(1)).pvalue
    assert paired_test(a, b, test_share=1e-12).p == pytest.approx(expected)
    assert paired_test(a, b, test_share=0.2).p > expected
    back = paired_test(b, a, test_share=0.2)
    assert back.p == pytest.approx(paired_test(a, b, test_share=0.2).p)
    assert back.difference == pytest.approx(-paired_test(a, b, 0.2).difference)


def test_seeds_that_repeat_each_other_count_once():
    a, b = np.array([[0.9], [0.8], [0.7]]), np.array([[0.8], [0.8], [0.6]])
    once, often = paired_test(a, b, 1 / 3), paired_test(np.tile(a, 10), np.tile(b, 10), 1 / 3)
    assert often.p == pytest.approx(once.p)


@pytest.mark.parametrize(
    "a, b, share, note",
    [
        ([[0.9, 0.8]], [[0.7, 0.9]], 0.2, "one fold alone"),
        ([[0.9], [0.8]], [[0.8], [0.7]], 0.5, "the same in every fold"),
        ([[0.9], [0.8]], [[0.9], [0.8]], 0.5, "the same in every fold"),
        ([[0.9], [0.8]], [[0.8], [0.8]], 1.0, "none is left to train on"),
    ],
)
def test_without_spread_there_is_no_p_but_a_reason(a, b, share, note):
    found = paired_test(a, b, share)
    assert found.p is None and note in found.note
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))


def test_scores_that_do_not_pair_are_refused():
    for a, b, share in (([[1.0]], [[1.0], [1.0]], 0.5), ([1.0], [1.0], 0.5), ([[1.0]], [[1.0]], 0)):
        with pytest.raises(ValueError):
            paired_test(a, b, share)


def cross_validations(seeds, repeats=1000, clips=60, width=4, noise=1.0):
    """Accuracies [2, repeats, FOLDS, seeds] of two learners that are equally good on average.

    Each sees features of its own, of the same distribution, and classifies by the sign of the
    product with the mean difference of two classes, which it learns from the other folds' clips
    (so training sets overlap), and a seed blurs.
    """
    rng = np.random.default_rng(seeds)
    truth, fold = np.tile([-1.0, 1.0], clips // 2), np.arange(clips) // 2 % FOLDS
    shift = 0.25 * truth[:, None]
    features = rng.standard_normal((2, repeats, clips, width)) + shift
    accuracy = np.empty((2, repeats, FOLDS, seeds))
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        learned = (features[:, :, train] * truth[train, None]).mean(2)[:, :, None]
        blur = noise * rng.standard_normal((2, repeats, seeds, width)) / np.sqrt(train.sum())
        score = np.einsum("lrcw,lrsw->lrsc", features[:, :, test], learned + blur)
        accuracy[:, :, k] = (score * truth[test] > 0).mean(-1)
    return accuracy


@pytest.mark.parametrize("seeds", [3, 10])
def test_equal_learners_differ_at_five_percent_in_five_percent_of_cross_validations(seeds):
    a, b = cross_validations(seeds)
    found = [paired_test(x, y, 1 / FOLDS).p for x, y in zip(a, b, strict=True)]
    rejected = np.mean([p is not None and p < 0.05 for p in found])
    assert 0.02 < rejected < 0.07
    # Counting each seed of each fold, as was done, finds differences that are not there.
    pairs = (a - b).reshape(len(a), -1)
    assert np.mean(stats.ttest_1samp(pairs, 0, axis=1).pvalue < 0.05) > 0.25
    # Averaging the seeds alone is not enough: training sets overlap.
    assert np.mean(stats.ttest_1samp((a - b).mean(2), 0, axis=1).pvalue < 0.05) > 0.08


def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_clips():
    a = np.array([1] * 30 + [1] * 9 + [0] * 2 + [0] * 4, bool)
    b = np.array([1] * 30 + [0] * 9 + [1] * 2 + [0] * 4, bool)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (9, 2) and not found.note
    assert found.p == pytest.approx(2 * (1 + 11 + 55) / 2**11)  # at most 2 heads of 11
    assert mcnemar(b, a).p == found.p and mcnemar(b, a).only_a == 2
    many = mcnemar(np.arange(5000) < 2600, np.arange(5000) >= 2600)
    expected = stats.chi2.sf((2600 - 2400 - 1) ** 2 / 5000, 1)  # McNemar's, with its correction
    assert many.p == pytest.approx(expected, rel=0.02)


def test_mcnemar_without_a_discordant_clip_has_no_p():
    found = mcnemar([True, False], [True, False])
    assert found == (0, 0, None, "no clip tells the two apart")
    with pytest.raises(ValueError):
        mcnemar([True], [True, False])


def test_the_paired_interval_is_that_of_scipys_bootstrap():
    rng = np.random.default_rng(1)
    a, b = rng.random(150) < 0.7, rng.random(150) < 0.6
    found = stats.bootstrap(
        (a.astype(float) - b,), np.mean, method="percentile", rng=np.random.default_rng(2)
    )
    assert paired_interval(a, b) == pytest.approx(found.confidence_interval, abs=0.008)
    assert paired_interval(a, a) == (0.0, 0.0)
    with pytest.raises(ValueError, match="are not the same clips"):
        paired_interval(a, b[1:])


def test_draws_of_the_precision_are_scikit_learns_with_the_draws_as_weights():
    rng = np.random.default_rng(3)
    p, truth = rng.integers(0, 6, (40, 3)) / 5, (rng.random((40, 3)) < 0.3).astype(int)  # ties
    found = precision_draws(p, truth, seed=4, draws=5)
    weights = np.random.default_rng(4).multinomial(40, np.full(40, 1 / 40), 5)
    expected = [average_precision_score(truth, p, sample_weight=w) for w in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
