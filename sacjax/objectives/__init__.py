"""What is learned: an objective builds its model and gives loss and metrics for a batch.

    needs_labels: bool                                 # whether training examples without a label are useless to it
    build(rngs) -> nnx.Module                          # with `.encoder`, which later stages start from
    loss(model, batch, rngs) -> ((sum, count), {name: (sum, count)})     # the loss is sum / count
    predict(model, batch) -> [B, C]                    # logits of the C classes; without labels, embeddings
    probabilities(logits [N, C]) -> [N, C]             # of the classes
    summarize(sums), collapse(values), advice          # see `base.Objective`

The loss comes as a sum and a count, so that it averages correctly over micro-batches and devices whose counts differ. Without `rngs`
it is that of evaluation.
"""

from typing import Any

from ml_collections import ConfigDict

from sacjax.config import options
from sacjax.errors import UserError, nearest
from sacjax.objectives.classification import Classification
from sacjax.objectives.wav2vec2 import Contrastive

OBJECTIVES: dict[str, Any] = {"classification": Classification, "contrastive": Contrastive}


def check(stage: ConfigDict) -> None:
    """Raises UserError for an unknown objective or option, and for what the objective itself refuses."""
    if stage.objective.name not in OBJECTIVES:
        raise UserError(
            f"objective.name is '{stage.objective.name}'{nearest(stage.objective.name, OBJECTIVES)}"
        )
    kind = OBJECTIVES[stage.objective.name]
    options.check("objective.options", stage.objective.name, stage.objective.options, kind.Options)
    kind.check(stage)


def build(stage: ConfigDict, class_names: tuple[str, ...], class_counts: Any) -> Any:
    """Returns the objective that a stage's config names.

    Args:
      class_names: label names, in the order of the label indices.
      class_counts: [C] training clips of each class, for balanced class weights.
    """
    return OBJECTIVES[stage.objective.name](stage, class_names, class_counts)
