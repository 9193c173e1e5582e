"""Evaluators by name, on made-up models: what each says, and what it leaves out."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit

from sacjax import config as config_lib
from sacjax import evaluators, objectives
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.evaluators import Judged
from sacjax.objectives import OBJECTIVES

NAMES = ("a", "b", "c")


def stage_of(objective="classification", multi_label=False, **options):
    stage = config_lib.stage()
    stage.data.multi_label = multi_label
    stage.objective.name, stage.objective.options = objective, options
    return stage


def judged_of(values, labels, parts, stage=None, width=3):
    """Returns a model that gives a clip's row of `values` as its logits and as its embedding."""
    stage = stage or stage_of()
    recordings = Recordings(
        names=[f"{k}.wav" for k in range(len(labels))],
        labels=labels,
        class_names=NAMES,
        open=lambda k: None,
    )

    def batches(indices):  # two windows a clip, three a batch
        windows = np.repeat(indices, 2)
        windows = np.append(windows, np.full(-len(windows) % 3, -1))
        for index in windows.reshape(-1, 3):
            yield dict(index=index, mask=(index >= 0).astype(np.float32))

    def rows(batch):
        return values[np.maximum(batch["index"], 0)]

    def sums(batch):
        mask = batch["mask"]
        return {"loss": ((rows(batch)[:, 0] * mask).sum(), mask.sum())}

    objective = objectives.build(stage, NAMES, np.ones(3))
    if not isinstance(objective, OBJECTIVES["classification"]):
        objective = SimpleNamespace(features=width, summarize=objective.summarize)
    elif width != 3:
        objective = SimpleNamespace(features=width)
    return Judged(stage, 0, objective, recordings, parts, batches, rows, rows, sums)


def score(values, labels, stage, final=False):
    """Returns the scores of a classifier of these logits, all clips of which are tested."""
    parts = {"test": np.arange(len(labels))}
    judged = judged_of(values, labels, parts, stage)
    return evaluators.judge(evaluators.build(stage), judged, "test", final=final)


def test_clips_of_unknown_labels_are_predicted_but_not_scored():
    logits = np.random.default_rng(0).standard_normal([6, 3])
    logits[[0, 2], [0, 1]] = 9
    labels = [("a",), (), ("b",), ("c",), ("c",), ()]
    logits[[3, 4], 2] = -9
    values, rows = score(logits, labels, stage_of())
    assert values["test/accuracy"] == 0.5
    assert [row["label"] for row in rows] == ["a", "", "b", "c", "c", ""]
    np.testing.assert_allclose(sum(row["probabilities"].sum() for row in rows), 6)


def test_of_several_labels_unknown_is_left_out_and_none_counts():
    """The last clip is known to have no label; saying that it has one is an error."""
    stage = stage_of(multi_label=True, loss="sigmoid")
    labels = [("a", "c"), None, ("b",), ()]
    right = np.array([[5.0, -5, 5], [9, 9, 9], [-5, 5, -5], [-5, -5, -5]])
    values, rows = score(right, labels, stage)
    assert values["test/accuracy"] == 1.0 and len(rows) == 4
    wrong = right.copy()
    wrong[3, 0] = 6.0
    values, _ = score(wrong, labels, stage)
    assert values["test/accuracy"] == pytest.approx(2 / 3)
    precision = values["test/precision/a"], values["test/mean_average_precision"]
    assert precision == (0.5, pytest.approx((0.5 + 1 + 1) / 3))
    p = expit(wrong[[0, 2, 3]])
    truth = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    want = -np.log(np.where(truth, p, 1 - p)).mean()
    assert values["test/loss"] == pytest.approx(want)


def test_intervals_come_at_the_end_and_nothing_of_an_empty_part():
    logits = np.eye(3)[[0, 1, 2, 0]]
    labels = [("a",), ("b",), ("c",), ("b",)]
    assert "test/accuracy_low" not in score(logits, labels, stage_of()).values
    assert "test/accuracy_low" in score(logits, labels, stage_of(), final=True).values
    judged = judged_of(logits, labels, {"test": np.array([], int)})
    assert evaluators.judge(evaluators.build(stage_of()), judged, "test", final=True) == ({}, [])


def test_the_objectives_own_metrics_weigh_by_what_they_count():
    stage = stage_of()
    stage.eval.evaluators = (dict(name="objective"),)
    values = np.arange(15.0).reshape(5, 3)
    parts = {"validation": np.array([4, 1, 0])}
    judged = judged_of(values, [()] * 5, parts, stage)
    found = evaluators.judge(evaluators.build(stage), judged, "validation", final=False)
    assert found == ({"validation/loss": pytest.approx((12 + 3 + 0) / 3)}, [])


def clusters(seed=0):
    """Returns embeddings [60, 2] around three directions, and their labels."""
    rng, labels = np.random.default_rng(seed), np.arange(60) % 3
    angle = 2 * labels + rng.normal(0, 0.1, 60)
    return np.stack([np.cos(angle), np.sin(angle)], 1), [(NAMES[k],) for k in labels]


def probe(entry, part, parts, values, labels, final=True):
    stage = stage_of()
    stage.eval.evaluators = (entry,)
    judged = judged_of(values, labels, parts, stage, width=2)
    return evaluators.judge(evaluators.build(stage), judged, part, final=final).values


def test_probes_learn_from_labelled_training_clips_alone():
    values, labels = clusters()
    parts = {"train": np.arange(40), "validation": np.arange(40, 50), "test": np.arange(50, 60)}
    labels[:20] = [()] * 20
    labels[50] = ()
    for entry, keys in (
        (dict(name="knn"), ["knn_accuracy"]),
        (dict(name="linear"), ["linear_accuracy", "linear_balanced_accuracy"]),
    ):
        wanted = {f"test/{key}": 1.0 for key in keys}
        assert probe(entry, "test", parts, values, labels) == wanted
    wrong = [*labels[:50], *[("a",)] * 10]  # 4 of them are
    found = probe(dict(name="knn"), "test", parts, values, wrong)
    assert found["test/knn_accuracy"] == pytest.approx(0.3, abs=0.11)


def test_neighbours_of_the_training_part_are_asked_without_the_clip_itself():
    values, labels = clusters()
    labels[7] = ("a",) if labels[7] != ("a",) else ("b",)  # alone among others
    parts = {"train": np.arange(60)}
    found = probe(dict(name="knn", neighbours=1, examples=0), "train", parts, values, labels)
    assert 56 / 60 <= found["train/knn_accuracy"] < 1  # it, and perhaps whose nearest it is
    assert probe(dict(name="linear"), "train", parts, values, labels) == {}


def test_a_probe_takes_so_many_examples_always_the_same_and_says_nothing_of_one_class():
    values, labels = clusters()
    parts = {"train": np.arange(50), "test": np.arange(50, 60)}
    few = [probe(dict(name="knn", examples=9), "test", parts, values, labels) for _ in range(2)]
    assert few[0] == few[1] != {}
    one = [("a",)] * 60
    for name in ("knn", "linear"):
        assert probe(dict(name=name), "test", parts, values, one) == {}


def test_a_probe_for_the_end_waits_for_it():
    values, labels = clusters()
    parts = {"train": np.arange(50), "test": np.arange(50, 60)}
    for entry in (dict(name="linear"), dict(name="knn", when="end")):
        assert probe(entry, "test", parts, values, labels, final=False) == {}
    assert probe(dict(name="linear", when="always"), "test", parts, values, labels, final=False)


def test_an_empty_list_takes_what_the_objective_suggests():
    kinds = [type(e).__name__ for e in evaluators.build(stage_of())]
    assert kinds == ["ClassificationEvaluator"]
    kinds = [type(e).__name__ for e in evaluators.build(stage_of("wav2vec2"))]
    assert kinds == ["ObjectiveEvaluator"]


@pytest.mark.parametrize(
    ("objective", "entry", "message"),
    [
        ("classification", "knn", "eval.evaluators.0 is 'knn': give dict"),
        ("classification", dict(examples=3), "eval.evaluators.0 is .*: give dict"),
        ("classification", dict(name="kmn"), "eval.evaluators.0.name is 'kmn'; did you mean 'knn'"),
        ("classification", dict(name="knn", neighbors=3), "neighbors.*did you mean 'neighbours'"),
        ("classification", dict(name="knn", neighbours=0), "neighbours is 0: it must be positive"),
        ("classification", dict(name="linear", when="now"), "when is 'now'"),
        ("wav2vec2", dict(name="classification"), "without labels gives no classes to score"),
    ],
)
def test_what_is_refused(objective, entry, message):
    stage = stage_of(objective)
    stage.eval.evaluators = (entry,)
    with pytest.raises(UserError, match=message):
        evaluators.check(stage)
