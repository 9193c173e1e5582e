"""Whose fault a read is that fails: the machine's or the clip's. All that reads sound asks here.

What is no sound, or a file that is not there, is a bad clip: it is listed and left out. But a disk,
a network file system or a full table of open files says nothing of the clip. Such a read is tried
again, and then ends the run with what it is, so that no clip is lost to a bad moment.
"""

import contextlib
import errno
import functools
import os
import stat
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import TypeVar

from sacjax import io
from sacjax.errors import UserError, first_line

T = TypeVar("T")
WAITS = (0.1, 0.5, 2.0)  # seconds before the second, third and fourth try
# What the machine has too little of.
RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
# What a disk that is gone, or a network, says.
UNREACHABLE = frozenset(
    (
        errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH,
        errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.ENOLINK,
        errno.ENODEV, errno.ENXIO, errno.EINTR,
    )
)  # fmt: skip
FAULTS = io.TRANSIENT | RESOURCES | UNREACHABLE
# ArrayRecord tells the system's error in a RuntimeError's words alone.
_WORDS = {os.strerror(number): number for number in FAULTS}


class BadClip(Exception):
    """A clip that cannot be decoded; the message is the reason."""


def fault(error: BaseException) -> int:
    """Returns the system's number of an error that is the machine's; 0 for the clip's."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in FAULTS else 0
    if not isinstance(error, RuntimeError):
        return 0
    said = str(error)
    return next((number for words, number in _WORDS.items() if words in said), 0)


def retried(read: Callable[[], T]) -> T:
    """Returns what `read` returns; while it fails by the machine's fault it is tried again.

    Raises:
      UserError: it failed so each time.
      Exception: what `read` raises by the clip's fault, at once.
    """
    for wait in (*WAITS, None):
        try:
            return read()
        except UserError:  # one that was tried again already
            raise
        except Exception as error:
            number = fault(error)
            if not number:
                raise
            if wait is None:
                raise UserError(_message(error, number)) from error
            time.sleep(wait)
    raise AssertionError


def attempt(read: Callable[[], T]) -> T:
    """Returns what `read` returns.

    Raises:
      BadClip: the clip cannot be decoded.
      UserError: the machine cannot read, as of `retried`.
    """
    with blaming_the_clip():
        return retried(read)


@contextlib.contextmanager
def blaming_the_clip() -> Iterator[None]:
    """Turns what a broken file makes a decoder raise into `BadClip`; not the machine's fault."""
    try:
        yield
    except Exception as error:
        raise_fault(error)
        raise BadClip(f"{type(error).__name__}: {error}"[:200]) from error


def raise_fault(error: Exception) -> None:
    """Raises an error again that is the machine's: for those who pass over the clip's."""
    if isinstance(error, UserError) or fault(error):
        raise error


def _message(error: BaseException, number: int) -> str:
    name = getattr(error, "filename", None)
    where = f"{os.fsdecode(name)}: " if name else ""
    what = os.strerror(number) if name else first_line(error)
    advice = (
        "this machine has too little of it (ulimit -n, memory): raise it, or use fewer workers"
        if number in RESOURCES
        else "the file system fails, not the clip: when it works again, run the same command again"
    )
    return f"{where}cannot be read: {what}, {len(WAITS) + 1} times; {advice}"


class Content(BytesIO):
    """A sound file's bytes in memory, to be read as a `RetriedFile` is."""

    def __repr__(self) -> str:
        """Returns what libsndfile's errors call it."""
        return "a file in a data set"

    def check(self) -> None:
        """Raises nothing: no read of memory fails."""


class RetriedFile:
    """A file for libsndfile and FFmpeg; each of its reads is tried again as `retried` does.

    Those libraries take a read that fails for the end of the file. `check` raises what it was.
    """

    BLOCK = 1 << 14  # bytes read at a time, at least: libsndfile asks for a few at a time

    def __init__(self, path: str, first: bytes = b"", skip: int = 0):
        """Opens a file; its content is `first`, and then what is behind its first `skip` bytes.

        Raises:
          OSError: there is no such file, or it is none.
          UserError: it cannot be opened now.
        """
        self.name, self.first, self.shift = path, first, skip - len(first)
        self.descriptor = retried(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        status = retried(lambda: os.fstat(self.descriptor))
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a file")
        self.size, self.position = status.st_size - self.shift, 0
        self.block, self.begin = b"", 0  # what was read last, and where it lies
        self.failed: UserError | None = None

    def __repr__(self) -> str:
        """Returns its name, as libsndfile's errors call it."""
        return repr(self.name)

    def check(self) -> None:
        """Raises UserError if a read has failed."""
        if self.failed is not None:
            raise self.failed

    def read(self, count: int = -1) -> bytes:
        """Returns the next bytes, b"" at the end and where they cannot be read."""
        if count < 0:
            count = self.size
        offset = self.position - self.begin
        if offset < 0 or offset + count > len(self.block):
            self.begin, offset = self.position, 0
            self.block = self._at(self.position, max(count, self.BLOCK))
        found = self.block[offset : offset + count]
        self.position += len(found)
        return found

    def readinto(self, buffer: memoryview) -> int:
        """Reads into a buffer; returns how many bytes."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a place from the start, from here or from the end; returns it from the start."""
        if whence == os.SEEK_CUR:
            offset += self.position
        elif whence == os.SEEK_END:
            offset += self.size
        self.position = offset if offset > 0 else 0
        return self.position

    def tell(self) -> int:
        """Returns the place of the next byte."""
        return self.position

    def _at(self, position: int, count: int) -> bytes:
        """Returns `count` bytes from `position` on: fewer at the end, or where a read fails."""
        found = self.first[position : position + count]
        try:
            while len(found) < count and self.failed is None:
                place = position + len(found) + self.shift
                more = retried(functools.partial(self._pread, count - len(found), place))
                if not more:
                    break
                found += more
        except UserError as error:
            self.failed = error
        return found

    def _pread(self, count: int, place: int) -> bytes:
        try:
            return os.pread(self.descriptor, count, place)
        except OSError as error:  # with the name, which it lacks
            raise OSError(error.errno, error.strerror, self.name) from error

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
