"""One table of what a benchmark has found, as Markdown, as CSV, or for a console."""

import csv
import io
from typing import Any, NamedTuple

import numpy as np

from sacjax.inference.benchmark import Prepared, Results


class Score(NamedTuple):
    """A mean over splits; the deviation of one split alone is None."""

    mean: float
    deviation: float | None


Row = dict[str, Score]
"""{probe: its score} of an encoder on a task."""


def summary(splits: list[dict[str, Any]], neighbours: int) -> Row:
    """Returns the mean and the standard deviation (n - 1) over splits of each probe.

    Draws of few labels are averaged within their split first.

    Args:
      splits: of `scores_of`; without any there is no probe.
      neighbours: k of the nearest neighbours, for the probe's name.
    """
    if not splits:
        return {}
    values = {
        "linear probe": [one["linear_accuracy"] for one in splits],
        f"{neighbours} nearest neighbours": [one["knn_accuracy"] for one in splits],
    }
    shots = dict.fromkeys(shot for one in splits for shot in one["few_shot_accuracy"])
    for shot in shots:
        draws = [
            one["few_shot_accuracy"][shot] for one in splits if shot in one["few_shot_accuracy"]
        ]
        values[f"{shot} labels a class"] = [float(np.mean(own)) for own in draws]
    return {
        probe: Score(float(np.mean(own)), float(np.std(own, ddof=1)) if len(own) > 1 else None)
        for probe, own in values.items()
    }


def summaries(results: Results, neighbours: int) -> dict[str, dict[str, Row]]:
    """Returns {task: {encoder: its `summary`}}."""
    return {
        task: {encoder: summary(splits, neighbours) for encoder, splits in own.items()}
        for task, own in results.items()
    }


def lines_of(table: dict[str, dict[str, Row]], tasks: dict[str, Prepared]) -> list[list[str]]:
    """Returns the table's cells as text, in percent, its head first.

    There is a line for each probe and task, the linear probe of all tasks first, and where there
    are several tasks a line with each probe's mean over them. The cell of an encoder that could not
    read enough clips, or not for so many labels, is empty.

    Args:
      table: every task has the same encoders.
      tasks: by the same names.
    """
    encoders = list(next(iter(table.values())))
    lines = [["probe", "task", "measure", *encoders]]
    for probe, of_probe in _tasks_of_probes(table).items():
        for name in of_probe:
            one = tasks[name]
            count = len(one.splits)
            measure = one.task.metric.replace("_", " ") + (f", {count} splits" if count > 1 else "")
            cells = [_percent(table[name][encoder].get(probe)) for encoder in encoders]
            lines.append([probe, name, measure, *cells])
        if len(of_probe) > 1:
            cells = [
                _percent(_mean([table[name][encoder].get(probe) for name in of_probe]))
                for encoder in encoders
            ]
            lines.append([probe, f"mean of {len(of_probe)} tasks", "", *cells])
    return lines


def _tasks_of_probes(table: dict[str, dict[str, Row]]) -> dict[str, list[str]]:
    """Returns {probe: the tasks for which an encoder has it}."""
    found: dict[str, list[str]] = {}
    for name, rows in table.items():
        for probe in dict.fromkeys(probe for row in rows.values() for probe in row):
            found.setdefault(probe, []).append(name)
    return found


def _mean(scores: list[Score | None]) -> Score | None:
    """Returns the mean over tasks; None where one is missing."""
    means = [score.mean for score in scores if score is not None]
    return Score(float(np.mean(means)), None) if len(means) == len(scores) else None


def _percent(score: Score | None) -> str:
    if score is None:
        return ""
    spread = "" if score.deviation is None else f" ± {100 * score.deviation:.1f}"
    return f"{100 * score.mean:.1f}{spread}"


def as_markdown(lines: list[list[str]], notes: list[str]) -> str:
    """Returns a table of `lines_of`, and notes below it, as Markdown."""
    head, *rest = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    rule = ["---"] * 3 + ["---:"] * (len(head) - 3)
    table = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))
    return "\n\n".join([table, *notes]) + "\n"


def as_csv(table: dict[str, dict[str, Row]], tasks: dict[str, Prepared]) -> str:
    """Returns a table of shares, not percent: mean and deviation are columns of their own."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    encoders = list(next(iter(table.values())))
    columns = [f"{encoder}{what}" for encoder in encoders for what in ("", ", deviation")]
    writer.writerow(["probe", "task", "measure", "splits", *columns])
    for probe, of_probe in _tasks_of_probes(table).items():
        for name in of_probe:
            scores = [table[name][encoder].get(probe, (None, None)) for encoder in encoders]
            cells = [value for score in scores for value in score]
            one = tasks[name]
            writer.writerow([probe, name, one.task.metric, len(one.splits), *map(_exact, cells)])
    return file.getvalue()


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def notes(tasks: dict[str, Prepared], quick: bool) -> list[str]:
    """Returns what a reader of the table has to know: how it was scored, and each task."""
    how = (
        "Frozen encoders; percent, the mean over a task's splits ± their standard deviation. "
        "Few labels: the mean over draws in each split."
    )
    if quick:
        how = f"A quick look, no result: two splits at the most and few clips of each. {how}"
    listed = [
        f"- `{name}`: {one.task.title}; {one.task.protocol}; {_sizes(one)}"
        for name, one in tasks.items()
    ]
    return [how, "\n".join(listed)]


def _sizes(one: Prepared) -> str:
    first = one.splits[0]
    return f"{len(first.train)} training and {len(first.test)} test clips in the first split"
