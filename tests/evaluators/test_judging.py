"""Evaluators by their names in a config, for any objective, and what they say together."""

import numpy as np
import pytest
from evaluators.made_up import judge_of
from workdirs import config_of

from sacjax import config as config_lib
from sacjax import evaluators, inference
from sacjax.data import sources, splits
from sacjax.errors import UserError
from sacjax.evaluators import Judged, Scores
from sacjax.inference.embedder import file_batches


def stage_with(objective, *entries):
    stage = config_of("wav2vec2", objective).supervised
    stage.eval.evaluators = entries
    return stage


def names_of(stage):
    known = {kind: name for name, kind in evaluators.EVALUATORS.items()}
    return [known[type(evaluator)] for evaluator in evaluators.build(stage)]


def test_without_a_list_it_is_what_the_objective_suggests():
    assert names_of(stage_with("classification")) == ["classification"]
    assert names_of(stage_with("wav2vec2")) == ["objective"]
    entries = (dict(name="knn", examples=7), dict(name="linear", when="always"))
    for objective in ("classification", "wav2vec2"):
        stage = stage_with(objective, *entries)
        assert names_of(stage) == ["knn", "linear"]
        knn, linear = evaluators.build(stage)
        assert (knn.options.examples, knn.options.when) == (7, "always")
        assert (linear.options.examples, linear.options.when) == (0, "always")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (dict(name="kn"), r"eval.evaluators.0.name is 'kn'; did you mean 'knn'\?"),
        (dict(name="knn", neighbors=3), "evaluators.0.neighbors: knn has no such option; did you"),
        (dict(name="knn", neighbours="few"), "evaluators.0.neighbours is 'few': expected int"),
        (dict(name="knn", neighbours=0), "neighbours is 0: it must be positive"),
        (dict(name="linear", examples=-1), "examples is -1: it must be a finite number that is"),
        (dict(name="linear", when="never"), "when is 'never': choose one of always, end"),
        (dict(examples=1), "eval.evaluators.0 is {'examples': 1}: give dict"),
        ("knn", "eval.evaluators.0 is 'knn': give dict"),
        (dict(name="classification"), "evaluators.0: an objective without labels gives no classes"),
    ],
)
def test_a_mistake_in_a_config_is_one_line_that_names_the_entry(entry, message):
    config = config_of("wav2vec2", "wav2vec2")
    config.supervised.eval.evaluators = (entry,)
    with pytest.raises(UserError, match=f"^config.supervised.*{message}") as error:
        config_lib.check(config)
    assert "\n" not in str(error.value)


def test_one_option_of_an_entry_can_be_overridden():
    config = config_of("small_cnn")
    config.supervised.eval.evaluators = (dict(name="classification"), dict(name="knn"))
    config_lib.override(config, ["--config.supervised.eval.evaluators.1.examples=5"])
    assert evaluators.build(config.supervised)[1].options.examples == 5
    with pytest.raises(UserError, match="evaluators.1.exmples: knn has no such option"):
        config_lib.override(config, ["--config.supervised.eval.evaluators.1.exmples=5"])


class Told(evaluators.Evaluator):
    """Says what it was asked."""

    def __init__(self, when):
        self.options = type("Options", (), {"when": when})

    def __call__(self, judged, part, *, final):
        return Scores({f"{self.options.when}/{final}": 1.0}, [{"split": part}])


def test_judging_joins_what_all_say_and_leaves_the_end_for_the_end():
    judged = judge_of([("a",)], {"test": np.array([0])}, lambda index: np.zeros([len(index), 3]))
    both = [Told("always"), Told("end")]
    before = evaluators.judge(both, judged, "test", final=False)
    assert before == ({"test/always/False": 1.0}, [{"split": "test"}])
    after = evaluators.judge(both, judged, "test", final=True)
    assert after == ({"test/always/True": 1.0, "test/end/True": 1.0}, [{"split": "test"}] * 2)
    assert evaluators.judge(both, judged, "validation", final=True) == ({}, [])


def judged_model(model):
    """Returns a loaded model with its own data set, as stages and `--mode=eval` make it."""
    stage = model.stage_config
    recordings = sources.load(stage.data)
    embed = lambda batch: model.embeddings(batch["audio"], batch["length"])
    logits = lambda batch: model.logits(batch["audio"], batch["length"])
    return Judged(
        stage=stage,
        seed=0,
        objective=model.objective,
        recordings=recordings,
        parts=splits.split(recordings, stage.data),
        batches=lambda indices: file_batches(recordings, indices, stage),
        logits=logits,
        embeddings=embed,
        sums=lambda batch: {"loss": (6.0, 2.0)},
    )


@pytest.mark.parametrize("name", ["wav2vec2", "small_cnn"])
def test_probes_judge_any_objective(networks, name):
    model = inference.load(networks[name])
    judged, stage = judged_model(model), model.stage_config
    judged.objective.summarize = lambda sums: {"loss": sums["loss"][0] / sums["loss"][1]}
    stage.eval.evaluators = (dict(name="objective"), dict(name="knn"), dict(name="linear"))
    if model.is_classifier:
        stage.eval.evaluators += (dict(name="classification"),)
    found = evaluators.judge(evaluators.build(stage), judged, "test", final=True)
    assert found.values["test/loss"] == 3 or model.is_classifier  # whose own loss comes last
    assert 0 < found.values["test/knn_accuracy"] < 1
    assert 0 < found.values["test/linear_accuracy"] < 1
    assert ("test/accuracy" in found.values) == model.is_classifier
    assert len(found.rows) == (len(judged.parts["test"]) if model.is_classifier else 0)
