"""Manifests as CSV, TSV and JSONL: cells, columns, lines and bytes."""

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from launch.benchmarks.fuzz_cases import mutate
from launch.benchmarks.fuzz_cases.audio import RATE, SECONDS, reason_of
from sacjax import config as config_lib
from sacjax.data import pipeline, sources, splits

COLUMNS = ("filename", "label", "fold", "split", "group", "start", "end")
NAMES = tuple(f"{k}.wav" for k in range(6))


def corpus(folder: Path) -> None:
    """Writes the sounds that the manifests name."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        sf.write(folder / name, 0.1 * rng.standard_normal(2 * RATE), RATE)


def rows_of(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Returns the rows of a good manifest, with some of the columns."""
    kept = {"filename", *(column for column in COLUMNS if rng.random() < 0.6)}
    rows: list[dict[str, Any]] = []
    for k, name in enumerate(NAMES):
        row = dict(
            filename=name,
            label="ab"[k % 2],
            fold=1 + k % 3,
            split=("train", "validation", "test")[k % 3],
            group=f"g{k}",
            start=0.25 * k,
            end=0.25 * k + 0.5,
        )
        rows.append({column: row[column] for column in COLUMNS if column in kept})
    return rows


def text_of(kind: str, rows: list[dict[str, Any]]) -> bytes:
    """Returns the rows as a file of that kind."""
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter="\t" if kind == "tsv" else ",")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def mutate_rows(rng: np.random.Generator, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows with one to three cells, columns or rows changed."""
    rows = copy.deepcopy(rows)
    for _ in range(int(rng.integers(1, 4))):
        row, how = mutate.pick(rng, rows), rng.random()
        column = mutate.pick(rng, list(row) or ["filename"])
        if how < 0.5:
            row[column] = mutate.pick(rng, mutate.TEXTS)
        elif how < 0.7:
            row[column] = copy.deepcopy(mutate.pick(rng, mutate.VALUES))
        elif how < 0.8:
            rows.append(copy.deepcopy(row))
        elif how < 0.9:
            name = mutate.pick(rng, (*COLUMNS, *mutate.TEXTS))
            rows = [{name if k == column else k: v for k, v in other.items()} for other in rows]
        else:
            row.pop(column, None)
    return rows


def check(rng: np.random.Generator, originals: Path, folder: Path) -> str:
    """Loads a mutated manifest, splits it and reads its clips."""
    kind, rows = mutate.pick(rng, ("csv", "tsv", "jsonl")), rows_of(rng)
    if rng.random() < 0.75:
        content = text_of(kind, mutate_rows(rng, rows))
    else:
        content = mutate.of_bytes(rng, text_of(kind, rows))
    for name in NAMES:
        (folder / name).symlink_to(originals / name)
    (folder / f"clips.{kind}").write_bytes(content)
    data = config_lib.default().supervised.data
    data.source, data.path = "manifest", str(folder / f"clips.{kind}")
    data.sample_rate, data.seconds, data.prefetch = RATE, SECONDS, 1
    data.allow_outside_root = True  # the sounds are links
    data.multi_label, data.fold = bool(rng.random() < 0.3), int(rng.random() < 0.3)
    data.labels_per_class = int(rng.random() < 0.2)
    recordings = sources.load(data)
    reason = ""
    for indices in splits.split(recordings, data).values():
        for batch in pipeline.eval_batches(recordings, indices, data, batch_size=4):
            reason = reason or reason_of(batch)
    return reason
