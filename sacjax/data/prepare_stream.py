"""Turns a Hugging Face data set into ArrayRecord shards as it comes, without storing it first.

The shards are those of `sacjax.data.prepare`. After each one it is noted how far the stream was
read, and the same call goes on from there.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from sacjax import io as files
from sacjax.data import channels, labels, prepare, shard_folder
from sacjax.data.recordings import Clip, Recordings
from sacjax.data.sources import huggingface, official
from sacjax.data.sources.array_record import BLOCK
from sacjax.errors import UserError, first_line

NOTE = "stream.json"  # how far the stream was read
# Of `data`: what is read, and what is made of it.
KEYS = (
    "name", "path", "audio_column", "label_column", "group_column", "fold_column", "channel",
    "multi_label", "empty_label",
)  # fmt: skip


class OpenCells:
    """Opens cells of an audio column that are in memory."""

    def __init__(self, cells: list[Any], roots: list[str]):
        """Takes the cells, and the folders that their files may lie in."""
        self.cells, self.roots = cells, roots

    def __call__(self, i: int) -> Clip:
        """Returns the clip. Raises whatever a damaged one makes its decoder raise."""
        return huggingface.open_cell(self.cells[i], self.roots)


def prepare_stream(
    data: ConfigDict,
    output: str | Path,
    per_shard: int = 0,
    sample_rate: int = 0,
    mono: bool = False,
) -> dict[str, Any]:
    """Writes the data set that `data.name` or `data.path` names as shards, row by row.

    It holds `per_shard` rows in memory. Rows are called by split and number. Groups are taken from
    `data.group_column` alone, and folds have to be whole numbers from 1 on: of a stream nobody
    knows what is still to come.

    Args:
      data: of `data.source=huggingface`.
      output, sample_rate, mono: as of `prepare.prepare`.
      per_shard: rows a shard; 0: 256.

    Returns:
      What `metadata.json` holds, as of `prepare.prepare`.

    Raises:
      UserError: as of `prepare.prepare` and `load_huggingface`; the stream ends by an error; a
        source that is no stream, or patterns, for which rows have no names.
    """
    for key in ("label_pattern", "fold_pattern", "group_pattern"):
        if data[key]:
            raise UserError(f"data.{key} is set, but rows of a stream have no names: unset it")
    if data.source != "huggingface":
        raise UserError(f"--stream is for data.source=huggingface, and it is {data.source}")
    folder, per_shard = files.on_disk(output, "--output"), per_shard or prepare.PER_SHARD
    parts = huggingface.load_splits(data, streaming=True)
    official_parts = official.parts_of(data.name or data.path, list(parts), [1] * len(parts))
    options = [1, BLOCK, per_shard, sample_rate, mono, [data[key] for key in KEYS]]
    fingerprint = hashlib.sha256(json.dumps(options).encode()).hexdigest()
    shards: list[str] = []
    names: tuple[str, ...] = ()
    with shard_folder.writing_into(folder, fingerprint), tqdm(unit="clip", desc="preparing") as bar:
        note = _read_note(folder, fingerprint)
        shards = note["shards"]
        for k, split in enumerate(parts):
            state = note["splits"].get(split, {})
            part = parts[split] if parts[split].features else parts[split]._resolve_features()
            columns = huggingface.find_columns(part.features, data)
            names = huggingface.class_names(part.features.get(columns.label), ())
            stream = huggingface.undecoded(part, columns.audio)
            if state:
                stream.load_state_dict(state["state"])
            done = state.get("rows", 0)
            for rows in _chunks(stream, per_shard):
                recordings = _recordings(rows, done, split, part.features, columns, data)
                if official_parts:
                    recordings.splits = [official_parts[k]] * len(rows)
                job = prepare.Job(recordings, folder, fingerprint, per_shard, sample_rate, mono)
                path = folder / f"data-{len(shards):05d}.array_record"
                prepare.write_rows(job, path, range(len(rows)), bar.update)
                done += len(rows)
                shards.append(path.name)
                note["splits"][split] = {"rows": done, "state": stream.state_dict()}
                files.write_json(folder / NOTE, note)
        if not shards:
            raise UserError(f"{data.name or data.path}: there are no rows in it")
        return shard_folder.finish(folder, shards, names or _labels_in(folder, shards))


def _chunks(stream: Any, size: int) -> Iterator[list[dict[str, Any]]]:
    """Yields lists of rows. Raises UserError where the stream fails."""
    iterator = iter(stream)
    while True:
        try:
            rows = list(itertools.islice(iterator, size))
        except Exception as error:  # of the library, its files, or a connection
            raise UserError(
                f"the stream ended by an error: {first_line(error)}; the same command goes on"
            ) from error
        if not rows:
            return
        yield rows


def _recordings(
    rows: list[dict[str, Any]],
    first: int,
    split: str,
    features: Any,
    columns: huggingface.Columns,
    data: ConfigDict,
) -> Recordings:
    """Returns rows as recordings; `first` is the number of the first of them in its split."""
    names = [f"{split}/{first + k:07d}" for k in range(len(rows))]
    own: list[tuple[str, ...] | None] = [None] * len(rows)
    if columns.label:
        kind = features[columns.label]
        own = [huggingface.label_names(row[columns.label], kind, data.empty_label) for row in rows]
    groups = folds = None
    if data.group_column:
        kind = features[columns.group]
        groups = [huggingface.text_of(row[columns.group], kind) for row in rows]
    if columns.fold:
        folds = [row[columns.fold] for row in rows]
        for name, fold in zip(names, folds, strict=True):
            if not isinstance(fold, int) or fold < 1:
                raise UserError(f"{name}: {columns.fold} is {fold!r}, no whole number from 1 on")
    opener = OpenCells([row[columns.audio] for row in rows], huggingface.roots_of(data))
    found = Recordings(names, own, (), opener, folds, None, groups)
    return channels.choose(labels.checked(found, data.multi_label), data.channel)


def _read_note(folder: Path, fingerprint: str) -> dict[str, Any]:
    """Returns how far an earlier call came, if all that it wrote is whole; else the beginning."""
    try:
        note = json.loads((folder / NOTE).read_text())
        paths = [folder / os.path.basename(name) for name in note["shards"]]
        if all(shard_folder.is_finished(path, fingerprint) for path in paths):
            return note
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"shards": [], "splits": {}}


def _labels_in(folder: Path, shards: list[str]) -> tuple[str, ...]:
    """Returns the labels that recordings of shards have, sorted."""
    found: set[str] = set()
    for name in shards:
        rows = json.loads((folder / name).with_suffix(".json").read_text())["recordings"]
        found.update(label for row in rows for label in row["labels"] or ())
    return tuple(sorted(found))
