"""What the runs of the fair table came to: ssl.py runs them, this reads their folder.

Written beside `ssl.csv` (means and deviations in percent over folds and draws): `ssl.md`, the same
as a table a data set, and the minutes that each method needs to be as good as wav2vec 2.0 at its
longest; `ssl_pretraining.csv`, what each pretraining heard, cost and was worth; `ssl.png`.
`ssl_runs.csv` keeps each run's accuracy: what it has is not run again, on any machine, and stays in
the table. Who changes a recipe deletes the rows that it makes old.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sacjax.errors import UserError

COLUMNS = (
    "dataset,protocol,labels,method,encoder,pretraining,budget_minutes,mean,std,folds,draws"
).split(",")
RUN_COLUMNS = (*COLUMNS[:7], "fold", "draw", "accuracy")
ALL = 0  # labels a class: all there are
DRAWS = 3  # of the few labels, and seeds
REFERENCE = "wav2vec2"
BASELINES = ("supervised", "scratch", "untrained", "logmel")


class Task(NamedTuple):
    """A data set of the table."""

    title: str
    folds: tuple[int, ...]
    development: tuple[int, ...]
    shots: tuple[int, ...]  # labels a class; by the first the methods are ranked
    corpus: str  # of pretraining
    budgets: tuple[float, ...] = (5, 20, 60)
    best_only: tuple[int, ...] = ()  # shots that `--halving` gives the longest budget alone
    pooling: str = "mean_max"  # of a frozen encoder's frames, as configs/ssl.py pools them
    supervised: str = "resnet"  # the encoder that is best from scratch, on development folds


TASKS = {
    "fsdd": Task(
        "FSDD, a speaker left out",
        (4, 5, 6),
        (1, 2, 3),
        (10, 5, 1),
        "speech",
        best_only=(5, 1),
        pooling="grid",
        supervised="gru",
    ),
    "ravdess": Task("RAVDESS, actors left out", (1, 2, 3, 4, 5), (), (10, ALL), "speech"),
    "esc10": Task("ESC-10, five folds", (1, 2, 3, 4, 5), (), (4, ALL), "train", (5, 20)),
}


class Cell(NamedTuple):
    """What a mean is of: the first columns of the CSV."""

    dataset: str
    protocol: str
    labels: str
    method: str
    encoder: str
    pretraining: str
    budget: str


class Mean(NamedTuple):
    """A mean over folds and draws, in percent."""

    mean: float
    std: float | None
    folds: int
    draws: int
    runs: int


Found = dict[Cell, dict[tuple[int, int], float]]  # accuracies of (fold, draw), as shares
Means = dict[Cell, Mean]
ENCODER_DIR = re.compile(r"(?P<method>\w+?)_(?P<encoder>[a-z]+)_(?P<budget>[\d.]+)min")
RUN_DIR = re.compile(r"fold(?P<fold>\d+)_draw(?P<draw>\d+)")
PROBE = re.compile(r"(?P<task>[a-z0-9]+)_probe_fold(?P<fold>\d+)(_seed(?P<seed>\d+))?\.json")


def labels_of(shots: int) -> str:
    """Returns what the table calls a number of labels a class."""
    return str(shots) if shots else "all"


def corpus_of(encoder: Path) -> str:
    """Returns what an encoder was pretrained on, by the folder of its workdir."""
    name = encoder.parent.name
    if name in ("speech", "none"):
        return name
    return "speech+train" if "_both_" in name else "train"


def read_results(runs: Path) -> Found:
    """Returns the test accuracies that are there, of the folds that are no development folds."""
    found: Found = {}
    for path in sorted(runs.glob("*/*/*_finetune_*/fold*_draw*/results.json")):
        encoder = path.parents[2]
        about = ENCODER_DIR.fullmatch(encoder.name)
        task, _, shots = path.parents[1].name.partition("_finetune_")
        if about and task in TASKS:
            cell = Cell(
                task,
                "finetune",
                labels_of(int(shots)),
                about["method"],
                about["encoder"],
                corpus_of(encoder),
                about["budget"],
            )
            _note(found, cell, path, "finetune")
    for path in sorted(runs.glob("*_scratch_*/fold*_draw*/results.json")):
        task, _, rest = path.parents[1].name.partition("_scratch_")
        kind, _, shots = rest.partition("_")
        best = task in TASKS and kind == TASKS[task].supervised
        for method in ("scratch", "supervised") if best else ("scratch",):
            cell = Cell(task, "finetune", labels_of(int(shots)), method, kind, "none", "0")
            _note(found, cell, path, "scratch")
    for path in sorted(runs.glob("*/*/*_probe_fold*.json")):
        probe, about = PROBE.fullmatch(path.name), ENCODER_DIR.fullmatch(path.parent.name)
        if about and probe and probe["task"] in TASKS:
            _note_probe(found, path, probe, about)
    return found


def read_kept(path: Path) -> Found:
    """Returns the accuracies that an earlier table kept in its `ssl_runs.csv`, if there is one.

    Raises:
      UserError: a file that is no such table.
    """
    if not path.is_file():
        return {}
    found: Found = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            try:
                *names, fold, draw, accuracy = (row[column] for column in RUN_COLUMNS)
                found.setdefault(Cell(*names), {})[int(fold), int(draw)] = float(accuracy) / 100
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{path} is no table of runs: {dict(row)}") from None
    return found


def merge(kept: Found, found: Found) -> Found:
    """Returns all accuracies; where a run is in both, that of `found`."""
    cells = dict.fromkeys([*kept, *found])
    return {cell: kept.get(cell, {}) | found.get(cell, {}) for cell in cells}


def _note(found: Found, cell: Cell, path: Path, stage: str) -> None:
    """Adds the test accuracy of a run."""
    run = RUN_DIR.fullmatch(path.parent.name)
    scores = json.loads(path.read_text()).get(stage, {})
    if run and int(run["fold"]) in TASKS[cell.dataset].folds and "test/accuracy" in scores:
        found.setdefault(cell, {})[int(run["fold"]), int(run["draw"])] = scores["test/accuracy"]


def _note_probe(found: Found, path: Path, probe: re.Match[str], about: re.Match[str]) -> None:
    """Adds the accuracies of a frozen encoder, and of the untrained one beside it.

    The probes of further seeds are there for their untrained encoders: each seed's are further
    draws, and what they say again of the pretrained one is left out.
    """
    task, fold, seed = probe["task"], int(probe["fold"]), int(probe["seed"] or 0)
    if fold not in TASKS[task].folds:
        return
    trained = (about["method"], about["encoder"], corpus_of(path.parent), about["budget"])
    tables = json.loads(path.read_text())
    rows = {"random": ("untrained", about["encoder"], "none", "0")} if "random" in tables else {}
    if not seed:
        rows["trained"] = trained
    for kind, row in rows.items():
        table = tables[kind]
        accuracies = {
            ("knn", "all"): [table["knn_accuracy"]],
            ("linear", "all"): [table["linear_accuracy"]],
        }
        accuracies |= {("linear", k): values for k, values in table["few_shot_accuracy"].items()}
        for (protocol, labels), values in accuracies.items():
            cell = found.setdefault(Cell(task, protocol, labels, *row), {})
            for draw, value in enumerate(values, seed * len(values)):
                cell[fold, draw] = value


def summarize(found: Found) -> Means:
    """Returns the means over all folds and draws that a cell has, in percent."""
    means = {}
    for cell, values in sorted(found.items()):
        numbers = 100 * np.array([values[key] for key in sorted(values)])
        means[cell] = Mean(
            mean=float(numbers.mean()),
            std=float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
            folds=len({fold for fold, _ in values}),
            draws=len({draw for _, draw in values}),
            runs=len(values),
        )
    return means


def runs_of(cell: Cell) -> int:
    """Returns how many folds and draws a whole cell has; a probe with all labels draws none."""
    drawn = cell.protocol == "finetune" or cell.labels != "all"
    return len(TASKS[cell.dataset].folds) * (DRAWS if drawn else 1)


def whole(means: Means) -> Means:
    """Returns the means of which no run is missing."""
    return {cell: mean for cell, mean in means.items() if mean.runs >= runs_of(cell)}


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a table whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *rows])
    partial.replace(path)


def rows_of(means: Means) -> list[list[object]]:
    """Returns the rows of `ssl.csv`."""
    return [
        [*cell, f"{m.mean:.2f}", "" if m.std is None else f"{m.std:.2f}", m.folds, m.draws]
        for cell, m in means.items()
    ]


def runs_path(output: Path) -> Path:
    """Returns where the accuracies behind a table are kept."""
    return output.with_name(f"{output.stem}_runs.csv")


def accuracies_of(found: Found) -> list[list[object]]:
    """Returns the rows of `ssl_runs.csv`: each accuracy that a mean is of, in percent."""
    return [
        [*cell, fold, draw, f"{100 * value:.2f}"]
        for cell, values in sorted(found.items())
        for (fold, draw), value in sorted(values.items())
    ]


# In Markdown

Line = tuple[str, str, str, str]  # method, encoder, pretraining, budget


def line_of(cell: Cell) -> Line:
    """Returns which row of a Markdown table a mean stands in."""
    return cell.method, cell.encoder, cell.pretraining, cell.budget


def show(means: Means, task: str) -> str:
    """Returns a task's table in Markdown: a row a method, encoder, corpus and budget.

    The baselines stand first, then the methods by their accuracy with the task's first number of
    labels. The best of a column is bold; where a cell misses runs, it says so.
    """
    own = {cell: mean for cell, mean in means.items() if cell.dataset == task}
    labels = [*map(labels_of, TASKS[task].shots), "all"]
    heads = sorted(
        {(cell.protocol, cell.labels) for cell in own},
        key=lambda head: (("finetune", "linear", "knn").index(head[0]), labels.index(head[1])),
    )
    best = {head: _best(own, head) for head in heads}
    table: dict[Line, dict[tuple[str, str], str]] = {}
    for cell, mean in own.items():
        head = cell.protocol, cell.labels
        table.setdefault(line_of(cell), {})[head] = _text(cell, mean, cell in best[head])
    names = {"finetune": "fine-tuned", "linear": "linear probe", "knn": "k-NN"}
    titles = [f"{names[protocol]}, {count} labels" for protocol, count in heads]
    first = [TASKS[task].title, "encoder", "pretraining", "core minutes"]
    lines = [f"| {' | '.join([*first, *titles])} |", "| --- " * (4 + len(heads)) + "|"]
    for line in sorted(table, key=lambda line: _rank(own, task, line)):
        cells = [table[line].get(head, "") for head in heads]
        lines.append(f"| {' | '.join([*line, *cells])} |")
    return "\n".join(lines)


def _best(means: Means, head: tuple[str, str]) -> set[Cell]:
    """Returns the best of a column; one that misses runs only where no other is there."""
    column = {c: mean for c, mean in means.items() if (c.protocol, c.labels) == head}
    column = whole(column) or column
    top = max(mean.mean for mean in column.values())
    return {cell for cell, mean in column.items() if mean.mean == top}


def _text(cell: Cell, mean: Mean, bold: bool) -> str:
    mark = "**" if bold else ""
    spread = "" if mean.std is None else f" ± {mean.std:.1f}"
    partial = f" (partial: {mean.runs} of {runs_of(cell)})" if mean.runs < runs_of(cell) else ""
    return f"{mark}{mean.mean:.1f}{mark}{spread}{partial}"


def _rank(means: Means, task: str, line: Line) -> tuple[object, ...]:
    """Returns what rows are sorted by: baselines, then the fine-tuned mean, then the probe's."""
    method, *rest = line
    place = BASELINES.index(method) if method in BASELINES else len(BASELINES)
    columns = [("finetune", labels_of(TASKS[task].shots[0])), ("linear", "all")]
    found = [means.get(Cell(task, *column, method, *rest)) for column in columns]
    return place, *(-mean.mean if mean else np.inf for mean in found), line


# Minutes


Curves = dict[tuple[str, str, str], dict[float, Mean]]  # of a method, encoder and pretraining


def curves(means: Means, task: str, protocol: str, labels: str) -> Curves:
    """Returns the means of what is pretrained, by core minutes."""
    found: Curves = {}
    for cell, mean in means.items():
        if (cell.dataset, cell.protocol, cell.labels) == (task, protocol, labels):
            if cell.method not in BASELINES:
                key = (cell.method, cell.encoder, cell.pretraining)
                found.setdefault(key, {})[float(cell.budget)] = mean
    return found


def minutes_to_reach(curve: Mapping[float, float], target: float) -> str:
    """Returns the minutes after which a curve {minutes: accuracy} first reaches an accuracy.

    Between two budgets the accuracy is taken to be linear in the logarithm of the minutes. '≤ 5'
    where the first budget is enough, '> 60' where the longest is not.
    """
    before: tuple[float, float] | None = None
    for minutes, accuracy in sorted(curve.items()):
        if accuracy >= target:
            if before is None:
                return f"≤ {minutes:g}"
            share = (target - before[1]) / (accuracy - before[1])
            return f"{before[0] * (minutes / before[0]) ** share:.3g}"
        before = minutes, accuracy
    return f"> {max(curve):g}"


def show_minutes(means: Means) -> str:
    """Returns in Markdown how soon each method is as good as wav2vec 2.0 at its longest.

    By the linear probe with all labels, on each task's own corpus; of probes that miss no fold.
    """
    heads, columns = [], []
    for task, about in TASKS.items():
        own = {
            (method, encoder): {minutes: mean.mean for minutes, mean in curve.items()}
            for (method, encoder, corpus), curve in curves(
                whole(means), task, "linear", "all"
            ).items()
            if corpus == about.corpus
        }
        reference = next((curve for line, curve in own.items() if line[0] == REFERENCE), None)
        if reference:
            longest = max(reference)
            heads.append(f"{about.title} ({reference[longest]:.1f} % after {longest:g})")
            target = reference[longest]
            columns.append({line: minutes_to_reach(curve, target) for line, curve in own.items()})
    first = ["core minutes to wav2vec 2.0's linear probe", "encoder"]
    lines = [f"| {' | '.join([*first, *heads])} |", "| --- " * (2 + len(heads)) + "|"]
    for line in sorted({line for column in columns for line in column}):
        cells = [column.get(line, "") for column in columns]
        lines.append(f"| {' | '.join([*line, *cells])} |")
    return "\n".join(lines)


def write(runs: Path, output: Path) -> None:
    """Writes all tables and the picture of what is there beside `output`, a CSV; prints them."""
    from launch.benchmarks import jobs, ssl_plot, ssl_pretraining

    found = merge(read_kept(runs_path(output)), read_results(runs))
    means = summarize(found)
    write_csv(output, COLUMNS, rows_of(means))
    write_csv(runs_path(output), RUN_COLUMNS, accuracies_of(found))
    tables = [show(means, task) for task in TASKS if any(c.dataset == task for c in means)]
    text = "\n\n".join([*tables, show_minutes(means)])
    print(f"\n{text}")
    jobs.write_whole(output.with_suffix(".md"), text + "\n")
    path = output.with_name(f"{output.stem}_pretraining.csv")
    costs = ssl_pretraining.merge(path, ssl_pretraining.rows_of(runs, means))
    write_csv(path, ssl_pretraining.COLUMNS, costs)
    output.with_suffix(".png").write_bytes(ssl_plot.draw(means))
