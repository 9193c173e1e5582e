"""Evaluates trained workdirs, one or several as an ensemble, on a part of a data set."""

from operator import attrgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sacjax import config as config_lib
from sacjax import evaluators, io, stages
from sacjax.data import sources, splits
from sacjax.errors import UserError
from sacjax.evaluators.calibration import calibrate
from sacjax.evaluators.classification import probabilities_of, score
from sacjax.evaluators.predictions import write_predictions
from sacjax.evaluators.probabilities import Probabilities, blocks
from sacjax.evaluators.scores import OF_CLASSES
from sacjax.inference.model import Model, load_trained, trained_stage
from sacjax.objectives import OBJECTIVES
from sacjax.train import sharding

# Keys of a stage by which a checkpoint was trained; it hears by its own whatever is overridden.
TRAINED_BY = ("data.sample_rate", "frontend", "model", "objective")
PER_CLASS = tuple(f"{kind}/" for kind in OF_CLASSES)  # the console leaves them to scores.json


def evaluate_workdirs(
    workdirs: list[str],
    overrides: list[str],
    split: str,
    which: str | None = None,
    output: str | None = None,
) -> dict[str, float]:
    """Evaluates trained workdirs, several as an ensemble (mean probabilities).

    The batch size is that of the workdirs' configs with the overrides; the devices are those of
    this machine. Scores and predictions are written to `output`: those of a classifier, and of the
    first workdir's evaluators those of `screening`.

    Args:
      workdirs: one or more.
      overrides: `--config.….=…` strings: another data set with the same labels, another mesh; not
        the rate, front end, network or objective.
      split: train, validation, test, or all.
      which: the best or the last checkpoint; None: what each stage's `eval.checkpoint` says.
      output: folder for `scores.json` and `predictions.csv`; None: `<first workdir>/eval/<split>`.

    Raises:
      UserError: an unknown split or label, an empty part, workdirs with different labels, an
        override of what the checkpoint was trained by, or devices and batches that do not fit.
    """
    folder = io.to_path(output) if output else io.to_path(workdirs[0]) / "eval" / split
    prepared = [_prepare(workdir, overrides) for workdir in workdirs]
    found = [
        _judged(workdir, which, split, folder, *one)
        for workdir, one in zip(workdirs, prepared, strict=True)
    ]
    first = found[0]
    indices = first.parts[split]
    for workdir, judged in zip(workdirs, found, strict=True):
        same = judged.recordings.names == first.recordings.names
        if judged.recordings.class_names != first.recordings.class_names:
            raise UserError(
                f"{workdir}: its labels differ from those of {workdirs[0]}; an ensemble needs the "
                "same"
            )
        if not same or not np.array_equal(judged.parts[split], indices):
            raise UserError(
                f"{workdir}: its {split} part differs from that of {workdirs[0]}; an ensemble "
                "needs the same clips"
            )
    further = evaluators.build(first.stage)
    for evaluator in further:  # before the clips are heard
        evaluator.check_clips(first.recordings, indices)
    io.check_folder(folder, "--output")
    mean, seen = mean_probabilities(found, indices)
    scores = score(first, split, mean, seen, final=True)
    figures = dict(scores.values)
    for evaluator in further:
        figures = evaluator.of_probabilities(first, indices, mean, seen) | figures
    values = {f"{split}/{name}": value for name, value in figures.items()}
    names, several = first.recordings.class_names, first.stage.data.multi_label
    if jax.process_index() > 0:
        return values
    write_predictions(folder / "predictions.csv", scores.rows, names, multi_label=several)
    io.write_json(folder / "scores.json", values)
    if not values:
        print(f"no clip of the {split} part has a label: there are predictions, but no scores")
    for name, value in values.items():
        if not name.removeprefix(f"{split}/").startswith(PER_CLASS):
            print(f"{name:40s} {value:.4f}")
    print(f"written to {folder}")
    return values


def mean_probabilities(
    found: list[evaluators.Judged], indices: np.ndarray
) -> tuple[np.ndarray | Probabilities, np.ndarray]:
    """Returns (mean probabilities [n, C] of the models, which clips all of them could read [n])."""
    total, seen = np.zeros([]), np.ones(len(indices), bool)
    for judged in found:
        logits, read = judged.predict(indices)
        probabilities, seen = probabilities_of(judged, logits), seen & read
        if len(found) == 1:
            return probabilities, seen
        total = total if total.ndim else np.zeros(probabilities.shape)
        for part in blocks(len(total)):
            total[part] += probabilities[part]
    total /= len(found)
    return total, seen


def _prepare(workdir: str, overrides: list[str]) -> tuple[Any, str, Any]:
    """Returns (config with overrides, stage, mesh), checked before a checkpoint is read."""
    config, name = trained_stage(workdir)
    if not OBJECTIVES[config[name].objective.name].needs_labels:
        raise UserError(
            f"{workdir}: stage {name} was trained without labels and cannot give any: fine-tune it "
            f"(init_from={workdir}), or use sacjax embed or sacjax probe"
        )
    if not any(text.removeprefix("--").startswith("config.mesh.") for text in overrides):
        # The devices of this machine, not the training's.
        config.mesh.update(data=-1, fsdp=1, tensor=1)
    trained = config_lib.from_json(config_lib.to_json(config))
    config = config_lib.override(config, overrides)
    for key in TRAINED_BY:
        before, after = (attrgetter(key)(own[name]) for own in (trained, config))
        if before != after:
            raise UserError(
                f"{workdir}: its checkpoint was trained by its own config.{name}.{key}, and an "
                "evaluation does not change it: override other keys of data, eval or mesh"
            )
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(f"{name}.eval.batch_size", config[name].eval.batch_size, mesh)
    return config, name, mesh


def _judged(
    workdir: str, which: str | None, split: str, folder: Path, config: Any, name: str, mesh: Any
) -> evaluators.Judged:
    """Returns a workdir's model with the data of its config. Raises UserError for a bad split."""
    stage = config[name]
    model: Model = load_trained(workdir, which or stage.eval.checkpoint, name, mesh)
    recordings = sources.load(stage.data).with_classes(model.labels)
    parts = splits.split(recordings, stage.data)
    parts["all"] = np.arange(len(recordings))
    if split not in parts:
        raise UserError(f"--split is '{split}'; choose one of {', '.join(parts)}")
    if not len(parts[split]):
        raise UserError(f"--split {split}: that part of the data set is empty; try --split all")

    def on_mesh(function: Any) -> Any:
        def apply(batch: dict[str, Any]) -> Any:
            batch = sharding.put_batch(batch, mesh)
            return function(batch["audio"], batch["length"])

        return apply

    judged = evaluators.Judged(
        stage=stage,
        seed=config.seed,
        objective=model.objective,
        recordings=recordings,
        parts=parts,
        batches=lambda indices: stages.eval_batches(recordings, indices, stage, folder),
        logits=on_mesh(model.logits),
        embeddings=on_mesh(model.embeddings),
        sums=lambda batch: {},
    )
    if not stage.eval.temperature:
        model.objective.temperature = 1.0
    elif model.objective.temperature == 1:  # its training did not fit one
        calibrate(judged)
    return judged
