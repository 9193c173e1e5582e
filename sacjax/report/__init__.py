"""The report of a run: pictures under `plots/` and one self-contained `report.html`."""

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.data import decode
from sacjax.data.recordings import Recordings
from sacjax.io import write_text
from sacjax.report import html, plots, samples


def write(
    workdir: str | Path,
    stage: str,
    config: ConfigDict,
    results: dict[str, dict[str, float]],
    rows: list[dict],
    recordings: Recordings,
) -> None:
    """Writes `plots/*.png` and `report.html` when a stage has ended, or has failed.

    Args:
      stage: the stage of the predictions `rows`; the curves are those of all stages so far.
      results: {stage: {'part/metric': value}}.
      rows: predictions of one part, as `evaluators.predictions.write_predictions` takes them, with
        `index`, the position in `recordings`.
      recordings: the source of the clips shown as mistakes; a clip that can no longer be read is
        shown without its sound.
    """
    workdir, sub, names = Path(workdir), config[stage], recordings.class_names
    folder = workdir / "plots"
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("mistake_*.png"):
        stale.unlink()
    sections = [
        (f"Results of {name}", _figures(scores)) for name, scores in results.items() if scores
    ]
    if not sub.data.multi_label and (known := [row for row in rows if row["label"] in names]):
        index = {name: k for k, name in enumerate(names)}
        truth, guess = (
            [index[row["label"]] for row in known],
            [int(np.argmax(row["probabilities"])) for row in known],
        )
        from sklearn.metrics import confusion_matrix  # here: it takes long to import

        matrix = plots.png(
            plots.confusion_matrix(confusion_matrix(truth, guess, labels=range(len(names))), names)
        )
        (folder / "confusion_matrix.png").write_bytes(matrix)
        sections.append(
            (f"Confusion matrix ({known[0]['split']})", html.picture(matrix, "confusion matrix"))
        )
    for name in config.stages:
        if metrics := plots.read_metrics(workdir, name):
            display = objectives.build(config[name]).display
            curves = plots.png(plots.training_curves(metrics, display))
            (folder / f"curves_{name}.png").write_bytes(curves)
            sections.append((f"Training of {name}", html.picture(curves, f"curves of {name}")))
        if sounds := samples.cards(workdir / "samples" / name):
            sections.append((f"Sounds of {name}", f'<div class="cards">{sounds}</div>'))
    cards = [
        _card(row, k, recordings, sub, folder)
        for k, row in enumerate(mistakes(rows, names, sub.eval.mistakes))
    ]
    if cards:
        sections.append(
            (
                f"Most confident mistakes ({rows[0]['split']})",
                f'<div class="cards">{"".join(cards)}</div>',
            )
        )
    text = escape(config_lib.to_json(config))
    sections.append(("Config", f"<details><summary>every key</summary><pre>{text}</pre></details>"))
    page = html.page(f"sacjax: {workdir.absolute().name}", sections)
    write_text(workdir / "report.html", page)


def mistakes(rows: list[dict], class_names: tuple[str, ...], most: int) -> list[dict]:
    """Returns the most confident wrong predictions, the most confident first.

    The confidence is the probability of the predicted class.
    """
    wrong = []
    for row in rows:
        p, label = row["probabilities"], row["label"]
        true = {label} if label in class_names else set(label.split("|")) - {""}
        k = int(np.argmax(p))
        if true and class_names[k] not in true:
            wrong.append(row | {"prediction": class_names[k], "confidence": float(p[k])})
    return sorted(wrong, key=lambda row: (-row["confidence"], row["file"]))[:most]


def _figures(scores: dict[str, float]) -> str:
    """Returns a table of a stage's scores, and one of those of each class."""
    parts = list(dict.fromkeys(name.split("/")[0] for name in scores))
    whole = list(dict.fromkeys(name.split("/", 1)[1] for name in scores if name.count("/") == 1))
    text = html.table(
        ["", *parts],
        [[name, *(scores.get(f"{part}/{name}", "") for part in parts)] for name in whole],
    )
    classes = list(dict.fromkeys(name.split("/", 2)[2] for name in scores if name.count("/") >= 2))
    if classes:
        kinds = ("precision", "recall", "f1")
        part = "test" if "test" in parts else parts[-1]
        rows = [
            [name, *(scores.get(f"{part}/{kind}/{name}", "") for kind in kinds)] for name in classes
        ]
        text += f"<h3>Each class ({escape(part)})</h3>" + html.table(["class", *kinds], rows)
    return text


def _card(row: dict, k: int, recordings: Recordings, stage: ConfigDict, folder: Path) -> str:
    rate: Any = stage.data.sample_rate
    lines = [
        f"true: {row['label']}",
        f"predicted: {row['prediction']} ({100 * row['confidence']:.1f} %)",
    ]
    try:
        clip = recordings.open(row["index"])
        whole = clip.num_samples / clip.sample_rate
        seconds = min(max(stage.data.seconds, 5.0), whole)
        samples = decode.read(clip, rate, 0.0, seconds)
    except Exception as error:  # a file that became unreadable must not lose the results
        return html.card(row["file"], [*lines, f"cannot be read: {error}"])
    if whole > seconds:
        lines.append(f"first {seconds:.1f} of {whole:.1f} s")
    image = plots.png(plots.spectrogram(samples, rate))
    (folder / f"mistake_{k + 1:02d}.png").write_bytes(image)
    return html.card(row["file"], lines, image, html.wav(samples, rate))
