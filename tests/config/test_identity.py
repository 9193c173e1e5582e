"""Which configs say the same experiment, for resuming one and for pooling several."""

import copy
import json

import pytest

from sacjax import config as config_lib
from sacjax.config import identity


def saved(spec="configs/fsdd/wav2vec2.py:fold=1", *overrides):
    return json.loads(config_lib.to_json(config_lib.load(spec, overrides)))


def test_what_only_says_how_a_run_is_carried_out_is_no_part_of_an_experiment():
    one = saved()
    how = (
        "--config.mesh.data=1",
        "--config.checkpoint.every=7",
        "--config.profile=True",
        "--config.tensorboard=False",
        "--config.pretrain.data.cache=False",
        "--config.finetune.data.workers=3",
        "--config.finetune.data.prefetch=9",
        "--config.finetune.data.max_bad_fraction=0.5",
    )
    other = saved("configs/fsdd/wav2vec2.py:fold=1", *how)
    assert one != other and identity.same(one, other)
    assert identity.learned(one) == identity.learned(other)
    assert "mesh" in one and "cache" in one["finetune"]["data"]  # the argument is left alone


@pytest.mark.parametrize(
    "change, told",
    [
        ("--config.seed=3", "config.seed is 0 there and 3 here"),
        ("--config.finetune.data.fold=2", "config.finetune.data.fold is 1 there and 2 here"),
        ("--config.pretrain.train.steps=7", "config.pretrain.train.steps is 500 there and 7 here"),
        (
            "--config.finetune.model.encoder.layer_drop=0.5",
            "config.finetune.model.encoder.layer_drop is 0.0 there and 0.5 here",
        ),
        (
            "--config.pretrain.augment.waveform=()",
            'config.pretrain.augment.waveform is [{"name": "gain"}] there and [] here',
        ),
    ],
)
def test_the_first_key_that_differs_is_named_with_both_values(change, told):
    one, other = saved(), saved("configs/fsdd/wav2vec2.py:fold=1", change)
    assert identity.difference(one, other) == told
    assert not identity.same(one, other)


def test_an_absent_key_and_null_are_not_the_same():
    one, other = saved(), saved()
    other["pretrain"]["model"]["encoder"]["new"] = None
    assert identity.difference(one, other) == (
        "config.pretrain.model.encoder.new is absent there and null here"
    )


def test_a_config_of_an_earlier_version_has_the_defaults_of_keys_added_since():
    one, other = saved(), saved()
    del other["finetune"]["eval"]["analysis"], other["pretrain"]["data"]["windows"]
    assert identity.same(one, other) and identity.same(other, one, across_folds=True)
    assert "analysis" not in other["finetune"]["eval"]  # the argument is left alone
    one["finetune"]["eval"]["analysis"] = True
    told = "config.finetune.eval.analysis is false there and true here"
    assert identity.difference(other, one) == told


def test_tuples_and_the_lists_that_json_makes_of_them_are_the_same():
    config = config_lib.load("configs/fsdd/wav2vec2.py:fold=1", [])
    assert identity.same(config.to_dict(), saved())


def test_runs_of_one_cross_validation_share_all_but_seed_fold_draw_and_workdir():
    spec = "configs/fsdd/wav2vec2.py:fold={},shots=5,draw={}"
    start = ["--config.stages=('finetune',)", "--config.finetune.init_from=runs/fold{}/pretrain"]
    one, other = (
        saved(spec.format(k, k), *(word.format(k) for word in start), f"--config.seed={k}")
        for k in (1, 2)
    )
    assert not identity.same(one, other) and identity.same(one, other, across_folds=True)
    scratch = copy.deepcopy(one)
    scratch["finetune"]["init_from"] = ""
    published = copy.deepcopy(one)
    published["finetune"]["init_from"] = "hf:base"
    for changed in (scratch, published):
        told = identity.difference(other, changed, across_folds=True)
        assert told.startswith('config.finetune.init_from is "a workdir" there')
    longer = copy.deepcopy(other)
    longer["finetune"]["train"]["steps"] = 100
    told = identity.difference(one, longer, across_folds=True)
    assert told == "config.finetune.train.steps is 400 there and 100 here"


def test_folds_are_the_same_only_where_the_same_stages_hold_them_out():
    one, other = saved("configs/fsdd/wav2vec2.py:fold=1"), saved("configs/fsdd/wav2vec2.py:fold=2")
    assert identity.same(one, other, across_folds=True)
    heard = copy.deepcopy(other)
    heard["pretrain"]["data"]["fold"] = 0  # its encoder has heard the test fold
    assert "config.pretrain.data.fold" in identity.difference(one, heard, across_folds=True)
    heard["pretrain"]["data"]["fold"] = 1
    assert "config.pretrain.data.fold" in identity.difference(one, heard, across_folds=True)
    whole = copy.deepcopy(other)
    whole["finetune"]["data"]["fold"] = whole["pretrain"]["data"]["fold"] = 0
    assert not identity.same(one, whole, across_folds=True)


def test_a_split_seed_is_a_draw_only_where_labels_are_drawn():
    spec = "configs/fsdd/wav2vec2.py:fold=1,shots={},draw={}"
    assert identity.same(saved(spec.format(5, 0)), saved(spec.format(5, 1)), across_folds=True)
    all_labels = saved(spec.format(0, 0)), saved(spec.format(0, 1))  # which validation part, then
    assert "split_seed" in identity.difference(*all_labels, across_folds=True)
