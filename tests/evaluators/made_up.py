"""A made-up model that is judged: its vectors and logits are given."""

import types

import numpy as np

from sacjax import config as config_lib
from sacjax.data.recordings import Recordings
from sacjax.evaluators import Judged


def batches_of(indices, size=16, broken=()):
    """Yields batches of one window a clip; the last is filled up, `broken` clips have mask 0."""
    for begin in range(0, len(indices), size):
        index = np.full(size, -1)
        part = indices[begin : begin + size]
        index[: len(part)] = part
        yield {"index": index, "mask": ((index >= 0) & ~np.isin(index, broken)).astype(np.float32)}


def judge_of(labels, parts, values, *, names=("a", "b", "c"), multi_label=False, broken=()):
    """Returns a `Judged` whose model gives `values(index)` [B, D] as vectors and as logits.

    Args:
      labels: label names of each clip, () where unknown.
      parts: {part: indices}.
      values: index [B] → [B, D]; D is that of `values` for one clip.
      names: the label names.
      multi_label: of the stage's data.
      broken: clips that cannot be decoded.
    """
    stage = config_lib.stage()
    stage.data.multi_label = multi_label
    objective = types.SimpleNamespace(
        features=values(np.zeros(1, int)).shape[1],
        temperature=1.0,
        options=types.SimpleNamespace(loss="sigmoid" if multi_label else "softmax"),
    )
    files = [f"{k}.wav" for k in range(len(labels))]
    apply = lambda batch: values(np.maximum(batch["index"], 0))
    return Judged(
        stage=stage,
        seed=3,
        objective=objective,
        recordings=Recordings(files, list(labels), tuple(names), None),
        parts={"train": [], "validation": [], "test": []} | parts,
        batches=lambda indices: batches_of(indices, broken=broken),
        logits=apply,
        embeddings=apply,
        sums=lambda batch: {"loss": (2.0 * batch["mask"].sum(), batch["mask"].sum())},
    )
