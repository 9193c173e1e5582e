"""Labels, folds and groups from file names."""

import numpy as np
import pytest
import soundfile as sf
from sounds import settings

from sacjax import config as config_lib
from sacjax.data import patterns, sources, splits
from sacjax.errors import UserError

# RAVDESS's own names: modality-channel-emotion-intensity-statement-repetition-actor.
RAVDESS = [f"Actor_{a:02d}/03-01-0{e}-01-01-01-{a:02d}.wav" for a in (1, 2, 12) for e in (3, 5)]


def silence(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        sf.write(path, np.zeros(10), 100)
    return folder


def manifest(folder, text, name="list.csv", **values):
    (folder / name).write_text(text)
    return sources.load(settings(source="manifest", path=str(folder / name), **values))


@pytest.mark.parametrize(
    "pattern, expected",
    [
        (r"spk\d+", ["spk1", "spk1", "spk2", "spk2"]),
        (r"spk(\d+)", ["1", "1", "2", "2"]),
        (r"site-(\w)_|/(\d)", ["A", "0", "A", "0"]),
        (r"^[^/]+", ["dog", "dog", "cat", "cat"]),
    ],
)
def test_groups_from_names(pattern, expected):
    names = [
        "dog/site-A_spk1.wav",
        "dog/0_spk1.wav#0.5",
        "cat/site-A_spk2.wav",
        "cat/0_spk2.wav#1e1",
    ]
    assert patterns.find(names, pattern, "group") == expected


def test_the_start_of_a_part_is_no_part_of_its_name():
    names = [f"spk.wav#{start}" for start in ("0", "2.5", "1e-3")]
    assert patterns.find(names, ".+", "group") == ["spk.wav"] * 3
    assert patterns.find(["take#2.wav"], ".+", "group") == ["take#2.wav"]


@pytest.mark.parametrize("pattern", [r"spk(\d+)", r"spk(\d*)", r"(?:spk(\d+))?"])
def test_a_name_without_a_group_is_an_error_that_names_it(pattern):
    names = ["spk1.wav", "spk.wav", "noise.wav"]
    if pattern == r"spk(\d*)":
        assert patterns.find(["spk1.wav"], pattern, "group") == ["1"]
    with pytest.raises(UserError, match="data.group_pattern .* no group in 'spk.wav' and 1 more"):
        patterns.find(names, pattern, "group")


def test_a_folder_and_a_manifest_take_groups_from_names(tmp_path):
    for k in range(12):
        path = tmp_path / "ab"[k % 2] / f"spk{k // 4}_{k}.wav"
        path.parent.mkdir(exist_ok=True)
        sf.write(path, np.zeros(10), 100)
    pattern = r"spk(\d)"
    folder = sources.load(settings(source="folder", path=str(tmp_path), group_pattern=pattern))
    assert sorted(folder.groups) == ["0"] * 4 + ["1"] * 4 + ["2"] * 4
    parts = splits.split(folder, settings())
    assert [len({folder.groups[i] for i in part}) for part in parts.values()] == [1, 1, 1]
    text = "\n".join(["filename,group", *(f"{name},column" for name in folder.names)])
    listed = manifest(tmp_path, text, group_pattern=pattern)
    assert listed.groups == folder.groups  # what the config says counts
    with pytest.raises(UserError, match="data.group_pattern"):
        sources.load(settings(source="folder", path=str(tmp_path), group_pattern="speaker"))


def test_a_bad_expression_is_told_before_anything_is_read():
    config = config_lib.default()
    with pytest.raises(
        UserError, match=r"config.supervised.data.group_pattern is '\(': it is no regular exp"
    ):
        config_lib.override(config, ["--config.supervised.data.group_pattern=("])


def test_label_fold_and_group_from_the_names_of_a_folder(tmp_path):
    silence(tmp_path, RAVDESS)
    data = settings(source="folder", path=str(tmp_path), label_pattern=r"03-01-(\d\d)")
    data.update(group_pattern=r"^[^/]+", fold_pattern=r"(\d+)\.wav$", fold=2)
    loaded = sources.load(data)
    assert loaded.names == RAVDESS
    assert loaded.labels == [("03",), ("05",)] * 3  # not the folders, which are the actors
    assert loaded.class_names == ("03", "05")
    assert loaded.folds == [1, 1, 2, 2, 12, 12]
    assert loaded.groups == [name.split("/")[0] for name in RAVDESS]
    assert splits.split(loaded, data)["test"].tolist() == [2, 3]


def test_folds_that_are_names_are_numbered_and_told(capsys):
    assert patterns.number_folds(["10", "9", "09"], "here") == [10, 9, 9]
    assert not capsys.readouterr().err
    assert patterns.number_folds(["theo", "george", "theo", "lucas"], "here") == [3, 1, 3, 2]
    assert capsys.readouterr().err == "here: data.fold=1 is george, 2 is lucas, 3 is theo\n"
    assert patterns.number_folds(["0", "10", "9"], "here") == [1, 3, 2]
    assert capsys.readouterr().err == "here: data.fold=1 is 0, 2 is 9, 3 is 10\n"


def test_a_manifest_without_labels_takes_them_from_names(tmp_path):
    silence(tmp_path, ["dog_1.wav", "cat_2.wav"])
    text = "filename,start\ndog_1.wav,0\ncat_2.wav,0.05\n"
    loaded = manifest(tmp_path, text, label_pattern="^[a-z]+", fold_pattern=r"_(\d)")
    assert loaded.labels == [("dog",), ("cat",)] and loaded.class_names == ("cat", "dog")
    assert loaded.folds == [1, 2]


@pytest.mark.parametrize(
    ("columns", "pattern", "message"),
    [
        ("label", dict(label_pattern="."), "data.label_pattern is set, but .* labels of their own"),
        ("fold", dict(fold_pattern=r"\d"), "data.fold_pattern is set, but .* folds of their own"),
        ("start", dict(label_pattern=r"[a-z]+_(\d)"), "finds no label in 'a.wav#1':"),
        ("start", dict(fold_pattern=r"\d"), "finds no fold in 'a.wav#1':"),
    ],
)
def test_patterns_that_do_not_fit_a_manifest(tmp_path, columns, pattern, message):
    silence(tmp_path, ["a.wav", "b_1.wav"])
    text = f"filename,{columns}\na.wav,1\nb_1.wav,1\n"
    with pytest.raises(UserError, match=message):
        manifest(tmp_path, text, **pattern)
