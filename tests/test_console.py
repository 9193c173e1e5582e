"""What a run says of its results."""

import pytest

from sacjax import config as config_lib
from sacjax import console, objectives


@pytest.mark.parametrize(("shuffled", "warned"), [(0.05, False), (0.21, True)])
def test_a_pretraining_that_is_no_better_than_chance_says_so(capsys, shuffled, warned):
    stage = config_lib.stage()
    stage.eval.splits, stage.objective.name = ("validation",), "wav2vec2"
    scores = dict(
        loss=1.0,
        contrastive_accuracy=0.22,
        chance_accuracy=0.05,
        shuffled_accuracy=shuffled,
        code_perplexity_1=41.7,
    )
    values = {f"validation/{key}": value for key, value in scores.items()}
    console.print_scores("pretrain", values, stage, objectives.build(stage))
    lines = capsys.readouterr().out.splitlines()
    said = "contrastive accuracy 22.0 % (chance 5.0 %), code perplexity 41.7"
    assert lines[0] == f"pretrain: validation {said}"
    assert any("encoder/conv" in line for line in lines[1:]) == warned


@pytest.mark.parametrize(
    ("splits", "why"),
    [((), "eval.splits is empty"), (("train", "test"), "no clip is in train or test")],
)
def test_a_stage_without_results_says_why(splits, why):
    stage = config_lib.stage()
    stage.eval.splits = splits
    assert console.why_nothing(stage).startswith(why)
