"""Predictions per clip, averaged over windows, and the table of predictions."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sacjax import io


def predict(
    apply: Callable[[dict[str, Any]], Any],
    batches: Iterable[dict[str, Any]],
    indices: np.ndarray,
    width: int,
    dtype: type = np.float64,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a model's outputs for clips, averaged over each clip's windows, on every host.

    A clip with a window that cannot be decoded counts as not seen, so that no clip is judged by a
    part of it.

    Args:
      apply: host batch → [B, width], either of this host's rows, or of the global batch sharded by
        rows as the batch is.
      batches: this host's batches, as `pipeline.eval_batches` makes them; every host has as many.
      indices: int [n], the clips, each once; memory grows with their number, not the data set's.
      width: of a row.
      dtype: of what is returned, in which windows are added up.

    Returns:
      (`dtype` [n, width], zeros where not seen; seen, bool [n]), in the order of `indices`.
    """
    indices = np.asarray(indices, int)
    order = np.argsort(indices)
    total: np.ndarray = np.zeros([len(indices), width], dtype)
    count, bad = np.zeros(len(indices), int), np.zeros(len(indices), bool)

    def row_of(index: np.ndarray) -> np.ndarray:
        return order[np.searchsorted(indices, index, sorter=order)]

    for batch in batches:
        rows = own_rows(apply(batch)), np.asarray(batch["index"]), np.asarray(batch["mask"])
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            rows = multihost_utils.process_allgather(rows, tiled=True)
        values, index, mask = rows
        if len(values) != len(index):
            raise ValueError(
                f"{len(values)} rows for a batch of {len(index)}: they must be sharded as it is"
            )
        keep = mask > 0
        np.add.at(total, row_of(index[keep]), values[keep].astype(dtype))
        np.add.at(count, row_of(index[keep]), 1)
        bad[row_of(index[~keep & (index >= 0)])] = True
    seen = (count > 0) & ~bad
    total /= np.maximum(count, 1)[:, None]
    total[~seen] = 0.0
    return total, seen


def own_rows(logits: Any) -> np.ndarray:
    """Returns the rows of a global array that belong to this host's part of the batch, in order.

    A mesh may have hosts in any order (`jax.make_mesh` follows a TPU's wiring), so a row's global
    index does not tell its host.
    """
    if not isinstance(logits, jax.Array) or logits.is_fully_addressable:
        return np.asarray(logits)
    shards = {shard.index[0].start or 0: shard.data for shard in logits.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def write_predictions(
    path: str | Path, rows: Iterable[dict], class_names: Sequence[str], *, multi_label: bool = False
) -> None:
    """Writes a csv of predictions, with a column of probabilities for each class.

    The other columns are file, split, label and prediction.

    Args:
      rows: dicts with `file`, `split`, `label`, `probabilities` [C].
      multi_label: the prediction is every class of 0.5 or more, as `a|b`, instead of the most
        probable one.
    """

    def prediction(p: np.ndarray) -> str:
        chosen = np.flatnonzero(np.asarray(p) >= 0.5) if multi_label else [int(np.argmax(p))]
        return "|".join(class_names[int(k)] for k in chosen)

    lines = (
        [row["file"], row["split"], row["label"], prediction(p), *(f"{value:.6g}" for value in p)]
        for row in rows
        for p in [row["probabilities"]]
    )
    # File names may hold bytes that are not UTF-8; they are written as \\udcff.
    header = ("file", "split", "label", "prediction", *class_names)
    io.write_csv(path, header, lines, errors="backslashreplace")


def read_predictions(path: str | Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Returns (rows as `write_predictions` takes them, and `prediction`; the class names)."""
    header, *lines = csv.reader(io.read_text(path))
    rows = [
        dict(
            file=line[0],
            split=line[1],
            label=line[2],
            prediction=line[3],
            probabilities=np.array(line[4:], float),
        )
        for line in lines
    ]
    return rows, tuple(header[4:])
