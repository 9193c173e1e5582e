"""The article's autoencoders on real decibels: the baseline's loss beside the improved one's.

    python launch/benchmarks/autoencoder.py            # resumable; about an hour on one core, 6 GB
    python launch/benchmarks/autoencoder.py --updates 50

Both networks (fully connected, 12,512-8,224-2,056-1,024-512-256 and the mirror: 32 mels × 391
frames of one channel) reconstruct log-mel spectrograms of 6.25 s of ESC-10 at 16 kHz, in decibels
as they are, the lowest 80 below the highest. They see the same batches, of folds 2 to 5, by the
same optimizer, Adam. The losses are mean squared errors in dB² over the valid cells: of the
training clips and of those of fold 1, which nothing is chosen on. PCA of as many components as the
code has stands beside them, fitted to the training clips.

The article tells a loss of 2,200 for the baseline and of 200 for the improved network. A ReLU after
the last layer too would give no negative decibels, so that the loss stays at their mean square,
2,000 or so: the first row is that network, as what we take for the cause.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import jax
import numpy as np

from launch.benchmarks.speed import machine
from sacjax import config as config_lib
from sacjax import errors, objectives
from sacjax.data import pipeline, sources, splits
from sacjax.data.recordings import Recordings
from sacjax.train import metrics, sharding
from sacjax.train.trainer import Trainer, make_trainer

OUTPUT = Path(__file__).with_name("results") / "autoencoder.json"
NETWORKS: dict[str, tuple[str, bool]] = {
    "baseline, ReLU at the output too": ("baseline", True),
    "baseline": ("baseline", False),
    "improved": ("improved", False),
}
"""{name: (the encoder's variant, whether its activation follows the last layer)}."""

FRAMES = 391
WIDTHS = (8224, 2056, 1024, 512, 256)
LOG_EVERY = 10


def stage_of(name: str, batch_size: int, widths: tuple[int, ...], rate: float) -> Any:
    """Returns the config of one network's training."""
    s = config_lib.stage()
    variant, activate = NETWORKS[name]
    s.data.source = "tfds"
    s.data.name = "esc50/esc10"
    s.data.path = config_lib.local_data("esc10")
    s.data.fold = 1
    s.data.validation_fraction = 0.0
    s.data.sample_rate = 16000
    s.data.seconds = 6.25
    s.data.cache = True
    s.frontend.n_mels = 32
    s.frontend.n_fft = 1024
    s.frontend.hop_length = 256
    s.frontend.log = "db"
    s.frontend.top_db = 80.0
    s.frontend.normalize = "none"
    s.model.name = "autoencoder"
    s.model.encoder = dict(variant=variant, frames=FRAMES, widths=widths)
    s.objective.name = "autoencoder"
    s.objective.options = dict(activate_output=activate)
    s.optimizer.learning_rate = rate
    s.optimizer.schedule = "constant"
    s.optimizer.warmup_fraction = 0.0
    s.optimizer.weight_decay = 0.0
    s.optimizer.clip_norm = 0.0
    s.train.batch_size = batch_size
    s.train.log_every = LOG_EVERY
    return s


class Data:
    """ESC-10 split by fold, and its batches."""

    def __init__(self, stage: Any):
        """Reads the list of recordings."""
        self.recordings: Recordings = sources.load(stage.data)
        self.parts = splits.split(self.recordings, stage.data)
        self.stage = stage

    def train(self) -> Iterator[dict[str, Any]]:
        """Yields training batches without end, the same at each call."""
        d, size = self.stage.data, self.stage.train.batch_size
        return iter(
            pipeline.train_batches(self.recordings, self.parts["train"], d, size, 0, labels=False)
        )

    def judged(self, part: str) -> Iterator[dict[str, Any]]:
        """Yields the windows of a part, each once."""
        d, size = self.stage.data, self.stage.train.batch_size
        return iter(pipeline.eval_batches(self.recordings, self.parts[part], d, size, 0.0))


def arrays(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns the columns that a step takes."""
    return {name: batch[name] for name in ("audio", "length", "label", "index", "mask")}


def train(name: str, stage: Any, data: Data, updates: int) -> dict[str, Any]:
    """Returns the losses of a network after so many updates, and on the way."""
    objective = objectives.build(stage, data.recordings.class_names)
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1}, jax.devices()[:1])
    trainer = make_trainer(objective, stage, mesh, updates, 0)
    state, curve, began = trainer.init(), [], time.time()
    for step, batch in zip(range(1, updates + 1), data.train(), strict=False):
        state = trainer.step(state, sharding.put_batch(arrays(batch), mesh))
        if step % LOG_EVERY == 0 or step == updates:
            values = objective.summarize(state.sums)
            state = state._replace(sums=jax.tree.map(lambda x: 0 * x, state.sums))
            curve.append([step, round(values["loss"], 2)])
            spent = time.time() - began
            print(f"{name}, {step}: {values['loss']:.1f}, {spent:.0f} s", flush=True)
    seconds = time.time() - began
    scores = {
        part: judge(trainer, objective, state, data, mesh, part) for part in ("train", "test")
    }
    return dict(
        loss={part: values["loss"] for part, values in scores.items()},
        explained={part: values["explained"] for part, values in scores.items()},
        last_logged_loss=curve[-1][1],
        curve=curve,
        seconds=round(seconds, 1),
        parameters=sum(x.size for x in jax.tree.leaves(state.params)),
    )


def judge(
    trainer: Trainer, objective: Any, state: Any, data: Data, mesh: Any, part: str
) -> dict[str, float]:
    """Returns the metrics of a part, by the running statistics of batch norm."""
    total: Any = None
    for batch in data.judged(part):
        sums = trainer.evaluate(state, sharding.put_batch(arrays(batch), mesh))
        total = sums if total is None else metrics.add(total, sums)
    return objective.summarize(total)


def pca(stage: Any, data: Data, components: int) -> dict[str, float]:
    """Returns the mean squared errors of as many principal components; padding is the mean."""
    from sklearn.decomposition import PCA

    from sacjax.views import make_views

    views = jax.jit(make_views(stage, len(data.recordings.class_names), needs_labels=False))
    found = {}
    for part in ("train", "test"):
        rows, inside = [], []
        for batch in data.judged(part):
            view, kept = views(arrays(batch))["clean"], batch["mask"] > 0
            rows.append(np.asarray(view.inputs)[kept])
            inside.append((np.arange(FRAMES) < np.asarray(view.lengths)[:, None])[kept])
        found[part] = np.concatenate(rows), np.concatenate(inside)
    x, counted = found["train"]
    mean = x[counted].mean(0)
    fitted = PCA(min(components, len(x) - 1), random_state=0)
    fitted.fit(np.where(counted[..., None], x, mean).reshape(len(x), -1))
    losses = {}
    for part, (y, counts) in found.items():
        flat = np.where(counts[..., None], y, mean).reshape(len(y), -1)
        again = fitted.inverse_transform(fitted.transform(flat)).reshape(y.shape)
        losses[part] = float(((again - y) ** 2)[counts].mean())
    return losses


def main(argv: list[str] | None = None) -> int:
    """Trains both networks, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    sizes = args.batch_size, tuple(args.widths), args.learning_rate
    stages = {name: stage_of(name, *sizes) for name in NETWORKS}
    data = Data(stages["improved"])
    result: dict[str, Any] = dict(
        command=" ".join(["python", "launch/benchmarks/autoencoder.py", *(argv or sys.argv[1:])]),
        updates=args.updates,
        batch_size=args.batch_size,
        optimizer=f"Adam, {args.learning_rate}, constant",
        widths=list(args.widths),
        inputs=FRAMES * 32,
        clips={part: len(data.parts[part]) for part in ("train", "test")},
    )
    # A network that is there by the same command is not trained again.
    old = json.loads(args.output.read_text()) if args.output.is_file() else {}
    known = all(old.get(key) == value for key, value in result.items())
    networks: dict[str, Any] = old["networks"] if known else {}
    for name, stage in stages.items():
        if name not in networks:
            networks[name] = train(name, stage, data, args.updates) | dict(machine=machine())
            args.output.write_text(json.dumps(result | dict(networks=networks), indent=1) + "\n")
    best = networks["improved"]["loss"]
    result |= dict(
        networks=networks,
        loss_over_improved={
            name: {part: value / best[part] for part, value in network["loss"].items()}
            for name, network in networks.items()
        },
        pca=pca(stages["improved"], data, args.widths[-1]),
    )
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(show(result))
    return 0


def show(result: dict[str, Any]) -> str:
    """Returns the table in Markdown."""
    lines = ["| MSE in dB² | training clips | fold 1 |", "| --- | --- | --- |"]
    rows = {name: network["loss"] for name, network in result["networks"].items()}
    rows[f"PCA, {result['widths'][-1]} components"] = result["pca"]
    lines += [f"| {name} | {v['train']:.1f} | {v['test']:.1f} |" for name, v in rows.items()]
    for name, ratio in list(result["loss_over_improved"].items())[:-1]:
        lines.append(f"| {name} ÷ improved | {ratio['train']:.2f} | {ratio['test']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    errors.run(main)
