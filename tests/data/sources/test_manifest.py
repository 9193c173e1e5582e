import json

import numpy as np
import pytest
from sounds import settings, tone, write

from sacjax.data import sources
from sacjax.errors import UserError


def manifest(tmp_path, text, name="list.csv", **more):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return sources.load(settings(source="manifest", path=str(tmp_path / name), **more))


def test_manifest_with_all_columns(tmp_path):
    for name in ("a.wav", "sub/b.wav", "é.wav"):
        write(tmp_path / name, tone(3.0))
    rows = [
        ["filename", "label", "fold", "split", "group", "start", "end"],
        ["a.wav", "dog", "1", "train", "g1", "", ""],
        ["sub/b.wav", "cat", "2", "test", "", "0.5", "1.5"],
        ["./sub/b.wav", "cat", "2", "test", "g2", "2", ""],
        ["é.wav", "", "3.0", "validation", "g3", "", "0.25"],
    ]
    loaded = [
        manifest(tmp_path, "\n".join(",".join(row) for row in rows)),
        manifest(
            tmp_path, "\ufeff" + "\r\n".join("\t".join(row) for row in rows) + "\r\n", "list.tsv"
        ),
        manifest(
            tmp_path,
            "\n".join(json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:])
            + "\n\n",
            "list.jsonl",
        ),
    ]
    for recordings in loaded:
        assert recordings.names == ["a.wav", "sub/b.wav#0.5", "sub/b.wav#2", "é.wav"]
        assert recordings.labels == [
            ("dog",),
            ("cat",),
            ("cat",),
            None,
        ] and recordings.class_names == ("cat", "dog")
        assert recordings.folds == [1, 2, 2, 3] and recordings.splits == [
            "train",
            "test",
            "test",
            "validation",
        ]
        assert recordings.groups == ["g1", "g2", "g2", "g3"]  # b.wav is one file
        assert [recordings.open(i).num_samples for i in range(4)] == [24000, 8000, 8000, 2000]
    part = loaded[0].open(1)
    np.testing.assert_allclose(part.read(100, 50), tone(3.0)[4100:4150], atol=1e-4)
    assert len(part.read(7990, 50)) == 10 and len(part.read(8000, 1)) == 0


def test_manifest_of_file_names_alone(tmp_path):
    write(tmp_path / "a.wav")
    recordings = manifest(tmp_path, "filename\na.wav\n")
    assert recordings.labels == [None] and recordings.class_names == () and recordings.folds is None


def test_several_labels(tmp_path):
    write(tmp_path / "a.wav"), write(tmp_path / "b.wav")
    text = "filename,label\na.wav,dog | cat|dog\nb.wav,dog\n"
    recordings = manifest(tmp_path, text, multi_label=True)
    assert recordings.labels == [("dog", "cat"), ("dog",)] and recordings.class_names == (
        "cat",
        "dog",
    )
    lines = '{"filename": "a.wav", "label": ["dog", "cat"]}\n{"filename": "b.wav", "label": 0}\n'
    recordings = manifest(tmp_path, lines, "list.jsonl", multi_label=True)
    assert recordings.labels == [("dog", "cat"), ("0",)]
    with pytest.raises(UserError, match="'a.wav' has several labels .*data.multi_label=True"):
        manifest(tmp_path, text)


@pytest.mark.parametrize("how", ["..", "absolute", "link", "folder link"])
def test_a_path_out_of_the_root_is_refused(tmp_path, how):
    write(tmp_path / "secret.wav")
    root = write(tmp_path / "root" / "a.wav").parent
    (root / "in.wav").symlink_to(tmp_path / "secret.wav")
    (root / "above").symlink_to(tmp_path)
    names = {
        "..": "sub/../../secret.wav",
        "absolute": str(tmp_path / "secret.wav"),
        "link": "in.wav",
    }
    text = f"filename,label\na.wav,x\n{names.get(how, 'above/secret.wav')},y\n"
    with pytest.raises(
        UserError, match="line 3: .*leads out of the manifest's folder; set data.allow_outside_root"
    ):
        manifest(root, text)
    assert manifest(root, text, allow_outside_root=True).open(1).num_samples == 8000


def test_paths_within_the_root_are_taken(tmp_path):
    write(tmp_path / "sub" / "a.wav"), write(tmp_path / "b.wav")
    (tmp_path / "c.wav").symlink_to(tmp_path / "b.wav")
    recordings = manifest(
        tmp_path, f"filename,label\nsub/../sub/a.wav,x\n{tmp_path}/b.wav,y\nc.wav,y\n"
    )
    assert recordings.names == ["sub/a.wav", "b.wav", "c.wav"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("file,label\na.wav,x\n", "line 2: there is no 'filename' .*file, label"),
        ("filename,label\na.wav,x\n,y\n", "line 3: there is no 'filename'"),
        ("filename,label\na.wav,x\n./a.wav,y\n", "'a.wav' is listed twice"),
        ("filename,label,fold\na.wav,x,one\n", "line 2: fold is 'one'"),
        ("filename,label,fold\na.wav,x,0\n", "line 2: fold is '0'; write a whole number from 1 on"),
        ("filename,label,fold\na.wav,x,1\nb.wav,x,\n", "line 3: fold is empty"),
        (
            "filename,label,split\na.wav,x,dev\n",
            "line 2: split is 'dev'; write train, validation or test",
        ),
        ("filename,label,start\na.wav,x,-1\n", "line 2: start is '-1'; write seconds"),
        ("filename,label,start\na.wav,x,nan\n", "line 2: start is 'nan'"),
        ("filename,label,start,end\na.wav,x,2,1\n", "line 2: end is 1, not after start 2"),
        ("filename,label,end\na.wav,x,0\n", "line 2: end is 0, not after start 0"),
        ("filename,label\nx.wav,x\ny.wav,x\n", "none of its 2 files exists"),
        ("filename,label\na\0.wav,x\n", "list.csv"),
        ("filename,label\n", "no recordings"),
        ("", "no recordings"),
    ],
)
def test_a_bad_manifest_names_its_line(tmp_path, text, message):
    write(tmp_path / "a.wav"), write(tmp_path / "b.wav")
    with pytest.raises(UserError, match=message) as error:
        manifest(tmp_path, text)
    assert "list.csv" in str(error.value)


def test_other_bad_manifests(tmp_path):
    with pytest.raises(UserError, match="line 1"):
        manifest(tmp_path, "[1]\n", "list.jsonl")
    with pytest.raises(UserError, match="not a readable manifest"):
        manifest(tmp_path, "{'filename'\n", "list.jsonl")
    (tmp_path / "latin.csv").write_bytes("filename,label\né.wav,x\n".encode("latin1"))
    with pytest.raises(UserError, match="not a readable manifest"):
        sources.load(settings(source="manifest", path=str(tmp_path / "latin.csv")))
    with pytest.raises(UserError, match="there is no manifest"):
        sources.load(settings(source="manifest", path=str(tmp_path / "nowhere.csv")))
