"""The docs' table of few labels: what pretraining without labels brings on unheard speakers.

    python launch/benchmarks/few_labels.py --runs runs --only fsdd --jobs 2   # resumable; hours
    python launch/benchmarks/few_labels.py --runs runs --only fsdd --folds 1 --draws 1
    python launch/benchmarks/few_labels.py --runs runs --only          # the table of what is there

For each fold one encoder is pretrained on the training part without labels; then, for each number
of labels a class and each draw of them, the same network is fine-tuned from it and from scratch;
linear probes, on draws of their own, read the pretrained and a random encoder.

The means are over folds and draws, in each column over those that all its rows have; ± is the
deviation over draws of the mean over folds. Nothing is picked by test accuracy: the last step is
reported. FSDD's folds 1 to 3 are left out, as the recipe was chosen on their speakers; ESC-10's was
chosen within fold 1's training part.
"""

import argparse
import csv
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launch.benchmarks import jobs
from sacjax import config as config_lib
from sacjax import errors, objectives
from sacjax.config import identity
from sacjax.errors import UserError
from sacjax.report import plots

TASKS: dict[str, dict[str, Any]] = {
    "fsdd": dict(
        title="FSDD, a speaker left out",
        config="configs/fsdd/wav2vec2.py",
        folds=(4, 5, 6),
        shots=(1, 5, 10),
    ),
    "esc10": dict(
        title="ESC-10, five folds",
        config="configs/esc50/wav2vec2.py",
        folds=(1, 2, 3, 4, 5),
        shots=(4,),
    ),
}
METHODS = {
    "pretrained": "pretrained, fine-tuned",
    "scratch": "from scratch",
    "probe_pretrained": "linear probe, pretrained",
    "probe_random": "linear probe, random network",
}
PROBES = {"probe_pretrained": "trained", "probe_random": "random"}  # what sacjax probe calls them
Accuracies = dict[tuple[int, int], float]  # (fold, draw) → test accuracy as a share
Found = dict[str, dict[int, Accuracies]]  # method → labels a class → accuracies


def waves(task: str, root: Path, folds: list[int], draws: int) -> list[list[jobs.Job]]:
    """Returns the runs that have no result yet in two waves: all pretraining, then the rest.

    Raises:
      UserError: a workdir that holds results of another experiment.
    """
    config, shots = TASKS[task]["config"], TASKS[task]["shots"]
    encoders = {fold: root / f"fold{fold}" / "pretrain" for fold in folds}
    first, second = [], []
    for fold, encoder in encoders.items():
        first += training(f"{config}:fold={fold},pretrain_only", encoder, [])
        second += probing(fold, encoder, root / f"fold{fold}" / "probe.json", shots, draws)
    # What tells most comes first.
    for shot, draw, fold in itertools.product(reversed(shots), range(draws), folds):
        spec, seed = f"{config}:fold={fold},shots={shot},draw={draw}", f"--config.seed={draw}"
        start = ["--config.stages=('finetune',)", f"--config.finetune.init_from={encoders[fold]}"]
        name = f"shots{shot}_draw{draw}"
        second += training(spec, root / f"fold{fold}" / f"pretrained_{name}", [seed, *start])
        second += training(f"{spec},scratch", root / f"fold{fold}" / f"scratch_{name}", [seed])
    return [first, second]


def training(spec: str, workdir: Path, overrides: list[str]) -> list[jobs.Job]:
    """Returns the job of a training, or none where it is finished."""
    if (workdir / "results.json").is_file() and jobs.finished(
        workdir, config_lib.load(spec, overrides)
    ):
        return []
    command = jobs.training(spec, workdir, overrides)
    return [jobs.Job(spec, command, workdir, workdir.with_suffix(".log"))]


def probing(
    fold: int, encoder: Path, path: Path, shots: tuple[int, ...], draws: int
) -> list[jobs.Job]:
    """Returns the job of a fold's probes, or none where all their draws are there."""
    tables = json.loads(path.read_text()) if path.is_file() else {}
    accuracies = [tables.get(name, {}).get("few_shot_accuracy", {}) for name in PROBES.values()]
    if all(len(table.get(str(shot), ())) >= draws for table in accuracies for shot in shots):
        return []
    command = [sys.executable, "-m", "sacjax", "probe", "--checkpoint", str(encoder)]
    command += ["--layer", "mean", "--random", "--shots", *map(str, shots)]
    command += ["--draws", str(draws), "--output", str(path)]
    return [jobs.Job(f"fold {fold}, probes", command, path, path.with_suffix(".log"))]


def read_results(root: Path) -> Found:
    """Returns the test accuracies that are there.

    Raises:
      UserError: runs of one method and number of labels that are not of one experiment.
    """
    found: Found = {method: {} for method in METHODS}
    for path in sorted(root.glob("fold*/*_shots*_draw*/results.json")):
        fold = int(path.parents[1].name.removeprefix("fold"))
        name = re.fullmatch(r"(\w+)_shots(\d+)_draw(\d+)", path.parent.name)
        scores = json.loads(path.read_text()).get("finetune", {})
        if name and name[1] in found and "test/accuracy" in scores:
            accuracies = found[name[1]].setdefault(int(name[2]), {})
            accuracies[fold, int(name[3])] = scores["test/accuracy"]
    for path in sorted(root.glob("fold*/probe.json")):
        fold = int(path.parent.name.removeprefix("fold"))
        tables = json.loads(path.read_text())
        for method, its_name in PROBES.items():
            for shots, values in tables[its_name]["few_shot_accuracy"].items():
                accuracies = found[method].setdefault(int(shots), {})
                accuracies |= {(fold, draw): value for draw, value in enumerate(values)}
    check_same(root)
    return found


def check_same(root: Path) -> None:
    """Raises UserError where runs that would share a mean are of different experiments."""
    firsts: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in sorted(root.glob("fold*/*/results.json")):
        saved = path.with_name("config.json")
        if not saved.is_file():
            raise UserError(f"{path.parent}: there is no config.json in it to tell what was run")
        config = json.loads(saved.read_text())
        group = re.sub(r"_draw\d+$", "", path.parent.name)
        first, its_config = firsts.setdefault(group, (path.parent, config))
        told = identity.difference(its_config, config, across_folds=True)
        if told:
            raise UserError(
                f"{path.parent}: it is another experiment than {first}: {told}; move one away"
            )
    probes = {path: json.loads(path.read_text()) for path in sorted(root.glob("fold*/probe.json"))}
    for path, tables in probes.items():
        first = next(iter(probes))
        for key in ("layer", "neighbours", "seed"):
            there, here = (probe.get("about", {}).get(key) for probe in (probes[first], tables))
            if there != here:
                raise UserError(
                    f"{path}: {key} is {here}, but {there} in {first}: remove it, and run again"
                )


def summarize(found: Found) -> dict[str, dict[int, dict[str, Any]]]:
    """Returns {method: {labels a class: {'mean', 'std', 'folds', 'draws', 'left_out'}}}.

    Accuracies are shares. The methods are compared over the folds that all of them have, and over
    the draws that are there in all of these folds: of the trainings, and of the probes. `mean` and
    `std` are None where that leaves nothing; `left_out` lists what is there and was not averaged.
    """
    result: dict[str, dict[int, dict[str, Any]]] = {}
    for shots in sorted({shots for table in found.values() for shots in table}):
        column = {m: table[shots] for m, table in found.items() if table.get(shots)}
        folds = sorted(set.intersection(*({f for f, _ in cells} for cells in column.values())))
        for method, cells in column.items():
            kind = [other for other in column if (other in PROBES) == (method in PROBES)]
            draws = sorted(
                draw
                for draw in {draw for _, draw in cells}
                if all((fold, draw) in column[other] for other in kind for fold in folds)
            )
            means = [float(np.mean([cells[f, d] for f in folds])) for d in draws if folds]
            left = [
                f"fold {f}, draw {d}" for f, d in sorted(cells) if f not in folds or d not in draws
            ]
            result.setdefault(method, {})[shots] = dict(
                mean=float(np.mean(means)) if means else None,
                std=float(np.std(means, ddof=1)) if len(means) > 1 else None,
                folds=folds,
                draws=len(means),
                left_out=left,
            )
    return result


def show(task: str, summary: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Returns the table of a task in Markdown, and under it what its means are not over."""
    about = TASKS[task]
    heads = [f"{shots} labels a class" for shots in about["shots"]]
    lines = [f"| {' | '.join([about['title'], *heads])} |", "| --- " * (1 + len(heads)) + "|"]
    notes = []
    for method, title in METHODS.items():
        cells = []
        for shots, head in zip(about["shots"], heads, strict=True):
            cell = summary.get(method, {}).get(shots)
            cells.append(_cell(cell))
            if cell and cell["left_out"]:
                notes.append(f"{head}, {title}: left out {'; '.join(cell['left_out'])}")
        lines.append(f"| {' | '.join([title, *cells])} |")
    for shots, head in zip(about["shots"], heads, strict=True):
        folds: list[int] = next(
            (table[shots]["folds"] for table in summary.values() if shots in table), []
        )
        missing = sorted(set(about["folds"]) - set(folds))
        if missing and folds:
            notes.append(
                f"{head}: means over folds {_list(folds)}; not in all rows: {_list(missing)}"
            )
        elif missing:
            notes.append(f"{head}: no fold is there in all rows, so there are no means")
    return "\n".join([*lines, *([""] + notes if notes else [])])


def _cell(cell: dict[str, Any] | None) -> str:
    if not cell or cell["mean"] is None:
        return ""
    spread = "" if cell["std"] is None else f" ± {100 * cell['std']:.1f}"
    return f"{100 * cell['mean']:.1f}{spread}"


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def write_reference(workdir: Path) -> None:
    """Writes the curves of a run that went well, as the report draws them behind others."""
    curves = plots.read_metrics(workdir, "pretrain")
    stage = config_lib.from_json((workdir / "config.json").read_text()).pretrain
    display, total = objectives.build(stage).display, stage.train.steps
    drawn = {name for panel in display.panels.values() for name in panel}
    names = [name for name in curves if name in drawn and name.startswith("train/")]
    steps = curves[names[0]][0]
    with open(display.reference, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["share_of_run", *names])
        for k in range(0, len(steps), max(len(steps) // 60, 1)):
            values = (curves[name][1][k] * display.scales.get(name, 1) for name in names)
            writer.writerow([f"{steps[k] / total:.4f}", *(f"{value:.5g}" for value in values)])


def main(argv: list[str] | None = None) -> int:
    """Runs what is asked for and missing, then prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument(
        "--only", nargs="*", choices=list(TASKS), help="which tasks to run (none: table only)"
    )
    parser.add_argument("--folds", type=int, nargs="+", help="default: all of the task's")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, each on its share of the cores"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="WORKDIR",
        help="only keep this pretraining's curves as the healthy ones",
    )
    args = parser.parse_args(argv)
    if args.reference:
        write_reference(args.reference)
        return 0
    for task in TASKS if args.only is None else args.only:
        root = args.runs / f"{task}_few_labels"
        for wave in waves(task, root, args.folds or list(TASKS[task]["folds"]), args.draws):
            jobs.run(wave, args.jobs)
    for task in TASKS:
        root = args.runs / f"{task}_few_labels"
        if root.is_dir():
            summary = summarize(read_results(root))
            jobs.write_whole(root / "summary.json", json.dumps(summary, indent=1) + "\n")
            print(f"\n{show(task, summary)}")
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
