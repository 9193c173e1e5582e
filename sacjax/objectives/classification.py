"""Supervised classification: softmax cross-entropy, or one sigmoid a class."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from sacjax import models
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.objectives.base import LOSS, NORMS, Display, Loss, Objective, Options, num_features


@dataclasses.dataclass(frozen=True)
class ClassificationOptions(Options):
    """`objective.options` of a classifier."""

    loss: Literal["softmax", "sigmoid"] = "softmax"  # sigmoid: multi-label, or one-vs-rest
    label_smoothing: float = 0.0  # share of a label that is spread over all classes, in training
    class_weights: Literal["none", "balanced"] = "none"  # balanced: rare classes weigh more

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_shares("label_smoothing")


class Classification(Objective):
    """A classifier: encoder → pooling → head; labels may be one-hot, soft or multi-hot."""

    Options = ClassificationOptions
    needs_labels = True
    evaluators = (dict(name="classification"),)
    display = Display(
        bar={"loss": "train/loss", "val": "validation/accuracy"},
        panels={
            "loss": LOSS,
            "accuracy": {"train/accuracy": "train", "validation/accuracy": "validation"},
            "learning rate": {"learning_rate": "learning rate"},
            "gradient norm": {"train/gradient_norm": NORMS["train/gradient_norm"]},
        },
    )
    options: ClassificationOptions

    temperature = 1.0
    """By which logits are divided before they become probabilities; see `eval.temperature`."""

    def __init__(
        self, stage: ConfigDict, class_names: tuple[str, ...] = (), class_counts: Any = None
    ):
        """Takes a stage's config, the label names and [C] training clips of each."""
        super().__init__(stage, class_names, class_counts)
        weights = np.ones(self.num_classes)
        if self.options.class_weights == "balanced":
            # scikit-learn's 'balanced': a class weighs as if all were equally frequent; one that
            # has no clip weighs nothing.
            counts = np.asarray(class_counts, np.float64)
            share = counts.sum() / (self.num_classes * np.maximum(counts, 1))
            weights = np.where(counts > 0, share, 0.0)
        self.weights = jnp.asarray(weights, jnp.float32)

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for several labels a clip under softmax."""
        if stage.data.multi_label and cls.Options(**stage.objective.options).loss != "sigmoid":
            raise UserError("data.multi_label=True needs objective.options.loss=sigmoid")

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the classifier with fresh parameters."""
        bands = num_features(self.stage)
        return models.build(
            self.stage.model,
            num_classes=self.num_classes,
            num_features=bands,
            rngs=rngs,
            stage=self.stage,
        )

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over labelled clips, by their class weights.

        Its metrics are those of `sacjax.evaluators.scores` by the same names; but `loss` includes
        label smoothing, class weights and mixed labels, as it is what is minimized.
        """
        view, label = batch["views"][0], batch["label"]
        known = batch["mask"] * batch["labelled"]
        logits = model(view.inputs, view.lengths, ctx)
        example, weight = self.examples(logits, label, known, ctx)
        return self.summed(example * weight, weight, logits, label, known)

    def examples(
        self,
        logits: Float[Array, "batch classes"],
        label: Float[Array, "batch classes"],
        known: Float[Array, " batch"],
        ctx: Context,
    ) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
        """Returns (the loss of each clip, what it weighs).

        Args:
          logits: of the classes.
          label: one-hot, soft or multi-hot.
          known: 0 for clips that do not count.
          ctx: says whether labels are smoothed.
        """
        smoothing = self.options.label_smoothing if ctx.train else 0.0
        if self.options.loss == "softmax":
            target = label * (1 - smoothing) + smoothing / self.num_classes
            example = optax.softmax_cross_entropy(logits, target)
            weight = known * (label @ self.weights)
        else:
            target = label * (1 - smoothing) + 0.5 * smoothing
            weights = jnp.where(label > 0.5, self.weights, 1.0)
            example = (optax.sigmoid_binary_cross_entropy(logits, target) * weights).mean(-1)
            weight = known
        return example, weight

    def summed(
        self,
        values: Float[Array, " batch"],
        weight: Float[Array, " batch"],
        logits: Float[Array, "batch classes"],
        label: Float[Array, "batch classes"],
        known: Float[Array, " batch"],
    ) -> Loss:
        """Returns the Loss of weighted losses [B] with their weights, and the accuracy."""
        if self.stage.data.multi_label:
            correct = ((logits >= 0) == (label > 0.5)).all(-1)  # a half is a yes, as in `scores`
        else:
            correct = jnp.argmax(logits, -1) == jnp.argmax(label, -1)
        total, count = values.sum(), weight.sum()
        return Loss(
            total,
            count,
            {"loss": (total, count), "accuracy": ((correct * known).sum(), known.sum())},
        )

    def predict(
        self, model: Any, batch: dict[str, Any], ctx: Context
    ) -> Float[Array, "batch classes"]:
        """Returns logits float32 [B, C]."""
        view = batch["views"][0]
        return model(view.inputs, view.lengths, ctx)

    def embed(
        self, model: Any, batch: dict[str, Any], ctx: Context
    ) -> Float[Array, "batch pooled"]:
        """Returns the pooled frames, float32 [B, D], that the head reads."""
        view = batch["views"][0]
        return model.embed(view.inputs, view.lengths, ctx)

    @property
    def features(self) -> int:
        """D of the embeddings."""
        model: Any = nnx.eval_shape(lambda: self.build(nnx.Rngs(0)))
        return model.pooling.features

    def probabilities(
        self, logits: Float[np.ndarray, "clips classes"]
    ) -> Float[np.ndarray, "clips classes"]:
        """Returns the softmax or sigmoid of logits [N, C], divided by the temperature."""
        from scipy.special import expit, softmax

        logits = logits / self.temperature
        return softmax(logits, -1) if self.options.loss == "softmax" else expit(logits)
