"""A table of sound files: CSV, TSV or JSONL."""

import collections
import csv
import difflib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sacjax.data import groups
from sacjax.data.recordings import Recordings
from sacjax.data.sources.files import OpenFiles
from sacjax.errors import UserError

COLUMNS = ("filename", "label", "fold", "split", "group", "start", "end")


def load_manifest(data: ConfigDict) -> Recordings:
    """Reads a CSV, TSV or JSONL file with a column `filename`, and others that it may have.

    Those are `label`, `fold`, `split`, `group`, `start` and `end` (seconds). Several labels are
    written `a|b` (in JSONL a list will do). File names are relative to the manifest's folder; one
    that leads out of it is refused unless `data.allow_outside_root`. A row with a `start` has
    `#start` added to its name. Rows of one file are one group where `group` does not say otherwise.
    An empty label is unknown, or none if `data.empty_label` says so; in JSONL null is unknown and
    [] none.

    Raises:
      UserError: no such manifest, or a row of it that cannot be understood.
    """
    path = Path(data.path)
    if not data.path or not path.is_file():
        raise UserError(f"data.path: there is no manifest '{data.path}'")
    rows = _rows(path)
    root = path.parent.resolve()
    paths, names, found = [], [], []
    files: dict[str, str] = {}  # the first name of each
    for line, row in rows:
        full = _resolve(path, line, root, str(row["filename"]), data.allow_outside_root)
        paths.append(full)
        # Of the path as it is written: links are for their owner to name. './a.wav' is 'a.wav'.
        name = os.path.relpath(os.path.join(root, str(row["filename"])), root).replace(os.sep, "/")
        names.append(name if _empty(row, "start") else f"{name}#{row['start']}")
        files.setdefault(full, name)
        found.append(_labels(row.get("label"), data.empty_label))
    if len(set(names)) < len(names):
        twice = collections.Counter(names).most_common(1)[0][0]
        raise UserError(f"{path}: '{twice}' is listed twice; rows of one file need a 'start' each")
    if rows and not any(map(os.path.exists, paths)):
        raise UserError(
            f"{path}: none of its {len(rows)} files exists: file names are relative to '{root}'"
        )
    columns = {key: _column(path, rows, key) for key in ("fold", "split", "group", "start", "end")}
    starts = [start or 0.0 for start in columns["start"] or []] or None
    for (line, _), start, end in zip(
        rows, starts or [0.0] * len(rows), columns["end"] or [], strict=False
    ):
        if end is not None and end <= start:
            raise UserError(f"{path}, line {line}: end is {end:g}, not after start {start:g}")
    owners = groups.of_rows([files[full] for full in paths], columns["group"] or [None] * len(rows))
    classes = tuple(sorted({label for row_labels in found for label in row_labels or ()}))
    open_clip = OpenFiles(paths, starts, columns["end"])
    return Recordings(
        names, found, classes, open_clip, columns["fold"], columns["split"], owners, paths
    )


def _labels(cell: Any, empty: str) -> tuple[str, ...] | None:
    """Returns the labels in a cell or a JSON value, None where they are unknown.

    '' is unknown, unless `empty` is 'none': then it is a clip without a label.
    """
    if cell is None:
        return None
    parts = cell if isinstance(cell, list) else str(cell).split("|")
    names = tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
    return names if names or isinstance(cell, list) or empty == "none" else None


def _resolve(manifest: Path, line: int, root: Path, name: str, allow_outside: bool) -> str:
    """Returns a file's absolute path.

    Raises:
      UserError: `..`, a link or an absolute path leads out of the root.
    """
    try:
        full = (root / name).resolve()
    except (ValueError, OSError) as error:
        raise UserError(f"{manifest}, line {line}: {name!r} is not a file name: {error}") from error
    if not allow_outside and not full.is_relative_to(root):
        raise UserError(
            f"{manifest}, line {line}: '{name}' leads out of the manifest's folder; "
            "set data.allow_outside_root=True to allow it"
        )
    return str(full)


def _empty(row: dict, key: str) -> bool:
    return row.get(key) is None or row[key] == ""


def _rows(path: Path) -> list[tuple[int, dict]]:
    """Returns (line number, row) of a manifest."""
    kind = path.suffix.lower()
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            if kind in (".jsonl", ".ndjson", ".json"):
                rows = [(k, json.loads(line)) for k, line in enumerate(file, 1) if line.strip()]
            else:
                delimiter = "\t" if kind in (".tsv", ".tab") else ","
                reader = csv.DictReader(file, delimiter=delimiter, restval="")
                rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable manifest: {error}") from error
    for line, row in rows:
        if not isinstance(row, dict) or _empty(row, "filename"):
            columns = ", ".join(map(str, row)) if isinstance(row, dict) else "no columns"
            raise UserError(f"{path}, line {line}: there is no 'filename' (the row has: {columns})")
    _check_columns(path, {str(column) for _, row in rows for column in row})
    return rows


def _check_columns(path: Path, columns: set[str]) -> None:
    """Raises UserError for a column that is nearly called as one that is not there."""
    for column in sorted(columns - set(COLUMNS)):
        for meant in difflib.get_close_matches(column.lower(), COLUMNS, n=1, cutoff=0.75):
            if meant not in columns:
                raise UserError(f"{path}: column '{column}' is not known; did you mean '{meant}'?")


def _column(path: Path, rows: list[tuple[int, dict]], key: str) -> list | None:
    """Returns a column, None where the manifest has none; an empty cell is None.

    Raises:
      UserError: a bad value.
    """
    if all(_empty(row, key) for _, row in rows):
        return None
    values: list[Any] = []
    for line, row in rows:
        value: Any = None if _empty(row, key) else str(row[key]).strip()
        if value is None and key in ("fold", "split"):
            raise UserError(f"{path}, line {line}: {key} is empty, but other rows have one")
        if value is not None and not _CELLS[key][0](value):
            raise UserError(f"{path}, line {line}: {key} is '{value}'; write {_CELLS[key][1]}")
        if value is not None and key != "group" and key != "split":
            value = int(float(value)) if key == "fold" else float(value)
        values.append(value)
    return values


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
