"""The docs' ESC-10 and FSDD tables: every cross-validation in turn, resumably, then the table.

    python launch/benchmarks/accuracy.py --runs runs         # everything; about a day on two cores
    python launch/benchmarks/accuracy.py --runs runs --only resnet --seeds 0  # some of it
    python launch/benchmarks/accuracy.py --runs runs --only  # only the table of what is there

Hyper-parameters were chosen on folds 2 to 5 alone, each in turn as a validation fold with the other
three as training data; no run is picked by its test accuracy: the last step is the one reported.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launch.benchmarks import jobs
from sacjax import errors

KFOLD = [sys.executable, str(Path(__file__).with_name("kfold.py"))]
FIVE, SIX = ["1", "2", "3", "4", "5"], ["1", "2", "3", "4", "5", "6"]
# name: (what the table calls it, config, folds; none: the data set's own test part)
EXPERIMENTS: dict[str, tuple[str, str, list[str]]] = {
    "resnet": ("ESC-10, SpectrogramResNet", "configs/esc50/resnet.py:esc10", FIVE),
    "audionet": ("ESC-10, AudioNet (M11)", "configs/esc50/audionet.py:esc10", FIVE),
    "resnet_no_specaugment": (
        "… ResNet without SpecAugment",
        "configs/esc50/resnet.py:esc10,no_specaugment",
        FIVE,
    ),
    "resnet_no_mixup": ("… ResNet without mixup", "configs/esc50/resnet.py:esc10,no_mixup", FIVE),
    "audionet_no_mixup": (
        "… AudioNet without mixup",
        "configs/esc50/audionet.py:esc10,no_mixup",
        FIVE,
    ),
    "audionet_article": (
        "… the source article's AudioNet recipe",
        "configs/esc50/audionet.py:esc10,article",
        FIVE,
    ),
    "synthetic": ("20 synthesized classes", "configs/synthetic/resnet.py", []),
    "fsdd_official": ("FSDD, official test recordings", "configs/fsdd/resnet.py", []),
    "fsdd_loso": ("FSDD, one speaker left out", "configs/fsdd/resnet.py:loso", SIX),
}
ENSEMBLES = {"ensemble": ("ESC-10, ResNet + AudioNet", ("resnet", "audionet"))}


def row(title: str, summary: dict) -> str:
    """Returns a line of the table from a `summary.json`."""
    accuracy, f1, seeds = summary["accuracy"], summary["macro_f1"], len(summary["seeds"])
    folds = ", ".join(f"{100 * value:.1f}" for value in accuracy["by_fold"].values())
    if accuracy["mean"] is None:
        return f"| {title} | not all folds yet | | {seeds} | {folds} |"
    spread = f" ± {100 * accuracy['std']:.1f}" if accuracy["std"] is not None else ""
    mean = f"{100 * accuracy['mean']:.1f}{spread}"
    return f"| {title} | {mean} | {100 * f1['mean']:.1f} | {seeds} | {folds} |"


def commands(name: str, output: Path, seeds: list[str], count: int) -> list[list[str]]:
    """Returns what runs an experiment, `count` runs at a time, and sums it up."""
    _, config, folds = EXPERIMENTS[name]
    if folds:
        start = [*KFOLD, "--config", config, "--output", str(output), "--jobs", str(count)]
        return [[*start, "--folds", *folds, "--seeds", *seeds]]
    runs = [
        jobs.training(config, output / f"fold0_seed{seed}", [f"--config.seed={seed}"])
        for seed in seeds
    ]
    return [*runs, [*KFOLD, "--output", str(output)]]


def main(argv: list[str] | None = None) -> int:
    """Runs what is asked for and missing, then prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, each on its share of the cores"
    )
    parser.add_argument(
        "--only",
        nargs="*",
        choices=list(EXPERIMENTS),
        help="which experiments to run (none: table only)",
    )
    args = parser.parse_args(argv)
    for name in EXPERIMENTS if args.only is None else args.only:
        for command in commands(name, args.runs / name, args.seeds, args.jobs):
            subprocess.run(command, check=True)
    for name, (_, parts) in ENSEMBLES.items():
        if all((args.runs / part / "summary.json").is_file() for part in parts):
            folders = [str(args.runs / part) for part in parts]
            command = [*KFOLD, "--output", str(args.runs / name), "--ensemble", *folders]
            subprocess.run(command, check=True)
    print("| | accuracy, % | macro F1, % | seeds | each fold, % |\n| --- | --- | --- | --- | --- |")
    for name, (title, *_) in (EXPERIMENTS | ENSEMBLES).items():
        path = args.runs / name / "summary.json"
        if path.is_file():
            print(row(title, json.loads(path.read_text())))
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
