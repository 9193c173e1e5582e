"""Clips of one speaker or file stay together: groups from file names and from rows of one file."""

import json

import numpy as np
import pytest
import soundfile as sf

from sacjax import config as config_lib
from sacjax.data import groups, sources, splits
from sacjax.errors import UserError


def settings(**values):
    data = config_lib.stage().data
    data.update(values)
    return data


def manifest(folder, text, name="list.csv", **values):
    (folder / name).write_text(text)
    return sources.load(settings(source="manifest", path=str(folder / name), **values))


@pytest.fixture
def talks(tmp_path):
    """Twenty silent files of four seconds."""
    for k in range(20):
        sf.write(tmp_path / f"talk{k:02d}.wav", np.zeros(400), 100)
    return tmp_path


def test_parts_of_a_file_stay_in_one_part_of_the_split(talks):
    rows = [f"talk{k:02d}.wav,{'ab'[k % 2]},{s},{s + 1}" for k in range(20) for s in range(4)]
    recordings = manifest(talks, "\n".join(["filename,label,start,end", *rows]))
    assert recordings.groups == [f"talk{k:02d}.wav" for k in range(20) for _ in range(4)]
    for seed in range(3):
        parts = splits.split(recordings, settings(split_seed=seed))
        files = [{recordings.names[i].split("#")[0] for i in part} for part in parts.values()]
        assert sum(map(len, files)) == 20 and all(files)


def test_a_group_column_says_otherwise(talks):
    text = "filename,start,group\ntalk00.wav,0,morning\ntalk00.wav,2,evening\ntalk01.wav,,\n"
    assert manifest(talks, text).groups == ["morning", "evening", ""]
    # A row that says nothing goes with the other rows of its file, also under another name.
    (talks / "link.wav").symlink_to(talks / "talk02.wav")
    rows = [
        ("talk00.wav", 1, "x"),
        ("./talk00.wav", 2, ""),
        ("link.wav", "", ""),
        ("talk02.wav", "", ""),
    ]
    text = "filename,start,group\n" + "\n".join(",".join(map(str, row)) for row in rows)
    assert manifest(talks, text).groups == ["x", "x", "link.wav", "link.wav"]
    lines = [{"filename": "talk00.wav", "start": s, "group": g} for s, g in ((0, 7), (2, None))]
    recordings = manifest(talks, "\n".join(map(json.dumps, lines)), "list.jsonl")
    assert recordings.groups == ["7", "7"]


def test_files_that_are_one_row_each_have_no_groups(talks):
    assert manifest(talks, "filename,start\ntalk00.wav,1\ntalk01.wav,\n").groups is None


def test_official_splits_that_cut_a_file_are_refused(talks):
    text = "filename,start,split{}\ntalk00.wav,0,train{}\ntalk00.wav,2,test{}\n"
    with pytest.raises(UserError, match="share the group 'talk00.wav': .*'group' column"):
        splits.split(manifest(talks, text.format("", "", "")), settings())
    meant = manifest(talks, text.format(",group", ",early", ",late"))
    assert len(splits.split(meant, settings())["test"]) == 1


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
    assert groups.from_names(names, pattern) == expected


def test_the_start_of_a_part_is_no_part_of_its_name():
    names = [f"spk.wav#{start}" for start in ("0", "2.5", "1e-3")]
    assert groups.from_names(names, ".+") == ["spk.wav"] * 3
    assert groups.from_names(["take#2.wav"], ".+") == ["take#2.wav"]


@pytest.mark.parametrize("pattern", [r"spk(\d+)", r"spk(\d*)", r"(?:spk(\d+))?"])
def test_a_name_without_a_group_is_an_error_that_names_it(pattern):
    names = ["spk1.wav", "spk.wav", "noise.wav"]
    if pattern == r"spk(\d*)":
        assert groups.from_names(["spk1.wav"], pattern) == ["1"]
    with pytest.raises(UserError, match="data.group_pattern .* no group in 'spk.wav' and 1 more"):
        groups.from_names(names, pattern)


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
