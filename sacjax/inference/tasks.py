"""The tasks of `sacjax benchmark`: labelled clips, each with the protocol of its field.

A new task is one entry of `TASKS`.
"""

import dataclasses
import os
from typing import Any

from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Task:
    """What is told apart, where its clips are, and how an encoder is tested on them."""

    title: str
    protocol: str
    data: dict[str, Any]
    """Keys of a config's `data`; `path` is set to where the clips are."""

    path: str = ""
    """File or folder below `$SACJAX_DATA`; '': the clips are synthesized."""

    splits: tuple[dict[str, Any], ...] = ({},)
    """Keys of `data` for each split: official folds, or seeds. The score is their mean."""

    metric: str = "accuracy"
    """One of `probes.METRICS`."""

    def configs(self) -> list[ConfigDict]:
        """Returns the `data` config of each split."""
        configs = []
        for own in self.splits:
            data = config_lib.stage().data
            data.update(self.data | {"path": self.path} | own)
            configs.append(data)
        return configs


def folds(count: int) -> tuple[dict[str, Any], ...]:
    """Returns the splits of a cross-validation by folds 1 to `count`; all others train."""
    return tuple(dict(fold=k, validation_fraction=0.0) for k in range(1, count + 1))


def seeds(count: int) -> tuple[dict[str, Any], ...]:
    """Returns `count` random splits, of which `data.holdout` gives the shares; groups are whole."""
    return tuple(dict(split_seed=seed) for seed in range(count))


TASKS: dict[str, Task] = {
    "sounds": Task(
        "20 kinds of synthesized sound",
        "about half of 800 clips train, the others test; three draws",
        dict(
            source="synthetic",
            examples=800,
            holdout=(0.5, 0.0, 0.5),
            validation_fraction=0.0,
            sample_rate=16000,
            seconds=1.0,
        ),
        splits=seeds(3),
    ),
    "music": Task(
        "three genres of synthesized music",
        "half of 240 pieces train, the others test; three draws",
        dict(
            source="synthetic",
            name="music",
            examples=240,
            holdout=(0.5, 0.0, 0.5),
            validation_fraction=0.0,
            sample_rate=16000,
            seconds=4.0,
        ),
        splits=seeds(3),
    ),
    "esc10": Task(
        "10 kinds of environmental sound",
        "the five official folds",
        dict(source="tfds", name="esc50/esc10"),
        path="esc10",
        splits=folds(5),
    ),
    "esc50": Task(
        "50 kinds of environmental sound",
        "the five official folds",
        dict(source="tfds", name="esc50/esc50"),
        path="esc50",
        splits=folds(5),
    ),
    "fsdd": Task(
        "10 spoken digits, speakers known",
        "recordings 0 to 4 of each digit and speaker test",
        dict(source="tfds", name="fsdd/official", validation_fraction=0.0),
        path="fsdd",
    ),
    "fsdd_speakers": Task(
        "10 spoken digits by a speaker never heard",
        "each of six speakers left out in turn",
        dict(source="tfds", name="fsdd/loso"),
        path="fsdd",
        splits=folds(6),
    ),
    "ravdess": Task(
        "8 acted emotions by actors never heard",
        "five folds by actor; a manifest with filename,label,group,fold",
        dict(source="manifest"),
        path="ravdess/manifest.csv",
        splits=folds(5),
    ),
    "gtzan": Task(
        "genres of music",
        "ten folds of ten tracks in a row of each genre, which share most artists",
        dict(source="folder", fold_pattern=r"\.\d*(\d)\d\.[^.]+$"),
        path="gtzan/genres_original",
        splits=folds(10),
    ),
    "voxlingua107": Task(
        "spoken languages, by videos never heard",
        "a fifth of the videos test; three draws",
        dict(
            source="folder",
            group_pattern=r"^[^/]+/(.+?)__U__",
            holdout=(0.8, 0.0, 0.2),
        ),
        path="voxlingua107",
        splits=seeds(3),
    ),
    "circor": Task(
        "normal and abnormal hearts, by patients never heard (no medical device)",
        "a fifth of the patients test; five draws",
        dict(
            source="folder",
            label_pattern=r"/(\d+)_[^/]*$",
            group_pattern=r"/(\d+)_[^/]*$",
            label_table="training_data.csv",
            label_columns=("Patient ID", "Outcome"),
            holdout=(0.8, 0.0, 0.2),
        ),
        path="circor",
        splits=seeds(5),
        metric="balanced_accuracy",
    ),
}


def find(wanted: list[str] | None = None) -> tuple[dict[str, Task], dict[str, str]]:
    """Returns ({name: task} whose data are there, {name: where no data were found}).

    Args:
      wanted: names of tasks, or NAME=PATH for data elsewhere than below `$SACJAX_DATA`; None: all
        tasks.

    Raises:
      UserError: an unknown task, one named twice, or a PATH where there is nothing.
    """
    found: dict[str, Task] = {}
    missing: dict[str, str] = {}
    for text in wanted or TASKS:
        name, given, path = text.partition("=")
        if name not in TASKS:
            raise UserError(f"--tasks: there is no task '{name}'{nearest(name, TASKS)}")
        task = TASKS[name]
        if name in found or name in missing:
            raise UserError(f"--tasks: '{name}' is given twice")
        if given and not task.path:
            raise UserError(f"--tasks {text}: {name} is synthesized and reads no data")
        if given and not os.path.exists(path):
            raise UserError(f"--tasks {text}: there is no file or folder '{path}'")
        where = path or (os.path.join(config_lib.data_root(), task.path) if task.path else "")
        if where and not os.path.exists(where):
            missing[name] = where
        else:
            found[name] = dataclasses.replace(task, path=where and os.path.abspath(where))
    return found, missing
