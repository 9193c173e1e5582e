"""The README's table of few labels: what pretraining without labels brings, on speakers or recordings never heard.

    python launch/benchmarks/few_labels.py --runs runs --only fsdd --jobs 2        # resumable; hours on two cores
    python launch/benchmarks/few_labels.py --runs runs --only fsdd --folds 1 --draws 1
    python launch/benchmarks/few_labels.py --runs runs --only                      # the table of what is there

For each fold one encoder is pretrained on the training part without labels; then, for each number of labels a class and each draw of
them, the same network is fine-tuned from it and from scratch; linear probes, on draws of their own, read the pretrained and a random encoder.
The means are over folds and draws; ± is the deviation over draws of the mean over folds. Nothing is picked by test accuracy: the last step
is reported. FSDD's folds 1 to 3 are left out, as the recipe was chosen on their speakers; ESC-10's was chosen within fold 1's training part.
"""

import argparse
import csv
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sacjax import config as config_lib
from sacjax import errors, jobs
from sacjax.report import plots

TASKS: dict[str, dict[str, Any]] = {
    "fsdd": dict(title="FSDD, a speaker left out", config="configs/fsdd/wav2vec2.py", folds=(4, 5, 6), shots=(1, 5, 10)),
    "esc10": dict(title="ESC-10, five folds", config="configs/esc50/wav2vec2.py", folds=(1, 2, 3, 4, 5), shots=(4,)),
}  # fmt: skip
METHODS = {
    "pretrained": "pretrained, fine-tuned",
    "scratch": "from scratch",
    "probe_pretrained": "linear probe, pretrained",
    "probe_random": "linear probe, random network",
}
PROBES = {"probe_pretrained": "trained", "probe_random": "random"}  # what sacjax.probe calls them


def waves(task: str, root: Path, folds: list[int], draws: int) -> list[list[jobs.Job]]:
    """Returns the runs that have no result yet in two waves: all pretraining, then what builds on it.

    Raises:
      UserError: a workdir that holds results of another config.
    """
    config, shots = TASKS[task]["config"], TASKS[task]["shots"]
    encoders = {fold: root / f"fold{fold}" / "pretrain" for fold in folds}
    first, second = [], []
    for fold, encoder in encoders.items():
        first += training(f"{config}:fold={fold},pretrain_only", encoder, [])
        path = root / f"fold{fold}" / "probe.json"
        if not path.is_file():
            command = [
                sys.executable,
                "-m",
                "sacjax.commands.probe",
                "--checkpoint",
                str(encoder),
                "--layer",
                "mean",
                "--random",
            ]
            command += ["--shots", *map(str, shots), "--draws", str(draws), "--output", str(path)]
            second.append(jobs.Job(f"fold {fold}, probes", command, path, path.with_suffix(".log")))
    for shot, draw, fold in itertools.product(
        reversed(shots), range(draws), folds
    ):  # what tells most comes first
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
    command = [
        sys.executable,
        "-m",
        "sacjax.main",
        "--config",
        spec,
        "--workdir",
        str(workdir),
        *overrides,
    ]
    return [jobs.Job(spec, command, workdir, workdir.with_suffix(".log"))]


def summarize(task: str, root: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Returns {method: {shots: {'mean', 'std', 'folds', 'draws'}}} of what is there; accuracies as shares."""
    found: dict[str, dict[int, dict[tuple[int, int], float]]] = {method: {} for method in METHODS}
    for folder in sorted(root.glob("fold*")):
        fold = int(folder.name.removeprefix("fold"))
        for method in METHODS:
            if method in PROBES:
                path = folder / "probe.json"
                table = (
                    json.loads(path.read_text())[PROBES[method]]["few_shot_accuracy"]
                    if path.is_file()
                    else {}
                )
                for shots, accuracies in table.items():
                    for draw, value in enumerate(accuracies):
                        found[method].setdefault(int(shots), {})[fold, draw] = value
            for path in folder.glob(f"{method}_shots*_draw*/results.json"):
                shots, draw = (
                    int(part.strip("shotdraw")) for part in path.parent.name.split("_")[1:]
                )
                scores = json.loads(path.read_text()).get("finetune", {})
                if "test/accuracy" in scores:
                    found[method].setdefault(shots, {})[fold, draw] = scores["test/accuracy"]
    result: dict[str, dict[int, dict[str, Any]]] = {}
    for method, by_shots in found.items():
        for shots, values in sorted(by_shots.items()):
            draws, folds = sorted({d for _, d in values}), sorted({f for f, _ in values})
            means = [np.mean([values[f, d] for f in folds if (f, d) in values]) for d in draws]
            std = float(np.std(means, ddof=1)) if len(means) > 1 else None
            result.setdefault(method, {})[shots] = dict(
                mean=float(np.mean(list(values.values()))), std=std, folds=folds, draws=len(draws)
            )
    return result


def write_reference(workdir: Path) -> None:
    """Writes the curves of a run that went well, as the report draws them behind others."""
    curves = plots.read_metrics(workdir, "pretrain")
    stage = json.loads((workdir / "config.json").read_text())["pretrain"]
    entries, total = stage["objective"]["options"]["codebook_entries"], stage["train"]["steps"]
    names = [name for name in curves if name.startswith("train/") and any(
        part in name for part in ("contrastive_accuracy", "code_perplexity", "_variance", "train/loss")
    )]  # fmt: skip
    steps = curves[names[0]][0]
    with open(plots.HEALTHY, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["share_of_run", *names])
        for k in range(0, len(steps), max(len(steps) // 60, 1)):
            values = [
                curves[name][1][k] / (entries if "perplexity" in name else 1) for name in names
            ]
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
    for task, about in TASKS.items():
        root = args.runs / f"{task}_few_labels"
        if not root.is_dir():
            continue
        summary = summarize(task, root)
        (root / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(
            f"\n| {about['title']} | {' | '.join(f'{shots} labels a class' for shots in about['shots'])} |"
        )
        print("| --- " * (1 + len(about["shots"])) + "|")
        for method, title in METHODS.items():
            cells = []
            for shots in about["shots"]:
                cell = summary.get(method, {}).get(shots)
                spread = "" if not cell or cell["std"] is None else f" ± {100 * cell['std']:.1f}"
                some = (
                    ""
                    if not cell or len(cell["folds"]) == len(about["folds"])
                    else f" (folds {cell['folds']})"
                )
                cells.append(f"{100 * cell['mean']:.1f}{spread}{some}" if cell else "")
            print(f"| {title} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
