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
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launch.benchmarks import (
    jobs,
    ssl_development,
    ssl_features,
    ssl_halving,
    ssl_runs,
    ssl_table,
)
from launch.benchmarks.ssl_table import ALL, DRAWS, REFERENCE, TASKS
from sacjax import errors
from sacjax.errors import UserError

JUDGED = ("fsdd", 10)  # whose development folds, with how many labels a class, `--halving` asks
RESULTS = Path(__file__).parent / "results"


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
        ssl_runs.Pretraining(task, method, args.encoder or natural_encoder(method), corpus, budget)
        for method in methods
    ]
    nobody = ssl_runs.Pretraining(task, "simclr", "resnet", "none", 0)
    logmel = nobody._replace(method="logmel", encoder="none").cell(task, "knn", ALL)
    specs = {
        fold: ssl_runs.labelled("finetune", task, nobody, fold, ALL, 0)
        for _, fold in ssl_runs.missing(kept, logmel, folds, (0,))
    }
    labels = [shot for shot in about.shots if shot]
    simple = ssl_features.probing_jobs(task, specs, about.pooling, labels, args.draws, runs)
    scratch: list[jobs.Job] = []
    probes: list[jobs.Job] = []
    tuned: list[jobs.Job] = []
    for shot in shots:
        for encoder in dict.fromkeys([about.supervised, *(p.encoder for p in pretrainings)]):
            scratch += ssl_runs.scratch_jobs(task, encoder, folds, shot, args.draws, runs, kept)
    encoders: dict[ssl_runs.Pretraining, None] = {}  # what the runs below start from
    for p in pretrainings:
        own = ssl_runs.probing_jobs(task, p, folds, args.draws, runs, kept)
        more = [
            job
            for shot in shots
            for job in ssl_runs.finetuning_jobs(task, p, folds, shot, args.draws, runs, kept)
        ]
        probes += own
        tuned += more
        if own or more:
            encoders |= dict.fromkeys(ssl_runs.of_fold(p, fold) for fold in folds)
    further = ssl_runs.untrained_jobs(task, pretrainings, folds, args.draws, args.seeds, runs, kept)
    if further:
        encoders |= dict.fromkeys(ssl_runs.of_fold(p, fold) for p in pretrainings for fold in folds)
    # From scratch first: all others are compared with it.
    jobs.run(simple + scratch, args.jobs)
    jobs.run([job for p in encoders for job in ssl_runs.pretraining_job(p, runs)], args.jobs)
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
        method: ssl_runs.Pretraining(
            task, method, args.encoder or natural_encoder(method), "speech", budget
        )
        for method in methods
    }
    jobs.run([j for p in each.values() for j in ssl_runs.pretraining_job(p, runs)], args.jobs)
    paths = {m: p.workdir(runs) / f"{task}_development_{shots}.json" for m, p in each.items()}
    todo = []
    for method, path in paths.items():
        if not path.is_file():
            p = each[method]
            specs = [ssl_runs.labelled("finetune", task, p, f, ALL, 0) for f in folds]
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
    parser.add_argument(
        "--shots", type=int, nargs="*", help="labels a class; 0: all; none: probes only"
    )
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seeds", type=int, default=3, help="untrained encoders of each kind")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--quick", action="store_true", help="one fold, one draw, half a minute")
    parser.add_argument("--output", type=Path, default=RESULTS / "ssl.csv")
    parser.add_argument("--measure", metavar="SPEC", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(ssl_runs.measure(args.measure))
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
