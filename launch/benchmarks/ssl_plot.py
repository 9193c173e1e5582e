"""The picture of the fair table: accuracy against core minutes, a panel a data set.

A line is a method, its name at its end: a linear classifier on its frozen encoder. A colour is an
encoder, as Okabe and Ito chose colours that all eyes tell apart; the dashed lines of the same
colour are that encoder trained from scratch on the same labels.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.isotonic import isotonic_regression

from launch.benchmarks import ssl_table
from launch.benchmarks.ssl_table import TASKS, Curves, Means
from sacjax.report import plots

COLORS = {
    "resnet": "#0072B2",
    "patches": "#009E73",
    "frames": "#D55E00",
    "gru": "#CC79A7",
    "causal": "#56B4E9",
    "wave": "#E69F00",
}
MARKERS = "os^DvPX*"
MINUTES = (5, 20, 60)
LEFT, RIGHT = 1.5, 200.0  # of the axis of minutes: room for names on both sides
APART = 0.032  # names, as a share of the axis


def draw(means: Means) -> bytes:
    """Returns the picture of the frozen encoders' accuracies with each task's first labels."""
    tasks = [task for task in TASKS if _curves(means, task)] or list(TASKS)
    figure = Figure(figsize=(6.2 * len(tasks), 6.5), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False).flat, tasks, strict=True):
        _panel(axes, means, task)
    figure.supxlabel("core minutes of pretraining (colour: encoder; hollow: runs are missing)")
    return plots.png(figure)


def _curves(means: Means, task: str) -> Curves:
    return ssl_table.curves(means, task, "linear", ssl_table.labels_of(TASKS[task].shots[0]))


def _panel(axes: Any, means: Means, task: str) -> None:
    labels = ssl_table.labels_of(TASKS[task].shots[0])
    lines = _curves(means, task)
    levels = {
        cell.encoder: mean.mean
        for cell, mean in means.items()
        if cell[:3] == (task, "finetune", labels) and cell.method == "scratch"
    }
    heights = [*levels.values(), *(m.mean for curve in lines.values() for m in curve.values())]
    low, high = min(heights, default=0.0), max(heights, default=100.0)
    room = 0.05 * max(high - low, 10.0)
    axes.set(xscale="log", xlim=(LEFT, RIGHT), ylim=(low - room, high + room))
    axes.set(title=f"{TASKS[task].title}, {labels} labels a class", ylabel="test accuracy, %")
    axes.set_xticks(MINUTES, [str(minutes) for minutes in MINUTES])
    axes.minorticks_off()
    axes.grid(alpha=0.2)
    _levels(axes, levels, TASKS[task].supervised)
    _lines(axes, task, lines)


def _levels(axes: Any, levels: dict[str, float], supervised: str) -> None:
    """Draws what each encoder reaches without pretraining, the best supervised one thick."""
    for encoder, height in levels.items():
        width = 2 if encoder == supervised else 1
        axes.axhline(height, color=COLORS.get(encoder, "black"), linestyle="--", linewidth=width)
    names = {e: f"supervised ({e})" if e == supervised else f"scratch, {e}" for e in levels}
    named = [(1.6, levels[e], names[e], COLORS.get(e, "black")) for e in levels]
    _name(axes, named, 1.0)


def _lines(axes: Any, task: str, lines: Curves) -> None:
    """Draws a line a method; those that end at the same minutes share a column of names."""
    ends: dict[float, list[tuple[float, float, str, str]]] = {}
    count: dict[str, int] = {}
    expected = len(TASKS[task].folds) * ssl_table.DRAWS
    for line in sorted(lines):
        method, encoder, corpus = line
        color, mark = COLORS.get(encoder, "black"), MARKERS[count.get(encoder, 0) % len(MARKERS)]
        count[encoder] = count.get(encoder, 0) + 1
        minutes = sorted(lines[line])
        heights = [lines[line][m].mean for m in minutes]
        axes.plot(minutes, heights, color=color, linewidth=1.5)
        for x, y in zip(minutes, heights, strict=True):
            face = color if lines[line][x].runs >= expected else "white"
            axes.plot(x, y, mark, color=color, markerfacecolor=face, markersize=6)
        name = method if corpus == TASKS[task].corpus else f"{method}, {corpus}"
        ends.setdefault(minutes[-1], []).append((minutes[-1], heights[-1], name, color))
    for named in ends.values():
        _name(axes, named, 1.15)


def _name(axes: Any, named: list[tuple[float, float, str, str]], beside: float) -> None:
    """Writes names (x, y, text, color) beside their points, apart from one another."""
    low, high = axes.get_ylim()
    named = sorted(named, key=lambda one: one[1])
    apart = spread([y for _, y, _, _ in named], APART * (high - low))
    for (x, y, text, color), height in zip(named, apart, strict=True):
        axes.annotate(
            text,
            (x, y),
            (x * beside, height),
            color=color,
            fontsize=8,
            va="center",
            bbox=dict(facecolor="white", edgecolor="none", alpha=0.75, pad=0.5),
            arrowprops=dict(arrowstyle="-", color=color, linewidth=0.5),
        )


def spread(heights: list[float], gap: float) -> np.ndarray:
    """Returns ascending heights moved as little (in least squares) as leaves gaps between them."""
    steps = gap * np.arange(len(heights))
    return isotonic_regression(np.asarray(heights, float) - steps) + steps if heights else steps
