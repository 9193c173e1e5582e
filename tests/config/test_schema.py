"""A config is assembled from the options of its parts, and every bad value names its key."""

import dataclasses

import pytest

from sacjax import config as config_lib
from sacjax.config import schema
from sacjax.errors import UserError


def checked(*overrides):
    return config_lib.override(config_lib.default(), [f"--config.{text}" for text in overrides])


def test_every_key_is_a_field_of_its_parts_options():
    stage = config_lib.stage()
    for group, kind in schema.groups().items():
        fields = {field.name: field.default for field in dataclasses.fields(kind)}
        known = set(stage[group]) - (set(schema.OF_ENCODER) if group == "model" else set())
        assert known == set(fields), group
        assert {key: stage[group][key] for key in known} == fields
    assert set(stage) == {*schema.groups(), "objective", "init_from"}


def test_defaults_pass_their_own_checks_and_cannot_be_misspelt():
    config = config_lib.check(config_lib.default())
    assert config.stages == ("supervised",)
    with pytest.raises(AttributeError):
        config.supervised.data.pth = "x"
    two = config_lib.default(pretrain=config_lib.stage(), finetune=config_lib.stage())
    assert two.stages == ("pretrain", "finetune")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.crop=middle", "data.crop is 'middle': choose one of random, center, start"),
        ("data.balance=ovr", r"data.balance is 'ovr'; did you mean 'over'\?"),
        ("data.seconds=0.0", "data.seconds is 0.0: it must be positive"),
        ("data.sample_rate=0", "data.sample_rate is 0: it must be positive"),
        ("data.fold=-1", "data.fold is -1: it must be a finite number that is not negative"),
        ("data.label_fraction=1.5", "data.label_fraction is 1.5: it must lie between 0 and 1"),
        ("data.holdout=(0.5,0.5,0.5)", "three shares that sum to 1"),
        ("data.holdout=(0.5,0.5)", "three shares that sum to 1"),
        ("data.group_pattern=(", "data.group_pattern is '\\(': it is no regular expression"),
        ("data.channel=left", "data.channel is 'left': give mix, or a channel's number, from 0 on"),
        ("data.channel=-1", "data.channel is -1: give mix"),
        ("data.channel=True", "data.channel is True: expected int | str"),
        ("data.label_pattern=[", "data.label_pattern is '\\[': it is no regular expression"),
        ("data.fold_pattern=*", "data.fold_pattern is '\\*': it is no regular expression"),
        ("frontend.win_length=4096", "frontend.win_length is 4096: it must not exceed n_fft 1024"),
        ("frontend.fmax=20000", "half of data.sample_rate"),
        ("frontend.log=decibel", "frontend.log is 'decibel'.*choose one of natural, log10, db"),
        ("frontend.floor=0.0", "frontend.floor is 0.0: it must be positive"),
        ("frontend.n_mfcc=65", "frontend.n_mfcc is 65: it must not exceed n_mels 64"),
        ("frontend.window=hamm1ng", "frontend.window is 'hamm1ng': SciPy has no such window"),
        ("frontend.window=kaiser", "frontend.window is 'kaiser': SciPy has no such window"),
        ("frontend.ref=mean", "frontend.ref is 'mean': give max, or a power above 0"),
        ("frontend.ref=-1.0", "frontend.ref is -1.0: give max, or a power above 0"),
        ("frontend.power=0.0", "frontend.power is 0.0: it must be positive"),
        ("frontend.top_db=-80.0", "frontend.top_db is -80.0: it must be positive"),
        ("frontend.std=0.0", "frontend.std is 0.0: it must be positive"),
        ("frontend.top_db=loud", "frontend.top_db is 'loud': expected float"),
        ("model.dropout=1.5", "model.dropout is 1.5: it must be at least 0 and below 1"),
        ("model.projection=-1", "model.projection is -1: it must not be negative"),
        ("model.pooling=min", "model.pooling is 'min'"),
        ("model.name=resnet", r"did you mean 'spectrogram_resnet'"),
        ("model.encoder.detph=34", r"did you mean 'depth'\?"),
        ("objective.name=classify", r"objective.name is 'classify'; did you mean 'classificatio"),
        ("objective.options.label_smoothing=2.0", "label_smoothing is 2.0: it must lie between"),
        ("objective.options.smoothing=0.1", "classification has no such option; did you mean"),
        ("data.multi_label=True", "data.multi_label=True needs objective.options.loss=sigmoid"),
        ("optimizer.learning_rate=1e999", "optimizer.learning_rate is inf: it must be a finite"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate is -1.0: it must be a finite"),
        ("optimizer.schedule=cosin", "optimizer.schedule is 'cosin'"),
        ("optimizer.accumulation=3", "does not divide by optimizer.accumulation"),
        ("train.batch_size=0", "train.batch_size is 0: it must be positive"),
        ("train.epochs=1e999", "train.epochs is inf: set epochs or steps above 0"),
        ("train.epochs=0.0", "train.epochs is 0.0: set epochs or steps above 0"),
        ("train.early_stopping=-1", "train.early_stopping is -1: it must be a finite number that"),
        ("eval.overlap=1.0", "eval.overlap is 1.0: it must be at most 0.95"),
        ("eval.checkpoint=first", "eval.checkpoint is 'first': choose one of last, best"),
        ("eval.splits=('tests',)", "eval.splits is .*: name some of train, validation, test"),
        ("augment.waveform=({'name':'gain','probability':2},)", "augment.waveform"),
        ("augment.crop_seconds=-1.0", "augment.crop_seconds is -1.0: it must be a finite number"),
        ("init_from=supervised", "init_from is 'supervised', which does not run before supervised"),
    ],
)
def test_a_bad_value_names_its_key(override, message):
    with pytest.raises(UserError, match=f"^(--)?config.supervised.*{message}") as error:
        checked(f"supervised.{override}")
    assert "\n" not in str(error.value)


def test_two_ways_to_choose_the_labelled_clips_are_refused():
    few = "supervised.data.labels_per_class=5"
    with pytest.raises(UserError, match="label_fraction is 0.1: data.labels_per_class 5 chooses"):
        checked(few, "supervised.data.label_fraction=0.1")
    checked(few)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages=('pretrain',)", "there is no config.pretrain"),
        ("stages=()", "config.stages is empty: name at least one stage"),
        ("mesh.data=0", "config.mesh.data is 0: give a number of devices, or -1"),
        ("checkpoint.keep=0", "config.checkpoint: every must not be negative, and keep be 1"),
        ("checkpoint.every=-1", "config.checkpoint: every must not be negative, and keep be 1"),
    ],
)
def test_what_stages_share_is_checked_too(override, message):
    with pytest.raises(UserError, match=message):
        checked(override)


def test_a_stage_starts_from_one_before_it():
    stages = {name: config_lib.stage() for name in ("first", "second")}
    config = config_lib.default(**stages)
    config.second.init_from = "first"
    assert config_lib.check(config) is config
    config.first.init_from = "second"
    with pytest.raises(UserError, match="config.first.init_from is 'second', which does not run"):
        config_lib.check(config)


def test_a_stage_that_was_refused_is_refused_again():
    config = config_lib.default()
    stage = config[config.stages[0]]
    stage.data.multi_label = True
    for _ in range(2):
        with pytest.raises(UserError, match="multi_label=True needs"):
            config_lib.check(config)
    stage.data.multi_label = False
    config_lib.check(config)
    stage.data.multi_label = True  # the stage that passed is not this one
    with pytest.raises(UserError, match="multi_label=True needs"):
        config_lib.check(config)
