"""The folded sections of a report: each with its main figure in its heading."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.data import decode
from sacjax.data.recordings import Recordings
from sacjax.evaluators.scores import OF_CLASSES
from sacjax.io import write_bytes
from sacjax.report import errors, html, plots, samples
from sacjax.report.answer import PRECISION, Results, part_of

Rows = Sequence[dict[str, Any]]


def results_of(config: ConfigDict, results: Results) -> str:
    """Returns each stage's table of scores, and that of each class."""
    text = ""
    for name, scores in results.items():
        if scores:
            told = main_figures(scores, config[name])
            text += html.fold(f"results-{name}", f"Results of {name}", told, _figures(scores))
            text += _classes(name, scores)
    return text


def main_figures(scores: dict[str, float], stage: ConfigDict) -> str:
    """Returns the figures of a stage that its heading tells."""
    metrics = {
        PRECISION: "mean average precision",
        "accuracy": "accuracy",
        "macro_f1": "macro F1",
        "knn_accuracy": "nearest neighbours",
        "linear_accuracy": "linear probe",
    }
    if not stage.data.multi_label:
        del metrics[PRECISION]
    found = {metric: part_of(scores, stage, metric) for metric in metrics}
    told = [
        f"{part} {metrics[metric]} {100 * scores[f'{part}/{metric}']:.1f} %"
        for metric, part in found.items()
        if part
    ]
    if part := part_of(scores, stage, "loss"):
        told.append(f"{part} loss {scores[f'{part}/loss']:.4g}")
    return ", ".join(told)


def _figures(scores: dict[str, float]) -> str:
    """Returns a table of a stage's scores, a column for each part."""
    parts = list(dict.fromkeys(name.split("/")[0] for name in scores))
    whole = list(dict.fromkeys(name.split("/", 1)[1] for name in scores if not _class_of(name)))
    return html.table(
        ["", *parts],
        [[name, *(scores.get(f"{part}/{name}", "") for part in parts)] for name in whole],
    )


def _class_of(name: str) -> str:
    """Returns the class of 'part/metric/class', such as of F1; '' of what is not of a class."""
    _, metric, *rest = name.split("/", 2)
    return rest[0] if rest and metric in OF_CLASSES else ""


def _classes(stage: str, scores: dict[str, float]) -> str:
    """Returns a table of the scores of each class; '' where there are none."""
    parts = list(dict.fromkeys(name.split("/")[0] for name in scores))
    classes = list(dict.fromkeys(filter(None, map(_class_of, scores))))
    if not classes:
        return ""
    part, told = "test" if "test" in parts else parts[-1], ""
    columns = {
        kind: {name: scores[key] for name in classes if (key := f"{part}/{kind}/{name}") in scores}
        for kind in OF_CLASSES
    }
    columns = {kind: column for kind, column in columns.items() if column}
    main = "average_precision" if "average_precision" in columns else "f1"
    if ranked := sorted((value, name) for name, value in columns.get(main, {}).items()):
        (low, worst), (high, best) = ranked[0], ranked[-1]
        title = "F1" if main == "f1" else "average precision"
        told = f"{title} from {low:.2f} ({worst}) to {high:.2f} ({best})"
    rows = [[name, *(column.get(name, "") for column in columns.values())] for name in classes]
    if "support" in columns:  # the last; how many clips
        rows = [[*cells, int(count) if count != "" else ""] for *cells, count in rows]
    heading = f"Each class of {stage} ({part})"
    return html.fold(f"classes-{stage}", heading, told, html.table(["class", *columns], rows))


def confusion(folder: Path, stage: ConfigDict, rows: Rows, names: tuple[str, ...]) -> str:
    """Returns the confusion matrix of single labels; '' where no label is known."""
    known = [row for row in rows if row["label"] in names]
    if stage.data.multi_label or not known:
        return ""
    index = {name: k for k, name in enumerate(names)}
    truth = [index[row["label"]] for row in known]
    guess = [int(np.argmax(row["probabilities"])) for row in known]
    from sklearn.metrics import confusion_matrix  # here: it takes long to import

    matrix = confusion_matrix(truth, guess, labels=range(len(names)))
    picture = plots.png(plots.confusion_matrix(matrix, names))
    write_bytes(folder / "confusion_matrix.png", picture)
    wrong = matrix * (1 - np.eye(len(names), dtype=int))
    i, j = np.unravel_index(int(wrong.argmax()), wrong.shape)
    told = (
        f"most often {names[i]} is taken for {names[j]}, {wrong[i, j]} of {matrix[i].sum()} times"
    )
    told = told if wrong.any() else "nothing is confused"
    heading = f"Confusion matrix ({known[0]['split']})"
    return html.fold("confusion", heading, told, html.picture(picture, "confusion matrix"))


def wrong_clips(
    folder: Path, stage: ConfigDict, rows: Rows, recordings: Recordings, wrong: Rows
) -> str:
    """Returns the surest of the mistakes in single labels, with their sounds; '' without any."""
    shown = wrong[: stage.eval.mistakes]
    if stage.data.multi_label or not shown:
        return ""
    cards = ""
    for k, row in enumerate(shown):
        said = f"predicted: {row['prediction']} ({100 * row['confidence']:.1f} %)"
        lines = [f"true: {row['label']}", said]
        cards += _card(row, lines, f"mistake_{k + 1:02d}", recordings, stage, folder)
    labelled = sum(row["label"] != "" for row in rows)
    told = f"{len(wrong):,} of {labelled:,} clips are wrong; the {len(shown)} surest"
    heading = f"Most confident mistakes ({rows[0]['split']})"
    return html.fold("mistakes", heading, told, f'<div class="cards">{cards}</div>')


def wrong_decisions(folder: Path, stage: ConfigDict, rows: Rows, recordings: Recordings) -> str:
    """Returns the surest false positives and negatives of several labels a clip, with their sounds.

    A label is found from a probability of 0.5 on. '' where nothing is wrong.
    """
    known, truth = errors.truth_of(stage, rows, recordings)
    if not stage.data.multi_label or not known or not stage.eval.mistakes:
        return ""
    p = np.stack([row["probabilities"] for row in known])
    found, there, names, text = p >= 0.5, truth > 0, recordings.class_names, ""
    for kind, wrong, confidence, told in (
        ("positive", found & ~there, p, f"of {found.sum():,} labels found are not there"),
        ("negative", ~found & there, 1 - p, f"of {there.sum():,} labels that are there are missed"),
    ):
        clips, classes = np.nonzero(wrong)
        if not len(clips):
            continue
        cards, order = "", np.argsort(-confidence[wrong], kind="stable")[: stage.eval.mistakes]
        for k, place in enumerate(order):
            row, c = known[clips[place]], classes[place]
            said = f"false {kind}: {names[c]} ({100 * p[clips[place], c]:.1f} %)"
            lines = [f"labels: {row['label'] or 'none'}", said]
            cards += _card(row, lines, f"mistake_{kind}_{k + 1:02d}", recordings, stage, folder)
        often = np.bincount(classes)
        told = f"{len(clips):,} {told}, most often {names[often.argmax()]} ({often.max():,})"
        heading = f"Most confident false {kind}s ({known[0]['split']})"
        shown = f'<div class="cards">{cards}</div>'
        text += html.fold(f"false-{kind}s", heading, f"{told}; the {len(order)} surest", shown)
    return text


def _card(
    row: dict, lines: list[str], name: str, recordings: Recordings, stage: ConfigDict, folder: Path
) -> str:
    """Returns a clip's card with its sound and its spectrogram, which is also written by a name."""
    rate: Any = stage.data.sample_rate
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
    write_bytes(folder / f"{name}.png", image)
    return html.card(row["file"], lines, image, html.wav(samples, rate))


def sounds(workdir: Path, name: str) -> str:
    """Returns the sounds that a stage's objective gave; '' where there are none."""
    cards = samples.cards(workdir / "samples" / name)
    if not cards:
        return ""
    told = f"{cards.count('<audio')} to play"
    return html.fold(
        f"sounds-{name}", f"Sounds of {name}", told, f'<div class="cards">{cards}</div>'
    )


def training(workdir: Path, folder: Path, name: str, config: ConfigDict) -> str:
    """Returns a stage's curves as its objective's `display` draws them; '' before the first."""
    metrics = plots.read_metrics(workdir, name)
    if not metrics:
        return ""
    picture = plots.png(plots.training_curves(metrics, objectives.build(config[name]).display))
    write_bytes(folder / f"curves_{name}.png", picture)
    steps, losses = metrics.get("train/loss", ([], []))
    told = config[name].objective.name
    if steps:
        told += f", loss {losses[0]:.4g} at step {steps[0]:,}, {losses[-1]:.4g} at {steps[-1]:,}"
    shown = html.picture(picture, f"curves of {name}")
    return html.fold(f"training-{name}", f"Training of {name}", told, shown)


def data(name: str, stage: ConfigDict, recordings: Recordings, rows: Rows) -> str:
    """Returns what a stage's data are, and how many clips each class has."""
    given = Counter(label for labels in recordings.labels for label in labels or ())
    labels_of = (recordings.labels[row["index"]] for row in rows)
    tested = Counter(label for labels in labels_of for label in labels or ())
    names = recordings.class_names
    unknown = sum(labels is None for labels in recordings.labels)
    part = rows[0]["split"] if rows else ""
    keys = ("source", "path", "name", "sample_rate", "seconds", "fold", "labels_per_class")
    text = html.table(["key", "value"], [[key, stage.data[key]] for key in keys])
    head = ["class", "clips", *([part] if part else [])]
    counts = [[label, given[label], *([tested[label]] if part else [])] for label in names]
    text += html.table(head, counts) if names else ""
    told = f"{len(recordings):,} clips, {len(names)} classes"
    told += f", {unknown:,} without a label" if unknown else ""
    told += f", {len(rows):,} predicted in {part}" if part else ""
    return html.fold("data", f"Data of {name}", told, text)


def whole_config(config: ConfigDict) -> str:
    """Returns every key of the config."""
    told = f"stages {', '.join(config.stages)}, seed {config.seed}"
    return html.fold("config", "Config", told, f"<pre>{escape(config_lib.to_json(config))}</pre>")
