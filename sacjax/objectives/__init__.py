"""What is learned: an objective builds its model and gives loss and metrics for a batch.

    needs_labels: bool                                 # whether training examples without a label are useless to it
    build(rngs) -> nnx.Module
    loss(model, batch, rngs) -> ((sum, count), {name: (sum, count)})     # the loss is sum / count
    predict(model, batch) -> logits [B, C]

The loss comes as a sum and a count, so that it averages correctly over micro-batches and devices whose counts differ.
"""

from typing import Any

from ml_collections import ConfigDict

from sacjax.errors import UserError, nearest
from sacjax.objectives.classification import Classification

OBJECTIVES = {"classification": Classification}


def check(stage: ConfigDict) -> None:
    """Raises UserError for an unknown objective."""
    if stage.objective.name not in OBJECTIVES:
        raise UserError(f"objective.name is '{stage.objective.name}'{nearest(stage.objective.name, OBJECTIVES)}")


def build(stage: ConfigDict, class_names: tuple[str, ...], class_counts: Any) -> Classification:
    """Returns the objective that a stage's config names.

    Args:
      class_names: label names, in the order of the label indices.
      class_counts: [C] training clips of each class, for balanced class weights.
    """
    return OBJECTIVES[stage.objective.name](stage, class_names, class_counts)
