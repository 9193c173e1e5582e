"""Where recordings come from: `data.source` names one of the loaders here or beside this file."""

import collections
import csv
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from ml_collections import ConfigDict

from sacjax.data import groups, labels
from sacjax.data.recordings import Clip, Recordings
from sacjax.errors import UserError, nearest

# libsndfile's formats and their other endings; RAW has no header to read.
EXTENSIONS = {"." + name.lower() for name in sf.available_formats() if name != "RAW"} | {
    ".aif", ".aifc", ".opus", ".oga", ".mp3", ".wave", ".snd"
}  # fmt: skip
SAMPLES_A_BYTE = 8192  # more than any codec gives (FLAC's silence: about 5,000)


def load(data: ConfigDict) -> Recordings:
    """Returns the recordings that `data.source` names.

    Raises:
      UserError: an unknown, missing or empty source, a malformed manifest, labels that do not fit
        `data.multi_label` or names that do not fit `data.group_pattern`.
    """
    loaders = {
        "folder": load_folder, "manifest": load_manifest, "tfds": _tfds, "arrayrecord": _array_record,
        "synthetic": _synthetic,
    }  # fmt: skip
    if data.source not in loaders:
        raise UserError(
            f"data.source: there is no source '{data.source}'{nearest(data.source, loaders)}"
        )
    recordings = loaders[data.source](data)
    if not len(recordings):
        raise UserError(f"data.source={data.source}: no recordings in '{data.path or data.name}'")
    if data.group_pattern:
        recordings.groups = groups.from_names(recordings.names, data.group_pattern)
    return labels.checked(recordings, data.multi_label)


def _tfds(data: ConfigDict) -> Recordings:
    from sacjax.data.sources.tfds import load_tfds

    return load_tfds(data)


def _array_record(data: ConfigDict) -> Recordings:
    from sacjax.data.sources.array_record import load_array_record

    return load_array_record(data)


def _synthetic(data: ConfigDict) -> Recordings:
    from sacjax.data.sources.synthetic import load_synthetic

    return load_synthetic(data)


class _SoundFile(sf.SoundFile):
    def seekable(self) -> bool:
        """No: else each read is followed by a seek to where it ended, which costs time and fails at a broken end."""
        return False


class FileClip:
    """A sound file, or a part of one, read by seeking. It is for one thread."""

    def __init__(self, path: str, start: float = 0.0, end: float | None = None):
        """Reads the header; `start` and `end` in seconds. Raises OSError or sf.LibsndfileError."""
        size = os.path.getsize(path)
        if not size:
            raise OSError("empty file")
        self.path = os.fsencode(path)
        self.file = _SoundFile(self.path)
        self.sample_rate = self.file.samplerate
        self.first = round(start * self.sample_rate)
        # A header may promise more than the file can hold.
        last = min(self.file.frames, size * SAMPLES_A_BYTE)
        self.num_samples = max(
            (last if end is None else min(round(end * self.sample_rate), last)) - self.first, 0
        )

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, channels]: what there is, if that is less than the header says.

        Raises:
          sf.LibsndfileError: the very first sample cannot be decoded.
        """
        channels = self.file.channels
        count = max(min(count, self.num_samples - start), 0)
        pieces, most = [np.zeros([0, channels], np.float32)], max((1 << 20) // channels, 1)
        try:
            if count and self.file.tell() != self.first + start:
                self.file.seek(self.first + start)
            while (
                count > 0
            ):  # in pieces, so that nothing is allocated for samples that are not there
                piece = np.full([min(count, most), channels], np.nan, np.float32)
                pieces.append(piece)
                got = len(self.file.read(dtype="float32", out=piece))
                pieces[-1] = piece[:got]
                count -= got or count
        except (
            sf.LibsndfileError
        ):  # keep what came before the damage; the decoder is of no more use
            self.file = _SoundFile(self.path)
            pieces[-1] = pieces[-1][: np.count_nonzero(~np.isnan(pieces[-1][:, 0]))]
            if start == 0 and not sum(map(len, pieces)):
                raise
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)


@dataclasses.dataclass
class OpenFiles:
    """Opens the i-th file of a list."""

    paths: list[str]
    starts: list[float] | None = None
    ends: list[float | None] | None = None

    def __call__(self, i: int) -> Clip:
        return FileClip(
            self.paths[i],
            self.starts[i] if self.starts else 0.0,
            self.ends[i] if self.ends else None,
        )


def load_folder(data: ConfigDict) -> Recordings:
    """Reads `DIR/<label>/**/*`: the first folder below `data.path` is the label; that of files directly in DIR is unknown.

    Hidden files and folders, and files that no sound format's name ends in, are left out. Links are followed; one that leads out
    of DIR is refused unless `data.allow_outside_root`.
    """
    root = os.path.abspath(data.path)
    if not data.path:
        raise UserError("data.path is empty: give the folder that has a sub-folder for each label")
    if not os.path.isdir(root):
        raise UserError(f"data.path: there is no folder '{data.path}'")
    parts, others = [], collections.Counter[str]()
    for path in _walk(root, data.allow_outside_root):
        if path[-1].lower().endswith(tuple(EXTENSIONS)):
            parts.append(path)
        else:
            others[os.path.splitext(path[-1])[1]] += 1
    if not parts:
        found = (
            ", ".join(
                f"{count} {kind or 'without ending'}" for kind, count in others.most_common(3)
            )
            or "no files"
        )
        raise UserError(
            f"data.path: no sound files that libsndfile reads in '{data.path}' (it has {found})"
        )
    parts.sort()
    # A name that is not UTF-8 still has to go into tables.
    names = [os.fsencode("/".join(part)).decode("utf-8", "backslashreplace") for part in parts]
    known = [(name.split("/")[0],) if "/" in name else None for name in names]
    classes = tuple(sorted({label[0] for label in known if label}))
    paths = [os.path.join(root, *part) for part in parts]
    return Recordings(names, known, classes, OpenFiles(paths), paths=paths)


def _walk(root: str, allow_outside: bool) -> Iterator[list[str]]:
    """Yields the components of each file's path below `root`; enters no folder twice, whatever the links."""

    def fail(error: OSError) -> None:
        raise UserError(f"data.path: '{error.filename}' cannot be read: {error.strerror}")

    real, seen = os.path.realpath(root), set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=fail):
        key = os.path.realpath(folder)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and key not in seen
        )
        files = [name for name in files if not name.startswith(".") and key not in seen]
        seen.add(key)
        above = [] if folder == root else os.path.relpath(folder, root).split(os.sep)
        for name in folders + files:
            path = os.path.join(folder, name)
            if os.path.islink(path) and not allow_outside:
                target = os.path.realpath(path)
                if os.path.commonpath([real, target]) != real:
                    raise UserError(
                        f"data.path: '{path}' is a link out of the folder, to '{target}'; set data.allow_outside_root=True "
                        "to allow it"
                    )
        yield from ([*above, name] for name in files if os.path.isfile(os.path.join(folder, name)))


def load_manifest(data: ConfigDict) -> Recordings:
    """Reads a CSV, TSV or JSONL with `filename` and optional `label`, `fold`, `split`, `group`, `start`, `end` (seconds).

    Several labels are written `a|b` (in JSONL a list will do). File names are relative to the manifest's folder; one that leads out
    of it is refused unless `data.allow_outside_root`. A row with a `start` has `#start` added to its name.
    Rows of one file are one group where `group` does not say otherwise. An empty label is unknown, or none if
    `data.empty_label` says so; in JSONL null is unknown and [] none.
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
        files.setdefault(full, name)
        names.append(name if _empty(row, "start") else f"{name}#{row['start']}")
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
    """Returns what a cell or a JSON value says: None is unknown, as is '' unless `empty` is 'none'."""
    if cell is None:
        return None
    parts = cell if isinstance(cell, list) else str(cell).split("|")
    names = tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
    return names if names or isinstance(cell, list) or empty == "none" else None


def _resolve(manifest: Path, line: int, root: Path, name: str, allow_outside: bool) -> str:
    """Returns a file's absolute path. Raises UserError for one that `..`, a link or an absolute path leads out of the root."""
    try:
        full = (root / name).resolve()
    except (ValueError, OSError) as error:
        raise UserError(f"{manifest}, line {line}: {name!r} is not a file name: {error}") from error
    if not allow_outside and not full.is_relative_to(root):
        raise UserError(
            f"{manifest}, line {line}: '{name}' leads out of the manifest's folder; set data.allow_outside_root=True to allow it"
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
    return rows


def _column(path: Path, rows: list[tuple[int, dict]], key: str) -> list | None:
    """Returns a column, None where the manifest has none; an empty cell is None. Raises UserError for a bad value."""
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
        lambda text: _number(text) >= 1 and _number(text).is_integer(),
        "a whole number from 1 on",
    ),
    "split": (lambda text: text in ("train", "validation", "test"), "train, validation or test"),
    "group": (lambda text: True, "any name"),
    "start": (lambda text: _number(text) >= 0, "seconds, from 0 on"),
    "end": (lambda text: _number(text) >= 0, "seconds, from 0 on"),
}
