"""Whose fault a failed read is; what is tried again, and what the run says when it stays."""

import errno
import io
import os

import numpy as np
import pytest
import soundfile as sf

from sacjax.data import retry
from sacjax.data.retry import BadClip, RetriedFile
from sacjax.errors import UserError


def system(number, path=None):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (system(errno.EIO), True),
        (system(errno.ESTALE), True),
        (system(errno.ETIMEDOUT), True),
        (system(errno.EAGAIN), True),
        (system(errno.ENETDOWN), True),
        (system(errno.ENOTCONN), True),
        (system(errno.EMFILE), True),
        (system(errno.ENFILE), True),
        (system(errno.ENOMEM), True),
        (MemoryError(), True),
        # ArrayRecord tells the number in words alone.
        (RuntimeError("pread() failed: Stale file handle; reading x.array_record"), True),
        (RuntimeError("Corrupted Riegeli/records file: chunk data hash mismatch"), False),
        (system(errno.ENOENT), False),
        (system(errno.EACCES), False),
        (OSError("empty file"), False),
        (ValueError("no samples"), False),
        (sf.LibsndfileError(1), False),
    ],
)
def test_whose_fault_it_is(monkeypatch, error, machine):
    monkeypatch.setattr(retry, "WAITS", (0, 0))
    calls = []

    def read():
        calls.append(1)
        raise error

    with pytest.raises(UserError if machine else BadClip) as caught:
        retry.attempt(read)
    assert len(calls) == (3 if machine else 1)
    assert str(error).split("]")[-1].strip()[:30] in str(caught.value) or not str(error)


def test_a_bad_moment_passes(monkeypatch):
    waited, left = [], [system(errno.EIO), system(errno.ESTALE), None]
    monkeypatch.setattr(retry.time, "sleep", waited.append)

    def read():
        if (error := left.pop(0)) is not None:
            raise error
        return 7

    assert retry.attempt(read) == 7
    assert waited == list(retry.WAITS[:2]) and sum(retry.WAITS) < 5


def test_the_message_names_file_reason_and_what_to_do(monkeypatch):
    monkeypatch.setattr(retry, "WAITS", ())

    def message(error):
        def read():
            raise error

        with pytest.raises(UserError) as caught:
            retry.retried(read)
        return str(caught.value)

    said = message(system(errno.EIO, "/x/a.wav"))
    assert said.startswith("/x/a.wav: cannot be read: Input/output error, 1 times; the file system")
    assert "same command" in said
    assert "ulimit -n" in message(system(errno.EMFILE, "/x/a.wav"))


@pytest.mark.parametrize("first, skip", [(b"", 0), (b"", 700), (b"header" * 99, 3)])
def test_a_file_is_its_bytes_also_on_a_disk_that_fails(
    tmp_path, monkeypatch, failing_disk, first, skip
):
    rng = np.random.default_rng(0)
    content = rng.bytes(20_000)
    (tmp_path / "a").write_bytes(content)
    monkeypatch.setattr(RetriedFile, "BLOCK", 1000)
    file, true = RetriedFile(str(tmp_path / "a"), first, skip), io.BytesIO(first + content[skip:])
    failing_disk.every = 3
    for place, whence, count in zip(
        rng.integers(0, 21_000, 300),
        rng.integers(0, 3, 300),
        rng.integers(0, 3000, 300),
        strict=True,
    ):
        place = int(place) if whence == os.SEEK_SET else -int(place) // 8
        place = max(place, -true.tell()) if whence == os.SEEK_CUR else place
        assert file.seek(place, int(whence)) == true.seek(place, int(whence)) == file.tell()
        buffer = bytearray(int(count))
        got = file.readinto(memoryview(buffer))
        assert bytes(buffer[:got]) == true.read(int(count))
    file.check()
    assert failing_disk.failed > 50
    file.seek(0)
    true.seek(0)
    assert file.read() == true.read() and file.read(9) == b""


def test_a_file_keeps_the_error_that_libraries_swallow(tmp_path, failing_disk):
    (tmp_path / "a").write_bytes(bytes(9))
    file, failing_disk.every = RetriedFile(str(tmp_path / "a")), 1
    assert file.read(5) == b""
    with pytest.raises(UserError, match="a: cannot be read: Input/output error, 4 times"):
        file.check()
    with pytest.raises(OSError, match="not a file"):
        RetriedFile(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        RetriedFile(str(tmp_path / "b"))
