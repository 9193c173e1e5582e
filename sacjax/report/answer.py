"""What a run answers: how many clips each stage has right, how sure that is, what it gained."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from sacjax import objectives
from sacjax.data.recordings import Recordings
from sacjax.evaluators import statistics
from sacjax.evaluators.predictions import read_predictions
from sacjax.objectives.base import LOSS
from sacjax.report import plots

Results = dict[str, dict[str, float]]
MOST_DECISIONS = 300_000  # clips times classes up to which precision has an interval (seconds)
PRECISION = "mean_average_precision"
CHANCE_TOO = "which chance could give too"


@dataclasses.dataclass(frozen=True)
class Score:
    """The main figure of a stage that names classes."""

    stage: str
    part: str
    metric: str  # accuracy, or mean_average_precision
    value: float
    interval: tuple[float, float] | None
    clips: tuple[tuple[str, str], ...] = ()  # (file, label) of those that count
    right: np.ndarray | None = None  # bool [clips]
    draws: np.ndarray | None = None  # of the precision, [draws]
    chance: float | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What stands at the top of a report."""

    sentence: str
    notes: list[str]
    figure: Figure | None


def predictions_path(workdir: Path, stage: str) -> Path:
    """Returns where the predictions of one of several stages are kept."""
    return workdir / "predictions" / f"{stage}.csv"


def answer(
    workdir: Path,
    stage: str,
    config: ConfigDict,
    results: Results,
    rows: Sequence[dict[str, Any]],
    recordings: Recordings,
) -> Answer:
    """Returns what a run has answered so far; the arguments are those of `report.write`."""
    scored = [
        score
        for name in config.stages
        if (score := score_of(workdir, name, stage, config, results, rows, recordings))
    ]
    told = {
        name: text
        for name in config.stages
        if name not in {score.stage for score in scored}
        and (text := unlabelled(workdir, name, config, results.get(name, {}), recordings))
    }
    waiting = [name for name in config.stages if name not in results]
    notes: list[str] = []
    figure: Figure | None
    if scored:
        sentence, notes = compare(scored, config)
        notes = [*notes, *told.values()]
        figure = _draw(scored)
    elif told:
        sentence, *notes = told.values()
        figure = main_curve(workdir, next(iter(told)), config)
    else:
        ended = "was not evaluated" if stage in results else "stopped before it was evaluated"
        sentence, figure = f"{stage} {ended}.", main_curve(workdir, stage, config)
    if stage in waiting and (scored or told):
        notes.append(f"{stage} stopped before it was evaluated.")
    if later := [name for name in waiting if name != stage]:
        notes.append(f"Still to come: {', '.join(later)}.")
    return Answer(sentence, notes, figure)


def part_of(scores: dict[str, float], stage: ConfigDict, metric: str) -> str:
    """Returns the part whose metric counts: test, else the last one judged; '' where none is."""
    parts = [part for part in stage.eval.splits if f"{part}/{metric}" in scores]
    return "test" if "test" in parts else parts[-1] if parts else ""


def score_of(
    workdir: Path,
    name: str,
    current: str,
    config: ConfigDict,
    results: Results,
    rows: Sequence[dict[str, Any]],
    recordings: Recordings,
) -> Score | None:
    """Returns the main figure of a stage; None where it has none."""
    stage, scores, own = config[name], results.get(name, {}), name == current
    metric = PRECISION if stage.data.multi_label else "accuracy"
    part = part_of(scores, stage, metric)
    if not part and stage.data.multi_label:
        metric, part = "accuracy", part_of(scores, stage, "accuracy")
    if not part:
        return None
    value = scores[f"{part}/{metric}"]
    ends = [scores.get(f"{part}/{metric}_{end}") for end in ("low", "high")]
    interval = None if None in ends else (float(ends[0] or 0.0), float(ends[1] or 0.0))
    score = Score(name, part, metric, value, interval)
    names, path = recordings.class_names, predictions_path(workdir, name)
    known = {row["file"]: recordings.labels[row["index"]] for row in rows}
    if not own:
        rows, names = read_predictions(path) if path.is_file() else ([], ())
    rows = [row for row in rows if row["split"] == part]
    return judged(score, rows, names, known, stage.data.multi_label, config.seed)


def judged(
    score: Score,
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
    known: dict[str, tuple[str, ...] | None],
    several: bool,
    seed: int,
) -> Score:
    """Returns a score with the clips that it counts, what is right of them, and chance.

    Args:
      score: of a stage.
      rows: its predictions of the part.
      names: the classes.
      known: {file: labels} of what is at hand; a table alone tells no unknown label from none.
      several: whether a clip may have several labels.
      seed: of the bootstrap.
    """
    labelled = [(row, _labels(row, names, known)) for row in rows]
    labelled = [(row, labels) for row, labels in labelled if labels or (several and labels == ())]
    if not labelled:
        return score
    index = {name: k for k, name in enumerate(names)}
    truth = np.zeros([len(labelled), len(names)], int)
    for k, (_, labels) in enumerate(labelled):
        truth[k, [index[label] for label in labels or ()]] = 1
    p = np.stack([row["probabilities"] for row, _ in labelled])
    clips = tuple((_written(row["file"]), row["label"]) for row, _ in labelled)
    if score.metric == "accuracy":
        if several:
            return dataclasses.replace(score, clips=clips)
        said = [row.get("prediction", names[row["probabilities"].argmax()]) for row, _ in labelled]
        right = truth[np.arange(len(truth)), [index[name] for name in said]] > 0
        return dataclasses.replace(score, clips=clips, right=right, chance=1 / len(names))
    present = truth.any(0)
    score = dataclasses.replace(score, clips=clips, chance=float(truth[:, present].mean()))
    if p.size > MOST_DECISIONS:
        return score
    draws = statistics.precision_draws(p[:, present], truth[:, present], seed)
    low, high = np.percentile(draws, [2.5, 97.5])
    return dataclasses.replace(score, draws=draws, interval=(float(low), float(high)))


def _written(file: str) -> str:
    """Returns a file's name as a table of predictions has it."""
    return file.encode(errors="backslashreplace").decode()


def _labels(
    row: dict[str, Any], names: Sequence[str], known: dict[str, tuple[str, ...] | None]
) -> tuple[str, ...] | None:
    """Returns the labels of a row of predictions; None where they are not known."""
    file, label = row["file"], row["label"]
    if file in known and "|".join(known[file] or ()) == label:
        return known[file]
    if label in names:
        return (label,)
    found = tuple(name for name in label.split("|") if name in names)
    return found or None


def compare(scored: list[Score], config: ConfigDict) -> tuple[str, list[str]]:
    """Returns (the sentence that says how good the stages are and what pretraining gained; notes).

    Pretrained is a stage that starts from an encoder of no stage that is scored itself.
    """
    starts = {score.stage: config[score.stage].init_from for score in scored}
    scratch = [score for score in scored if not starts[score.stage]]
    pretrained = [score for score in scored if starts[score.stage] not in {"", *starts}]
    pairs = [(score, scratch[0]) for score in pretrained if len(scratch) == 1]
    pairs = [(a, b) for a, b in pairs if comparable(a, b)]
    notes = next((note for score in scored if (note := about_chance(score))), [])
    for a, b in pairs:
        notes += _alone(a, b)
    if any(score.interval for score in scored):
        notes.append(
            "Intervals are over the clips: other labels or another seed in training would add to "
            "them."
        )
    if len(pairs) == 1 and len(scored) == 2:
        a, b = pairs[0]
        first = f"With pretraining {_told(a)}"
        return f"{first}, from scratch {_short(b, a)}: {gain(a, b, config.seed)}.", notes
    if len(scored) == 1:
        told = _told(scored[0])
        return f"{told[0].upper()}{told[1:]}.", notes
    top, *others = scored
    listed = [f"{top.stage}: {_told(top)}"]
    listed += [f"{score.stage}: {_short(score, top)}" for score in others]
    gains = [f"{a.stage} against {b.stage}: {gain(a, b, config.seed)}." for a, b in pairs]
    return " ".join(["; ".join(listed) + ".", *gains]), notes


def comparable(a: Score, b: Score) -> bool:
    """Returns whether two stages were asked the same, as far as is known."""
    same = not a.clips or not b.clips or a.clips == b.clips
    return same and (a.part, a.metric) == (b.part, b.metric)


def gain(a: Score, b: Score, seed: int) -> str:
    """Returns the difference of two stages in points, with its paired interval if there is one."""
    points = f"{100 * (a.value - b.value):+.1f} points".replace("-", "−")
    if a.right is not None and b.right is not None:
        low, high = statistics.paired_interval(a.right, b.right, seed)
        p = statistics.mcnemar(a.right, b.right).p
        proven = p is not None and p < 0.05
    elif a.draws is not None and b.draws is not None:
        low, high = np.percentile(a.draws - b.draws, [2.5, 97.5])
        proven = True
    else:
        return points
    told = f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")
    if not proven or low <= 0 <= high:
        verdict = CHANCE_TOO
    else:
        verdict = "more than chance would give" if low > 0 else "a loss beyond what chance gives"
    return f"{points} (95 % interval {told}), {verdict}"


def _alone(a: Score, b: Score) -> list[str]:
    if a.right is None or b.right is None:
        return []
    test = statistics.mcnemar(a.right, b.right)
    p = "" if test.p is None else f" (McNemar's exact test: p {_probability(test.p)})"
    return [
        f"{test.only_a} of {len(a.right):,} clips are right in {a.stage} alone, {test.only_b} in "
        f"{b.stage} alone{p}."
    ]


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def about_chance(score: Score) -> list[str]:
    """Returns what guessing would give."""
    if score.chance is None:
        return []
    if score.metric == PRECISION:
        return [f"Chance: a random order of the clips has about {_percent(score.chance)} %."]
    label, most = Counter(label for _, label in score.clips).most_common(1)[0]
    share, told = most / len(score.clips), f"Chance: {_percent(score.chance)} %"
    told += f" (one of {round(1 / score.chance)} classes)"
    if share > 1.05 * score.chance:  # else it is the same to the eye
        told += f"; always naming the commonest, {label}, {_percent(share)} %"
    return [f"{told}."]


def _told(score: Score) -> str:
    """Returns 'P % of N test clips are right (95 % interval …)', or the same of precision."""
    count = f"{len(score.clips):,}" if score.clips else "the"
    clips = f"{count} {score.part} clip{'s' * (len(score.clips) != 1)}"
    if score.metric == PRECISION:
        figure = f"the mean average precision on {clips} is {_percent(score.value)} %"
    else:
        verb = "is" if len(score.clips) == 1 else "are"
        several = score.right is None and score.clips
        right = "right in every label" if several else "right"
        figure = f"{_percent(score.value)} % of {clips} {verb} {right}"
    return f"{figure}{_ends(score, '95 % interval ')}"


def _short(score: Score, first: Score) -> str:
    """Returns 'P % (… to …)', with what differs from the first score's clips."""
    if not comparable(score, first):
        return _told(score)
    return f"{_percent(score.value)} %{_ends(score, '' if first.interval else '95 % interval ')}"


def _ends(score: Score, what: str) -> str:
    if score.interval is None:
        return ""
    low, high = map(_percent, score.interval)
    return f" ({what}{low} to {high})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _draw(scored: list[Score]) -> Figure:
    names, values = [score.stage for score in scored], [score.value for score in scored]
    precise = scored[0].metric == PRECISION
    label = "mean average precision, %" if precise else f"{scored[0].part} clips right, %"
    if any(score.interval for score in scored):
        label += ", with 95 % intervals"
    ranges = [score.interval for score in scored]
    chance = next((score.chance for score in scored if score.chance is not None), None)
    return plots.intervals(names, values, ranges, chance, label)


def unlabelled(
    workdir: Path, name: str, config: ConfigDict, scores: dict[str, float], recordings: Recordings
) -> str:
    """Returns one sentence on a stage without labels, by its objective; '' where there is none."""
    stage = config[name]
    objective = objectives.build(stage)
    judged_parts = [
        part
        for part in stage.eval.splits
        if any(f"{part}/{metric}" in scores for metric in ("loss", "knn_accuracy"))
    ]
    if objective.needs_labels or not judged_parts:
        return ""
    part = judged_parts[-1]
    prefix = f"{part}/"
    values = {k.removeprefix(prefix): v for k, v in scores.items() if k.startswith(prefix)}
    told = [objective.describe(values)] if "loss" in values else []
    for metric, label in (
        ("knn_accuracy", "nearest neighbours name {} % of the labels right"),
        ("linear_accuracy", "a linear probe names {} % right"),
    ):
        if metric in values:
            told.append(label.format(_percent(values[metric])))
    if "knn_accuracy" in values and (classes := len(recordings.class_names)) > 1:
        told[-1] += f" (one of {classes} classes by chance: {_percent(1 / classes)} %)"
    curves = plots.read_metrics(workdir, name)
    last = {
        k.removeprefix("train/"): v[-1] for k, (_, v) in curves.items() if k.startswith("train/")
    }
    bad = objective.verdict(values) if "loss" in values else ""
    if ill := objective.health(last):
        state = f"looks collapsed ({ill})"
    elif bad:
        state = f"is not healthy ({bad})"
    else:
        state = "looks healthy"
    return f"{name} ({stage.objective.name}) {state}; {part} clips: {', '.join(told)}."


def main_curve(workdir: Path, name: str, config: ConfigDict) -> Figure | None:
    """Returns the first panel of a stage's curves that was measured; None where none was."""
    curves = plots.read_metrics(workdir, name)
    display = objectives.build(config[name]).display
    panels = display.panels or {"loss": LOSS}
    drawn = [(title, panel) for title, panel in panels.items() if set(panel) & set(curves)]
    if not drawn:
        return None
    first = dataclasses.replace(display, panels=dict(drawn[:1]))
    return plots.training_curves(curves, first)
