"""What is learned. `base.Objective` is the contract; each other file is one objective."""

import json
from typing import Any

from ml_collections import ConfigDict

from sacjax.config import options
from sacjax.errors import UserError, nearest
from sacjax.objectives.apc import Apc
from sacjax.objectives.autoencoder import AutoencoderObjective
from sacjax.objectives.base import Display, Frozen, Loss, Objective, Teacher
from sacjax.objectives.best_rq import BestRQ
from sacjax.objectives.byol_a import ByolA
from sacjax.objectives.classification import Classification
from sacjax.objectives.cola import Cola
from sacjax.objectives.data2vec import Data2Vec
from sacjax.objectives.distillation import Distillation
from sacjax.objectives.eat import Eat
from sacjax.objectives.hubert import Hubert
from sacjax.objectives.inversion import Inversion
from sacjax.objectives.masked_autoencoder import MaskedAutoencoder
from sacjax.objectives.masked_prediction import MaskedPrediction
from sacjax.objectives.simclr import SimCLR
from sacjax.objectives.wav2vec2 import Wav2Vec2Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "apc": Apc,
    "autoencoder": AutoencoderObjective,
    "best_rq": BestRQ,
    "byol_a": ByolA,
    "classification": Classification,
    "cola": Cola,
    "data2vec": Data2Vec,
    "distillation": Distillation,
    "eat": Eat,
    "hubert": Hubert,
    "inversion": Inversion,
    "masked_autoencoder": MaskedAutoencoder,
    "masked_prediction": MaskedPrediction,
    "simclr": SimCLR,
    "wav2vec2": Wav2Vec2Objective,
}

# (objective, stage) pairs that passed: a config that builds on others is checked with each of them,
# and some checks trace a network.
_fitting: set[tuple[type[Objective], str]] = set()

__all__ = ["OBJECTIVES", "Display", "Frozen", "Loss", "Objective", "Teacher", "build", "check"]


def check(stage: ConfigDict) -> None:
    """Raises UserError for an unknown objective or option, and for what the objective refuses."""
    name = stage.objective.name
    if name not in OBJECTIVES:
        raise UserError(f"objective.name is '{name}'{nearest(name, OBJECTIVES)}")
    kind = OBJECTIVES[name]
    options.check("objective.options", name, stage.objective.options, kind.Options)
    if kind.hears_targets and stage.model.frontend != "mel":
        raise UserError(
            f"model.frontend is '{stage.model.frontend}': objective.name={name} makes its targets "
            "of the features, and a front end that learns would make them easy; choose mel"
        )
    told = (kind, json.dumps(stage.to_dict(), sort_keys=True, default=repr))
    if told not in _fitting:
        kind.check(stage)
        _fitting.add(told)


def build(stage: ConfigDict, class_names: tuple[str, ...] = (), class_counts: Any = None) -> Any:
    """Returns the objective that a stage's config names.

    Args:
      stage: the config of one stage.
      class_names: label names, in the order of the label indices.
      class_counts: [C] training clips of each class, for balanced class weights.
    """
    return OBJECTIVES[stage.objective.name](stage, class_names, class_counts)
