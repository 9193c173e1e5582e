"""A folder of labels or of splits; what is read of it and what is told."""

import errno
import os

import pytest
from sounds import settings, write

from sacjax.data import decode, retry, sources, splits
from sacjax.errors import UserError


def test_folder(tmp_path):
    for name in (
        "dog/b.wav",
        "dog/deep/er/a.FLAC",
        "cat/c.ogg",
        "loose.wav",
        "cat/.hidden.wav",
        ".git/x.wav",
        "été/ñandú 鳥.wav",
    ):
        write(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("no sound")
    recordings = sources.load(settings(source="folder", path=str(tmp_path)))
    assert recordings.names == [
        "cat/c.ogg",
        "dog/b.wav",
        "dog/deep/er/a.FLAC",
        "loose.wav",
        "été/ñandú 鳥.wav",
    ]
    assert recordings.labels == [("cat",), ("dog",), ("dog",), None, ("été",)]
    assert recordings.class_names == ("cat", "dog", "été")
    assert recordings.folds is None and recordings.splits is None and recordings.groups is None
    for i in range(len(recordings)):
        assert os.path.isabs(recordings.paths[i])
        assert len(decode.read(recordings.open(i), 8000, 0.0, 1.0)) == 8000


def test_a_name_that_is_not_utf8_can_be_read_and_written(tmp_path):
    write(tmp_path / "a" / "x.wav")
    try:
        os.rename(tmp_path / "a" / "x.wav", os.fsencode(tmp_path / "a") + b"/\xff.wav")
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    recordings = sources.load(settings(source="folder", path=str(tmp_path)))
    assert recordings.names[0].encode() == rb"a/\xff.wav"
    assert recordings.open(0).num_samples == 8000


def test_a_folder_of_nothing_says_what_it_has(tmp_path):
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="no files"):
        sources.load(settings(source="folder", path=str(tmp_path)))
    (tmp_path / "dog" / "a.xyz").write_bytes(b"x")
    with pytest.raises(UserError, match="1 .xyz"):
        sources.load(settings(source="folder", path=str(tmp_path)))
    for path, message in (
        (str(tmp_path / "nowhere"), "there is no folder"),
        ("", "is empty: give the folder"),
    ):
        with pytest.raises(UserError, match=f"data.path:? {message}"):
            sources.load(settings(source="folder", path=path))
    with pytest.raises(UserError, match="did you mean 'folder'"):
        sources.load(settings(source="folders", path=str(tmp_path)))


def test_links_in_a_folder(tmp_path):
    outside = write(tmp_path / "outside" / "x.wav").parent
    root = write(tmp_path / "root" / "dog" / "a.wav").parent.parent
    (root / "dog" / "up").symlink_to(root)  # a loop
    (root / "dog" / "b.wav").symlink_to(root / "dog" / "a.wav")
    load = lambda **more: sources.load(settings(source="folder", path=str(root), **more))
    assert load().names == ["dog/a.wav", "dog/b.wav"]
    (root / "dog" / "lost.wav").symlink_to(root / "nothing.wav")
    assert load().names == ["dog/a.wav", "dog/b.wav"]
    (root / "cat").symlink_to(outside)
    with pytest.raises(
        UserError, match="cat' is a link out of the folder.*data.allow_outside_root"
    ):
        load()
    recordings = load(allow_outside_root=True)
    assert recordings.names == ["cat/x.wav", "dog/a.wav", "dog/b.wav"] and recordings.labels[0] == (
        "cat",
    )


def test_files_that_are_not_read_are_told_once(tmp_path, capsys):
    write(tmp_path / "dog" / "a.wav")
    for name in ("dog/b.xyz", "dog/c.xyz", "cat/d.XYZ", "notes.txt", "plain", ".hidden.xyz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for _ in range(2):
        assert sources.load(settings(source="folder", path=str(tmp_path))).names == ["dog/a.wav"]
    told = capsys.readouterr().err
    assert told.count("are not") == 1
    assert "1 files are read, others are not: 3 .xyz, 1 .txt, 1 without ending" in told


def test_folders_called_as_splits_are_splits(tmp_path):
    for name in ("Train/dog/a.wav", "Train/cat/deep/b.wav", "val/dog/c.wav", "test/cat/d.wav"):
        write(tmp_path / name)
    write(tmp_path / "test" / "unlabelled.wav")
    load = lambda: sources.load(settings(source="folder", path=str(tmp_path)))
    recordings = load()
    assert recordings.names == [
        "Train/cat/deep/b.wav",
        "Train/dog/a.wav",
        "test/cat/d.wav",
        "test/unlabelled.wav",
        "val/dog/c.wav",
    ]
    assert recordings.class_names == ("cat", "dog")
    assert [label[0] if label else "" for label in recordings.labels] == [
        "cat", "dog", "cat", "", "dog"
    ]  # fmt: skip
    assert recordings.splits == ["train", "train", "test", "test", "validation"]
    parts = splits.split(recordings, settings(source="folder"))
    assert {part: index.tolist() for part, index in parts.items()} == {
        "train": [0, 1], "validation": [4], "test": [2, 3]
    }  # fmt: skip
    write(tmp_path / "loose.wav")
    recordings = load()
    assert recordings.splits[recordings.names.index("loose.wav")] == "train"
    write(tmp_path / "horse" / "x.wav")  # now they are labels, as a train may be
    recordings = load()
    assert recordings.splits is None and recordings.class_names == ("Train", "horse", "test", "val")


def test_folders_called_as_splits_without_labels_below_are_labels(tmp_path):
    for name in ("train/a.wav", "bus/b.wav"):
        write(tmp_path / "vehicles" / name)
    for name in ("train/a.wav", "test/x/b.wav"):
        write(tmp_path / "flat" / name)
    for folder, classes in (("vehicles", ("bus", "train")), ("flat", ("test", "train"))):
        recordings = sources.load(settings(source="folder", path=str(tmp_path / folder)))
        assert recordings.splits is None and recordings.class_names == classes


def test_a_moment_in_which_a_file_cannot_be_seen_loses_none(tmp_path, monkeypatch):
    write(tmp_path / "dog" / "a.wav"), write(tmp_path / "dog" / "b.wav")
    whole, failed = os.stat, []

    def stat(path, *args, **kwargs):
        if str(path).endswith("b.wav") and len(failed) < 2:
            failed.append(1)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return whole(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(retry, "WAITS", (0, 0, 0))
    names = sources.load(settings(source="folder", path=str(tmp_path))).names
    assert names == ["dog/a.wav", "dog/b.wav"] and len(failed) == 2


def test_every_source_has_a_line_that_says_what_it_is():
    for name, load in sources.SOURCES.items():
        first = load.__doc__.splitlines()[0]
        assert 20 < len(first) < 100 and first.endswith("."), name
