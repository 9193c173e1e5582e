"""Where a classifier errs: how sure it is, what it confuses, and on which clips it is worse."""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from sacjax.data import decode
from sacjax.data.labels import label_array
from sacjax.data.recordings import Recordings
from sacjax.evaluators.calibration import Reliability, reliability
from sacjax.evaluators.suspects import Analysis
from sacjax.io import write_bytes
from sacjax.report import html, plots

Rows = Sequence[dict[str, Any]]
MOST_READ = 1000
"""Clips that are read for their loudness and duration; of more, so many evenly spaced ones."""

PAIRS, CLIPS = 3, 2
"""Confusions that are played, and the clips of each."""

LOOKED_AT = 6
"""Mistakes that are shown with training clips."""

LISTED = 200
"""Doubtful labels in the table."""

FEWEST = 5
"""Clips of a group that has a line of its own."""


def truth_of(
    stage: ConfigDict, rows: Rows, recordings: Recordings
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Returns (the rows whose labels are known, the labels).

    The labels are int [N], the class of each, or {0, 1} [N, C] where a clip may have several.
    """
    rows, multi = list(rows), stage.data.multi_label
    labels = label_array(recordings, multi, [row["index"] for row in rows])
    known = (labels >= 0).all(-1) if multi else labels >= 0
    return [rows[k] for k in np.flatnonzero(known)], labels[known]


def calibration(
    folder: Path, stage: ConfigDict, rows: Rows, recordings: Recordings, temperature: float = 1.0
) -> str:
    """Returns the reliability curve, of several labels over all decisions; '' if none is known.

    Args:
      folder: for the picture.
      stage: a stage's config.
      rows: predictions of one part.
      recordings: of the clips.
      temperature: by which the logits were divided; other than 1, the curve without is drawn too.
    """
    known, truth = truth_of(stage, rows, recordings)
    if not known:
        return ""
    p, multi = np.stack([row["probabilities"] for row in known]), stage.data.multi_label
    curves = {"": reliability(p, truth, multi)}
    told = f"expected calibration error {100 * curves[''].error:.1f} %"
    if temperature != 1:
        curves = {f"divided by {temperature:.2f}": curves[""]}
        plain = unscaled(p, temperature, stage.objective.options.get("loss") == "sigmoid")
        curves["as trained"] = reliability(plain, truth, multi)
        told += f", without temperature {100 * curves['as trained'].error:.1f} %"
    else:
        told += "; eval.temperature=True scales it on the validation part"
    picture = plots.png(draw_reliability(curves, "decisions" if multi else "clips"))
    write_bytes(folder / "reliability.png", picture)
    heading = f"Calibration ({known[0]['split']})"
    shown = html.picture(picture, "reliability curve: accuracy against confidence")
    return html.fold("calibration", heading, told, shown)


def unscaled(probabilities: np.ndarray, temperature: float, sigmoid: bool) -> np.ndarray:
    """Returns probabilities [N, C] as they were before their logits were divided."""
    from scipy.special import expit, logit, softmax

    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return expit(logit(p) * temperature) if sigmoid else softmax(np.log(p) * temperature, -1)


def draw_reliability(curves: dict[str, Reliability], counted: str = "clips") -> Figure:
    """Draws accuracy against confidence, and below how many have it, of what; {name: curve}."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot(
        [0, 100], [0, 100], color="gray", linestyle="--", linewidth=1, label="as sure as right"
    )
    for number, (name, curve) in enumerate(curves.items()):
        style: Any = dict(color=f"C{number}", marker="o", markersize=4)
        name = f"{name}: " if name else ""
        label = f"{name}error {100 * curve.error:.1f} %"
        axes.plot(100 * curve.confidence, 100 * curve.accuracy, label=label, **style)
        below.bar(100 * curve.confidence, curve.decisions, 3, color=f"C{number}", alpha=0.6)
    axes.set(xlim=(0, 100), ylim=(0, 102), ylabel="right (%)")
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(alpha=0.3)
    below.set(xlabel="confidence (%)", ylabel=counted)
    return figure


def confused_pairs(stage: ConfigDict, rows: Rows, recordings: Recordings) -> str:
    """Returns the commonest confusions, each with clips to compare by ear; '' where there is none.

    There is none of clips that may have several labels.

    Of each pair a few clips of the first class that were taken for the second, the surest first,
    beside clips of the second that were known as such.
    """
    known, _ = truth_of(stage, rows, recordings)
    if stage.data.multi_label or not known or not stage.eval.mistakes:
        return ""
    names = recordings.class_names
    said = [names[int(np.argmax(row["probabilities"]))] for row in known]
    clips: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row, guess in zip(known, said, strict=True):
        clips.setdefault((row["label"], guess), []).append(row)
    pairs = Counter({pair: len(found) for pair, found in clips.items() if pair[0] != pair[1]})
    shown = ""
    for (true, guess), count in pairs.most_common(PAIRS):
        k = names.index(guess)
        columns = []
        for pair, line in (
            ((true, guess), f"{true}, taken for {guess}"),
            ((guess, guess), f"{guess}, known as such"),
        ):
            there = clips.get(pair, [])
            order = np.argsort([-row["probabilities"][k] for row in there], kind="stable")
            columns.append([_prediction(there[place], line, k, names) for place in order[:CLIPS]])
        cards = "".join(
            _card(index, lines, stage, recordings)
            for index, lines in filter(None, itertools.chain(*itertools.zip_longest(*columns)))
        )
        times = f"{count} time{'s' * (count != 1)}"
        shown += html.subtitle(f"{true} taken for {guess}, {times}")
        shown += f'<div class="cards pairs">{cards}</div>'
    if not shown:
        return ""
    (true, guess), count = pairs.most_common(1)[0]
    told = f"{true} taken for {guess} {count} of {sum(pairs.values())} times that a clip is wrong"
    return html.fold("pairs", f"Confusions to hear ({known[0]['split']})", told, shown)


def _prediction(row: dict, line: str, k: int, names: tuple[str, ...]) -> tuple[int, list[str]]:
    """Returns (a clip's index, what its card says of class k)."""
    return row["index"], [line, f"{names[k]} {100 * row['probabilities'][k]:.1f} %"]


def _card(index: int, lines: list[str], stage: ConfigDict, recordings: Recordings) -> str:
    """Returns a clip's card with its sound, as long as a window of the model or 5 s."""
    name, rate = recordings.names[index], stage.data.sample_rate
    try:
        seconds = max(stage.data.seconds, 5.0)
        samples = decode.read(recordings.open(index), rate, 0.0, seconds)
    except Exception as error:  # a file that became unreadable must not lose the results
        return html.card(name, [*lines, f"cannot be read: {error}"])
    return html.card(name, lines, sound=html.wav(samples, rate))


def resembling(
    stage: ConfigDict, wrong: Rows, recordings: Recordings, analysis: Analysis | None
) -> str:
    """Returns the surest mistakes, each with the training clips nearest to it.

    Args:
      stage: a stage's config.
      wrong: mistakes, as of `report.mistakes`.
      recordings: of the clips.
      analysis: None: there is nothing to show.
    """
    if analysis is None:
        return ""
    shown, agree = "", 0
    there = [row for row in wrong if row["index"] in analysis.neighbours]
    for row in there:
        first, _ = analysis.neighbours[row["index"]][0]
        agree += (recordings.labels[first] or ("",))[0] == row["prediction"]
    for row in there[: min(stage.eval.mistakes, LOOKED_AT)]:
        line = f"{row['label']}, taken for {row['prediction']}, {100 * row['confidence']:.1f} %"
        cards = _card(row["index"], [line], stage, recordings)
        for index, similar in analysis.neighbours[row["index"]]:
            label = "|".join(recordings.labels[index] or ())
            lines = [f"training clip of {label}, cosine similarity {similar:.2f}"]
            cards += _card(index, lines, stage, recordings)
        shown += f'<div class="cards">{cards}</div>'
    if not shown:
        return ""
    told = f"the nearest one has the label that was said in {agree} of {len(there)} mistakes"
    return html.fold("resembling", "Training clips that mistakes resemble", told, shown)


def doubtful_labels(stage: ConfigDict, recordings: Recordings, analysis: Analysis | None) -> str:
    """Returns the training clips whose labels are probably wrong; '' without an analysis."""
    if analysis is None:
        return ""
    names = recordings.class_names
    told = f"{len(analysis.suspects)} of {analysis.clips:,} training clips"
    head = ["clip", "label", "its probability", "likely", "its probability"]
    rows = [
        [recordings.names[s.index], names[s.label], s.given, names[s.likely], s.denied]
        for s in analysis.suspects[:LISTED]
    ]
    cards = ""
    for s in analysis.suspects[: stage.eval.mistakes]:
        lines = [
            f"labelled {names[s.label]} ({100 * s.given:.1f} %)",
            f"likely {names[s.likely]} ({100 * s.denied:.1f} %)",
        ]
        cards += _card(s.index, lines, stage, recordings)
    shown = f'<div class="cards">{cards}</div>' + (html.table(head, rows) if rows else "")
    return html.fold("doubtful", "Labels to check", told, shown)


def slices(stage: ConfigDict, rows: Rows, recordings: Recordings) -> str:
    """Returns the accuracy by group, loudness and duration of clips; '' where no label is known.

    Of several labels a clip it is the label-ranking average precision of the clips with a label.
    """
    known, truth = truth_of(stage, rows, recordings)
    if multi := stage.data.multi_label:
        some = np.flatnonzero(truth.any(1))
        known, truth = [known[k] for k in some], truth[some]
    if not known:
        return ""
    p = np.stack([row["probabilities"] for row in known])
    right = ranking_precision(p, truth) if multi else (p.argmax(1) == truth).astype(float)
    tables, told, column = [], [], "precision" if multi else "right"
    if recordings.groups is not None:
        groups = np.array([recordings.groups[row["index"]] for row in known])
        found = by_group(groups, right)
        if len(found) > 1:
            tables.append(_table("group", found, column))
            (worst, _, low), *_, (best, _, high) = found
            told.append(f"by group from {100 * low:.0f} % ({worst}) to {100 * high:.0f} % ({best})")
    chosen = np.unique(np.linspace(0, len(known) - 1, min(len(known), MOST_READ)).astype(int))
    levels, seconds = measured(stage, [known[k] for k in chosen], recordings)
    for title, values, form in (
        ("loudness (dBFS)", levels, "{:.0f}"),
        ("duration (s)", seconds, "{:.2f}"),
    ):
        some = np.isfinite(values)
        found = by_quarter(values[some], right[chosen][some], form)
        if len(found) > 1:
            tables.append(_table(title, found, column))
            (worst, _, low), (best, _, high) = (
                choose(found, key=lambda line: line[2]) for choose in (min, max)
            )
            told.append(f"by {title.split(' (')[0]} from {100 * low:.0f} to {100 * high:.0f} %")
    if not tables:
        return ""
    measure = "Label-ranking average precision" if multi else "Accuracy"
    heading = f"{measure} by kind of clip ({known[0]['split']})"
    return html.fold("slices", heading, ", ".join(told), "<br>".join(tables))


Line = tuple[str, int, float]
"""(which clips, how many, the share that is right, or the mean precision)."""


def ranking_precision(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the label-ranking average precision of each clip, float [N] in (0, 1].

    The mean over the clip's labels of: of the labels that are at least as probable, the share that
    the clip has. Its mean over clips is scikit-learn's `label_ranking_average_precision_score`.

    Args:
      probabilities: [N, C].
      truth: {0, 1} [N, C], one label or more in each row.
    """
    from scipy.stats import rankdata  # here: it takes long to import

    own = truth > 0
    among_all = rankdata(-probabilities, "max", axis=1)
    among_own = rankdata(np.where(own, -probabilities, np.inf), "max", axis=1)
    return np.where(own, among_own / among_all, 0).sum(1) / own.sum(1)


def by_group(groups: np.ndarray, right: np.ndarray) -> list[Line]:
    """Returns a line for each group of `FEWEST` clips or more, the worst first."""
    lines = []
    for group in np.unique(groups):
        inside = groups == group
        if group and inside.sum() >= FEWEST:
            lines.append((str(group), int(inside.sum()), float(right[inside].mean())))
    return sorted(lines, key=lambda line: (line[2], line[0]))


def by_quarter(values: np.ndarray, right: np.ndarray, form: str = "{:.2f}") -> list[Line]:
    """Returns a line for each quarter of clips by a value, the lowest first.

    Equal values stay together, so there may be fewer than four.
    """
    if not len(values):
        return []
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75]))
    place = np.searchsorted(edges, values, side="left")  # a quarter ends with its edge
    lines = []
    for k in np.unique(place):
        inside = values[place == k]
        low, high = form.format(inside.min()), form.format(inside.max())
        name = low if low == high else f"{low} to {high}"
        lines.append((name, len(inside), float(right[place == k].mean())))
    return lines


def measured(
    stage: ConfigDict, rows: Rows, recordings: Recordings
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (dB of the mean square against full scale, seconds) of clips; NaN of unreadable ones.

    The level is that of the first seconds that a window of the model holds.
    """
    found = np.full([2, len(rows)], np.nan)
    for k, row in enumerate(rows):
        try:
            clip = recordings.open(row["index"])
            samples = decode.read(clip, stage.data.sample_rate, 0.0, stage.data.seconds)
            seconds = clip.num_samples / clip.sample_rate
        except Exception:  # a file that became unreadable must not lose the results
            continue
        power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
        found[:, k] = 10 * np.log10(max(power, 1e-12)), seconds
    return found[0], found[1]


def _table(title: str, lines: list[Line], column: str) -> str:
    cells = [[name, count, f"{100 * share:.1f} %"] for name, count, share in lines]
    return html.table([title, "clips", column], cells)
