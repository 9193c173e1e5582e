"""Pictures of a run, as matplotlib figures without pyplot's global state."""

import base64
import csv
import functools
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from sacjax.io import to_path
from sacjax.objectives.base import LOSS, Display

Curves = dict[str, tuple[list[int], list[float]]]  # {metric: (steps, values)}


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG file."""
    buffer = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a class may be called '$5$'
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def data_url(content: bytes, kind: str) -> str:
    """Returns bytes as a data URL of a media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws counts [C, C], a row for each true class and a column for each predicted one.

    A cell is shaded by its share of the true class.
    """
    count = len(class_names)
    size = min(max(0.42 * count + 2.2, 4.0), 16.0)
    figure = Figure(figsize=(size, size * 0.9), layout="constrained")
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    font = 8 if count <= 20 else 5
    short = [name if len(name) <= 24 else name[:23] + "…" for name in class_names]
    axes.set_xticks(range(count), short, rotation=90, fontsize=font)
    axes.set_yticks(range(count), short, fontsize=font)
    axes.set(xlabel="predicted", ylabel="true")
    if count <= 30:
        for i, j in zip(*np.nonzero(matrix), strict=True):
            color = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=font, color=color)
    return figure


def intervals(
    names: Sequence[str],
    values: Sequence[float],
    ranges: Sequence[tuple[float, float] | None],
    chance: float | None,
    label: str,
) -> Figure:
    """Draws a dot for each of some shares, with its interval where it has one, and chance."""
    figure = Figure(figsize=(7.5, 1.1 + 0.45 * len(names)), layout="constrained")
    axes = figure.subplots()
    for row, (value, ends) in enumerate(zip(values, ranges, strict=True)):
        if ends:
            axes.plot([100 * end for end in ends], [row, row], color="C0", linewidth=3, alpha=0.4)
        axes.plot([100 * value], [row], "o", color="C0")
        axes.annotate(
            f"{100 * value:.1f}",
            (100 * value, row),
            (0, 6),
            textcoords="offset points",
            ha="center",
        )
    if chance is not None:
        axes.axvline(100 * chance, color="gray", linestyle="--", linewidth=1)
        up = axes.get_xaxis_transform()
        axes.text(100 * chance + 0.7, 0.03, "chance", color="gray", fontsize=8, transform=up)
    axes.set_yticks(range(len(names)), [*names])
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.8), xlabel=label)
    axes.grid(axis="x", alpha=0.3)
    return figure


def read_metrics(workdir: str | Path, stage: str) -> Curves:
    """Returns {metric: (steps, values)} of a stage from `metrics.jsonl`."""
    curves: Curves = {}
    path = to_path(workdir) / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        row = json.loads(line)
        if row.pop("stage") == stage:
            step = row.pop("step")
            for name, value in row.items():
                if value is not None:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(step)
                    values.append(value)
    return curves


def read_reference(path: Path | None) -> dict[str, tuple[list[float], list[float]]]:
    """Returns {metric: (share of the run, values)} of a healthy run's curves; {} without a file."""
    if path is None:
        return {}
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    share = [float(row["share_of_run"]) for row in rows]
    names = (name for name in rows[0] if name != "share_of_run")
    return {name: (share, [float(row[name]) for row in rows]) for name in names}


def training_curves(curves: Curves, display: Display) -> Figure:
    """Draws the panels of an objective's `display`, over a healthy run in gray."""
    panels, reference = display.panels or {"loss": LOSS}, read_reference(display.reference)
    last = max((steps[-1] for steps, _ in curves.values()), default=1)
    columns = min(len(panels), 2 if len(panels) <= 4 else 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.7 * columns, 3.1 * rows), layout="constrained")
    if reference:
        told = "gray: a run of ours that went well, stretched to this one's length"
        figure.suptitle(told, fontsize=9, color="gray")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, names) in zip(grid, panels.items(), strict=False):
        for name, label in names.items():
            if name in reference:
                share, healthy = reference[name]
                axes.plot(np.asarray(share) * last, healthy, color="0.8", linewidth=4, zorder=0)
            if name in curves:
                steps, values = curves[name]
                scaled = np.asarray(values) * display.scales.get(name, 1.0)
                axes.plot(steps, scaled, label=label, marker="." if len(steps) < 30 else None)
        _finish(axes, title)
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure


def _finish(axes: Any, title: str) -> None:
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    else:
        middle = dict(ha="center", va="center", transform=axes.transAxes, color="gray")
        axes.text(0.5, 0.5, "not measured", **middle)


@functools.cache
def _front_end(sample_rate: int, n_fft: int, hop: int) -> Callable[..., jax.Array]:
    """Returns the compiled front end of `spectrogram`."""
    from sacjax.frontend import log_mel_spectrogram

    sizes: Any = dict(sample_rate=sample_rate, n_fft=n_fft, hop_length=hop, n_mels=64)
    return jax.jit(partial(log_mel_spectrogram, **sizes, ref="max"))


def spectrogram(samples: np.ndarray, sample_rate: int) -> Figure:
    """Draws the log mel spectrogram of mono samples float32 [n]."""
    n_fft = 512 if sample_rate < 16000 else 1024
    hop, size = n_fft // 4, len(samples)
    # Padded to whole seconds: then clips of different lengths share a compiled front end, and no
    # clip is too short for it.
    padded = np.pad(samples, (0, -size % sample_rate if size else sample_rate))
    level = _front_end(sample_rate, n_fft, hop)(padded[None])
    figure = Figure(figsize=(4, 2), layout="constrained")
    axes = figure.subplots()
    level_of_clip = np.asarray(level)[0, : 1 + size // hop]
    axes.imshow(
        level_of_clip.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(0, max(size, 1) / sample_rate, 0, 64),
    )
    axes.set(xlabel="seconds", ylabel="mel bin")
    return figure
