"""Where recordings come from: `data.source` names one of the loaders here or beside this file."""

import csv
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from ml_collections import ConfigDict

from sacjax.data.recordings import Clip, Recordings
from sacjax.errors import UserError

EXTENSIONS = {"." + name.lower() for name in sf.available_formats()} | {".aif", ".opus", ".oga", ".mp3", ".wave", ".snd"}


def load(data: ConfigDict) -> Recordings:
    """Returns the recordings that `data.source` names.

    Raises:
      UserError: a missing or empty source, or a malformed manifest.
    """
    recordings = {
        "folder": load_folder, "manifest": load_manifest, "tfds": _tfds, "arrayrecord": _array_record,
        "synthetic": _synthetic,
    }[data.source](data)  # fmt: skip
    if not len(recordings):
        raise UserError(f"data.source={data.source}: no recordings in '{data.path or data.name}'")
    return recordings


def _tfds(data: ConfigDict) -> Recordings:
    from sacjax.data.tfds_source import load_tfds

    return load_tfds(data)


def _array_record(data: ConfigDict) -> Recordings:
    from sacjax.data.array_record import load_array_record

    return load_array_record(data)


def _synthetic(data: ConfigDict) -> Recordings:
    from sacjax.data.synthetic import load_synthetic

    return load_synthetic(data)


class FileClip:
    """A sound file, or a part of one, read by seeking."""

    def __init__(self, path: str, start: float = 0.0, end: float | None = None):
        """Opens nothing yet but the header; `start` and `end` in seconds. Raises OSError or sf.LibsndfileError."""
        self.path = path
        if os.path.getsize(path) == 0:
            raise OSError("empty file")
        info = sf.info(path)
        self.sample_rate = info.samplerate
        self.first = round(start * info.samplerate)
        last = info.frames if end is None else min(round(end * info.samplerate), info.frames)
        # A header may promise more than the file can hold: no codec gives more than 2,000 samples a byte.
        self.num_samples = min(max(last - self.first, 0), os.path.getsize(path) * 2000)

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, channels]; a truncated file gives what it has."""
        count = min(count, self.num_samples - start)
        if count <= 0:
            return np.zeros([0, 1], np.float32)
        with sf.SoundFile(self.path) as file:
            if self.first + start:
                file.seek(self.first + start)
            # Read in pieces, so that nothing is allocated for samples that are not there.
            pieces, left = [], count
            while left > 0:
                piece = file.read(min(left, 1 << 20), dtype="float32", always_2d=True)
                pieces.append(piece)
                left -= len(piece)
                if not len(piece):
                    break
        return np.concatenate(pieces)


@dataclasses.dataclass
class OpenFiles:
    """Opens the i-th file of a list."""

    paths: list[str]
    starts: list[float] | None = None
    ends: list[float | None] | None = None

    def __call__(self, i: int) -> Clip:
        return FileClip(self.paths[i], self.starts[i] if self.starts else 0.0, self.ends[i] if self.ends else None)


def load_folder(data: ConfigDict) -> Recordings:
    """Reads `DIR/<label>/**/*`: the first folder below `data.path` is the label; files directly in DIR have none.

    Hidden files and files that no sound format's name ends in are left out.
    """
    root = Path(data.path)
    if not data.path or not root.is_dir():
        raise UserError(f"data.path: there is no folder '{data.path}'")
    paths = sorted(
        path for path in root.rglob("*")
        if path.suffix.lower() in EXTENSIONS and path.is_file() and not path.name.startswith(".")
    )  # fmt: skip
    names = [path.relative_to(root).as_posix() for path in paths]
    labels: list[tuple[str, ...]] = [(name.split("/")[0],) if "/" in name else () for name in names]
    classes = tuple(sorted({label[0] for label in labels if label}))
    full = [str(path.absolute()) for path in paths]
    return Recordings(names, labels, classes, OpenFiles(full), paths=full)


def load_manifest(data: ConfigDict) -> Recordings:
    """Reads a CSV, TSV or JSONL with `filename` and optional `label`, `fold`, `split`, `group`, `start`, `end` (seconds).

    Several labels are written `a|b`. File names are relative to the manifest's folder; one that leads out of it is refused unless
    `data.allow_outside_root`. Rows that name the same file twice (with different `start`) get `#start` added to their name.
    """
    path = Path(data.path)
    if not data.path or not path.is_file():
        raise UserError(f"data.path: there is no manifest '{data.path}'")
    rows = _rows(path)
    root = path.parent.resolve()
    paths, names, labels = [], [], []
    for line, row in rows:
        name = str(row["filename"])
        full = (root / name).resolve()
        if not data.allow_outside_root and not full.is_relative_to(root):
            raise UserError(
                f"{path}, line {line}: '{name}' leads out of the manifest's folder; set data.allow_outside_root=True to allow it"
            )
        paths.append(str(full))
        names.append(name if row.get("start") in (None, "") else f"{name}#{row['start']}")
        found = tuple(part.strip() for part in str(row.get("label") or "").split("|") if part.strip())
        if len(found) > 1 and not data.multi_label:
            raise UserError(f"{path}, line {line}: several labels '{row['label']}'; set data.multi_label=True for that")
        labels.append(found)
    if len(set(names)) < len(names):
        twice = next(name for k, name in enumerate(names) if name in set(names[:k]))
        raise UserError(f"{path}: '{twice}' is listed twice")
    columns: dict[str, Any] = {}
    for key, kind in (("fold", int), ("split", str), ("group", str), ("start", float), ("end", float)):
        columns[key] = _column(path, rows, key, kind)
    if columns["split"]:
        for (line, _), part in zip(rows, columns["split"], strict=True):
            if part not in ("train", "validation", "test"):
                raise UserError(f"{path}, line {line}: split is '{part}'; write train, validation or test")
    starts = [start or 0.0 for start in columns["start"]] if columns["start"] else None
    groups = [group or "" for group in columns["group"]] if columns["group"] else None
    classes = tuple(sorted({label for found in labels for label in found}))
    return Recordings(
        names, labels, classes, OpenFiles(paths, starts, columns["end"]), columns["fold"], columns["split"], groups, paths
    )


def _rows(path: Path) -> list[tuple[int, dict]]:
    """Returns (line number, row) of a manifest."""
    kind = path.suffix.lower()
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            if kind in (".jsonl", ".ndjson", ".json"):
                rows = [(k, json.loads(line)) for k, line in enumerate(file, 1) if line.strip()]
            else:
                rows = list(enumerate(csv.DictReader(file, delimiter="\t" if kind in (".tsv", ".tab") else ","), 2))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable manifest: {error}") from error
    for line, row in rows:
        if not isinstance(row, dict) or not row.get("filename"):
            columns = ", ".join(map(str, row)) if isinstance(row, dict) else "no columns"
            raise UserError(f"{path}, line {line}: there is no 'filename' (the row has: {columns})")
    return rows


def _column(path: Path, rows: list[tuple[int, dict]], key: str, kind: type) -> list | None:
    """Returns a column, None where the manifest has none; an empty cell is None. Raises UserError for a wrong type."""
    if not any(row.get(key) not in (None, "") for _, row in rows):
        return None
    values = []
    for line, row in rows:
        value = row.get(key)
        try:
            values.append(None if value in (None, "") else kind(value))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, line {line}: {key} is '{value}', not a number") from error
        if values[-1] is None and key in ("fold", "split"):
            raise UserError(f"{path}, line {line}: {key} is empty, but other rows have one")
    return values


