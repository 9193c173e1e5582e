"""Pictures of a data set: classes, durations, formats, levels, and what augmentation does to it."""

import collections
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from sacjax import augment
from sacjax.data import decode
from sacjax.data.inspect import PARTS, ClipFacts, Summary, class_counts
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.frontend import make_frontend

COLOURS = {"train": "#4c72b0", "validation": "#dd8452", "test": "#55a868", "": "#999999"}
Good = list[tuple[ClipFacts, str]]  # (facts, part) of each readable recording


def draw(folder: Path, recordings: Recordings, summary: Summary) -> list[Path]:
    """Draws `classes.png`, `durations.png`, `formats.png` and `levels.png`; returns their paths.

    The first needs classes, the others a recording that can be read.
    """
    good = [(f, part) for f, part in zip(summary.facts, summary.parts, strict=True) if not f.error]
    figures = {}
    if recordings.class_names:
        figures["classes"] = _classes(recordings, summary)
    if good:
        figures |= {"durations": _durations(good), "formats": _formats(good)}
        figures["levels"] = _levels(good)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=100)
    return [folder / f"{name}.png" for name in figures]


def _classes(recordings: Recordings, summary: Summary) -> Figure:
    names = recordings.class_names
    figure = Figure(figsize=(7, 1 + 0.22 * max(len(names), 8)), layout="constrained")
    axes, left = figure.subplots(), np.zeros(len(names), int)
    for part, counts in class_counts(recordings, summary.parts).items():
        if counts.any():
            rows, label = range(len(names)), part or "unused"
            axes.barh(rows, counts, left=left, color=COLOURS[part], label=label)
            left = left + counts
    axes.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("recordings")
    axes.legend()
    return figure


def _durations(good: Good) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes, seconds = figure.subplots(), [fact.seconds for fact, _ in good]
    _histogram(axes, seconds, good, "seconds", log=max(seconds) > 20 * min(seconds))
    axes.legend()
    return figure


def _formats(good: Good) -> Figure:
    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, key, label in (
        (left, "sample_rate", "sample rate (Hz)"),
        (right, "channels", "channels"),
    ):
        found = sorted(collections.Counter(getattr(fact, key) for fact, _ in good).items())
        names, counts = [str(value) for value, _ in found], [count for _, count in found]
        axes.bar(names, counts, color=COLOURS["train"])
        axes.set(xlabel=label, ylabel="recordings")
    return figure


def _levels(good: Good) -> Figure:
    figure = Figure(figsize=(7, 3), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), ("peak", "rms"), strict=True):
        levels = 20 * np.log10(np.maximum([getattr(fact, key) for fact, _ in good], 1e-5))
        _histogram(axes, levels.tolist(), good, f"{key}, dB of full scale")
    return figure


def _histogram(axes: Axes, values: list[float], good: Good, label: str, log: bool = False) -> None:
    """Draws a histogram of values, stacked by the parts of the split."""
    of_part: dict[str, list[float]] = {part: [] for part in (*PARTS, "")}
    for value, (_, part) in zip(values, good, strict=True):
        of_part[part].append(value)
    low, high = min(values), max(values)
    bins = np.geomspace(low, high * 1.001, 31) if log else np.linspace(low, high + 1e-6, 31)
    axes.hist(
        list(of_part.values()),
        bins=bins.tolist(),
        stacked=True,
        color=[COLOURS[part] for part in of_part],
        label=[part or "unused" for part in of_part],
    )
    axes.set(xlabel=label, ylabel="recordings", xscale="log" if log else "linear")


def _plain(text: str) -> str:
    """Returns a text with `$` escaped, so that matplotlib reads no formula."""
    return text.replace("$", r"\$")


def draw_augmentations(
    folder: Path,
    recordings: Recordings,
    indices: list[int],
    stage: ConfigDict,
    seed: int = 0,
    count: int = 3,
) -> list[Path]:
    """Draws clips before and after each augmentation of a stage, applied alone to every clip.

    An attack is left out: what it does is up to the network.

    Args:
      indices: the recordings to choose from.
      count: how many clips to show.

    Returns:
      The pictures' paths.

    Raises:
      UserError: fewer than two clips can be read.
    """
    rate = stage.data.sample_rate
    names, audio, lengths = _crops(recordings, indices, stage.data, seed, count)
    frontend = jax.jit(make_frontend(stage.frontend, rate))
    features, frames = frontend(audio, lengths)
    keys = jax.random.split(jax.random.key(seed), len(names))
    # Each clip is a class of its own, so that mixing shows.
    labels, mask = jnp.eye(len(names)), jnp.ones(len(names))
    saved = []
    inputs: dict[augment.Kind, tuple[jax.Array, jax.Array]] = {
        "waveform": (audio, lengths),
        "spectrogram": (features, frames),
    }
    for kind, (x, n) in inputs.items():
        for number, spec in enumerate(stage.augment[kind]):
            if spec["name"] in augment.ATTACKS:
                continue
            always = dict(spec) | {"probability": 1.0}
            change = jax.jit(partial(augment.apply, (always,), kind=kind, sample_rate=rate))
            after, after_n, mixed = change(keys, x, n, labels, mask)
            rows = [x, after]
            if kind == "waveform":  # both are shown as sound and as the model sees them
                rows += [features, frontend(after, after_n)[0]]
            options = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "name")
            figure = _before_and_after(rows, names, np.asarray(mixed), rate)
            figure.suptitle(_plain(f"{spec['name']} ({options})"))
            saved.append(folder / f"augment_{kind}_{number}_{spec['name']}.png")
            figure.savefig(saved[-1], dpi=80)
    return saved


def _crops(
    recordings: Recordings, indices: list[int], data: ConfigDict, seed: int, count: int
) -> tuple[list[str], jax.Array, jax.Array]:
    """Returns (names, audio [count, T], lengths [count]) of crops of clips that can be read."""
    rng = np.random.default_rng(seed)
    names, crops, lengths = [], [], []
    for i in map(int, rng.permutation(indices)):
        try:
            audio, length = decode.read_crop(
                recordings.open(i), data.sample_rate, data.seconds, data.crop, data.pad, rng
            )
        except Exception:  # `inspect` lists such files
            continue
        names.append(recordings.names[i])
        crops.append(audio)
        lengths.append(decode.heard(length, len(audio), data.pad))
        if len(crops) == count:
            break
    if len(crops) < 2:
        raise UserError("--augment: fewer than two recordings can be read")
    return names, jnp.asarray(np.stack(crops), jnp.float32), jnp.asarray(lengths, jnp.int32)


def _before_and_after(
    rows: list[jax.Array], names: list[str], mixed: np.ndarray, sample_rate: int
) -> Figure:
    """Draws a column for each clip.

    Args:
      rows: before, after, before, after.
      names: of the clips.
      mixed: [clips, clips], the share of each clip (column) in each mixed one (row).
      sample_rate: Hz.
    """
    size = (4.2 * len(names), 1.8 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(names), squeeze=False)
    for r, values in enumerate(rows):
        for c, name in enumerate(names):
            _draw_clip(grid[r][c], np.asarray(values[c]), sample_rate)
            title = f"before: {name}"[-60:]
            if r % 2:  # a mixed clip shows the shares of its labels
                shares = " ".join(f"{share:.2f}" for share in mixed[c])
                title = f"after, labels {shares}" if (mixed[c] > 0.005).sum() > 1 else "after"
            grid[r][c].set_title(_plain(title), fontsize=8)
    return figure


def _draw_clip(axes: Any, value: np.ndarray, sample_rate: int) -> None:
    """Draws audio [T], or a spectrogram [frames, bands]."""
    if value.ndim == 1:
        axes.plot(np.arange(len(value)) / sample_rate, value, linewidth=0.4)
        axes.set_ylim(-1.05, 1.05)
    else:
        axes.imshow(value.T, origin="lower", aspect="auto", interpolation="nearest", cmap="magma")
