"""A table of sound files: CSV, TSV or JSONL."""

import collections
import csv
import difflib
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ml_collections import ConfigDict

from sacjax.data import groups
from sacjax.data.recordings import Recordings
from sacjax.data.sources.files import OpenFiles
from sacjax.data.sources.strong_labels import windows_of
from sacjax.errors import UserError

COLUMNS = ("filename", "label", "fold", "split", "group", "start", "end")


def load_manifest(data: ConfigDict) -> Recordings:
    """Reads a CSV, TSV or JSONL file with a column `filename`, and others that it may have.

    Those are `label`, `fold`, `split`, `group`, `start` and `end` (seconds). Several labels are
    written `a|b` (in JSONL a list will do). File names are relative to the manifest's folder; one
    that leads out of it is refused unless `data.allow_outside_root`. A row with a `start` has
    `#start` added to its name. Rows of one file are one group where `group` does not say otherwise.
    An empty label is unknown, or none if `data.empty_label` says so; in JSONL null is unknown and
    [] none. With `data.windows` rows are events of long recordings: see `strong_labels`.

    Raises:
      UserError: no such manifest, or a row of it that cannot be understood.
    """
    path = Path(data.path)
    if not data.path or not path.is_file():
        raise UserError(f"data.path: there is no manifest '{data.path}'")
    root = path.parent.resolve()
    files, columns = _Files(path, root, data.allow_outside_root), _Columns(path)
    labels: list[tuple[str, ...] | None] = []
    tuples: dict[tuple[str, ...], tuple[str, ...]] = {}  # equal ones are kept once
    for line, row in _rows(path):
        files.add(line, str(row["filename"]), row.get("start"))
        columns.add(line, row)
        own = _labels(row.get("label"), data.empty_label)
        labels.append(None if own is None else tuples.setdefault(own, own))
    fold, split, group, start, end = map(columns.values, _CELLS)
    paths, names = files.paths, files.names
    if not data.windows and len(set(names)) < len(names):
        twice = collections.Counter(names).most_common(1)[0][0]
        raise UserError(f"{path}: '{twice}' is listed twice; rows of one file need a 'start' each")
    if paths and not any(map(os.path.exists, paths)):
        raise UserError(
            f"{path}: none of its {len(paths)} files exists: file names are relative to '{root}'"
        )
    owners = None
    first_names = files.first_names(start)
    if group or len(set(paths)) < len(paths):
        owners = groups.of_rows(first_names, group or [None] * len(paths))
    classes = tuple(sorted({label for own in tuples for label in own}))
    open_clip = OpenFiles(paths, start and [at or 0.0 for at in start], end)
    recordings = Recordings(names, labels, classes, open_clip, fold, split, owners, paths)
    return windows_of(recordings, first_names, data) if data.windows else recordings


class _Files:
    """The files that rows name: where they are, and what they are called.

    A folder's links are resolved once, however many files of it are listed; of a file it is only
    looked whether it is a link.
    """

    def __init__(self, manifest: Path, root: Path, allow_outside: bool):
        self.manifest, self.root, self.allow_outside = manifest, root, allow_outside
        self.paths: list[str] = []  # of the rows: absolute, links resolved
        self.names: list[str] = []
        # As it is written → (absolute, below the root), None where its files are resolved singly.
        self.folders: dict[str, tuple[str, str] | None] = {}

    def add(self, line: int, written: str, start: Any) -> None:
        """Adds a row. Raises UserError where its file leads out of the root, or has no such name.

        Args:
          line: in the manifest.
          written: the file's name there.
          start: the row's cell.
        """
        folder, slash, base = written.rpartition("/")
        folder += slash
        if folder not in self.folders:
            self.folders[folder] = self._folder(folder)
        where = self.folders[folder]
        full = where[0] + base if where else ""
        if where is None or base in ("", ".", "..") or _is_link(full):
            full, name = self._resolve(line, written), self._below(written)
        else:
            name = where[1] + base
        self.paths.append(full)
        # Of the path as it is written: links are for their owner to name. './a.wav' is 'a.wav'.
        self.names.append(name if start is None or start == "" else f"{name}#{start}")

    def first_names(self, starts: list[float | None] | None) -> list[str]:
        """Returns for each row its file as the first row of it is called, without `#start`."""
        first: dict[str, str] = {}
        for path, name, start in zip(
            self.paths, self.names, starts or [None] * len(self.paths), strict=True
        ):
            if path not in first:
                first[path] = name if start is None else name.rpartition("#")[0]
        return [first[path] for path in self.paths]

    def _folder(self, written: str) -> tuple[str, str] | None:
        try:
            real = (self.root / written).resolve()
        except (ValueError, OSError):  # resolving the file tells its line
            return None
        if not self.allow_outside and not real.is_relative_to(self.root):
            return None
        below = self._below(written)
        return os.path.join(real, ""), "" if below == "." else f"{below}/"

    def _below(self, written: str) -> str:
        """Returns a path relative to the root, links as they are."""
        return os.path.relpath(os.path.join(self.root, written), self.root).replace(os.sep, "/")

    def _resolve(self, line: int, name: str) -> str:
        """Returns a file's absolute path.

        Raises:
          UserError: `..`, a link or an absolute path leads out of the root.
        """
        try:
            full = (self.root / name).resolve()
        except (ValueError, OSError) as error:
            raise UserError(
                f"{self.manifest}, line {line}: {name!r} is not a file name: {error}"
            ) from error
        if not self.allow_outside and not full.is_relative_to(self.root):
            raise UserError(
                f"{self.manifest}, line {line}: '{name}' leads out of the manifest's folder; "
                "set data.allow_outside_root=True to allow it"
            )
        return str(full)


def _is_link(path: str) -> bool:
    """Whether a file is a link, or has a name that no file can have."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:  # it is not there
        return False
    except ValueError:
        return True


def _labels(cell: Any, empty: str) -> tuple[str, ...] | None:
    """Returns the labels in a cell or a JSON value, None where they are unknown.

    '' is unknown, unless `empty` is 'none': then it is a clip without a label.
    """
    if cell is None:
        return None
    parts = cell if isinstance(cell, list) else str(cell).split("|")
    names = tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
    return names if names or isinstance(cell, list) or empty == "none" else None


def _empty(row: dict, key: str) -> bool:
    return row.get(key) is None or row[key] == ""


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    """Yields (line number, row) of a manifest, one by one: all of them as dicts would be large."""
    kind = path.suffix.lower()
    columns: set[Any] = set()
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for line, row in _parsed(file, kind):
                if not isinstance(row, dict) or _empty(row, "filename"):
                    told = ", ".join(map(str, row)) if isinstance(row, dict) else "no columns"
                    raise UserError(
                        f"{path}, line {line}: there is no 'filename' (the row has: {told})"
                    )
                columns.update(row)
                yield line, row
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable manifest: {error}") from error
    _check_columns(path, set(map(str, columns)))


def _parsed(file: TextIO, kind: str) -> Iterator[tuple[int, Any]]:
    """Yields (line number, what the line says) of a file whose name ends in `kind`."""
    if kind in (".jsonl", ".ndjson", ".json"):
        yield from ((k, json.loads(line)) for k, line in enumerate(file, 1) if line.strip())
        return
    reader = csv.DictReader(file, delimiter="\t" if kind in (".tsv", ".tab") else ",", restval="")
    yield from ((reader.line_num, row) for row in reader)


def _check_columns(path: Path, columns: set[str]) -> None:
    """Raises UserError for a column that is nearly called as one that is not there."""
    for column in sorted(columns - set(COLUMNS)):
        for meant in difflib.get_close_matches(column.lower(), COLUMNS, n=1, cutoff=0.75):
            if meant not in columns:
                raise UserError(f"{path}: column '{column}' is not known; did you mean '{meant}'?")


class _Columns:
    """The columns of `_CELLS`; an empty cell is None."""

    def __init__(self, path: Path):
        self.path, self.rows = path, 0
        self.found: dict[str, list[Any]] = {}  # of those that some row has
        self.empty: dict[str, int] = {}  # the first line without one

    def add(self, line: int, row: dict) -> None:
        """Adds a row's cells. Raises UserError for a bad value."""
        for key in _CELLS:
            if _empty(row, key):
                self.empty.setdefault(key, line)
                if key in self.found:
                    self.found[key].append(None)
            else:
                value = self._value(line, key, str(row[key]).strip())
                if key not in self.found:
                    self.found[key] = [None] * self.rows
                self.found[key].append(value)
        self.rows += 1
        if not _empty(row, "end"):
            start, end = (self.found[key][-1] if key in self.found else 0.0 for key in _SPAN)
            if end <= (start or 0.0):
                raise UserError(
                    f"{self.path}, line {line}: end is {end:g}, not after start {start or 0:g}"
                )

    def values(self, key: str) -> list | None:
        """Returns a column, None where no row has it.

        Raises:
          UserError: some rows have a fold or a split, others none.
        """
        if key in self.found and key in self.empty and key in ("fold", "split"):
            raise UserError(
                f"{self.path}, line {self.empty[key]}: {key} is empty, but other rows have one"
            )
        return self.found.get(key)

    def _value(self, line: int, key: str, cell: str) -> Any:
        good, wanted = _CELLS[key]
        if not good(cell):
            raise UserError(f"{self.path}, line {line}: {key} is '{cell}'; write {wanted}")
        if key in ("group", "split"):
            return sys.intern(cell)  # many rows have the same
        return int(float(cell)) if key == "fold" else float(cell)


def _number(text: str) -> float:
    """Returns what `text` says, -1 for what is no number."""
    try:
        return float(text) if math.isfinite(float(text)) else -1.0
    except ValueError:
        return -1.0


# What a cell of a column may hold, and how to say so.
_CELLS: dict[str, tuple[Callable[[str], bool], str]] = {
    "fold": (
        lambda text: 1 <= _number(text) < 2**31 and _number(text).is_integer(),
        "a whole number from 1 on",
    ),
    "split": (lambda text: text in ("train", "validation", "test"), "train, validation or test"),
    "group": (lambda text: True, "any name"),
    "start": (lambda text: _number(text) >= 0, "seconds, from 0 on"),
    "end": (lambda text: _number(text) >= 0, "seconds, from 0 on"),
}
_SPAN = ("start", "end")
