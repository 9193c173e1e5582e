"""The fair table: every objective on shared encoders, under one budget, on real recordings.

    python launch/benchmarks/ssl.py --runs runs/ssl --halving --jobs 2  # all, resumable; days
    python launch/benchmarks/ssl.py --halving --only        # who goes on; no test fold
    python launch/benchmarks/ssl.py --only fsdd --methods simclr apc --budget 5 20
    python launch/benchmarks/ssl.py --quick                 # one fold, one draw, half a minute
    python launch/benchmarks/ssl.py --only                  # the table of what is there

A method pretrains for a budget of core minutes; how many updates that is, is measured once on this
machine (`costs.json`). Every encoder has 0.7 million parameters. The encoder is then fine-tuned on
few labels (`finetune`), or frozen and probed (`linear`, `knn`). Beside the objectives stand the
spectrogram itself (`logmel`), the untrained encoder (`untrained`), each encoder trained on the same
labels alone (`scratch`), and the best of these on development folds (`supervised`). The recipes
were chosen on FSDD's folds 1 to 3, which are no part of the table; the last step is reported, and
nothing is picked by its test accuracy: `--halving` gives longer budgets to the methods that are
best on those same folds. Each run is one command of configs/ssl.py. What is written: ssl_table.py.
"""

import argparse
import csv
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launch.benchmarks import jobs, ssl_development, ssl_features, ssl_halving, ssl_table
from launch.benchmarks.ssl_table import ALL, DRAWS, REFERENCE, TASKS, Cell, Found
from sacjax import config as config_lib
from sacjax import errors
from sacjax.errors import UserError

CONFIG = "configs/ssl.py"
JUDGED = ("fsdd", 10)  # whose development folds, with how many labels a class, `--halving` asks
RESULTS = Path(__file__).parent / "results"
WARM = 6  # updates until all is compiled and decoded
COLUMNS_OF_A_BATCH = ("audio", "length", "label", "index", "mask")


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

    def cell(self, task: str, protocol: str, shots: int) -> Cell:
        """Returns what the table calls this encoder's accuracies on a task."""
        corpus = "speech+train" if self.corpus == "both" else self.corpus
        labels = ssl_table.labels_of(shots)
        named = (self.method, self.encoder, corpus, f"{self.budget:g}")
        return Cell(task, protocol, labels, *named)

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
    return [jobs.Job(spec, command, workdir, workdir.with_name(workdir.name + ".log"))]


def pretraining_job(pretraining: Pretraining, runs: Path) -> list[jobs.Job]:
    """Returns the job that trains an encoder, or none where it is there."""
    workdir = pretraining.workdir(runs)
    if (workdir / "results.json").is_file():
        return []
    return training(pretraining.spec(steps_of(pretraining, runs), runs), workdir, [])


def _missing(kept: Found, cell: Cell, folds: Iterable[int], draws: Iterable[int]) -> list[tuple]:
    """Returns each (draw, fold) of which the table keeps no accuracy yet."""
    there = kept.get(cell, {})
    return [(d, f) for d, f in itertools.product(draws, folds) if (f, d) not in there]


def finetuning_jobs(
    task: str,
    pretraining: Pretraining,
    folds: Iterable[int],
    shots: int,
    draws: int,
    runs: Path,
    kept: Found,
) -> list[jobs.Job]:
    """Returns the runs that fine-tune an encoder and have no result yet."""
    found = []
    cell = pretraining.cell(task, "finetune", shots)
    for draw, fold in _missing(kept, cell, folds, range(draws)):
        encoder = _of_fold(pretraining, fold).workdir(runs)
        workdir = encoder / f"{task}_finetune_{shots}" / f"fold{fold}_draw{draw}"
        spec = f"{CONFIG}:{_labelled(task, pretraining, fold, shots, draw)},stages=finetune"
        found += training(spec, workdir, [f"--config.finetune.init_from={encoder}"])
    return found


def scratch_jobs(
    task: str,
    encoder: str,
    folds: Iterable[int],
    shots: int,
    draws: int,
    runs: Path,
    kept: Found,
) -> list[jobs.Job]:
    """Returns the runs that train an encoder on the labels alone and have no result yet."""
    found = []
    nobody = Pretraining(task, "simclr", encoder, "none", 0)
    cell = nobody._replace(method="scratch").cell(task, "finetune", shots)
    for draw, fold in _missing(kept, cell, folds, range(draws)):
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
    task: str, pretraining: Pretraining, folds: Iterable[int], draws: int, runs: Path, kept: Found
) -> list[jobs.Job]:
    """Returns the probes of a frozen encoder that have no result yet, the untrained one beside."""
    missing = _missing(kept, pretraining.cell(task, "knn", ALL), folds, (0,))
    names = {fold: f"{task}_probe_fold{fold}" for _, fold in missing}
    paths = {f: _of_fold(pretraining, f).workdir(runs) / f"{names[f]}.json" for f in names}
    return [
        _probe(task, pretraining, fold, draws, path, [])
        for fold, path in paths.items()
        if not path.is_file()
    ]


def untrained_jobs(
    task: str,
    pretrainings: Iterable[Pretraining],
    folds: Iterable[int],
    draws: int,
    seeds: int,
    runs: Path,
    kept: Found,
) -> list[jobs.Job]:
    """Returns the probes of untrained encoders by further seeds that have no result yet.

    `sacjax probe --random` draws one untrained network beside a pretrained one, of seed 0 in
    `probing_jobs`. So a pretraining of each kind of encoder is probed again by each further seed,
    which says nothing new of the pretrained one.
    """
    found = []
    kinds = {p.encoder: p for p in reversed(list(pretrainings))}  # the first of each
    for p in kinds.values():
        cell = Pretraining(task, "untrained", p.encoder, "none", 0).cell(task, "knn", ALL)
        for seed, fold in _missing(kept, cell, folds, range(1, seeds)):
            name = f"{task}_probe_fold{fold}_seed{seed}.json"
            if not any(runs.glob(f"*/*_{p.encoder}_*min/{name}")):
                path = _of_fold(p, fold).workdir(runs) / name
                found.append(_probe(task, p, fold, draws, path, ["--seed", str(seed)]))
    return found


def _probe(
    task: str, p: Pretraining, fold: int, draws: int, path: Path, more: list[str]
) -> jobs.Job:
    """Returns the job that writes a probe."""
    shots = [str(shot) for shot in TASKS[task].shots if shot]
    spec = f"{CONFIG}:{_labelled(task, p, fold, ALL, 0)},stages=finetune"
    command = [sys.executable, "-m", "sacjax", "probe", "--checkpoint", str(path.parent)]
    command += ["--config", spec, "--random", "--shots", *shots, "--draws", str(draws)]
    command += ["--pooling", TASKS[task].pooling, "--output", str(path), *more]
    return jobs.Job(f"{path.stem} of {path.parent.name}", command, path, path.with_suffix(".log"))


def recipes() -> dict[str, dict]:
    """Returns the methods that have a recipe, by name."""
    import importlib.util

    path = Path(__file__).parents[2] / "configs" / "pretrain_folder.py"
    spec = importlib.util.spec_from_file_location("recipes", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.METHODS


def natural_encoder(method: str) -> str:
    """Returns the encoder that a method's recipe names."""
    known = recipes()
    if method not in known:
        raise UserError(f"--methods: {method} is none of {', '.join(known)}")
    return known[method]["encoder"]


def run_task(
    task: str,
    methods: Sequence[str],
    budget: float,
    shots: Sequence[int],
    args: argparse.Namespace,
) -> None:
    """Runs what a task lacks: from scratch, then pretraining, then probes, then fine-tuning."""
    about, runs, kept = TASKS[task], args.runs, args.kept
    folds = args.folds or about.folds
    corpus = args.corpus or about.corpus
    pretrainings = [
        Pretraining(task, method, args.encoder or natural_encoder(method), corpus, budget)
        for method in methods
    ]
    nobody = Pretraining(task, "simclr", "resnet", "none", 0)
    logmel = nobody._replace(method="logmel", encoder="none").cell(task, "knn", ALL)
    specs = {
        fold: f"{CONFIG}:{_labelled(task, nobody, fold, ALL, 0)},stages=finetune"
        for _, fold in _missing(kept, logmel, folds, (0,))
    }
    labels = [shot for shot in about.shots if shot]
    simple = ssl_features.probing_jobs(task, specs, about.pooling, labels, args.draws, runs)
    scratch: list[jobs.Job] = []
    probes: list[jobs.Job] = []
    tuned: list[jobs.Job] = []
    for shot in shots:
        for encoder in dict.fromkeys([about.supervised, *(p.encoder for p in pretrainings)]):
            scratch += scratch_jobs(task, encoder, folds, shot, args.draws, runs, kept)
    encoders: dict[Pretraining, None] = {}  # what the runs below start from
    for p in pretrainings:
        own = probing_jobs(task, p, folds, args.draws, runs, kept)
        more = [
            job
            for shot in shots
            for job in finetuning_jobs(task, p, folds, shot, args.draws, runs, kept)
        ]
        probes += own
        tuned += more
        if own or more:
            encoders |= dict.fromkeys(_of_fold(p, fold) for fold in folds)
    further = untrained_jobs(task, pretrainings, folds, args.draws, args.seeds, runs, kept)
    if further:
        encoders |= dict.fromkeys(_of_fold(p, fold) for p in pretrainings for fold in folds)
    # From scratch first: all others are compared with it.
    jobs.run(simple + scratch, args.jobs)
    jobs.run([job for p in encoders for job in pretraining_job(p, runs)], args.jobs)
    jobs.run(probes + further, args.jobs)
    jobs.run(tuned, args.jobs)


def development_scores(
    methods: Sequence[str], budget: float, args: argparse.Namespace
) -> dict[str, float]:
    """Pretrains on speech what is missing and probes it on development folds.

    Returns:
      {method: mean accuracy of the linear probe over folds and draws, in percent}.
    """
    (task, shots), runs = JUDGED, args.runs
    folds = TASKS[task].development
    each = {
        method: Pretraining(task, method, args.encoder or natural_encoder(method), "speech", budget)
        for method in methods
    }
    jobs.run([j for p in each.values() for j in pretraining_job(p, runs)], args.jobs)
    paths = {m: p.workdir(runs) / f"{task}_development_{shots}.json" for m, p in each.items()}
    todo = []
    for method, path in paths.items():
        if not path.is_file():
            p = each[method]
            specs = [f"{CONFIG}:{_labelled(task, p, f, ALL, 0)},stages=finetune" for f in folds]
            pooling = TASKS[task].pooling
            todo.append(
                ssl_development.job(p.workdir(runs), specs, pooling, shots, args.draws, path)
            )
    jobs.run(todo, args.jobs)
    found = {method: json.loads(path.read_text())["accuracy"] for method, path in paths.items()}
    return {method: 100 * float(np.mean(accuracies)) for method, accuracies in found.items()}


def run_halving(tasks: Iterable[str], args: argparse.Namespace) -> None:
    """Runs every method shortly and the better ones longer, and writes who went on.

    A task's table is run at the budgets that it has, with the methods that came so far.
    """
    methods, rows = list(args.methods), []
    for rung in ssl_halving.SCHEDULE:
        scores = development_scores(methods, rung.budget, args)
        going = ssl_halving.choose(rung, scores, args.methods)
        print(ssl_halving.show(rung, scores, going), flush=True)
        rows += ssl_halving.rows_of(rung, scores, going)
        path = args.output.with_name(f"{args.output.stem}_halving.csv")
        ssl_table.write_csv(path, ssl_halving.COLUMNS, rows)
        for task in tasks:
            if rung.budget in TASKS[task].budgets:
                left_out = TASKS[task].best_only if rung.keep != 0 else ()
                shots = [shot for shot in _shots(task, args) if shot not in left_out]
                run_task(task, methods, rung.budget, shots, args)
        methods = list(going)


def _shots(task: str, args: argparse.Namespace) -> Sequence[int]:
    return TASKS[task].shots if args.shots is None else args.shots


def main(argv: list[str] | None = None) -> int:
    """Runs what is asked for and missing, then writes and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/ssl"))
    parser.add_argument(
        "--only", nargs="*", choices=list(TASKS), help="which tasks to run (none: table only)"
    )
    parser.add_argument(
        "--halving",
        action="store_true",
        help="5 core minutes for every method, 20 for the better half, 60 for the best three",
    )
    parser.add_argument(
        "--methods", nargs="+", help="default: simclr wav2vec2; with --halving, all"
    )
    parser.add_argument("--encoder", default="", help="default: the method's natural one")
    parser.add_argument("--corpus", choices=("speech", "both", "train"), help="of pretraining")
    parser.add_argument(
        "--budget", type=float, nargs="+", default=[5.0], help="core minutes of pretraining"
    )
    parser.add_argument("--folds", type=int, nargs="+", help="default: all of the task's")
    parser.add_argument("--shots", type=int, nargs="+", help="labels a class; 0: all")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seeds", type=int, default=3, help="untrained encoders of each kind")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--quick", action="store_true", help="one fold, one draw, half a minute")
    parser.add_argument("--output", type=Path, default=RESULTS / "ssl.csv")
    parser.add_argument("--measure", metavar="SPEC", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(measure(args.measure))
        return 0
    if args.quick:
        if args.halving:
            parser.error("--quick tries one short budget: leave out --halving")
        args.budget, args.draws, args.seeds = [0.5], 1, 1
        args.output = args.runs / "quick.csv"
    args.methods = args.methods or (list(recipes()) if args.halving else ["simclr", REFERENCE])
    args.kept = ssl_table.read_kept(ssl_table.runs_path(args.output))
    tasks = list(TASKS) if args.only is None else args.only
    if args.halving:
        run_halving(tasks, args)
        tasks = []
    for budget, task in itertools.product(args.budget, tasks):
        if args.quick:
            args.folds, args.shots = [TASKS[task].folds[0]], [TASKS[task].shots[0]]
        run_task(task, args.methods, budget, _shots(task, args), args)
    ssl_table.write(args.runs, args.output)
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
