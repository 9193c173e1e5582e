"""Loading and overriding configs: every mistake gets one line that names the key."""

import json
from pathlib import Path

import pytest

from sacjax import config as config_lib
from sacjax.errors import UserError

FILE = """
from sacjax import config as config_lib


def get_config(arg=""):
    arg = config_lib.parse_arg(arg, fold=0, small=False)
    c = config_lib.default()
    c.supervised.data.fold = arg.fold
    c.supervised.model.encoder = dict(depth=18)
    c.supervised.augment.waveform = (dict(name="gain", probability=0.5),)
    if arg.small:
        c.supervised.model.encoder.width = 8
    return c
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(FILE)
    return str(path)


def test_arguments_and_overrides_reach_their_leaves(file):
    c = config_lib.load(
        f"{file}:fold=3,small",
        [
            "--config.seed=7",
            "--config.supervised.optimizer.learning_rate=1e-4",
            "--config.supervised.train.epochs=3",
            "--config.supervised.model.encoder.stem=small",
            "--config.supervised.augment.waveform.0.probability=0.25",
            "--config.supervised.frontend.ref=max",
            "--config.supervised.frontend.top_db=None",
            "--config.supervised.data.holdout=(0.5,0.25,0.25)",
            "--config.supervised.data.name=123",
        ],
    )
    s = c.supervised
    assert (c.seed, s.data.fold, s.optimizer.learning_rate, s.train.epochs) == (7, 3, 1e-4, 3.0)
    assert s.model.encoder.to_dict() == {"depth": 18, "width": 8, "stem": "small"}
    assert s.augment.waveform[0]["probability"] == 0.25
    assert (
        s.frontend.ref == "max"
        and s.frontend.top_db is None
        and s.data.holdout == (0.5, 0.25, 0.25)
    )
    assert s.data.name == "123"


def test_a_path_is_read_as_its_name_is(file):
    assert config_lib.load(Path(file)).to_dict() == config_lib.load(file).to_dict()


def test_groups_that_an_earlier_version_did_not_write_have_defaults(file):
    saved = json.loads(config_lib.to_json(config_lib.load(file)))
    del saved["supervised"]["frontend"], saved["mesh"]
    config = config_lib.from_json(json.dumps(saved))
    assert config.to_dict() == config_lib.load(file).to_dict()
    changed = config_lib.override(config, ["--config.supervised.frontend.ref=max"])
    assert changed.supervised.frontend.ref == "max"


def test_json_round_trip_keeps_every_leaf(file):
    c = config_lib.load(file, ["--config.supervised.frontend.top_db=None"])
    again = config_lib.from_json(config_lib.to_json(c))
    assert again.to_dict() == c.to_dict()
    assert config_lib.to_json(again) == config_lib.to_json(c)


def test_a_saved_value_of_a_key_of_several_kinds_may_become_one_of_another():
    config = config_lib.from_json(config_lib.to_json(config_lib.default()))
    changes = ("data.channel=1", "frontend.ref=max", "frontend.top_db=None")
    s = config_lib.override(config, [f"--config.supervised.{c}" for c in changes]).supervised
    assert (s.data.channel, s.frontend.ref, s.frontend.top_db) == (1, "max", None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=1", r"unknown key; did you mean 'seed'\?"),
        (
            "supervised.data.fol=1",
            r"--config.supervised.data.fol: unknown key; did you mean 'fold'\?",
        ),
        ("supervized.data.fold=1", r"did you mean 'supervised'\?"),
        ("data.fold=1", "--config.data: it belongs to a stage: --config.supervised.data"),
        ("supervised.data.cache=1", "data.cache=1: expected bool"),
        ("supervised.train.batch_size=3.5", "expected int, such as 64"),
        ("supervised.train.batch_size=many", "expected int"),
        ("supervised.data=3", "--config.supervised.data is a group of keys: .*holdout"),
        ("supervised.augment.waveform.4.probability=1", "has entries 0 to 0"),
        ("supervised.augment.waveform.0=gain", "replace the tuple config.supervised.augment"),
        ("supervised.model.encoder.detph=34", r"did you mean 'depth'\?"),
        ("supervised.augment.waveform.0.name=gian", r"did you mean 'gain'\?"),
    ],
)
def test_bad_overrides_name_the_key(file, override, message):
    with pytest.raises(UserError, match=message) as error:
        config_lib.load(file, [f"--config.{override}"])
    assert "\n" not in str(error.value)


def test_what_is_no_override(file):
    for text in ("--config.seed", "--seed=1", "seed=1"):
        with pytest.raises(UserError, match=f"'{text}' is not understood: overrides read --conf"):
            config_lib.load(file, [text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return undefined", "NameError"),
        ("syntax error", "SyntaxError"),
        (FILE.replace("c.supervised.data.fold", "c.supervised.data.flod"), 'Did you mean "fold"'),
        (FILE.replace("= arg.fold", "= 'one'"), "Could not override field 'fold'"),
        ("def get_config():\n    return ().name", "object has no attribute 'name"),
    ],
)
def test_a_broken_config_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        config_lib.load(str(path))
    assert str(path) in str(error.value)


def test_a_config_of_the_checkout_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no file configs/folder.py; configs/ is in the checkout"):
        config_lib.load("configs/folder.py")


def test_other_mistakes(file):
    with pytest.raises(UserError, match="there is no file nowhere.py"):
        config_lib.load("nowhere.py")
    with pytest.raises(UserError, match="unknown config argument 'flod=2'|did you mean 'fold'"):
        config_lib.load(f"{file}:flod=2")
    with pytest.raises(UserError, match="expected int"):
        config_lib.load(f"{file}:fold=two")
    with pytest.raises(UserError, match="folder.py: it takes no argument, so ':abc' means nothing"):
        config_lib.load("configs/folder.py:abc")
    with pytest.raises(UserError, match="unknown argument '--cofnig.seed=1'"):
        config_lib.overrides_from(["--cofnig.seed=1"])


def test_overrides_may_come_as_two_words():
    assert config_lib.overrides_from(["--config.seed", "3", "--config.a=1"]) == [
        "--config.seed=3",
        "--config.a=1",
    ]


def test_flags_of_a_config_may_be_spelled_out():
    parse = lambda text: config_lib.parse_arg(text, scratch=False, mixup=True).to_dict()
    assert parse("scratch") == dict(scratch=True, mixup=True)
    assert parse("scratch=False,mixup=false") == dict(scratch=False, mixup=False)
    with pytest.raises(UserError, match="'scratch=no': expected bool"):
        parse("scratch=no")


def test_a_saved_config_has_the_stages_that_run_alone(file):
    stages = {name: config_lib.stage() for name in ("first", "second", "third")}
    c = config_lib.default(**stages)
    c.stages = ("first", "third")
    again = config_lib.from_json(config_lib.to_json(c))
    assert "second" not in again and again.stages == ("first", "third")
    assert again.first.to_dict() == c.first.to_dict() and again.mesh.data == -1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("supervised", 0.5),
        ("supervised.data", "text"),
        ("supervised.model.encoder", ()),
        ("checkpoint.every", None),
        ("mesh", 3),
        ("stages", [0.5]),
    ],
)
def test_a_saved_config_with_values_of_another_kind_is_refused(file, key, value):
    """Found by launch/benchmarks/fuzz.py: configs, seeds 1, 24, 64, 85, 103, 212 and 279."""
    saved = json.loads(config_lib.to_json(config_lib.load(file)))
    *parents, last = key.split(".")
    node = saved
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        config_lib.from_json(json.dumps(saved))


def test_a_saved_config_that_lacks_a_key_gets_its_default(file):
    """Found by launch/benchmarks/fuzz.py: config, seed 190."""
    saved = json.loads(config_lib.to_json(config_lib.load(file)))
    del saved["checkpoint"]["keep"], saved["supervised"]["model"]["name"]
    config = config_lib.from_json(json.dumps(saved))
    assert config.checkpoint.keep == 2 and config.supervised.model.name == "spectrogram_resnet"


@pytest.mark.parametrize(
    ("objective", "old"),
    [("masked_autoencoder", "flat_patience"), ("inversion", "silence_patience")],
)
def test_an_option_of_an_earlier_version_has_its_new_name(objective, old):
    saved = json.loads(config_lib.to_json(config_lib.default()))
    saved["supervised"]["objective"] = {"name": objective, "options": {old: 3}}
    config = config_lib.from_json(json.dumps(saved))
    assert config.supervised.objective.options.to_dict() == {"collapse_patience": 3}


def test_a_stage_by_name_or_the_first():
    c = config_lib.default(pretrain=config_lib.stage(), finetune=config_lib.stage())
    assert config_lib.stage_name(c, None) == "pretrain"
    assert config_lib.stage_name(c, "finetune") == "finetune"
    with pytest.raises(UserError, match="--stage is 'fine_tune'; did you mean 'finetune'"):
        config_lib.stage_name(c, "fine_tune")


def test_where_the_real_recordings_are(tmp_path, monkeypatch):
    monkeypatch.setenv("SACJAX_DATA", str(tmp_path))
    (tmp_path / "esc10").mkdir()
    assert config_lib.data_root() == str(tmp_path)
    assert config_lib.local_data("esc10") == str(tmp_path / "esc10")
    assert config_lib.local_data("esc50") == ""  # then it is downloaded
