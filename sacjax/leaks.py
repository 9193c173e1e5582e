"""Whether a stage is tested on clips that an earlier one has trained on."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from sacjax.data.sources import huggingface
from sacjax.errors import UserError

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
