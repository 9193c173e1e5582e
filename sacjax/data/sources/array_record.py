"""Recordings that `sacjax prepare` wrote into ArrayRecord shards.

Its folder holds `metadata.json`, and for each shard an ArrayRecord file and a JSON file beside it.
A record is a WAV file (PCM16, not compressed: to read it is to copy it) of at most `BLOCK` samples
a channel; a longer recording takes several in a row, so that a crop of an hour-long one reads a few
megabytes.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sacjax.data.recordings import Recordings
from sacjax.data.sources.records import Records
from sacjax.data.sources.tfds import load_tfds
from sacjax.errors import UserError

__all__ = ["load_array_record", "load_tfds"]
BLOCK = 1 << 19  # samples a channel in a record
METADATA = "metadata.json"


class BlockClip:
    """A recording in consecutive WAV records."""

    def __init__(self, records: Records, row: tuple[int, int, int, int], block: int):
        """Takes (first record, sample rate, samples, channels), and the samples in a record."""
        self.records, self.block = records, block
        self.first, self.sample_rate, self.num_samples, self.channels = row

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, channels] in [-1, 1], n <= count."""
        return self.pcm(start, count).astype(np.float32) * np.float32(1 / 32768)

    def pcm(self, start: int, count: int) -> np.ndarray:
        """Returns int16 [n, channels], n <= count; reads no records but those of these samples."""
        stop = min(start + count, self.num_samples)
        parts = [np.zeros([0, self.channels], np.int16)]
        for k in range(start // self.block, -(-stop // self.block) if start < stop else 0):
            # The samples are the record's last numbers; a header is before them.
            held = min(self.num_samples - k * self.block, self.block) * self.channels
            pcm = np.frombuffer(self.records[self.first + k], "<i2")[-held:].reshape(
                -1, self.channels
            )
            parts.append(pcm[max(start - k * self.block, 0) : stop - k * self.block])
        return parts[1] if len(parts) == 2 else np.concatenate(parts)


class OpenBlocks:
    """Opens recording i of a folder that `sacjax prepare` wrote."""

    def __init__(self, shards: Sequence[tuple[str, int]], table: np.ndarray, block: int):
        """Takes (file, records) of each shard, and int [recordings, 4]: see BlockClip's `row`."""
        self.records, self.table, self.block = Records(shards), table, block

    def __call__(self, i: int) -> BlockClip:
        """Returns the clip; nothing is read yet."""
        first, sample_rate, num_samples, channels = self.table[i].tolist()
        return BlockClip(self.records, (first, sample_rate, num_samples, channels), self.block)


def load_array_record(data_config: ConfigDict) -> Recordings:
    """Returns the recordings that `sacjax prepare` wrote into the folder `data.path`.

    Raises:
      UserError: no finished preparation there, or a shard is missing or has another size.
    """
    folder = Path(data_config.path)
    if not (folder / METADATA).is_file():
        what = f"there is no {METADATA} in it: give a folder that sacjax prepare wrote"
        if not folder.is_dir():
            what = "there is no such folder"
        elif (folder / "plan.json").is_file():
            what = "its preparation is not finished: run sacjax prepare again"
        raise UserError(f"data.path: {folder}: {what}")
    shards, total = [], 0
    rows = _Rows()
    try:
        meta = json.loads((folder / METADATA).read_text())
        if meta["version"] not in (1, 2):
            raise UserError(
                f"{folder / METADATA}: version {meta['version']} is newer than this sacjax"
            )
        for name in meta["shards"]:
            path = folder / Path(name).name  # a name, never a way out of the folder
            shard = json.loads(path.with_suffix(".json").read_text())
            if path.stat().st_size != shard["bytes"]:
                raise UserError(
                    f"{path}: it has another size than when it was written: "
                    "run sacjax prepare again"
                )
            if shard["records"]:
                shards.append((os.path.abspath(path), shard["records"]))
            rows.add(shard["recordings"], total, meta["version"])
            total += shard["records"]
        block = int(meta["block"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{folder}: a file of it is missing or damaged ({reason}): run sacjax prepare again"
        ) from error
    if not rows.names:
        raise UserError(f"data.path: {folder}: there are no recordings in it")

    return Recordings(
        names=rows.names,
        labels=rows.labels,
        class_names=tuple(meta["class_names"]),
        open=OpenBlocks(shards, np.concatenate(rows.tables), block),
        folds=rows.columns.get("fold"),
        splits=rows.columns.get("split"),
        groups=rows.columns.get("group"),
    )


class _Rows:
    """The rows of all shards by column: as dicts, those of millions of clips would be large."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.labels: list[tuple[str, ...] | None] = []
        self.columns: dict[str, list] = {}  # fold, split and group, those that the first row has
        self.tables: list[np.ndarray] = []  # of `OpenBlocks`
        self.shared: dict[Any, Any] = {}  # equal values are kept once

    def add(self, rows: list[dict[str, Any]], first: int, version: int) -> None:
        """Adds a shard's rows; `first` is its first record. Raises KeyError for a lack of one."""
        if not rows:
            return
        if not self.names:
            self.columns = {k: [] for k in ("fold", "split", "group") if rows[0].get(k) is not None}
        once = self.shared.setdefault
        self.names += [row["name"] for row in rows]
        for row in rows:
            labels = _labels(row["labels"], version)
            self.labels.append(once(labels, labels))
        for key, column in self.columns.items():
            column += [once(row[key], row[key]) for row in rows]
        table = [[row[k] for k in ("first", "sample_rate", "samples", "channels")] for row in rows]
        self.tables.append(np.array(table) + np.array([first, 0, 0, 0]))


def _labels(names: list[str] | None, version: int) -> tuple[str, ...] | None:
    """Returns a row's labels, None where they are unknown.

    Version 1 wrote [] both for clips without a label and for unknown labels.
    """
    return None if names is None or (version == 1 and not names) else tuple(names)
