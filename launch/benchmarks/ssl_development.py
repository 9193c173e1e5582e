"""A pretrained encoder's score on development folds, by which `ssl.py --halving` chooses.

    python launch/benchmarks/ssl_development.py --checkpoint WORKDIR --pooling grid --shots 10 \\
        --config configs/ssl.py:task=fsdd,fold=1,shots=0 configs/ssl.py:task=fsdd,fold=2,shots=0 \\
        --output FILE.json

The score is the accuracy of a linear classifier on few labels of the frozen encoder, as `sacjax
probe` has it. Every fold has the same clips, which are embedded once.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from launch.benchmarks import jobs
from sacjax import compilation, errors, inference
from sacjax import config as config_lib
from sacjax.errors import UserError
from sacjax.evaluators import probes
from sacjax.inference import comparison
from sacjax.inference.embedder import embed_recordings


def score(
    checkpoint: str, specs: Sequence[str], pooling: str, shots: int, draws: int
) -> list[list[float]]:
    """Returns the accuracies [fold][draw] of linear classifiers on `shots` labels a class.

    Args:
      checkpoint: workdir of the encoder.
      specs: a config for each fold, whose last stage has its labelled clips.
      pooling: of the encoder's frames.
      shots: labels a class.
      draws: of them.

    Raises:
      UserError: a bad config, folds of different clips, or clips that cannot be read.
    """
    configs = [config_lib.load(spec) for spec in specs]
    folds = [comparison.clips_of(config[config.stages[-1]].data) for config in configs]
    recordings = folds[0].recordings
    if any(list(fold.recordings.names) != list(recordings.names) for fold in folds):
        raise UserError("--config: its folds have different clips; give folds of one data set")
    bad: dict[int, str] = {}
    embedder = inference.load(checkpoint).embedder(-1, pooling=pooling)
    vectors, _ = embed_recordings(embedder, recordings, np.arange(len(recordings)), bad)
    if bad:
        first = min(bad)
        raise UserError(f"{recordings.names[first]}: {bad[first]}")
    found = []
    for _, labels, train, test in folds:
        four = vectors[train], labels[train], vectors[test], labels[test]
        found.append(probes.few_shot(*four, [shots], draws)[shots])
    return found


def job(
    checkpoint: Path, specs: Sequence[str], pooling: str, shots: int, draws: int, output: Path
) -> jobs.Job:
    """Returns the job that scores an encoder; `score` has the arguments."""
    command = [sys.executable, __file__, "--checkpoint", str(checkpoint), "--config", *specs]
    command += ["--pooling", pooling, "--shots", str(shots), "--draws", str(draws)]
    command += ["--output", str(output)]
    name = f"{output.stem} of {checkpoint.name}"
    return jobs.Job(name, command, output, output.with_suffix(".log"))


def main(argv: list[str] | None = None) -> int:
    """Scores an encoder and writes {'accuracy': [fold][draw]}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="WORKDIR")
    parser.add_argument("--config", required=True, nargs="+", metavar="FILE[:ARG]")
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args(argv)
    compilation.start()
    found = score(args.checkpoint, args.config, args.pooling, args.shots, args.draws)
    jobs.write_whole(args.output, json.dumps({"accuracy": found}) + "\n")
    print(f"{100 * np.mean(found):.2f} %")
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
