"""The page of `sacjax probe`: which checkpoint is best with how many labels, and how they hear."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sacjax.evaluators.probes import in_percent
from sacjax.inference.comparison import Clips, Probed, lines_of
from sacjax.io import write_text
from sacjax.report import embeddings, html, plots

Results = dict[str, Probed]
ALL = "all"

STYLE = """
:root { color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  body { background: #16181b; color: #ddd; } h2, td, th { border-color: #444; }
  pre { background: #24272b; } img { border-radius: .4rem; }
}
.wide { overflow-x: auto; } .wide td + td { text-align: right; }
"""


def write(
    path: Path,
    about: dict[str, Any],
    results: Results,
    checkpoints: dict[str, str],
    clips: Clips,
    sample_rate: int,
) -> None:
    """Writes the page, which needs nothing else.

    Args:
      path: an HTML file, whose folder exists.
      about: what was probed: `test_clips`, `neighbours`, `seed` and more, shown as it is.
      results: {name: results} of `inference.comparison.probe`.
      checkpoints: {name: path}.
      clips: that were probed.
      sample_rate: of the sounds to listen to, Hz; 16 kHz at most.
    """
    labels, seed = clips.labels[clips.test], about["seed"]
    drawn = embeddings.drawn(clips.recordings, clips.test, labels, sample_rate, seed)
    picture = plots.png(accuracies(results))
    style = f"<style>{STYLE}{embeddings.STYLE}</style>"
    sections = [
        ("Which is best?" if len(results) > 1 else "How good is it?", style + answer(results)),
        ("Accuracy against labels", html.picture(picture, "test accuracy against labels a class")),
        ("All probes", _table(results, about["neighbours"])),
        ("What it hears as alike", _maps(results, drawn, len(clips.test), seed)),
        ("Details", _details(about, results, checkpoints)),
    ]
    title = f"sacjax probe: {', '.join(results)}"
    write_text(path, html.page(title, sections), errors="backslashreplace")


class Best(NamedTuple):
    """The best checkpoint with so many labels a class, and the second."""

    labels: str  # '1', '5', …, 'all'
    name: str
    accuracies: np.ndarray  # [draws]; one of all labels
    second: str  # '' where there is but one
    lead: np.ndarray  # [draws], accuracies less those of the second on the same draws

    def is_clear(self, test_clips: int) -> bool:
        """Returns whether the lead is larger than its deviation.

        With all labels there is no draw, and it is the standard error of the test part.
        """
        return bool(self.lead.mean() > (self.lead.std() or self.error(test_clips)))

    def error(self, test_clips: int) -> float:
        """Returns the binomial standard error of its accuracy."""
        p = float(self.accuracies.mean())
        return (p * (1 - p) / test_clips) ** 0.5


def by_labels(scores: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns {labels a class: accuracies [draws]} of the linear probes of `probes.all_scores`."""
    few = {shot: np.asarray(values) for shot, values in scores["few_shot_accuracy"].items()}
    few = {shot: few[shot] for shot in sorted(few, key=int)}
    return few | {ALL: np.asarray([scores["linear_accuracy"]])}


def best(results: dict[str, dict[str, Any]]) -> list[Best]:
    """Returns the best checkpoint for each number of labels, of {name: its trained scores}."""
    tables = {name: by_labels(scores) for name, scores in results.items()}
    found = []
    for labels in next(iter(tables.values())):
        order = sorted(tables, key=lambda name: -tables[name][labels].mean())
        first, second = order[0], order[1] if len(order) > 1 else ""
        own = tables[first][labels]
        lead = own - tables[second][labels] if second else np.zeros(1)
        found.append(Best(labels, first, own, second, lead))
    return found


def answer(results: Results) -> str:
    """Returns which checkpoint is best with how many labels, as a list."""
    trained = {name: one.scores["trained"] for name, one in results.items()}
    count = len(next(iter(results.values())).vectors)
    lines = "".join(
        f"<li>{_line(one, trained, results[one.name].scores.get('random'), count)}</li>"
        for one in best(trained)
    )
    return (
        f'<ul class="answer">{lines}</ul><p>Test accuracies of a linear classifier on frozen '
        "vectors. ± is the standard deviation over random draws of the labels, which are the same "
        f"for all. One of the {count} test clips is {100 / count:.1f} points.</p>"
    )


def _line(
    one: Best, trained: dict[str, Any], random: dict[str, Any] | None, test_clips: int
) -> str:
    label = f"{one.labels} label{'' if one.labels == '1' else 's'} a class"
    label = "all labels" if one.labels == ALL else label
    beside = []
    if one.second:
        second = percent(by_labels(trained[one.second])[one.labels])
        if one.lead.mean() <= 0:
            beside.append(f"{escape(one.second)} is as good")
        else:
            unclear = "" if one.is_clear(test_clips) else ", too close to tell"
            lead = percent(one.lead).replace(" %", " points")
            beside.append(f"{escape(one.second)}: {second}, {lead} behind{unclear}")
    if random is not None:
        beside.append(f"untrained: {percent(by_labels(random)[one.labels])}")
    if one.labels == ALL:
        error = 100 * one.error(test_clips)
        beside.append(f"standard error of the test part: {error:.1f} points")
    more = f" ({'; '.join(beside)})" if beside else ""
    return f"{label}: <b>{escape(one.name)}</b>, {percent(one.accuracies)}{more}"


def percent(values: np.ndarray) -> str:
    """Returns the mean of values in percent, with the deviation where there are several."""
    values = 100 * values
    spread = f" ± {values.std():.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread} %"


def accuracies(results: Results) -> Figure:
    """Draws linear probes' accuracy against labels a class, a line for each encoder.

    The deviation over draws is shaded; all labels are at the right end. Encoders with fresh
    parameters are dashed, in the colour of the trained one, or gray where they are all the same.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = {name: f"C{k % 10}" for k, name in enumerate(results)} | {"": "gray"}
    names: list[str] = []
    x = np.ones(1)
    for line in lines_of(results):
        table = by_labels(line.scores)
        names = list(table)
        x = _places(names)
        mean = np.array([100 * values.mean() for values in table.values()])
        spread = np.array([100 * values.std() for values in table.values()])
        colour, style = colours[line.checkpoint], "-o" if line.is_trained else "--o"
        axes.plot(x, mean, style, color=colour, label=line.title, markersize=4)
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
    axes.set_xscale("log")
    axes.set_xticks(x, names)
    axes.minorticks_off()
    axes.set(xlabel="labels a class", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _places(labels: Sequence[str]) -> np.ndarray:
    """Returns where numbers of labels are on a logarithmic axis; all are right of the largest."""
    shots = [float(label) for label in labels if label != ALL]
    return np.array([*shots, 3 * shots[-1] if shots else 1.0])


def _table(results: Results, neighbours: int) -> str:
    """Returns the table of all probes, in percent, a row for each encoder."""
    cells = {line.title: in_percent(line.scores, neighbours) for line in lines_of(results)}
    rows = [[title, *row.values()] for title, row in cells.items()]
    head = ["test accuracy, %", *next(iter(cells.values()))]
    return f'<div class="wide">{html.table(head, rows)}</div>'


def _maps(results: Results, clips: Sequence[embeddings.Clip], test_clips: int, seed: int) -> str:
    """Returns the maps of all checkpoints and the sounds that their points play."""
    if not clips:
        return "<p>None of the test clips can be read any more.</p>"
    shown = "".join(
        f"<h3>{escape(name)}</h3>{embeddings.maps(name, one.vectors, clips, seed)}"
        for name, one in results.items()
    )
    which = "All" if len(clips) == test_clips else f"{len(clips)} of the"
    text = (
        f"{which} {test_clips} test clips are drawn, {embeddings.MOST} at most, as many of each "
        "label as there are; the maps are of these alone. A point plays the first "
        f"{embeddings.SECONDS:g} s of its clip."
    )
    head = f"<p>{text}</p>{embeddings.PLAY_ON_HOVER}{embeddings.key(clips)}"
    return head + shown + embeddings.sounds(clips) + embeddings.player()


def _details(about: dict[str, Any], results: Results, checkpoints: dict[str, str]) -> str:
    """Returns the checkpoints' paths and what was probed, folded."""
    rows = [[name, checkpoints[name], one.vectors.shape[1]] for name, one in results.items()]
    table = html.table(["checkpoint", "path", "numbers in a vector"], rows)
    text = escape(json.dumps(about, indent=1))
    return f"<details><summary>checkpoints and options</summary>{table}<pre>{text}</pre></details>"
