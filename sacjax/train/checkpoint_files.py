"""The files of a stage's checkpoints: which there are, and which are damaged.

`sacjax.train.checkpoint` tells what lies where.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from sacjax import io

FILES = "files.json"
COMMITTED = "commit_success.txt"  # what Orbax writes last


def write_labels(workdir: Path, stage: str, class_names: tuple[str, ...], clips: str = "") -> None:
    """Writes the label names beside a stage's checkpoints.

    Args:
      workdir: of a run.
      stage: the stage's name.
      class_names: in the order of the label indices.
      clips: `splits.digest` of those that it trains on; '': not told.
    """
    folder = io.to_path(workdir) / "checkpoints" / stage
    io.make_folder(folder)
    io.write_json(folder / "labels.json", {"class_names": list(class_names), "clips": clips})


def read_labels(workdir: str | Path, stage: str) -> tuple[str, ...]:
    """Returns the label names of a stage that has a checkpoint."""
    return tuple(_labels(workdir, stage)["class_names"])


def read_clips(workdir: str | Path, stage: str) -> str:
    """Returns the digest of the clips that a stage with a checkpoint trains on; '': not told."""
    return str(_labels(workdir, stage).get("clips", ""))


def _labels(workdir: str | Path, stage: str) -> dict[str, Any]:
    path = io.to_path(workdir) / "checkpoints" / stage / "labels.json"
    return json.loads(path.read_text())


def write_temperature(workdir: Path, stage: str, temperature: float, step: int) -> None:
    """Writes by what the logits of a calibrated stage's checkpoint are divided.

    The temperatures of its other checkpoints stay. A checkpoint without one of its own has the one
    that was written last.
    """
    path = _temperature(workdir, stage)
    steps = json.loads(path.read_text()).get("steps", {}) if path.is_file() else {}
    steps[str(step)] = temperature
    io.write_json(path, {"temperature": temperature, "steps": steps})


def read_temperature(workdir: Path, stage: str, step: int) -> float:
    """Returns by what the logits of a checkpoint are divided: 1 where it was not calibrated."""
    path = _temperature(workdir, stage)
    if not path.is_file():
        return 1.0
    told = json.loads(path.read_text())
    return float(told.get("steps", {}).get(str(step), told["temperature"]))


def _temperature(workdir: Path, stage: str) -> Path:
    return io.to_path(workdir) / "checkpoints" / stage / "temperature.json"


def complete(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints that are written.

    One that is being written has another name; in a bucket, no `commit_success.txt` yet.
    """
    if io.in_bucket(folder):
        names = [path.parent.name for path in folder.glob(f"*/{COMMITTED}")]
        return [int(name) for name in names if name.isdecimal()]
    return (
        [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        if folder.is_dir()
        else []
    )


def has_checkpoint(workdir: str | Path, stage: str) -> bool:
    """Returns whether a stage has a checkpoint."""
    folder = io.to_path(workdir) / "checkpoints" / stage
    return (folder / "labels.json").is_file() and bool(complete(folder))


def survey(folder: Path) -> list[tuple[int, str, float | None]]:
    """Returns (step, what is damaged or '', metric) of each checkpoint."""
    return [(step, *_look_at(folder / str(step))) for step in sorted(complete(folder))]


def _look_at(folder: Path) -> tuple[str, float | None]:
    if damage := _damage(folder):
        return damage, None
    try:
        metrics = ocp.JsonCheckpointHandler(filename="metrics").restore(folder / "metrics")
    except FileNotFoundError:
        return "", None
    except ValueError:  # not JSON
        return "metrics is cut short", None
    return "", metric_of(metrics)


def _damage(folder: Path) -> str:
    """Returns which file of a checkpoint is missing or short; '' where none is known to be."""
    try:
        sizes = json.loads((folder / FILES).read_text())
    except FileNotFoundError:  # written by an earlier version
        return ""
    except ValueError:  # not JSON
        return f"{FILES} is cut short"
    for name, size in sizes.items():
        try:
            found = (folder / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if found < size:
            return f"{name} has {found} of its {size} bytes"
    return ""


def write_sizes(folder: Path) -> None:
    """Lists the files of a checkpoint with their sizes, by which damage is found later."""
    items = (path for path in folder.rglob("*") if path.parent != folder)
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(items)
        if path.is_file()
    }
    io.write_json(folder / FILES, sizes, indent=0)


def metric_of(metrics: Mapping[str, float] | None) -> float | None:
    """Returns the metric that names the best, of what is saved beside a checkpoint."""
    return metrics["best"] if metrics else None
