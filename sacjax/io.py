"""Files that are written whole or not at all: nobody ever reads half of one."""

import csv
import errno
import io
import json
import os
import re
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sacjax.errors import UserError

# What a file system that others share says in a bad moment, and not of the file.
TRANSIENT = frozenset(
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO)
)


def write_text(path: str | Path, text: str, errors: str = "strict") -> None:
    """Writes a file whole, or leaves what is there.

    The text goes into a file of this process's own beside it, reaches the disk, and then takes
    the name.

    Args:
      path: its folder exists.
      text: encoded as UTF-8; line ends stay as they are.
      errors: what becomes of characters that UTF-8 has not, as of `str.encode`.

    Raises:
      UserError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        try:
            with open(partial, "wb") as file:
                file.write(text.encode(errors=errors))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)  # it is there only where something failed
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}; make room there, or choose another place"
        ) from error


def write_json(
    path: str | Path, value: Any, indent: int | None = None, sort_keys: bool = False
) -> None:
    """Writes a value as JSON and a line end, as `write_text` does."""
    write_text(path, json.dumps(value, indent=indent, sort_keys=sort_keys) + "\n")


def write_csv(
    path: str | Path,
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    errors: str = "surrogateescape",
) -> None:
    """Writes a table as CSV, as `write_text` does; file names in it may be of any bytes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue(), errors)


def check_writable(path: str | Path, flag: str) -> None:
    """Makes a file's folder, and tries to write there: for results that are long in the making.

    Args:
      path: a file, which may be there and stays as it is.
      flag: that names it, such as `--output`.

    Raises:
      UserError: the file cannot be written.
    """
    path = Path(path)
    trial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UserError(
            f"{flag} {path}: cannot be written: {error.strerror}; choose another place"
        ) from error


def is_transient(error: BaseException) -> bool:
    """Returns whether a read that failed so may succeed in a moment: the file system's fault.

    TensorStore tells the system's error in its message alone: `[os_error_code='116']`.
    """
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    said = re.search(r"os_error_code[^=\s]*='(\d+)'", str(error))
    return said is not None and int(said[1]) in TRANSIENT
