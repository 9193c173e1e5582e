"""Sensitivity and specificity, against Wilson's formula and by hand."""

import numpy as np
import pytest
from evaluators.made_up import judge_of

from sacjax import config as config_lib
from sacjax import evaluators
from sacjax.data import hosts
from sacjax.errors import UserError
from sacjax.evaluators.screening import ScreeningEvaluator, screening


def wilson(correct, cases, z=1.959963984540054):
    """Wilson 1927, as statsmodels' `proportion_confint(method='wilson')` writes it."""
    share, add = correct / cases, z**2 / cases
    middle = (share + add / 2) / (1 + add)
    half = z / (1 + add) * np.sqrt(share * (1 - share) / cases + add / (4 * cases))
    return middle - half, middle + half


def test_figures_of_a_screening():
    """8 of 10 ill are found and 15 of 20 healthy are not; a probability at the threshold is one."""
    probabilities = np.array([0.5] + [0.9] * 7 + [0.1] * 2 + [0.6] * 5 + [0.2] * 15)
    positive = np.arange(30) < 10
    found = screening(probabilities, positive)
    assert (found["sensitivity"], found["specificity"]) == (0.8, 0.75)
    assert (found["screened_positive"], found["screened_negative"]) == (10, 20)
    for name, correct, cases in (("sensitivity", 8, 10), ("specificity", 15, 20)):
        ends = found[f"{name}_low"], found[f"{name}_high"]
        assert ends == pytest.approx(wilson(correct, cases), abs=1e-12)
    assert (found["sensitivity_low"], found["sensitivity_high"]) == pytest.approx(
        (0.4902, 0.9433), abs=1e-4
    )  # of 8 in 10, Brown, Cai and DasGupta 2001
    higher = screening(probabilities, positive, 0.7)
    assert (higher["sensitivity"], higher["specificity"]) == (0.7, 1.0)
    assert screening(np.ones(2), np.ones(2, bool)).keys() == {
        "screened_positive", "screened_negative", "sensitivity", "sensitivity_low",
        "sensitivity_high",
    }  # fmt: skip


def test_the_recordings_of_a_patient_are_one(capsys):
    """Three patients, and two recordings of nobody known; one label unknown, one clip unread."""
    hosts.tell.cache_clear()
    shares = np.array([0.9, 0.3, 0.2, 0.3, 0.8, 0.1, 0.9, 0.99, 0.0])
    labels = ["ill", "ill", "well", "well", "well", "ill", None, "well", "ill"]
    made = judge_of(
        [None if label is None else (label,) for label in labels],
        {"test": np.arange(9)},
        lambda index: np.log(np.maximum([shares[index], 1 - shares[index]], 1e-9)).T,
        names=("ill", "well"),
        broken=(8,),
    )
    made.recordings.groups = ["a", "a", "b", "b", "", "", "c", "d", "d"]
    found = ScreeningEvaluator(positive="ill")(made, "test", final=True).values
    # a: 0.6, ill, found. b: 0.25, well. One of nobody: well, taken for ill. The other: ill, missed.
    # d: well, taken for ill.
    assert found["screened_positive"] == 2 and found["screened_negative"] == 3
    assert found["sensitivity"] == 0.5 and found["specificity"] == pytest.approx(1 / 3)
    assert "this is no medical device" in capsys.readouterr().err
    # Of given probabilities, such as an ensemble's, the clip without a label is left out.
    p = np.stack([shares, 1 - shares], 1)
    indices, seen = np.arange(9), np.arange(9) != 8
    given = ScreeningEvaluator(positive="ill").of_probabilities(made, indices, p, seen)
    assert given == pytest.approx(found)
    assert ScreeningEvaluator(positive="ill").of_probabilities(made, indices, p, indices == 6) == {}


def test_people_who_differ_by_less_than_float32_tells_are_told_apart():
    """Both are taken for ill with nearly 1; their logits differ, and so their ranks."""
    logits = np.array([[20.0, 0.0], [19.0, 0.0], [-1.0, 0.0]])
    labels = [("ill",), ("well",), ("well",)]
    made = judge_of(
        labels, {"test": np.arange(3)}, lambda index: logits[index], names=("ill", "well")
    )
    found = ScreeningEvaluator(positive="ill")(made, "test", final=True).values
    assert found["screening_auc"] == 1.0


def test_a_diverged_model():
    labels = [("ill",), ("well",)]
    give = lambda index: np.where(index[:, None] == 1, np.nan, [1.0, 0.0])
    made = judge_of(labels, {"test": np.arange(2)}, give, names=("ill", "well"))
    with pytest.raises(UserError, match="probabilities of 1 of 2 clips are not finite"):
        ScreeningEvaluator(positive="ill")(made, "test", final=True)


def test_mistakes():
    made = judge_of([("a",)], {"test": np.arange(1)}, lambda index: np.zeros([len(index), 3]))
    with pytest.raises(UserError, match="positive is 'ill', but the labels are a, b, c"):
        ScreeningEvaluator(positive="ill")(made, "test", final=True)
    with pytest.raises(UserError, match="give the label that is to be found"):
        ScreeningEvaluator()
    stage = config_lib.stage()
    stage.eval.evaluators = (dict(name="screening", positive="ill"),)
    stage.data.multi_label = True
    with pytest.raises(UserError, match="screening needs clips of one label"):
        evaluators.build(stage)
    config = config_lib.default()
    config.supervised.objective.name = "autoencoder"
    config.supervised.eval.evaluators = (dict(name="screening", positive="ill"),)
    with pytest.raises(UserError, match="without labels gives no classes"):
        config_lib.check(config)
