"""Files of events: tables, Audacity's labels, RTTM."""

import csv
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sacjax import io
from sacjax.errors import UserError
from sacjax.inference.events import Event

Events = dict[str, list[Event]]  # by recording
SUFFIXES = (".csv", ".jsonl", ".rttm", ".txt")
# The columns of DCASE's tables, by ours.
DCASE = {"onset": "start", "offset": "end", "event_label": "label"}


def check_output(path: Path, files: list[str]) -> None:
    """Raises UserError for a file of events that cannot be written, before anything is heard."""
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"--timeline is '{path}': its name must end in .csv, .jsonl, .rttm (diarization's "
            "table) or .txt (Audacity's labels)"
        )
    if path.is_dir():
        raise UserError(f"--timeline is '{path}': that is a folder; name a file")
    if path.suffix == ".txt" and len(files) > 1:
        raise UserError(
            f"--timeline {path}: Audacity's labels are of one recording, and there are "
            f"{len(files)}: write .csv, or one after the other"
        )
    ids = [_rttm_id(file) for file in files]
    if path.suffix == ".rttm" and len(set(ids)) < len(ids):
        twice = next(one for k, one in enumerate(ids) if one in ids[:k])
        raise UserError(
            f"--timeline {path}: RTTM has no folders, and two recordings are '{twice}': write .csv"
        )
    io.check_writable(path, "--timeline")


def write_events(path: Path, events: Events) -> None:
    """Writes events as the path's ending says.

    .csv: columns filename, start, end, label, probability: a manifest, its file names relative to
    its folder, or whole where that is in a bucket. .jsonl: the same, a line each. .rttm: NIST's
    Rich Transcription Time Marked, `SPEAKER file 1 start duration <NA> <NA> label probability
    <NA>`, spaces as '_'. .txt: Audacity's labels, `start end label` between tabs. Times are in
    seconds.
    """
    rows = [
        (file, _relative(file, path.parent), event)
        for file, found in events.items()
        for event in found
    ]
    if path.suffix == ".csv":
        cells = (
            (name, f"{e.start:.3f}", f"{e.end:.3f}", e.label, f"{e.probability:.4f}")
            for _, name, e in rows
        )
        header = ("filename", "start", "end", "label", "probability")
        io.write_csv(path, header, cells, errors="backslashreplace")
        return
    if path.suffix == ".jsonl":
        lines = [json.dumps({"filename": name} | as_dict(e)) for _, name, e in rows]
    elif path.suffix == ".rttm":
        lines = [
            f"SPEAKER {_rttm_id(file)} 1 {e.start:.3f} {e.end - e.start:.3f} <NA> <NA> "
            f"{'_'.join(e.label.split())} {e.probability:.4f} <NA>"
            for file, _, e in rows
        ]
    else:
        lines = [f"{e.start:.6f}\t{e.end:.6f}\t{e.label}" for _, _, e in rows]
    text = "".join(line + "\n" for line in lines)
    io.write_text(path, text, errors="backslashreplace")


def as_dict(event: Event) -> dict[str, Any]:
    """Returns an event for JSON, rounded to milliseconds."""
    return dict(
        start=round(event.start, 3),
        end=round(event.end, 3),
        label=event.label,
        probability=round(event.probability, 4),
    )


def read_events(path: str | Path) -> Events:
    """Returns the events of a table, by the absolute path of their recording.

    The table is CSV, or of tabs if its name does not end in .csv. Its columns are filename, start,
    end (seconds) and label; or DCASE's filename, onset, offset and event_label. A row without times
    and label names a recording without events. File names are relative to the table's folder.

    Raises:
      UserError: no such file, a column that is missing, or times that are none.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file of events '{path}'")
    events: Events = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t")
            header = [DCASE.get(name, name) for name in reader.fieldnames or ()]
            for wanted in ("filename", "start", "end", "label"):
                if wanted not in header:
                    raise UserError(
                        f"{path}: there is no column '{wanted}' (there are: {', '.join(header)})"
                    )
            reader.fieldnames = header
            for row in reader:
                full = os.path.realpath(path.parent / (row["filename"] or ""))
                events.setdefault(full, []).extend(_events(f"{path}, line {reader.line_num}", row))
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise UserError(f"{path}: not a readable table of events: {error}") from error
    return events


def _events(where: str, row: dict[str, str | None]) -> Iterable[Event]:
    """Returns the events of a row. Raises UserError for times that are none."""
    cells = [(row[key] or "").strip() for key in ("start", "end", "label")]
    if not any(cells):
        return []
    try:
        start, end = float(cells[0]), float(cells[1])
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end < math.inf or not cells[2]:
        raise UserError(
            f"{where}: start '{cells[0]}', end '{cells[1]}', label '{cells[2]}': write seconds, "
            "the end after the start, and a label"
        )
    return [Event(start, end, label.strip()) for label in cells[2].split("|")]


def _relative(file: str, folder: Path) -> str:
    """Returns a file's name for a table in a folder; the whole path where that is in a bucket.

    It is found from there also where links lead to the folder, whose `..` is not what it reads.
    """
    if io.in_bucket(folder):
        return os.path.abspath(file)
    home, name = os.path.split(file)
    return os.path.relpath(os.path.join(os.path.realpath(home), name), os.path.realpath(folder))


def _rttm_id(file: str) -> str:
    return "_".join(Path(file).stem.split())
