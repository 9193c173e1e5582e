"""The trained model that predict, embed, probe, hear and `--mode=eval` share."""

from sacjax.inference.embedder import Embedder
from sacjax.inference.model import (
    Model,
    Predictions,
    ensemble,
    load,
    load_classifier,
    load_trained,
    trained_stage,
    untrained,
)

__all__ = [
    "Embedder",
    "Model",
    "Predictions",
    "ensemble",
    "load",
    "load_classifier",
    "load_trained",
    "trained_stage",
    "untrained",
]
