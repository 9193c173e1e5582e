"""What each pretraining of the fair table heard, cost and was worth: a row of a CSV each.

Where each fold has a pretraining of its own, its row has their means, and their largest memory.
Hours of sound are those of the crops that were trained on. Time and memory are of the whole
command, compilation included, as `jobs.run` noted them; they are empty where it did not.
"""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from launch.benchmarks import jobs, ssl_table
from launch.benchmarks.ssl_table import TASKS, Cell, Means

KEY = ("method", "encoder", "corpus", "budget_minutes")
MEASURED: dict[str, Callable[..., Any]] = {  # and how the folds' values become one
    "updates": np.mean,
    "clips_seen": np.mean,
    "audio_hours_seen": np.mean,
    "cpu_minutes": np.mean,
    "audio_hours_per_cpu_hour": np.mean,
    "parameters": np.mean,
    "peak_mib": np.max,
    "wall_minutes": np.mean,
}
COLUMNS = (*KEY, *MEASURED, *(f"{task}_linear" for task in TASKS))


def rows_of(runs: Path, means: Means) -> list[list[object]]:
    """Returns the rows of the CSV, of the pretrainings that are finished."""
    found: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for path in sorted(runs.glob("*/*min/results.json")):
        about = ssl_table.ENCODER_DIR.fullmatch(path.parent.name)
        if about:
            named = about["method"], about["encoder"], corpus_of(path.parent), about["budget"]
            found.setdefault(named, []).append(measured(path.parent))
    rows: list[list[object]] = []
    for key, folds in sorted(found.items(), key=lambda item: (item[0][:3], float(item[0][3]))):
        values = {name: [fold[name] for fold in folds if name in fold] for name in MEASURED}
        numbers = [_short(how(values[k])) if values[k] else "" for k, how in MEASURED.items()]
        rows.append([*key, *numbers, *(probe(means, task, key) for task in TASKS)])
    return rows


def merge(path: Path, rows: list[list[object]]) -> list[list[object]]:
    """Returns the rows, and those of the table at `path` whose pretraining is not among them."""
    if not path.is_file():
        return rows
    with open(path, newline="") as file:
        kept = [[row[column] for column in COLUMNS] for row in csv.DictReader(file)]
    there = {tuple(map(str, row[: len(KEY)])) for row in rows}
    rows = [*rows, *(row for row in kept if tuple(row[: len(KEY)]) not in there)]
    return sorted(rows, key=lambda row: (*map(str, row[:3]), float(str(row[3]))))


def corpus_of(encoder: Path) -> str:
    """Returns 'speech', 'speech+TASK' or 'TASK'."""
    task = encoder.parent.name.partition("_")[0]
    kind = ssl_table.corpus_of(encoder)
    return {"speech": "speech", "speech+train": f"speech+{task}", "train": task}[kind]


def probe(means: Means, task: str, key: tuple[str, ...]) -> str:
    """Returns the accuracy of a pretraining's linear probe with all labels, in percent, or ''."""
    method, encoder, corpus, budget = key
    own = {"speech": "speech", f"speech+{task}": "speech+train", task: "train"}.get(corpus, "")
    mean = means.get(Cell(task, "linear", "all", method, encoder, own, budget))
    return f"{mean.mean:.2f}" if mean else ""


def measured(workdir: Path) -> dict[str, float]:
    """Returns what is known of a finished pretraining, of the columns `MEASURED`."""
    stage = json.loads((workdir / "config.json").read_text())["pretrain"]
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    updates = max(line["step"] for line in lines if line["stage"] == "pretrain")
    clips = updates * stage["train"]["batch_size"]
    hours = clips * stage["data"]["seconds"] / 3600
    found = {"updates": updates, "clips_seen": clips, "audio_hours_seen": hours}
    parameters = parameters_of(workdir)
    if parameters:
        found["parameters"] = parameters
    path = jobs.usage_path(workdir.with_name(workdir.name + ".log"))
    if path.is_file():
        used = jobs.Usage(**json.loads(path.read_text()))
        found["cpu_minutes"] = used.cpu_seconds / 60
        found["audio_hours_per_cpu_hour"] = hours / (used.cpu_seconds / 3600)
        found["peak_mib"], found["wall_minutes"] = used.peak_mib, used.wall_seconds / 60
    return found


def parameters_of(workdir: Path) -> int:
    """Returns how many parameters the encoder of the last checkpoint has; 0 if none is there."""
    import orbax.checkpoint as ocp

    steps = [int(p.name) for p in (workdir / "checkpoints/pretrain").glob("*") if p.name.isdigit()]
    if not steps:
        return 0
    folder = (workdir / "checkpoints" / "pretrain" / str(max(steps)) / "model").absolute()
    metadata = ocp.StandardCheckpointHandler().metadata(folder)
    tree = getattr(metadata, "item_metadata", metadata)
    return sum(
        math.prod(leaf.shape) for name, leaf in tree.items() if name.startswith("params.encoder.")
    )


def _short(value: float) -> str:
    """Returns a number with four digits, or all before the point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
