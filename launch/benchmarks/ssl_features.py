"""What a log-mel spectrogram gives without any network: the simplest alternative of the fair table.

    python launch/benchmarks/ssl_features.py --config configs/ssl.py:task=fsdd,fold=4,shots=0 \\
        --pooling grid --output FILE.json

A clip's vector is its pooled spectrogram, by the front end and the pooling that the networks have.
It is probed as frozen encoders are: nearest neighbours, and linear classifiers on few labels.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import jax
import numpy as np
from flax import nnx

from launch.benchmarks import jobs
from sacjax import config as config_lib
from sacjax import errors
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.evaluators import probes
from sacjax.inference import comparison
from sacjax.inference.embedder import Embedder, embed_recordings
from sacjax.models.base import EncoderOutput


class Spectrogram(nnx.Module):
    """An encoder that gives back the frames that it hears."""

    def __init__(self, bands: int):
        """Takes the bands of a frame."""
        self.features = bands

    def __call__(self, inputs: jax.Array, lengths: jax.Array, ctx: Context) -> EncoderOutput:
        """Returns the frames [B, N, bands] as they are."""
        return EncoderOutput(inputs, lengths)


def score(spec: str, pooling: str, shots: list[int], draws: int) -> dict[str, Any]:
    """Returns the accuracies of all probes on the last stage of a config.

    Raises:
      UserError: a bad config, a pooling that there is not, or clips that cannot be read.
    """
    config = config_lib.load(spec)
    stage = config[config.stages[-1]]
    embedder = Embedder(
        stage, Spectrogram(stage.frontend.n_mfcc or stage.frontend.n_mels), -1, pooling
    )
    clips = comparison.clips_of(stage.data)
    bad: dict[int, str] = {}
    indices = np.concatenate([clips.train, clips.test])
    vectors, _ = embed_recordings(embedder, clips.recordings, indices, bad)
    if bad:
        first = min(bad)
        raise UserError(f"{clips.recordings.names[first]}: {bad[first]}")
    x, other = vectors[: len(clips.train)], vectors[len(clips.train) :]
    labels = clips.labels
    return probes.all_scores(
        x, labels[clips.train], other, labels[clips.test], shots=shots, draws=draws
    )


def probing_jobs(
    task: str, specs: dict[int, str], pooling: str, shots: list[int], draws: int, runs: Path
) -> list[jobs.Job]:
    """Returns the probes of spectrograms that have no result yet; they lie as an encoder's do.

    Args:
      task: name of the data set.
      specs: {fold: config whose last stage has its labelled clips}.
      pooling, shots, draws: as of `score`.
      runs: where all results are.
    """
    found = []
    for fold, spec in specs.items():
        path = runs / "none" / "logmel_none_0min" / f"{task}_probe_fold{fold}.json"
        if not path.is_file():
            command = [sys.executable, __file__, "--config", spec, "--pooling", pooling]
            command += ["--shots", *map(str, shots), "--draws", str(draws), "--output", str(path)]
            found.append(
                jobs.Job(f"{path.stem} of logmel", command, path, path.with_suffix(".log"))
            )
    return found


def main(argv: list[str] | None = None) -> int:
    """Probes a spectrogram and writes what it gives as `sacjax probe` does."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]")
    parser.add_argument("--pooling", default="statistics")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args(argv)
    scores = score(args.config, args.pooling, args.shots, args.draws)
    jobs.write_whole(args.output, json.dumps({"trained": scores}, indent=1) + "\n")
    print(json.dumps(scores))
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
