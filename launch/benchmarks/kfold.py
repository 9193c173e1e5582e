"""Cross-validation: all folds × seeds of a config, resumably, and what comes of them.

    python launch/benchmarks/kfold.py --config configs/esc50/resnet.py:esc10 --output runs/resnet
    python launch/benchmarks/kfold.py --output runs/resnet --compare runs/audionet
    python launch/benchmarks/kfold.py --output runs/both --ensemble runs/resnet runs/audionet

Each run is `python -m sacjax.main` in OUTPUT/fold{k}_seed{s}; a finished one is not run again, one
of another experiment is an error. With --together all run in one process, from one compilation.
Without --folds, all folds of the data set run. Every stage whose data set has the fold holds it
out. Other `--config.…` overrides go to every run.

Written to OUTPUT: `summary.json`, `folds.csv`, `confusion_matrix.csv` and `.png` (pooled over folds
and seeds). For single-label data.
"""

import argparse
import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launch.benchmarks import jobs
from sacjax import config as config_lib
from sacjax import errors
from sacjax.config import identity
from sacjax.data import sources, splits
from sacjax.errors import UserError
from sacjax.evaluators.scores import scores as score
from sacjax.evaluators.statistics import mcnemar, paired_test
from sacjax.report import plots

Runs = dict[tuple[int, int], dict[str, Any]]  # (fold, seed) → what `read_run` says


def check_folds(data: ConfigDict, folds: list[int] | None = None) -> list[int]:
    """Returns the folds to run (default: all of the data set's).

    Args:
      data: the `data` part of a stage's config.
      folds: those that are wanted.

    Raises:
      UserError: multi-label data, a fold that does not exist, or a group (source recording,
        speaker) that is in two folds.
    """
    if data.multi_label:
        raise UserError("data.multi_label=True: cross-validation here is for one label a clip")
    recordings = sources.load(data)
    if recordings.folds is None:
        raise UserError(
            "the data set has no folds: cross-validation needs a `fold` for each recording"
        )
    own = np.asarray(recordings.folds)
    known = sorted(set(own.tolist()))
    missing = sorted(set(folds or ()) - set(known))
    if missing:
        raise UserError(f"--folds: there is no fold {missing[0]}; the data set has {known}")
    shared = splits.leak(recordings, {str(k): np.flatnonzero(own == k) for k in known})
    if shared:
        raise UserError(
            f"{len(shared)} groups are in more than one fold, such as '{shared[0]}': the folds leak"
        )
    return sorted(set(folds or known))


def folds_of_stages(config: ConfigDict) -> dict[str, set[int]]:
    """Returns {stage: the folds of its data set}, for each has to leave out what is tested."""
    folds: dict[str, set[int]] = {}
    for name in config.stages:
        found = sources.load(config[name].data).folds
        folds[name] = set() if found is None else set(found)
    return folds


def run_all(
    spec: str,
    overrides: list[str],
    output: Path,
    folds: list[int] | None,
    seeds: list[int],
    count: int = 1,
    together: bool = False,
) -> None:
    """Runs what is not finished, each in a process of its own, `count` at a time, or `together`.

    Raises:
      UserError: what `check_folds` and `jobs.finished` say, before anything runs; or a failed run.
    """
    config = config_lib.load(spec, overrides)
    folds = check_folds(config[config.stages[-1]].data, folds)
    known = folds_of_stages(config)
    todo, runs = [], []
    for seed in seeds:  # seed by seed, so that a first whole cross-validation is there soon
        for fold in folds:
            held = [name for name in config.stages if fold in known[name]]
            own = [*overrides, *(f"--config.{name}.data.fold={fold}" for name in held)]
            own.append(f"--config.seed={seed}")
            workdir = output / f"fold{fold}_seed{seed}"
            if not jobs.finished(workdir, config_lib.load(spec, own)):
                runs.append((workdir, config_lib.load(spec, own)))
                command = jobs.training(spec, workdir, own)
                log = None if count == 1 else workdir.with_suffix(".log")
                todo.append(jobs.Job(f"fold {fold}, seed {seed}", command, workdir, log))
    total = len(folds) * len(seeds)
    print(f"{len(folds)} folds × {len(seeds)} seeds: {len(todo)} of {total} runs to do")
    if together and runs:
        from launch.benchmarks import kfold_together

        kfold_together.run(runs)
    else:
        jobs.run(todo, count)


def read_runs(folder: Path) -> Runs:
    """Returns {(fold, seed): what `read_run` says} of the finished runs.

    Raises:
      UserError: what `read_run` says, or runs that are not of one experiment or not of one set of
        classes, which have no mean.
    """
    runs: Runs = {}
    for path in sorted(folder.glob("fold*_seed*/results.json")):
        name = re.fullmatch(r"fold(\d+)_seed(\d+)", path.parent.name)
        if not name:
            continue
        run = read_run(path.parent, *map(int, name.groups()))
        first = next(iter(runs.values()), run)
        told = identity.difference(first["config"], run["config"], across_folds=True)
        if told:
            raise UserError(
                f"{path.parent}: it is another experiment than {first['workdir'].name}: {told}; "
                "move one of them away"
            )
        if run["names"] != first["names"]:
            raise UserError(f"{path.parent}: its classes differ from those of the other runs")
        runs[run["fold"], run["seed"]] = run
    return runs


def read_run(workdir: Path, fold: int, seed: int) -> dict[str, Any]:
    """Returns what a finished run gave: its `config`, scores, test clips and their probabilities.

    The scores are those of the last stage that was tested; clips without a label are left out.

    Raises:
      UserError: no config, another fold or seed in it, or no test results or predictions.
    """
    saved, predictions = workdir / "config.json", workdir / "predictions.csv"
    if not saved.is_file():
        raise UserError(f"{workdir}: there is no config.json in it to tell what was run")
    config = json.loads(saved.read_text())
    results = json.loads((workdir / "results.json").read_text())
    # results.json is sorted by name, config.stages is in order.
    tested = [name for name in config["stages"] if "test/accuracy" in results.get(name, {})]
    if not tested or not predictions.is_file():
        raise UserError(f"{workdir}: there are no results or predictions of a test part in it")
    own = config[tested[-1]]["data"]["fold"], config["seed"]
    if own != (fold, seed):
        raise UserError(f"{workdir}: its config is of fold {own[0]}, seed {own[1]}")
    with open(predictions, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    rows = [row for row in rows if row[1] == "test" and row[2]]
    scores = results[tested[-1]]
    return dict(
        workdir=workdir,
        fold=fold,
        seed=seed,
        config=config,
        accuracy=scores["test/accuracy"],
        macro_f1=scores["test/macro_f1"],
        names=tuple(head[4:]),
        files=[row[0] for row in rows],
        labels=[row[2] for row in rows],
        probabilities=np.asarray([row[4:] for row in rows], float),
    )


def summarize(runs: Runs) -> dict[str, Any]:
    """Returns, for accuracy and macro F1, the mean over folds and its spread over seeds.

    `by_seed` has the mean over folds of each seed, `mean` and `std` are theirs. A seed counts only
    where all folds have been run with it; `by_fold` takes whatever there is.
    """
    seeds = sorted({seed for _, seed in runs})
    folds = sorted({fold for fold, _ in runs})
    whole = [seed for seed in seeds if all((fold, seed) in runs for fold in folds)]
    result: dict[str, Any] = {"folds": folds, "seeds": whole, "runs": len(runs)}
    for metric in ("accuracy", "macro_f1"):
        means = [float(np.mean([runs[fold, seed][metric] for fold in folds])) for seed in whole]
        by_fold = {f: [runs[f, s][metric] for s in seeds if (f, s) in runs] for f in folds}
        result[metric] = {
            "by_seed": means,
            "mean": float(np.mean(means)) if means else None,
            "std": float(np.std(means, ddof=1)) if len(means) > 1 else None,
            "by_fold": {str(fold): float(np.mean(values)) for fold, values in by_fold.items()},
        }
    return result


def pooled_confusion(runs: Runs) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns (counts [C, C], true down, predicted across; class names) over all runs."""
    names = next(iter(runs.values()))["names"]
    place = {name: k for k, name in enumerate(names)}
    matrix = np.zeros([len(names)] * 2, int)
    for run in runs.values():
        true = [place[label] for label in run["labels"]]
        np.add.at(matrix, (true, run["probabilities"].argmax(1)), 1)
    return matrix, names


def compare(a: Runs, b: Runs) -> dict[str, Any]:
    """Returns paired tests between two configs over the folds that both have.

    Only seeds with which both have run all of these folds count. `difference`: mean accuracy of
    `a` less that of `b`; `p_t`: `paired_test` over the folds; `p_mcnemar`: `mcnemar` over the
    clips, each counted once, as right where more than half of the seeds have it right; `only_a`,
    `only_b`: clips that only one of them has right. Where there is nothing to test, p is None and
    `note_t` or `note_mcnemar` says why. `test_share` is taken from the clips of the folds that were
    run: where some were not it is too large, and p with it.

    Raises:
      UserError: no seed in all shared folds, or no test clip in common.
    """
    folds = sorted({fold for fold, _ in a} & {fold for fold, _ in b})
    seeds = sorted(
        seed
        for seed in {seed for _, seed in a}
        if all((fold, seed) in runs for fold in folds for runs in (a, b))
    )
    if not folds or not seeds:
        raise UserError(f"--compare: no seed is there of both in all of their shared folds {folds}")
    in_a, in_b = (
        np.asarray([[runs[fold, seed]["accuracy"] for seed in seeds] for fold in folds])
        for runs in (a, b)
    )
    tested = {fold: set(run["files"]) for (fold, _), run in (b | a).items()}
    share = np.mean([len(tested[fold]) for fold in folds]) / len(set().union(*tested.values()))
    t = paired_test(in_a, in_b, test_share=float(share))
    right_a, right_b = (mostly_right([r[f, s] for f in folds for s in seeds]) for r in (a, b))
    shared = sorted(set(right_a) & set(right_b))
    if not shared:
        raise UserError("--compare: the two have no test clip in common")
    m = mcnemar([right_a[file] for file in shared], [right_b[file] for file in shared])
    return dict(
        difference=t.difference,
        p_t=t.p,
        note_t=t.note,
        p_mcnemar=m.p,
        note_mcnemar=m.note,
        only_a=m.only_a,
        only_b=m.only_b,
        folds=folds,
        seeds=seeds,
        test_share=float(share),
    )


def mostly_right(runs: list[dict[str, Any]]) -> dict[str, bool]:
    """Returns {clip: whether more than half of the runs that tested it have it right}."""
    votes: dict[str, list[bool]] = {}
    for run in runs:
        for file, label, p in zip(run["files"], run["labels"], run["probabilities"], strict=True):
            votes.setdefault(file, []).append(run["names"][int(p.argmax())] == label)
    return {file: bool(np.mean(vote) > 0.5) for file, vote in votes.items()}


def ensemble(all_runs: list[Runs]) -> Runs:
    """Returns runs whose probabilities are the means of the given ones'.

    For the folds and seeds that all have.
    """
    result = {}
    for key in sorted(set.intersection(*map(set, all_runs))):
        runs = [runs[key] for runs in all_runs]
        first = runs[0]
        if any(run[col] != first[col] for run in runs for col in ("files", "labels", "names")):
            raise UserError(
                f"--ensemble: the test clips or labels of fold {key[0]}, seed {key[1]} differ"
            )
        p = np.mean([run["probabilities"] for run in runs], 0)
        place = {name: k for k, name in enumerate(first["names"])}
        truth = np.asarray([place[label] for label in first["labels"]])
        scores = score(p, truth, first["names"], bootstrap=0)
        own = dict(probabilities=p, accuracy=scores["accuracy"], macro_f1=scores["macro_f1"])
        result[key] = first | own
    if not result:
        raise UserError("--ensemble: the folders have no finished run of the same fold and seed")
    return result


def write(folder: Path, runs: Runs, extra: dict[str, Any]) -> dict[str, Any]:
    """Writes summary.json, folds.csv and the pooled confusion matrix; returns the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize(runs) | extra
    jobs.write_whole(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    with open(folder / "folds.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["fold", "seed", "accuracy", "macro_f1"])
        for (fold, seed), run in sorted(runs.items()):
            writer.writerow([fold, seed, run["accuracy"], run["macro_f1"]])
    matrix, names = pooled_confusion(runs)
    with open(folder / "confusion_matrix.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *names])
        writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    (folder / "confusion_matrix.png").write_bytes(plots.png(plots.confusion_matrix(matrix, names)))
    return summary


def show(name: Path, summary: dict[str, Any]) -> str:
    """Returns a summary in words."""
    accuracy, lines = summary["accuracy"], []
    for fold, value in accuracy["by_fold"].items():
        lines.append(f"fold {fold}: {100 * value:.2f} %")
    if accuracy["mean"] is not None:
        spread = ""
        if accuracy["std"] is not None:
            spread = f" ± {100 * accuracy['std']:.2f} over {len(summary['seeds'])} seeds"
        mean = f"{100 * accuracy['mean']:.2f} %{spread}"
        lines.append(f"{name}: mean accuracy over {len(summary['folds'])} folds {mean}")
    for other, test in summary.get("compare", {}).items():
        folds, seeds = (", ".join(map(str, test[key])) for key in ("folds", "seeds"))
        lines.append(
            f"against {other}: {100 * test['difference']:+.2f} points over folds {folds}, seeds "
            f"{seeds}; paired t-test over folds, corrected for shared training clips: "
            f"{_p(test['p_t'], test['note_t'])}"
        )
        lines.append(
            f"right in most seeds here alone {test['only_a']} clips, there alone {test['only_b']}; "
            f"McNemar: {_p(test['p_mcnemar'], test['note_mcnemar'])}"
        )
    return "\n".join(lines)


def _p(value: float | None, note: str) -> str:
    return f"no p, for {note}" if value is None else f"p = {value:.3g}"


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
    parser.add_argument(
        "--together",
        action="store_true",
        help="all runs in this process, from one compilation; for small models of one stage",
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
            run_all(
                args.config,
                overrides,
                args.output,
                args.folds,
                args.seeds,
                args.jobs,
                args.together,
            )
        runs = read_runs(args.output)
    if not runs:
        raise UserError(f"{args.output}: no finished run in it")
    extra = {}
    if args.compare:
        extra["compare"] = {str(args.compare): compare(runs, read_runs(args.compare))}
    print(show(args.output, write(args.output, runs, extra)))
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
