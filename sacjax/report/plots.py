"""Pictures of a run, as matplotlib figures without pyplot's global state."""

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

Curves = dict[str, tuple[list[int], list[float]]]  # {metric: (steps, values)}
HEALTHY = Path(__file__).with_name(
    "healthy_pretraining.csv"
)  # perplexity there is a share of the entries


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
    """Draws counts [C, C], true classes down and predicted ones across, shaded by the share of each true class."""
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


def read_metrics(workdir: str | Path, stage: str) -> Curves:
    """Returns {metric: (steps, values)} of a stage from `metrics.jsonl`."""
    curves: Curves = {}
    path = Path(workdir) / "metrics.jsonl"
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


def training_curves(curves: Curves) -> Figure:
    """Draws loss, accuracy, learning rate and gradient norm over steps."""
    panels = {
        "loss": ("train/loss", "validation/loss"),
        "accuracy": ("train/accuracy", "validation/accuracy"),
        "learning rate": ("learning_rate",),
        "gradient norm": ("train/gradient_norm",),
    }
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for name in names:
            if name in curves:
                axes.plot(
                    *curves[name],
                    label=name.split("/")[0],
                    marker="." if len(curves[name][0]) < 40 else None,
                )
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend()
        if not axes.lines:
            axes.text(
                0.5,
                0.5,
                "not measured",
                ha="center",
                va="center",
                transform=axes.transAxes,
                color="gray",
            )
    return figure


def read_reference() -> dict[str, tuple[list[float], list[float]]]:
    """Returns {metric: (share of the run, values)} of a pretraining run of ours that went well (`launch/benchmarks/few_labels.py`)."""
    with open(HEALTHY, newline="") as file:
        rows = list(csv.DictReader(file))
    share = [float(row["share_of_run"]) for row in rows]
    return {
        name: (share, [float(row[name]) for row in rows])
        for name in rows[0]
        if name != "share_of_run"
    }


def pretraining_curves(
    curves: Curves,
    entries: int,
    reference: dict[str, tuple[list[float], list[float]]],
) -> Figure:
    """Draws what tells a healthy contrastive pretraining from a collapsed one over steps, a healthy run of ours behind it in gray.

    Args:
      entries: of a codebook's group; perplexity is drawn as a share of them.
      reference: of `read_reference`, stretched to this run's length.
    """
    panels: dict[str, dict[str, str]] = {
        "contrastive accuracy": {
            "train/contrastive_accuracy": "train", "validation/contrastive_accuracy": "validation",
            "train/shuffled_accuracy": "shuffled targets", "train/chance_accuracy": "chance",
        },
        "code perplexity, share of the entries": {
            f"train/code_perplexity_{k}": f"group {k}" for k in range(1, 9)
        },
        "variance": {"train/target_variance": "targets", "train/prediction_variance": "predictions"},
        "loss": {"train/loss": "train", "validation/loss": "validation", "train/diversity_loss": "diversity"},
        "nearest neighbours' accuracy": {
            "train/knn_accuracy": "train, one left out", "validation/knn_accuracy": "validation"
        },
        "norms": {"train/feature_norm": "features", "train/gradient_norm": "gradient"},
    }  # fmt: skip
    last = max((steps[-1] for steps, _ in curves.values()), default=1)
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    figure.suptitle(
        "gray: a run of ours that went well, stretched to this one's length",
        fontsize=9,
        color="gray",
    )
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        for name, label in names.items():
            scale = 1 / entries if "perplexity" in name else 1.0
            if name in reference:
                share, values = reference[name]
                axes.plot(np.asarray(share) * last, values, color="0.8", linewidth=4, zorder=0)
            if name in curves:
                steps, values = curves[name]
                axes.plot(
                    steps,
                    np.asarray(values) * scale,
                    label=label,
                    marker="." if len(steps) < 20 else None,
                )
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        else:
            axes.text(
                0.5,
                0.5,
                "not measured",
                ha="center",
                va="center",
                transform=axes.transAxes,
                color="gray",
            )
    return figure


def spectrogram(samples: np.ndarray, sample_rate: int) -> Figure:
    """Draws the log mel spectrogram of mono samples float32 [n]."""
    from sacjax.frontend import log_mel_spectrogram

    n_fft = 512 if sample_rate < 16000 else 1024
    hop, size = n_fft // 4, len(samples)
    # Whole seconds, so that clips of many lengths share a compiled front end, and none is too short for it.
    padded = np.pad(samples, (0, -size % sample_rate if size else sample_rate))
    level = log_mel_spectrogram(
        jnp.asarray(padded)[None],
        sample_rate=sample_rate,
        n_fft=n_fft,
        hop_length=hop,
        n_mels=64,
        ref="max",
    )
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
