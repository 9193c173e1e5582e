"""Cross-validation: all folds × seeds of a config, resumably, and what comes of them.

    python launch/benchmarks/kfold.py --config configs/esc50/resnet.py:esc10 --folds 1 2 3 4 5 --seeds 0 1 2 --output runs/resnet
    python launch/benchmarks/kfold.py --output runs/resnet --compare runs/audionet
    python launch/benchmarks/kfold.py --output runs/both --ensemble runs/resnet runs/audionet

Each run is `python -m sacjax.main` in OUTPUT/fold{k}_seed{s}; a finished one is not run again, one of another config is an error.
Without --folds, all folds of the data set run. Written to OUTPUT: `summary.json`, `folds.csv`, `confusion_matrix.csv` and
`.png` (pooled over folds and seeds). Other `--config.…` overrides go to every run. For single-label data.
"""

import argparse
import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sacjax import config as config_lib
from sacjax import errors, jobs
from sacjax.data import sources, splits
from sacjax.errors import UserError
from sacjax.evaluators import evaluate
from sacjax.report import plots

Runs = dict[tuple[int, int], dict[str, Any]]  # (fold, seed) → what `read_runs` says


def check_folds(data: Any, folds: list[int] | None = None) -> list[int]:
    """Returns the folds to run (default: all of the data set's).

    Args:
      data: the `data` part of a stage's config.

    Raises:
      UserError: multi-label data, a fold that does not exist, or a group (source recording, speaker) that is in two folds.
    """
    if data.multi_label:
        raise UserError("data.multi_label=True: cross-validation here is for one label a clip")
    recordings = sources.load(data)
    if recordings.folds is None:
        raise UserError(
            "the data set has no folds: cross-validation needs a `fold` for each recording"
        )
    own = np.asarray(recordings.folds)
    missing = sorted(set(folds or ()) - set(own.tolist()))
    if missing:
        raise UserError(
            f"--folds: there is no fold {missing[0]}; the data set has {sorted(set(own.tolist()))}"
        )
    shared = splits.leak(
        recordings, {str(k): np.flatnonzero(own == k) for k in sorted(set(own.tolist()))}
    )
    if shared:
        raise UserError(
            f"{len(shared)} groups are in more than one fold, such as '{shared[0]}': the folds leak"
        )
    return sorted(set(folds or own.tolist()))


def run_all(
    spec: str,
    overrides: list[str],
    output: Path,
    folds: list[int] | None,
    seeds: list[int],
    count: int = 1,
) -> None:
    """Runs what is not finished, each in a process of its own, `count` at a time, each on its share of the cores.

    Raises:
      UserError: what `check_folds` and `jobs.finished` say, all of it before anything runs; or a run that failed.
    """
    config = config_lib.load(spec, overrides)
    stage = config.stages[-1]
    folds = check_folds(config[stage].data, folds)
    todo = []
    for seed in seeds:  # seed by seed, so that a first whole cross-validation is there soon
        for fold in folds:
            own = [*overrides, f"--config.{stage}.data.fold={fold}", f"--config.seed={seed}"]
            workdir = output / f"fold{fold}_seed{seed}"
            if not jobs.finished(workdir, config_lib.load(spec, own)):
                command = [
                    sys.executable,
                    "-m",
                    "sacjax.main",
                    "--config",
                    spec,
                    "--workdir",
                    str(workdir),
                    *own,
                ]
                log = None if count == 1 else workdir.with_suffix(".log")
                todo.append(jobs.Job(f"fold {fold}, seed {seed}", command, workdir, log))
    print(
        f"{len(folds)} folds × {len(seeds)} seeds: {len(todo)} of {len(folds) * len(seeds)} runs to do"
    )
    jobs.run(todo, count)


def read_runs(folder: Path) -> Runs:
    """Returns {(fold, seed): {'accuracy', 'macro_f1', 'files', 'labels', 'names', 'probabilities'}} of the finished runs.

    The scores are those of the last stage that was tested; clips without a label are left out.

    Raises:
      UserError: a finished run without a test part, or one whose predictions are missing or of other classes.
    """
    runs: Runs = {}
    for path in sorted(folder.glob("fold*_seed*/results.json")):
        name = re.fullmatch(r"fold(\d+)_seed(\d+)", path.parent.name)
        if not name:
            continue
        fold, seed = map(int, name.groups())
        results = json.loads(path.read_text())
        saved = (
            path.parent / "config.json"
        )  # results.json is sorted by name, config.stages is in order
        order = json.loads(saved.read_text())["stages"] if saved.is_file() else list(results)
        tested = [results[stage] for stage in order if "test/accuracy" in results.get(stage, {})]
        if not tested or not (path.parent / "predictions.csv").is_file():
            raise UserError(
                f"{path.parent}: there are no results or predictions of a test part in it"
            )
        scores = tested[-1]
        with open(path.parent / "predictions.csv", newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        rows = [row for row in rows if row[1] == "test" and row[2]]
        if runs and tuple(head[4:]) != next(iter(runs.values()))["names"]:
            raise UserError(f"{path.parent}: its classes differ from those of the other runs")
        runs[fold, seed] = dict(
            accuracy=scores["test/accuracy"], macro_f1=scores["test/macro_f1"], names=tuple(head[4:]),
            files=[row[0] for row in rows], labels=[row[2] for row in rows],
            probabilities=np.asarray([row[4:] for row in rows], float),
        )  # fmt: skip
    return runs


def summarize(runs: Runs) -> dict[str, Any]:
    """Returns, for accuracy and macro F1, the mean over folds for each seed, and over the seeds its mean and sample deviation.

    A seed counts only where all folds have been run with it; `by_fold` takes whatever there is.
    """
    seeds = sorted({seed for _, seed in runs})
    folds = sorted({fold for fold, _ in runs})
    whole = [seed for seed in seeds if all((fold, seed) in runs for fold in folds)]
    result: dict[str, Any] = {"folds": folds, "seeds": whole, "runs": len(runs)}
    for metric in ("accuracy", "macro_f1"):
        means = [float(np.mean([runs[fold, seed][metric] for fold in folds])) for seed in whole]
        result[metric] = {
            "by_seed": means,
            "mean": float(np.mean(means)) if means else None,
            "std": float(np.std(means, ddof=1)) if len(means) > 1 else None,
            "by_fold": {
                str(f): float(np.mean([runs[f, s][metric] for s in seeds if (f, s) in runs]))
                for f in folds
            },
        }
    return result


def pooled_confusion(runs: Runs) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns (counts [C, C], true down, predicted across; class names) over all runs."""
    names = next(iter(runs.values()))["names"]
    place = {name: k for k, name in enumerate(names)}
    matrix = np.zeros([len(names)] * 2, int)
    for run in runs.values():
        np.add.at(
            matrix, ([place[label] for label in run["labels"]], run["probabilities"].argmax(1)), 1
        )
    return matrix, names


def compare(a: Runs, b: Runs) -> dict[str, float]:
    """Returns paired tests between two configs over the folds and seeds that both have.

    `difference`: mean accuracy of `a` less that of `b`;
    `p_t`: a paired t-test over the accuracies of fold-seed pairs (optimistic: training sets overlap between folds);
    `p_mcnemar`: McNemar's exact test over clips, each counted once, as right where more than half of the seeds have it right;
    `only_a`, `only_b`: clips that only one of them has right.
    """
    from scipy import stats

    shared = sorted(set(a) & set(b))
    if len(shared) < 2:
        raise UserError("--compare: the two have fewer than two runs of the same fold and seed")
    differences = np.asarray([a[k]["accuracy"] - b[k]["accuracy"] for k in shared])
    if np.ptp(differences) < 1e-12:  # no spread: the statistic is 0/0 or infinite
        p_t = 1.0 if abs(differences[0]) < 1e-12 else 0.0
    else:
        p_t = float(
            stats.ttest_rel(
                [a[k]["accuracy"] for k in shared], [b[k]["accuracy"] for k in shared]
            ).pvalue
        )

    def right(runs: Runs) -> dict[str, bool]:
        votes: dict[str, list[bool]] = {}
        for key in shared:
            run = runs[key]
            for file, label, p in zip(
                run["files"], run["labels"], run["probabilities"], strict=True
            ):
                votes.setdefault(file, []).append(run["names"][int(p.argmax())] == label)
        return {file: bool(np.mean(vote) > 0.5) for file, vote in votes.items()}

    ra, rb = right(a), right(b)
    if not set(ra) & set(rb):
        raise UserError("--compare: the two have no test clip in common")
    only_a, only_b = (
        sum(ra[f] and not rb[f] for f in ra if f in rb),
        sum(rb[f] and not ra[f] for f in ra if f in rb),
    )
    p_mcnemar = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return dict(
        difference=float(differences.mean()), p_t=p_t, p_mcnemar=p_mcnemar, only_a=int(only_a), only_b=int(only_b),
        pairs=len(shared),
    )  # fmt: skip


def ensemble(all_runs: list[Runs]) -> Runs:
    """Returns runs whose probabilities are the means of the given ones', for the folds and seeds that all have."""
    result = {}
    for key in sorted(set.intersection(*map(set, all_runs))):
        runs = [runs[key] for runs in all_runs]
        first = runs[0]
        if any(
            run[column] != first[column] for run in runs for column in ("files", "labels", "names")
        ):
            raise UserError(
                f"--ensemble: the test clips or labels of fold {key[0]}, seed {key[1]} differ"
            )
        p = np.mean([run["probabilities"] for run in runs], 0)
        place = {name: k for k, name in enumerate(first["names"])}
        truth = np.asarray([place[label] for label in first["labels"]])
        scores = evaluate.scores(p, truth, first["names"], bootstrap=0)
        result[key] = first | dict(
            probabilities=p, accuracy=scores["accuracy"], macro_f1=scores["macro_f1"]
        )
    if not result:
        raise UserError("--ensemble: the folders have no finished run of the same fold and seed")
    return result


def write(folder: Path, runs: Runs, extra: dict[str, Any]) -> dict[str, Any]:
    """Writes summary.json, folds.csv and the pooled confusion matrix; returns the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize(runs) | extra
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    with open(folder / "folds.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["fold", "seed", "accuracy", "macro_f1"])
        writer.writerows(
            [fold, seed, run["accuracy"], run["macro_f1"]]
            for (fold, seed), run in sorted(runs.items())
        )
    matrix, names = pooled_confusion(runs)
    with open(folder / "confusion_matrix.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *names])
        writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    (folder / "confusion_matrix.png").write_bytes(plots.png(plots.confusion_matrix(matrix, names)))
    return summary


def main(argv: list[str] | None = None) -> int:
    """Runs what is missing, then summarizes."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE[:ARG]")
    parser.add_argument("--folds", type=int, nargs="+", help="default: all of the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--jobs", type=int, default=1, help="so many runs at a time, each on its share of the cores"
    )
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument(
        "--compare", type=Path, metavar="DIR", help="paired tests against another output"
    )
    parser.add_argument(
        "--ensemble", type=Path, nargs="+", metavar="DIR", help="average outputs instead of running"
    )
    args, unknown = parser.parse_known_args(argv)
    overrides = config_lib.overrides_from(unknown)
    if args.ensemble:
        runs = ensemble([read_runs(folder) for folder in args.ensemble])
    else:
        if args.config:
            run_all(args.config, overrides, args.output, args.folds, args.seeds, args.jobs)
        runs = read_runs(args.output)
    if not runs:
        raise UserError(f"{args.output}: no finished run in it")
    extra = (
        {"compare": {str(args.compare): compare(runs, read_runs(args.compare))}}
        if args.compare
        else {}
    )
    summary = write(args.output, runs, extra)
    accuracy = summary["accuracy"]
    for fold, value in accuracy["by_fold"].items():
        print(f"fold {fold}: {100 * value:.2f} %")
    spread = (
        f" ± {100 * accuracy['std']:.2f} over {len(summary['seeds'])} seeds"
        if accuracy["std"] is not None
        else ""
    )
    if accuracy["mean"] is not None:
        print(
            f"{args.output}: mean accuracy over {len(summary['folds'])} folds {100 * accuracy['mean']:.2f} %{spread}"
        )
    for other, test in summary.get("compare", {}).items():
        print(
            f"against {other}: {100 * test['difference']:+.2f} points (paired t, p = {test['p_t']:.3g}); right in most seeds here alone "
            f"{test['only_a']} clips, there alone {test['only_b']} (McNemar, p = {test['p_mcnemar']:.3g})"
        )
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
