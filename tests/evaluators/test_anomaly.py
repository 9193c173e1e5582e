"""Areas under the ROC curve of anomaly scores, against the rank test and by hand."""

import numpy as np
import pytest
from evaluators.made_up import judge_of
from scipy.stats import mannwhitneyu

from sacjax import config as config_lib
from sacjax.errors import UserError
from sacjax.evaluators.anomaly import AnomalyEvaluator, areas


def test_the_area_is_the_rank_statistic():
    rng = np.random.default_rng(0)
    anomalous = rng.random(60) < 0.4
    scores = np.round(rng.standard_normal(60) + anomalous, 1)  # with ties
    rank = mannwhitneyu(scores[anomalous], scores[~anomalous]).statistic
    wanted = rank / (anomalous.sum() * (~anomalous).sum())
    whole, partial = areas(scores, anomalous, 1.0)
    assert whole == pytest.approx(wanted) and partial == pytest.approx(wanted)


def test_the_partial_area_by_hand():
    """Of 10 normal clips one lies above half of the anomalies: up to a fifth of false alarms.

    The curve rises to 1/2 at once, and to 1 at a false-alarm rate of 0.1: the area up to 0.2 is
    0.1 · 0.5 + 0.1 · 1 = 0.15. Chance is 0.2²/2 = 0.02 and the best 0.2, so McClish's scale gives
    (1 + (0.15 - 0.02) / (0.2 - 0.02)) / 2.
    """
    scores = np.array([9.0, 8.0, 5.0, 4.0] + [7.0] + [1.0] * 9)
    anomalous = np.arange(14) < 4
    whole, partial = areas(scores, anomalous, 0.2)
    assert whole == pytest.approx(0.5 * 0.1 + 0.9)
    assert partial == pytest.approx((1 + 0.13 / 0.18) / 2)


def judged(losses, labels, names):
    """A model whose losses are given: clips of the machines that `names` tell."""
    made = judge_of(
        [(label,) for label in labels],
        {"test": np.arange(len(labels))},
        lambda index: np.zeros([len(index), 2]),
        names=("anomaly", "normal"),
        broken=(len(labels) - 1,),
    )
    made.recordings.names = names
    made.losses = lambda batch: np.asarray(losses)[np.maximum(batch["index"], 0)][:, None]
    return made


def test_areas_of_each_machine_and_their_mean():
    """Losses of the two machines differ in level; the last clip cannot be read."""
    labels = ["normal", "anomaly"] * 6 + ["normal", "anomaly"]
    names = [f"{labels[k]}_id_{k // 4:02d}_{k}.wav" for k in range(14)]
    losses = [1, 2, 1.5, 3, 11, 12, 14, 13, 21, 20, 23, 22, 9, np.nan]
    made = judged(losses, labels, names)
    found = AnomalyEvaluator(by=r"id_\d+")(made, "test", final=True).values
    assert [found[f"anomaly_auc/id_0{k}"] for k in range(3)] == [1.0, 0.5, 0.25]
    assert "anomaly_auc/id_03" not in found  # its anomaly cannot be read
    assert found["anomaly_auc"] == pytest.approx(1.75 / 3)
    together = AnomalyEvaluator()(made, "test", final=True).values
    readable = np.array(losses[:-1]), np.array(labels[:-1]) == "anomaly"
    assert together["anomaly_auc"] == pytest.approx(areas(*readable, 0.1)[0])
    assert set(together) == {"anomaly_auc", "anomaly_partial_auc"}


def test_normal_clips_alone_have_no_area():
    made = judged(np.arange(4.0), ["normal"] * 4, list("abcd"))
    assert AnomalyEvaluator()(made, "test", final=True).values == {}


def test_anomalies_of_which_none_can_be_read_have_no_area():
    made = judged([1.0, 2.0, 3.0], ["normal", "normal", "anomaly"], list("abc"))
    assert AnomalyEvaluator()(made, "test", final=True).values == {}


def test_mistakes():
    made = judged([1.0, np.inf, 0.0], ["normal", "anomaly", "normal"], list("abc"))
    with pytest.raises(UserError, match="normal is 'ok', but the labels are anomaly, normal"):
        AnomalyEvaluator(normal="ok")(made, "test", final=True)
    with pytest.raises(UserError, match=r"by 'id' is not in 'a'"):
        AnomalyEvaluator(by="id")(made, "test", final=True)
    with pytest.raises(UserError, match="losses of 1 of 2 clips are not finite"):
        AnomalyEvaluator()(made, "test", final=True)
    with pytest.raises(UserError, match="above 0 and at most 1"):
        AnomalyEvaluator(max_false_positives=0.0)
    with pytest.raises(UserError, match="no regular expression"):
        AnomalyEvaluator(by="(")
    config = config_lib.default()
    config.supervised.eval.evaluators = (dict(name="anomaly"),)
    with pytest.raises(
        UserError, match="anomaly takes the loss of each clip, but .*classification"
    ):
        config_lib.check(config)
