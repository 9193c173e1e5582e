"""What helps where classes are of unequal size: ESC-10 with 32 clips of one class and 4 of another.

    python launch/benchmarks/imbalance.py                   # five folds; resumable
    python launch/benchmarks/imbalance.py --folds 1 --ways plain weighted pgd
    python launch/benchmarks/imbalance.py --quick           # a try of every way, no figures
    python launch/benchmarks/imbalance.py --table           # of what is there

The test fold stays whole; of the other folds, class k in the fold's own order keeps 32 · 8^(-k/9)
clips. The ways are of three kinds:

- `plain` trains the ResNet of configs/esc50/resnet.py; `weighted` by class weights; `over` repeats
  clips; `fgsm`, `pgd` and `fgsm_wave` train half of the clips with adversarial changes;
- `head_…` trains a new head on the frozen encoder of `plain`: on its clips, by class weights, or
  with vectors of rare classes that are repeated, or made by SMOTE and its kin;
- `probe_…` fits logistic regression on the vectors of `plain`.

A row of results/imbalance.json is one way on one fold: its test accuracy, that over the five
classes with the fewest training clips (`rare`), macro F1, and the CPU seconds of its last attempt.
"""

import argparse
import csv
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from ml_collections import ConfigDict

from launch.benchmarks import jobs
from sacjax import config as config_lib
from sacjax import errors, inference, io, oversampling, stages
from sacjax.data import sources, splits
from sacjax.data.labels import class_counts
from sacjax.errors import UserError
from sacjax.evaluators import probes
from sacjax.inference.embedder import embed_recordings

CONFIG = "configs/esc50/resnet.py:esc10"
RESULTS = Path(__file__).with_name("results") / "imbalance.json"
FOLDS = (1, 2, 3, 4, 5)
STEPS = 260  # 60 epochs, as the config's, where classes are as unequal as RATIO says
RATIO = 8.0  # of the clips of the most frequent class to those of the rarest
Change = Callable[[ConfigDict], None]


def attacked(kind: str, **spec: Any) -> Change:
    """Returns what adds an attack to a stage's list of augmentations."""

    def change(stage: ConfigDict) -> None:
        stage.augment[kind] += (dict(probability=0.5, **spec),)

    return change


def with_objective(name: str, **options: Any) -> Change:
    """Returns what sets a stage's objective."""

    def change(stage: ConfigDict) -> None:
        with stage.objective.unlocked():
            stage.objective.update(name=name, options=options)

    return change


WHOLE: dict[str, Change] = {
    "plain": lambda stage: None,
    "weighted": with_objective("classification", class_weights="balanced"),
    "over": lambda stage: stage.data.update(balance="over"),
    "fgsm": attacked("spectrogram", name="fgsm", epsilon=0.1),
    "pgd": attacked("spectrogram", name="pgd", epsilon=0.1, steps=3),
    "fgsm_wave": attacked("waveform", name="fgsm", epsilon=0.001),
}
HEADS: dict[str, Change] = {
    "head_plain": with_objective("classification"),
    "head_weighted": with_objective("classification", class_weights="balanced"),
} | {
    f"head_{name}": with_objective("oversampled", sampler=name)
    for name in get_args(oversampling.Sampler)
}
PROBES = {f"probe_{name}": name for name in get_args(probes.Balance)}
WAYS = (*WHOLE, *HEADS, *PROBES)


def write_manifest(path: Path, audio: Path, fold: int) -> None:
    """Writes a manifest of ESC-10's files: the fold is the test part, few of the rest train.

    Args:
      path: of the CSV.
      audio: folder of files called FOLD-CLIP-TAKE-CLASS.EXTENSION.
      fold: from 1 on.

    Raises:
      UserError: no such files.
    """
    files = sorted(file for file in audio.glob("[1-5]-*-*-*.*"))
    if not files:
        raise UserError(f"{audio}: there is no ESC-10; $SACJAX_DATA/esc10/audio holds its clips")
    names = [file.stem.split("-") for file in files]
    own = np.asarray([int(name[0]) for name in names])
    labels = np.asarray([int(name[3]) for name in names])
    classes = np.roll(np.unique(labels), 2 * (fold - 1))
    rng, rows = np.random.default_rng(fold), []
    for k, label in enumerate(classes):
        train = rng.permutation(np.flatnonzero((labels == label) & (own != fold)))
        kept = train[: max(round(len(train) * RATIO ** (-k / (len(classes) - 1))), 2)]
        rows += [(str(files[i].resolve()), f"class{label}", "train") for i in sorted(kept)]
        test = np.flatnonzero((labels == label) & (own == fold))
        rows += [(str(files[i].resolve()), f"class{label}", "test") for i in test]
    io.make_folder(path.parent)
    io.write_csv(path, ("filename", "label", "split"), rows)


def config_of(manifest: Path, way: str, start: Path, quick: bool) -> ConfigDict:
    """Returns the config of a way that trains on a manifest.

    Args:
      manifest: see `write_manifest`.
      way: of `WHOLE` or `HEADS`.
      start: workdir whose encoder the heads take.
      quick: two steps of a small network.
    """
    config = config_lib.load(CONFIG)
    stage = config.supervised
    stage.data.update(
        source="manifest", name="", path=str(manifest), fold=0, allow_outside_root=True
    )
    stage.train.update(epochs=0, steps=STEPS, log_every=50)
    config.tensorboard = False
    if quick:
        stage.model.name = "small_cnn"
        stage.model.encoder = ConfigDict(dict(channels=(4, 4), hidden=8))
        stage.data.update(seconds=0.5, sample_rate=8000)
        stage.frontend.update(n_fft=512, hop_length=128, n_mels=32)
        stage.augment.spectrogram = ()
        stage.train.update(steps=2, batch_size=8)
    if way in HEADS:
        stage.init_from = str(start)
        stage.optimizer.update(freeze=(("^encoder/", 0),), learning_rate=1e-2)
        stage.augment.update(waveform=(), spectrogram=())
    (WHOLE | HEADS)[way](stage)
    return config_lib.check(config)


def scores_of(workdir: Path, rare: set[str]) -> dict[str, float]:
    """Returns the test scores of a run, `rare` those over the clips of rare classes alone."""
    scores = json.loads((workdir / "results.json").read_text())["supervised"]
    with open(workdir / "predictions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in rare]
    return dict(
        accuracy=scores["test/accuracy"],
        rare=float(np.mean([row["label"] == row["prediction"] for row in rows])),
        macro_f1=scores["test/macro_f1"],
    )


def rare_classes(data: ConfigDict) -> set[str]:
    """Returns the labels of the half of the classes with the fewest training clips."""
    recordings = sources.load(data)
    counts = class_counts(recordings, splits.split(recordings, data)["train"])
    few = np.argsort(counts, kind="stable")[: len(counts) // 2]
    return {recordings.class_names[k] for k in few}


def probed(workdir: Path, ways: list[str], rare: set[str]) -> dict[str, dict[str, float]]:
    """Returns {way: scores} of logistic regression on the vectors of a run's encoder."""
    model = inference.load(workdir)
    recordings = sources.load(model.stage_config.data)
    parts = splits.split(recordings, model.stage_config.data)
    indices = np.concatenate([parts["train"], parts["test"]])
    embedder = model.embedder(pooling=model.stage_config.model.pooling)
    vectors, _ = embed_recordings(embedder, recordings, indices, {})
    labels, size = splits.first_labels(recordings)[indices], len(parts["train"])
    those = [recordings.class_names[k] in rare for k in labels[size:]]
    found = {}
    for way in ways:
        four = vectors[:size], labels[:size], vectors[size:], labels[size:]
        few = vectors[:size], labels[:size], vectors[size:][those], labels[size:][those]
        options: dict[str, Any] = dict(seed=0, balance=PROBES[way])
        found[way] = dict(
            accuracy=probes.linear(*four, **options), rare=probes.linear(*few, **options)
        )
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    """Returns the ways in Markdown, means over the folds that are known of each."""
    lines = ["| | accuracy, % | rarer half, % | folds | core minutes a fold |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for way in WAYS:
        rows = [row for key, row in found.items() if key.split("/")[1] == way]
        if rows:
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            minutes = f"{mean['cpu_seconds'] / 60:.1f}" if "cpu_seconds" in mean else ""
            cells = [way, f"{100 * mean['accuracy']:.1f}", f"{100 * mean['rare']:.1f}"]
            lines.append(f"| {' | '.join([*cells, str(len(rows)), minutes])} |")
    return "\n".join(lines)


def cpu_seconds() -> float:
    """Returns what this process has used of the cores."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run_fold(fold: int, args: argparse.Namespace, found: dict[str, dict[str, float]]) -> None:
    """Runs the ways of a fold that have no row yet, and keeps each row."""
    missing = [way for way in args.ways if f"fold{fold}/{way}" not in found]
    if not missing:
        return
    audio = Path(config_lib.local_data("esc10")) / "audio"
    manifest = args.runs / f"fold{fold}.csv"
    write_manifest(manifest, audio, fold)
    plain = args.runs / f"fold{fold}" / "plain"
    rare = rare_classes(config_of(manifest, "plain", plain, args.quick).supervised.data)

    def keep(rows: dict[str, dict[str, float]]) -> None:
        rounded = {
            f"fold{fold}/{way}": {key: round(value, 4) for key, value in row.items()}
            for way, row in rows.items()
        }
        found.update(jobs.keep(args.results, rounded))

    trained = [way for way in missing if way not in PROBES]
    if set(missing) - set(WHOLE) and not (plain / "results.json").is_file():
        trained = ["plain", *(way for way in trained if way != "plain")]  # the others' encoder
    for way in trained:
        before, workdir = cpu_seconds(), args.runs / f"fold{fold}" / way
        stages.run(config_of(manifest, way, plain, args.quick), workdir)
        keep({way: scores_of(workdir, rare) | {"cpu_seconds": cpu_seconds() - before}})
    if ways := [way for way in missing if way in PROBES]:
        keep(probed(plain, ways, rare))


def main(argv: list[str] | None = None) -> int:
    """Runs what is missing, keeps each row, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", type=int, nargs="+", choices=FOLDS, default=list(FOLDS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--runs", type=Path, default=Path("runs/imbalance"))
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS.name} beside the others")
    parser.add_argument("--quick", action="store_true", help="fold 1, two steps of each")
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    if args.quick:
        args.folds, args.runs = [1], args.runs / "quick"
    args.results = args.results or (args.runs / "quick.json" if args.quick else RESULTS)
    found = json.loads(args.results.read_text()) if args.results.is_file() else {}
    for fold in () if args.table else args.folds:
        run_fold(fold, args, found)
    print(table(found))
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
