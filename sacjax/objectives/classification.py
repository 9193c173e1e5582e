"""Supervised classification: softmax cross-entropy, or one sigmoid a class; soft labels are welcome (mixup)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from sacjax import models
from sacjax.objectives.base import Objective, Sums


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.<stage>.objective.options`: none."""


class Classification(Objective):
    """Encoder → pooling → head, trained on labels [B, C] that may be one-hot, soft or multi-hot."""

    Options = Options

    def __init__(self, stage: ConfigDict, class_names: tuple[str, ...], class_counts: np.ndarray):
        self.stage = stage
        self.num_classes = len(class_names)
        counts = np.asarray(class_counts, np.float64)
        weights = np.ones(self.num_classes)
        if stage.objective.class_weights == "balanced":
            # scikit-learn's 'balanced': a class weighs as if all were equally frequent; absent classes weigh nothing.
            weights = np.where(
                counts > 0, counts.sum() / (self.num_classes * np.maximum(counts, 1)), 0.0
            )
        self.weights = jnp.asarray(weights, jnp.float32)

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Nothing beyond what the config's schema says."""

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the classifier with fresh parameters."""
        frontend = self.stage.frontend
        return models.build(
            self.stage.model,
            num_classes=self.num_classes,
            num_features=frontend.n_mfcc or frontend.n_mels,
            rngs=rngs,
        )

    def loss(
        self, model: Any, batch: dict, rngs: nnx.Rngs | None = None
    ) -> tuple[tuple[Any, Any], Sums]:
        """Returns ((sum, count) of the loss, metrics).

        Args:
          batch: `inputs` [B, ...], `input_length` [B], `label` float32 [B, C], `mask` [B]; rows with mask 0 and, under
            softmax, rows without any label count nothing.
        """
        logits, label, mask = (
            model(batch["inputs"], batch["input_length"], rngs=rngs),
            batch["label"],
            batch["mask"],
        )
        smoothing = self.stage.objective.label_smoothing if rngs is not None else 0.0
        if self.stage.objective.loss == "softmax":
            mask = mask * (label.sum(-1) > 0)
            target = label * (1 - smoothing) + smoothing / self.num_classes
            example = optax.softmax_cross_entropy(logits, target)
            weight = mask * (label @ self.weights)
            correct = jnp.argmax(logits, -1) == jnp.argmax(label, -1)
        else:
            target = label * (1 - smoothing) + 0.5 * smoothing
            weights = jnp.where(label > 0.5, self.weights, 1.0)
            example = (optax.sigmoid_binary_cross_entropy(logits, target) * weights).mean(-1)
            weight = mask
            correct = ((logits > 0) == (label > 0.5)).mean(-1)
        total = ((example * weight).sum(), weight.sum())
        return total, {"loss": total, "accuracy": ((correct * mask).sum(), mask.sum())}

    def predict(self, model: Any, batch: dict) -> Any:
        """Returns logits float32 [B, C]."""
        return model(batch["inputs"], batch["input_length"])

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Softmax or sigmoid of logits [N, C]."""
        from scipy.special import expit, softmax

        return softmax(logits, -1) if self.stage.objective.loss == "softmax" else expit(logits)
