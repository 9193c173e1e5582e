"""Files written whole or not at all, on a disk and in a bucket."""

import csv
import errno
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sacjax import io
from sacjax.errors import UserError


def test_text_json_and_tables_are_read_back(tmp_path):
    io.write_text(tmp_path / "text", "ä\r\nb")
    assert (tmp_path / "text").read_bytes() == "ä\r\nb".encode()
    io.write_json(tmp_path / "value.json", {"b": 1, "a": [0.1]}, sort_keys=True)
    assert (tmp_path / "value.json").read_text() == '{"a": [0.1], "b": 1}\n'
    name = os.fsdecode(b'caf\xe9, "one"\n.wav')
    io.write_csv(tmp_path / "table.csv", ("file", "n"), [(name, 1)])
    with open(tmp_path / "table.csv", newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [["file", "n"], [name, "1"]]
    assert sorted(os.listdir(tmp_path)) == ["table.csv", "text", "value.json"]


def test_what_fails_halfway_changes_nothing(tmp_path, bucket):
    for folder in (tmp_path, io.to_path("gs://bucket/halfway")):
        io.write_text(folder / "x", "old")
        with pytest.raises(ZeroDivisionError), io.writing(folder / "x") as file:
            file.write(b"new")
            raise ZeroDivisionError
        assert (folder / "x").read_text() == "old" and [p.name for p in folder.iterdir()] == ["x"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch, fails):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "labels.json"
    io.write_json(path, 1)
    monkeypatch.setattr(io.os, fails, full)
    with pytest.raises(UserError, match="labels.json: cannot be written: No space left on device"):
        io.write_json(path, 2)
    assert json.loads(path.read_text()) == 1 and os.listdir(tmp_path) == ["labels.json"]


def test_who_reads_and_writes_again_waits_for_the_others(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")

    def add(_):
        with io.alone(path):
            count = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(count + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(40)))
    assert path.read_text() == "40" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="none/x: cannot be written: No such file or directory"):
        io.write_text(tmp_path / "none" / "x", "")


def test_two_hosts_on_one_file_system_write_beside_each_other(tmp_path, monkeypatch):
    """Each has a partial file of its own, so that neither renames what the other is writing."""
    partials, replace = [], os.replace
    monkeypatch.setattr(
        io.os, "replace", lambda old, new: partials.append(old) or replace(old, new)
    )
    for host, pid in (("a", 1), ("b", 1), ("a", 2)):
        monkeypatch.setattr(io.socket, "gethostname", lambda host=host: host)
        monkeypatch.setattr(io.os, "getpid", lambda pid=pid: pid)
        io.write_text(tmp_path / "x", host)
    assert len(set(partials)) == 3 and {path.parent for path in partials} == {tmp_path}


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), True),
        (
            ValueError("UNKNOWN: Failed to open: \"/x\": Input/output error [os_error_code='5']"),
            True,
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (ValueError("NOT_FOUND: Failed to open [os_error_code='2']"), False),
        (ValueError("5 values"), False),
        (MemoryError(), False),
    ],
)
def test_what_may_pass(error, transient):
    assert io.is_transient(error) == transient


def test_a_bucket_has_the_same_bytes_as_a_disk(tmp_path, bucket):
    there, name = io.to_path("gs://bucket/same"), os.fsdecode(b"caf\xe9\n.wav")
    for folder in (tmp_path, there):
        io.make_folder(folder / "sub")
        io.write_text(folder / "text", "ä\r\nb")
        io.write_csv(folder / "sub" / "table.csv", ("file", "n"), [(name, 1)])
        assert io.read_text(folder / "text").read() == "ä\r\nb"
        file = io.read_text(folder / "sub" / "table.csv", errors="surrogateescape")
        assert list(csv.reader(file)) == [["file", "n"], [name, "1"]]
    for file in ("text", "sub/table.csv"):
        assert bucket.content(f"same/{file}") == (tmp_path / file).read_bytes()
    assert [n for n in bucket.names() if n.startswith("same/")] == [
        "same/sub/table.csv",
        "same/text",
    ]


def test_a_bucket_is_absolute_and_local_paths_are_pathlib(tmp_path, bucket):
    path = io.to_path("gs://bucket/run") / "x"
    assert str(io.absolute(path)) == "gs://bucket/run/x" and io.in_bucket(path)
    assert io.to_path(path) == path and type(io.to_path(str(tmp_path))) is type(tmp_path)
    assert not io.in_bucket(tmp_path) and io.absolute(io.to_path("x")) == io.Path.cwd() / "x"


def test_what_others_put_is_seen(bucket):
    """gcsfs alone remembers what was in a folder."""
    folder = io.to_path("gs://bucket/seen")
    io.write_text(folder / "a", "")
    assert [path.name for path in folder.iterdir()] == ["a"]
    now = bucket.storage.get_file_obj("bucket", "seen/a")
    bucket.storage.create_file("bucket", "seen/b", b"", now | {"name": "seen/b"})
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_places_that_cannot_be(tmp_path, bucket, monkeypatch):
    with pytest.raises(UserError, match="s3://b/x: Orbax saves no checkpoints to s3://; give gs:"):
        io.to_path("s3://b/x")
    with pytest.raises(UserError, match="--output gs://b/x: is not on a disk"):
        io.on_disk("gs://b/x", "--output")
    with pytest.raises(UserError, match="--workdir gs://nobody/x: cannot be written: "):
        io.check_folder(io.to_path("gs://nobody/x"), "--workdir")
    io.check_folder(io.to_path("gs://bucket/writable"), "--workdir")
    assert not [name for name in bucket.names() if name.startswith("writable")]
    io._reach_buckets.cache_clear()
    monkeypatch.setattr(io.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gs:// needs gcsfs: pip install 'sacjax\[gcs\]'"):
        io.to_path("gs://bucket/x")


def test_a_bucket_that_answers_503_for_a_while_delays_a_file(bucket, outage):
    left = outage()
    io.write_text("gs://bucket/late/x", "all of it")
    assert left() == 0 and bucket.content("late/x") == b"all of it"


def test_a_growing_file_is_appended_to_on_a_disk(tmp_path):
    for text in (b"one", b"two"):
        file = io.Growing(tmp_path / "x")
        file.write(text)
        file.flush(durable=True)
        assert (tmp_path / "x").read_bytes().endswith(text)
        file.close()
    assert (tmp_path / "x").read_bytes() == b"onetwo"


def test_a_growing_file_is_put_into_a_bucket_now_and_then(bucket, monkeypatch):
    monkeypatch.setattr(io, "PUT_SECONDS", 1e9)
    there = lambda: bucket.content("grows/x") if "grows/x" in bucket.names() else None
    file = io.Growing(io.to_path("gs://bucket/grows/x"))
    file.write(b"one")
    file.flush()
    assert there() is None
    monkeypatch.setattr(io, "PUT_SECONDS", 0.0)
    file.flush()
    assert there() == b"one"
    monkeypatch.setattr(io, "PUT_SECONDS", 1e9)
    file.write(b"two")
    file.flush()
    assert there() == b"one"
    file.put()
    assert there() == b"onetwo"
    file.close()
    file = io.Growing(io.to_path("gs://bucket/grows/x"))  # as a resumed run does
    file.write(b"three")
    file.close()
    assert there() == b"onetwothree"


def test_a_folder_is_copied_into_a_bucket(tmp_path, bucket):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"1")
    io.copy_folder(tmp_path, io.to_path("gs://bucket/copied"))
    assert bucket.content("copied/sub/a") == b"1"
