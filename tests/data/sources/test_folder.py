"""A folder of labels or of splits; what is read of it and what is told."""

import os

import pytest
from sounds import settings, write

from sacjax.data import decode, sources
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
    assert recordings.labels == [("cat",), ("dog",), ("dog",), (), ("été",)]
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
