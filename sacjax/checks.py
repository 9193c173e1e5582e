"""What is checked before a stage begins: its clips, and whether a test has been trained on."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from sacjax import objectives
from sacjax.data import hosts, sources, splits
from sacjax.data.recordings import Recordings
from sacjax.data.sources import huggingface
from sacjax.errors import UserError
from sacjax.train.checkpoint_files import has_checkpoint, read_clips

if TYPE_CHECKING:
    from sacjax.stages import Stage


def check_leaks(config: ConfigDict, stages: dict[str, "Stage"]) -> None:
    """Raises UserError where an earlier stage trains on clips that a later one is tested on.

    `config.transductive` allows it: the encoder then hears the test clips without their labels.
    """
    order = list(stages.values())
    for k, later in enumerate(order):
        tested = set(identities(later, later.parts["test"]))
        for earlier in order[:k]:
            shared = tested.intersection(identities(earlier, earlier.parts["train"]))
            if not shared:
                continue
            if earlier.objective.needs_labels:
                how = "give both the same data.fold, data.holdout and data.split_seed"
            elif config.transductive:
                continue
            else:
                how = "give both the same data.fold and splits, or set config.transductive=True"
            raise UserError(
                f"config.{earlier.name} trains on {len(shared)} of the clips that "
                f"config.{later.name} is tested on, such as {min(shared)[-1]}: {how}"
            )


def identities(stage: "Stage", indices: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Yields what tells a stage's clips from others: the file, or the name in its data set."""
    recordings, data = stage.recordings, stage.stage.data
    if recordings.paths is not None:
        yield from (("file", recordings.paths[i]) for i in indices)
        return
    where = str(Path(data.path).absolute()) if data.path else ""
    if data.source == "synthetic":  # of another seed, other sounds have the same names
        where = f"seed {data.split_seed}"
    name = data.name.partition("/")[0]  # of TFDS: its configs share clips
    if data.source == "huggingface":
        repository, config, _ = huggingface.split_name(data.name)
        # A row that has no name but its number is another one in each config.
        numbered = re.fullmatch(r"[^/]+/\d{7}", recordings.names[0]) is not None
        name = f"{repository}:{config}" if numbered else repository
    yield from ((data.source, name, where, recordings.names[i]) for i in indices)


def check_parts(
    name: str, stage: ConfigDict, recordings: Recordings, parts: dict[str, np.ndarray]
) -> None:
    """Raises UserError where a part is empty that the stage needs, or there are too few classes."""
    if not len(parts["train"]):
        raise UserError(
            f"config.{name}.data: the training part is empty; see data.fold, data.holdout"
        )
    needs_labels = objectives.OBJECTIVES[stage.objective.name].needs_labels
    if needs_labels and len(recordings.class_names) < 2:
        count = len(recordings.class_names)
        folders = "; a sub-folder of data.path is a label" if stage.data.source == "folder" else ""
        raise UserError(
            f"config.{name}.data: {'1 class' if count else 'no classes'} found; a classifier needs "
            f"two or more{folders}, or what data.label_pattern finds in the names"
        )
    if needs_labels and all(recordings.labels[i] is None for i in parts["train"]):
        raise UserError(
            f"config.{name}.data: none of the {len(parts['train'])} clips to train on has a label"
        )
    if stage.eval.temperature and not needs_labels:
        raise UserError(
            f"config.{name}.eval.temperature is True, but {stage.objective.name} gives no "
            "probabilities of labels"
        )
    if stage.eval.analysis and stage.data.multi_label:
        raise UserError(
            f"config.{name}.eval.analysis is True, but it is for data of one label a clip: "
            "data.multi_label is True"
        )
    on_validation = stage.eval.best.startswith("validation/")
    if not len(parts["validation"]):
        for key, wanted in (
            ("train.early_stopping", on_validation and bool(stage.train.early_stopping)),
            ("eval.checkpoint=best", on_validation and stage.eval.checkpoint == "best"),
            ("eval.temperature", stage.eval.temperature),
        ):
            if wanted:
                raise UserError(
                    f"config.{name}.{key} needs a validation part, which is empty: see "
                    "data.validation_fraction and data.holdout"
                )


def check_done(
    config: ConfigDict, workdir: Path, done: Iterable[str], prepared: dict[str, "Stage"]
) -> None:
    """Raises UserError where a stage that is done had other clips than its data set has now.

    Those that it trained on may else be tested by a later stage. Only data sets that such a stage
    has read are looked at.
    """
    for name in [name for name in config.stages if name in done]:
        data = config[name].data
        for stage in prepared.values():
            if sources.same(stage.stage.data, data):
                train = splits.split(stage.recordings, data)["train"]
                check_same_clips(splits.digest(stage.recordings, train), name, workdir)
                break


def check_same_clips(clips: str, name: str, workdir: Path) -> None:
    """Raises UserError where a stage that has trained would now train on other clips.

    A random split of a folder that got a file is another one: clips that were trained on would be
    among those that are tested.

    Args:
      clips: `splits.digest` of the training part as it is now.
      name: of the stage.
      workdir: of the run.
    """
    known = read_clips(workdir, name) if has_checkpoint(workdir, name) else ""
    if known not in ("", clips):
        raise UserError(
            f"config.{name}.data: its training clips are others than when the run in {workdir} "
            "began: give it the data set that it had, or another --workdir"
        )


def tell_of_late_thaws(name: str, stage: ConfigDict, steps: int) -> None:
    """Tells on stderr what `optimizer.freeze` holds still for all `steps`, though not forever."""
    for pattern, thaw in stage.optimizer.freeze:
        if thaw >= steps:
            hosts.tell(
                f"config.{name}.optimizer.freeze: {pattern!r} never learns, as it would from "
                f"update {thaw} on and there are {steps}"
            )
