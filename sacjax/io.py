"""Files of a workdir, on a local disk or in a bucket (`gs://BUCKET/RUN`).

Each is written whole or not at all: nobody ever reads half of one. On a disk it is written beside
its place and renamed; in a bucket it is one object, put at once.
"""

import contextlib
import csv
import errno
import fcntl
import functools
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from sacjax.errors import UserError, first_line

# What a file system that others share says in a bad moment, and not of the file.
TRANSIENT = frozenset(
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO)
)
BUCKET = "gs://"
PUT_SECONDS = 10.0  # a file that grows is put into a bucket again no more often than this
TRIES = 24  # of a request to a bucket that does not answer: about ten minutes


def to_path(where: str | os.PathLike[str]) -> Path:
    """Returns where a workdir or a file of it is.

    On a disk it is a `pathlib.Path`; in a bucket an `etils.epath.Path`, which has its methods
    without their options. Only a disk's errors reach the caller through pathlib, so that a folder
    that cannot be looked at is not taken for an empty one.

    Raises:
      UserError: a bucket that Orbax cannot save to, or gcsfs is not installed.
    """
    text = os.fspath(where)
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", text)
    if not scheme:
        return Path(text)
    if not text.startswith(BUCKET):
        raise UserError(
            f"{text}: Orbax saves no checkpoints to {scheme[0]}; give gs://BUCKET/RUN or a folder"
        )
    _reach_buckets()
    from etils import epath

    return cast(Path, epath.Path(text))


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path of `to_path` is one in a bucket."""
    return os.fspath(path).startswith(BUCKET)


def on_disk(where: str | os.PathLike[str], what: str) -> Path:
    """Returns the path of what cannot be in a bucket. Raises UserError where it is in one.

    Args:
      what: it is, such as `--output`.
    """
    if "://" in os.fspath(where):
        raise UserError(
            f"{what} {where}: is not on a disk; name a folder of this machine or a mount"
        )
    return Path(where)


@functools.cache
def _reach_buckets() -> None:
    """Makes gcsfs, through which epath and Orbax reach a bucket, patient and without a memory.

    By itself it gives up after half a minute, and remembers what is in a folder, also when
    TensorStore or another host has written there since.
    """
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError("gs:// needs gcsfs: pip install 'sacjax[gcs]'")
    import fsspec
    from gcsfs.core import GCSFileSystem
    from gcsfs.retry import retry_request

    class Patient(GCSFileSystem):  # type: ignore[misc]
        _request = retry_request(retries=TRIES)(GCSFileSystem._request.__wrapped__)

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options | {"use_listings_cache": False})

    fsspec.register_implementation("gcs", Patient, clobber=True)


def absolute(path: Path) -> Path:
    """Returns the absolute path; one in a bucket is absolute."""
    return path if in_bucket(path) else path.absolute()


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; a bucket has none."""
    if not in_bucket(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[BinaryIO]:
    """Gives a file to write; it gets its name when all is written, and else nothing changes.

    On a disk, what is written goes into a file of this process's own beside it and reaches the
    disk first. For a bucket it is kept, and put at the end.

    Args:
      path: its folder exists.

    Raises:
      UserError: the file cannot be written.
    """
    path = to_path(path)
    try:
        with _putting(path) if in_bucket(path) else _renaming(path) as file:
            yield file
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {_why(error)}; make room there, or choose another place"
        ) from error


@contextlib.contextmanager
def _renaming(path: Path) -> Iterator[BinaryIO]:
    partial = _beside(path)
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # it is there only where something failed


@contextlib.contextmanager
def _putting(path: Path) -> Iterator[BinaryIO]:
    with tempfile.SpooledTemporaryFile(max_size=1 << 24) as kept:
        yield cast(BinaryIO, kept)
        kept.seek(0)
        with _as_os_errors(), path.open("wb") as there:
            shutil.copyfileobj(kept, there, 1 << 20)


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Raises what a bucket's libraries say as OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # gcsfs, aiohttp and google.auth each raise their own
        raise OSError(first_line(error)) from error


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")


def _why(error: OSError) -> str:
    return error.strerror or first_line(error)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file whole, or leaves what is there, as `writing` does."""
    with writing(path) as file:
        file.write(content)


def write_text(path: str | Path, text: str, errors: str = "strict") -> None:
    """Writes a file whole, or leaves what is there, as `writing` does.

    Args:
      path: its folder exists.
      text: encoded as UTF-8; line ends stay as they are.
      errors: what becomes of characters that UTF-8 has not, as of `str.encode`.

    Raises:
      UserError: the file cannot be written.
    """
    write_bytes(path, text.encode(errors=errors))


def write_json(
    path: str | Path, value: Any, indent: int | None = None, sort_keys: bool = False
) -> None:
    """Writes a value as JSON and a line end, as `writing` does."""
    write_text(path, json.dumps(value, indent=indent, sort_keys=sort_keys) + "\n")


def write_csv(
    path: str | Path,
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    errors: str = "surrogateescape",
) -> None:
    """Writes a table as CSV, as `writing` does; file names in it may be of any bytes."""
    with writing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors=errors, newline="")
        writer = csv.writer(text)
        writer.writerow(header)
        writer.writerows(rows)
        text.detach()  # which flushes it, and leaves the file open


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Makes others wait that read a file and write it again, so that none loses what another adds.

    It locks the file's folder, which is there, for this machine's processes, and on most file
    systems that machines share for theirs. In a bucket there is no such lock: nobody waits.
    """
    if in_bucket(path):
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system that has no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def read_text(path: str | Path, errors: str = "strict") -> io.StringIO:
    """Returns a file's text, to be read with its line ends as they are, as `csv` needs them."""
    return io.StringIO(to_path(path).read_bytes().decode(errors=errors), newline="")


class Growing:
    """A file that grows while a run lasts, such as a log.

    To a file on a disk is appended. An object in a bucket cannot be appended to: the whole is kept
    in memory, and put again at a flush that comes `PUT_SECONDS` after the last, at `put` and at
    the end. What a killed run has not put is lost.
    """

    def __init__(self, path: Path):
        """Opens a file that may be there; its folder exists."""
        self.path = path
        self._file: BinaryIO | None = None
        self._kept, self._new, self._last = bytearray(), False, time.monotonic()
        if not in_bucket(path):
            self._file = open(path, "ab")
        elif path.is_file():
            self._kept += path.read_bytes()

    def write(self, data: bytes) -> int:
        """Adds to the end; returns the number of bytes."""
        if self._file is not None:
            return self._file.write(data)
        self._kept += data
        self._new = True
        return len(data)

    def flush(self, durable: bool = False) -> None:
        """Hands what was written to the system; `durable`: returns when it is on the disk.

        Raises:
          UserError: the bucket cannot be written.
        """
        if self._file is not None:
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
        elif time.monotonic() - self._last >= PUT_SECONDS:
            self.put()

    def put(self) -> None:
        """Puts what is new into the bucket. Raises UserError where it cannot be written."""
        if self._new:
            write_bytes(self.path, bytes(self._kept))
            self._new, self._last = False, time.monotonic()

    def close(self) -> None:
        """Ends it. Raises UserError where the bucket cannot be written."""
        if self._file is not None:
            self._file.close()
        self.put()


def copy_folder(source: Path, target: Path) -> None:
    """Writes the files of a folder on a disk into one of a workdir. Raises UserError."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source).as_posix()
            make_folder(copy.parent)
            with open(path, "rb") as file, writing(copy) as out:
                shutil.copyfileobj(file, out)


def check_writable(path: str | Path, flag: str) -> None:
    """Makes a file's folder, and tries to write there: for results that are long in the making.

    Args:
      path: a file, which may be there and stays as it is.
      flag: that names it, such as `--output`.

    Raises:
      UserError: the file cannot be written.
    """
    path = to_path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _try_in(path.parent, _beside(path).name)
    except OSError as error:
        raise UserError(
            f"{flag} {path}: cannot be written: {_why(error)}; choose another place"
        ) from error


def check_folder(path: Path, flag: str) -> None:
    """Makes a folder, and tries to write there.

    Raises:
      UserError: nothing can be written there, or there is no such bucket.
    """
    try:
        _try_in(path, f".writable.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}")
    except OSError as error:
        raise UserError(
            f"{flag} {path}: cannot be written: {_why(error)}; choose another folder"
        ) from error


def _try_in(folder: Path, name: str) -> None:
    make_folder(folder)
    with _as_os_errors():
        if in_bucket(folder):
            (folder / name).write_bytes(b"")
        else:
            (folder / name).touch()
        (folder / name).unlink()


def is_transient(error: BaseException) -> bool:
    """Returns whether a read that failed so may succeed in a moment: the file system's fault.

    TensorStore tells the system's error in its message alone: `[os_error_code='116']`.
    """
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    said = re.search(r"os_error_code[^=\s]*='(\d+)'", str(error))
    return said is not None and int(said[1]) in TRANSIENT
