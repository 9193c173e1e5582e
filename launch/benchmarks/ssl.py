"""The fair table: every objective on shared encoders, under one budget, on real recordings.

    python launch/benchmarks/ssl.py --runs runs/ssl --jobs 2   # all of it, resumable; days
    python launch/benchmarks/ssl.py --only fsdd --methods simclr apc --budget 5
    python launch/benchmarks/ssl.py --quick                 # one fold, one draw, half a minute
    python launch/benchmarks/ssl.py --only                  # the table of what is there

A method pretrains for a budget of core minutes; how many updates that is, is measured once on this
machine (`costs.json`). Every encoder has 0.7 million parameters. The encoder is then fine-tuned on
few labels (`finetune`), or frozen and probed (`linear`, `knn`). Beside the objectives stand the
untrained encoder (`untrained`), each encoder trained on the same labels alone (`scratch`), and the
best network trained so, the log-mel ResNet (`supervised`). The recipes were chosen on FSDD's folds
1 to 3, which are no part of the table; the last step is reported, and nothing is picked by its test
accuracy. `results/ssl.csv` has the means over folds and draws; ± is the deviation over folds and
draws. Each run is one command of configs/ssl.py.
"""

import argparse
import csv
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launch.benchmarks import jobs
from sacjax import config as config_lib
from sacjax import errors
from sacjax.errors import UserError

CONFIG = "configs/ssl.py"
RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "dataset,protocol,labels,method,encoder,pretraining,budget_minutes,mean,std,folds,draws"
).split(",")
ALL = 0  # labels a class: all there are
WARM = 6  # updates until all is compiled and decoded
COLUMNS_OF_A_BATCH = ("audio", "length", "label", "index", "mask")


class Task(NamedTuple):
    """A data set of the table."""

    title: str
    folds: tuple[int, ...]
    development: tuple[int, ...]
    shots: tuple[int, ...]
    corpus: str  # of pretraining
    budgets: tuple[float, ...] = (5, 20, 60)


TASKS = {
    "fsdd": Task("FSDD, a speaker left out", (4, 5, 6), (1, 2, 3), (10, 5, 1), "speech"),
    "ravdess": Task("RAVDESS, actors left out", (1, 2, 3, 4, 5), (), (10, ALL), "speech"),
    "esc10": Task("ESC-10, five folds", (1, 2, 3, 4, 5), (), (4, ALL), "train", (5, 20)),
}


class Pretraining(NamedTuple):
    """An encoder that a method pretrains."""

    task: str
    method: str
    encoder: str
    corpus: str
    budget: float  # core minutes
    fold: int = 0  # whose training part it hears; 0: speech alone, the same for all folds and tasks

    def workdir(self, runs: Path) -> Path:
        """Returns where it is trained; encoders of speech alone are shared by tasks."""
        where = (
            "speech" if self.corpus == "speech" else f"{self.task}_{self.corpus}_fold{self.fold}"
        )
        return runs / where / f"{self.method}_{self.encoder}_{self.budget:g}min"

    def spec(self, steps: int, runs: Path) -> str:
        """Returns the config of so many updates."""
        both = self.corpus == "both"
        corpus = str(manifest(self.task, self.fold, runs)) if both else self.corpus
        task = "fsdd" if self.corpus == "speech" else self.task
        return (
            f"{CONFIG}:task={task},method={self.method},encoder={self.encoder},"
            f"fold={self.fold or 1},corpus={corpus},steps={steps},stages=pretrain"
        )


def manifest(task: str, fold: int, runs: Path) -> Path:
    """Writes the list of all speech and of a fold's training clips, once; returns its path."""
    path = runs / f"{task}_fold{fold}.csv"
    if path.is_file():
        return path
    root = Path(config_lib.data_root())
    if task == "fsdd":
        clips = sorted((root / "fsdd" / "recordings").glob("*.wav"))
        speakers = sorted({clip.stem.split("_")[1] for clip in clips})
        train = [clip for clip in clips if clip.stem.split("_")[1] != speakers[fold - 1]]
    elif task == "ravdess":
        with open(root / "ravdess" / "manifest.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["fold"]) != fold]
        train = [root / "ravdess" / row["filename"] for row in rows]
    else:
        raise UserError(f"--corpus both: {task} is no speech")
    speech = sorted((root / "speech").rglob("*.ogg"))
    path.parent.mkdir(parents=True, exist_ok=True)
    jobs.write_whole(path, "\n".join(["filename", *map(str, [*speech, *train])]) + "\n")
    return path


def measure(spec: str, updates: int = 6) -> float:
    """Returns the CPU seconds of one update of a config's first stage, on real batches."""
    import jax

    from sacjax import stages
    from sacjax.train import sharding

    config = config_lib.load(spec)
    mesh = sharding.make_mesh(config.mesh)
    stage = stages.Stage.prepare(config.stages[0], config, mesh, Path("/nonexistent"), {})
    state = stage.trainer.init(*stage.start())
    # Two batches' clips, which are decoded once and then kept, as most updates of a run find them.
    stage.parts["train"] = stage.parts["train"][: 2 * stage.stage.train.batch_size]
    batches = stage.batches()
    for update in range(updates + WARM):
        if update == WARM:
            jax.block_until_ready(state)
            began = time.process_time()
        batch = {key: value for key, value in next(batches).items() if key in COLUMNS_OF_A_BATCH}
        state = stage.trainer.step(state, sharding.put_batch(batch, mesh))
    jax.block_until_ready(state)
    return (time.process_time() - began) / updates


def steps_of(pretraining: Pretraining, runs: Path) -> int:
    """Returns the updates of a budget. Their cost is measured once and kept in `costs.json`."""
    path = runs / "costs.json"
    costs = json.loads(path.read_text()) if path.is_file() else {}
    p = pretraining
    key = f"{p.method}_{p.encoder}_{'speech' if p.corpus != 'train' else p.task}"
    if key not in costs:
        spec = p._replace(corpus="speech" if p.corpus == "both" else p.corpus).spec(100, runs)
        command = [sys.executable, __file__, "--measure", spec]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{spec} cannot be measured: {done.stderr.strip().splitlines()[-1:]}")
        costs[key] = float(done.stdout.split()[-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        jobs.write_whole(path, json.dumps(costs, indent=1, sort_keys=True) + "\n")
    return max(round(60 * p.budget / costs[key]), 20)


def training(spec: str, workdir: Path, overrides: list[str]) -> list[jobs.Job]:
    """Returns the job of a training, or none where it is finished."""
    if (workdir / "results.json").is_file():
        return []
    command = jobs.training(spec, workdir, overrides)
    return [jobs.Job(spec, command, workdir, workdir.with_suffix(".log"))]


def pretraining_job(pretraining: Pretraining, runs: Path) -> list[jobs.Job]:
    """Returns the job that trains an encoder, or none where it is there."""
    workdir = pretraining.workdir(runs)
    if (workdir / "results.json").is_file():
        return []
    return training(pretraining.spec(steps_of(pretraining, runs), runs), workdir, [])


def finetuning_jobs(
    task: str, pretraining: Pretraining, folds: Iterable[int], shots: int, draws: int, runs: Path
) -> list[jobs.Job]:
    """Returns the runs that fine-tune an encoder and have no result yet."""
    found = []
    for draw, fold in itertools.product(range(draws), folds):
        encoder = _of_fold(pretraining, fold).workdir(runs)
        workdir = encoder / f"{task}_finetune_{shots}" / f"fold{fold}_draw{draw}"
        spec = f"{CONFIG}:{_labelled(task, pretraining, fold, shots, draw)},stages=finetune"
        found += training(spec, workdir, [f"--config.finetune.init_from={encoder}"])
    return found


def scratch_jobs(
    task: str, encoder: str, folds: Iterable[int], shots: int, draws: int, runs: Path
) -> list[jobs.Job]:
    """Returns the runs that train an encoder on the labels alone and have no result yet."""
    found = []
    nobody = Pretraining(task, "simclr", encoder, "none", 0)
    for draw, fold in itertools.product(range(draws), folds):
        workdir = runs / f"{task}_scratch_{encoder}_{shots}" / f"fold{fold}_draw{draw}"
        spec = f"{CONFIG}:{_labelled(task, nobody, fold, shots, draw)},stages=scratch"
        found += training(spec, workdir, [])
    return found


def _labelled(task: str, p: Pretraining, fold: int, shots: int, draw: int) -> str:
    return (
        f"task={task},method={p.method},encoder={p.encoder},fold={fold},shots={shots},draw={draw}"
    )


def _of_fold(pretraining: Pretraining, fold: int) -> Pretraining:
    """Returns the pretraining that heard a fold's training part, or speech alone."""
    return pretraining if pretraining.corpus == "speech" else pretraining._replace(fold=fold)


def probing_jobs(
    task: str, pretraining: Pretraining, folds: Iterable[int], draws: int, runs: Path
) -> list[jobs.Job]:
    """Returns the probes of a frozen encoder that have no result yet, the untrained one beside."""
    found = []
    for fold in folds:
        encoder = _of_fold(pretraining, fold).workdir(runs)
        path = encoder / f"{task}_probe_fold{fold}.json"
        if path.is_file():
            continue
        shots = [str(shot) for shot in TASKS[task].shots if shot]
        spec = f"{CONFIG}:{_labelled(task, pretraining, fold, ALL, 0)},stages=finetune"
        command = [sys.executable, "-m", "sacjax", "probe", "--checkpoint", str(encoder)]
        command += ["--config", spec, "--random", "--shots", *shots, "--draws", str(draws)]
        command += ["--output", str(path)]
        found.append(
            jobs.Job(f"{path.stem} of {encoder.name}", command, path, path.with_suffix(".log"))
        )
    return found


# What is there


class Cell(NamedTuple):
    """A row of the CSV before its mean."""

    dataset: str
    protocol: str
    labels: str
    method: str
    encoder: str
    pretraining: str
    budget: str


Found = dict[Cell, dict[tuple[int, int], float]]  # accuracies of (fold, draw)
ENCODER_DIR = re.compile(r"(?P<method>\w+?)_(?P<encoder>[a-z]+)_(?P<budget>[\d.]+)min")


def read_results(runs: Path) -> Found:
    """Returns the test accuracies that are there, of the folds that are no development folds."""
    found: Found = {}
    for path in sorted(runs.glob("*/*/*/fold*_draw*/results.json")):  # fine-tuned
        encoder, group = path.parents[2], path.parents[1].name
        about = ENCODER_DIR.fullmatch(encoder.name)
        task, _, shots = group.partition("_finetune_")
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
        rows = ["scratch", "supervised"] if kind == "resnet" else ["scratch"]
        for method in rows:
            cell = Cell(task, "finetune", labels_of(int(shots)), method, kind, "none", "0")
            _note(found, cell, path, "scratch")
    for path in sorted(runs.glob("*/*/*_probe_fold*.json")):
        about, task = ENCODER_DIR.fullmatch(path.parent.name), path.name.partition("_probe")[0]
        if about and task in TASKS:
            _note_probe(found, path, task, about)
    return found


def _note(found: Found, cell: Cell, path: Path, stage: str) -> None:
    """Adds the test accuracy of a run."""
    fold, draw = map(int, re.fullmatch(r"fold(\d+)_draw(\d+)", path.parent.name).groups())  # type: ignore[union-attr]
    scores = json.loads(path.read_text()).get(stage, {})
    if fold in TASKS[cell.dataset].folds and "test/accuracy" in scores:
        found.setdefault(cell, {})[fold, draw] = scores["test/accuracy"]


def _note_probe(found: Found, path: Path, task: str, about: re.Match) -> None:
    """Adds the accuracies of a frozen encoder, and of the untrained one beside it."""
    fold = int(path.stem.rpartition("fold")[2])
    if fold not in TASKS[task].folds:
        return
    tables = json.loads(path.read_text())
    for kind in ("trained", "random"):
        method, budget = (
            (about["method"], about["budget"]) if kind == "trained" else ("untrained", "0")
        )
        where = corpus_of(path.parent)
        table = tables[kind]
        accuracies = {
            ("knn", "all"): [table["knn_accuracy"]],
            ("linear", "all"): [table["linear_accuracy"]],
        }
        accuracies |= {("linear", k): values for k, values in table["few_shot_accuracy"].items()}
        for (protocol, labels), values in accuracies.items():
            cell = Cell(task, protocol, labels, method, about["encoder"], where, budget)
            for draw, value in enumerate(values):
                found.setdefault(cell, {})[fold, draw] = value


def labels_of(shots: int) -> str:
    """Returns what the table calls a number of labels a class."""
    return str(shots) if shots else "all"


def corpus_of(encoder: Path) -> str:
    """Returns what an encoder was pretrained on."""
    name = encoder.parent.name
    if name == "speech":
        return "speech"
    return "speech+train" if "_both_" in name else "train"


def summarize(found: Found) -> list[dict[str, Any]]:
    """Returns the rows of the CSV: means over all folds and draws that a cell has, in percent."""
    rows = []
    for cell, values in sorted(found.items()):
        numbers = 100 * np.array([values[key] for key in sorted(values)])
        rows.append(
            dict(
                zip(COLUMNS, (*cell,), strict=False),
                mean=f"{numbers.mean():.2f}",
                std=f"{numbers.std(ddof=1):.2f}" if len(numbers) > 1 else "",
                folds=len({fold for fold, _ in values}),
                draws=len({draw for _, draw in values}),
            )
        )
    return rows


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes `ssl.csv` whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def show(rows: list[dict[str, Any]], task: str) -> str:
    """Returns a task's table in Markdown: a line a method, encoder, corpus and budget."""
    own = [row for row in rows if row["dataset"] == task]
    heads = sorted(
        {(row["protocol"], row["labels"]) for row in own},
        key=lambda head: (("finetune", "linear", "knn").index(head[0]), head[1] == "all", head[1]),
    )
    lines: dict[tuple[Any, ...], dict[tuple[str, str], str]] = {}
    for row in own:
        key = (row["method"], row["encoder"], row["pretraining"], row["budget_minutes"])
        spread = f" ± {float(row['std']):.1f}" if row["std"] else ""
        cell = f"{float(row['mean']):.1f}{spread} ({row['folds']}×{row['draws']})"
        lines.setdefault(key, {})[row["protocol"], row["labels"]] = cell
    titles = [f"{protocol}, {labels}" for protocol, labels in heads]
    first = [TASKS[task].title, "encoder", "pretraining", "core minutes"]
    table = [f"| {' | '.join([*first, *titles])} |", "| --- " * (4 + len(heads)) + "|"]
    for named, cells in lines.items():
        table.append(f"| {' | '.join([*named, *(cells.get(head, '') for head in heads)])} |")
    return "\n".join(table)


# What is run


def natural_encoder(method: str) -> str:
    """Returns the encoder that a method's recipe names."""
    import importlib.util

    path = Path(__file__).parents[2] / "configs" / "pretrain_folder.py"
    spec = importlib.util.spec_from_file_location("recipes", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if method not in module.METHODS:
        raise UserError(f"--methods: {method} is none of {', '.join(module.METHODS)}")
    return module.METHODS[method]["encoder"]


def run_task(task: str, args: argparse.Namespace) -> None:
    """Runs what a task lacks: pretraining, then probes, then fine-tuning, then from scratch."""
    about, runs = TASKS[task], args.runs
    folds = args.folds or about.folds
    shots = about.shots if args.shots is None else args.shots
    corpus = args.corpus or about.corpus
    pretrainings = [
        Pretraining(task, method, args.encoder or natural_encoder(method), corpus, args.budget)
        for method in args.methods
    ]
    encoders = [_of_fold(p, fold) for p in pretrainings for fold in folds]
    jobs.run([j for p in dict.fromkeys(encoders) for j in pretraining_job(p, runs)], args.jobs)
    probes = [j for p in pretrainings for j in probing_jobs(task, p, folds, args.draws, runs)]
    jobs.run(probes, args.jobs)
    for shot in shots:
        wave = [
            j for p in pretrainings for j in finetuning_jobs(task, p, folds, shot, args.draws, runs)
        ]
        for encoder in dict.fromkeys(["resnet", *(p.encoder for p in pretrainings)]):
            wave += scratch_jobs(task, encoder, folds, shot, args.draws, runs)
        jobs.run(wave, args.jobs)


def main(argv: list[str] | None = None) -> int:
    """Runs what is asked for and missing, then writes and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/ssl"))
    parser.add_argument(
        "--only", nargs="*", choices=list(TASKS), help="which tasks to run (none: table only)"
    )
    parser.add_argument("--methods", nargs="+", default=["simclr", "wav2vec2"])
    parser.add_argument("--encoder", default="", help="default: the method's natural one")
    parser.add_argument("--corpus", choices=("speech", "both", "train"), help="of pretraining")
    parser.add_argument("--budget", type=float, default=5.0, help="core minutes of pretraining")
    parser.add_argument("--folds", type=int, nargs="+", help="default: all of the task's")
    parser.add_argument("--shots", type=int, nargs="+", help="labels a class; 0: all")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--quick", action="store_true", help="one fold, one draw, half a minute")
    parser.add_argument("--output", type=Path, default=RESULTS / "ssl.csv")
    parser.add_argument("--measure", metavar="SPEC", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(measure(args.measure))
        return 0
    if args.quick:
        args.budget, args.draws = 0.5, 1
        args.output = args.runs / "quick.csv"
    for task in TASKS if args.only is None else args.only:
        if args.quick:
            args.folds, args.shots = [TASKS[task].folds[0]], [TASKS[task].shots[0]]
        run_task(task, args)
    rows = summarize(read_results(args.runs))
    write_csv(rows, args.output)
    for task in TASKS:
        print(f"\n{show(rows, task)}")
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
