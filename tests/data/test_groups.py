"""Clips of one file stay together: groups from rows of one file."""

import json

import numpy as np
import pytest
import soundfile as sf

from sacjax import config as config_lib
from sacjax.data import sources, splits
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
