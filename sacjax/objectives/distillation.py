"""Distillation: a small classifier learns what a trained one says (Hinton et al. 2015).

The loss is alpha · soft + (1 − alpha) · hard; hard is the classifier's own loss of the labels. With
`match=labels` soft is T² times the divergence of the teacher's probabilities from the student's,
both of logits / T: T² keeps its gradient of one size whatever T. With `match=features` it is the
distance of the student's pooled vector, mapped by a matrix that learns, from the teacher's (Romero
et al. 2015, there of hidden layers).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from sacjax import models
from sacjax.augment import MIXING
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.frontend import make_frontend
from sacjax.layers.pooling import masked_mean
from sacjax.layers.similarity import unit
from sacjax.objectives.base import Loss, frozen_of, num_features
from sacjax.objectives.classification import Classification, ClassificationOptions
from sacjax.views import View


@dataclasses.dataclass(frozen=True)
class DistillationOptions(ClassificationOptions):
    """`objective.options` of a distilled classifier, beside those of any."""

    teacher: str = ""  # an earlier stage, or a workdir
    match: Literal["labels", "features"] = "labels"  # what of the teacher's
    alpha: float = 0.9  # weight of the teacher; 1 - alpha is that of the labels
    temperature: float = 4.0  # of both logits, for labels; published: 2 to 20
    distance: Literal["mse", "cosine"] = "mse"  # of features
    network: Any = None  # filled in: how the teacher is built and hears

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_shares("alpha")
        self.require_positive("temperature")
        self.require(
            bool(self.teacher), "teacher", "name an earlier stage, or the workdir of a classifier"
        )


class Distillation(Classification):
    """A small classifier learns a trained one's soft labels or features, beside the labels."""

    Options = DistillationOptions
    options: DistillationOptions
    source_option, whole_source = "teacher", True

    @classmethod
    def source(cls, stage: ConfigDict) -> str:
        """Returns the stage or workdir of the teacher."""
        return stage.objective.options.get("teacher", "")

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for what does not fit the teacher or the augmentation."""
        super().check(stage)
        self = cls(stage)
        network = self.options.network
        if network is None:
            return
        where = self.options.teacher
        if self.options.match == "labels" and not network["classifier"]:
            raise UserError(
                f"objective.options.teacher={where} was trained without labels: set "
                "objective.options.match=features"
            )
        augmented = (*stage.augment.waveform, *stage.augment.spectrogram)
        mixed = sorted({options["name"] for options in augmented} & set(MIXING))
        if mixed and not self.hears_the_same:
            raise UserError(
                f"objective.options.teacher={where} has another front end, so it hears clips that "
                f"are not mixed: leave out {mixed[0]}, or take its front end"
            )

    @property
    def teacher_stage(self) -> ConfigDict:
        """The student's config with the model and the front end of the teacher."""
        network = self.options.network
        if network is None:
            raise UserError(
                f"objective.options.teacher is '{self.options.teacher}': name an earlier stage or "
                "a workdir in a config that is run"
            )
        stage = self.stage.copy_and_resolve_references()
        with stage.unlocked():
            stage.model = ConfigDict(dict(network["model"]))
            stage.frontend = ConfigDict(dict(network["frontend"]))
        return stage

    @property
    def hears_the_same(self) -> bool:
        """Whether the teacher can hear the student's views: it has the same front end."""
        teacher = self.teacher_stage
        kinds = {models.input_kind(stage.model) for stage in (teacher, self.stage)}
        alike = teacher.frontend.to_dict() == self.stage.frontend.to_dict()
        return kinds == {"waveform"} or (len(kinds) == 1 and alike)

    def build_teacher(self, values: Any = None) -> Any:
        """Returns the teacher, frozen; with `values` where they are given."""
        stage, rngs = self.teacher_stage, nnx.Rngs(0)
        bands = num_features(stage)
        if self.options.network["classifier"]:
            made: Any = models.build(
                stage.model,
                num_classes=self.num_classes,
                num_features=bands,
                rngs=rngs,
                stage=stage,
            )
            if self.options.match == "features":
                made.head = None  # it may be of other labels
        else:
            made = models.build_encoder(stage.model, num_features=bands, rngs=rngs, stage=stage)
        teacher = frozen_of(made)
        if values is not None:
            nnx.update(teacher, values)
        return teacher

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the student with fresh parameters, its `teacher` beside it."""
        student: Any = super().build(rngs)
        student.teacher = self.build_teacher((artifacts or {}).get("teacher"))
        if self.options.match == "features":
            features = getattr(student.teacher, "pooling", student.teacher).features
            student.match = nnx.Linear(student.pooling.features, features, rngs=rngs)
        return student

    def check_source(self, labels: tuple[str, ...], stage: ConfigDict) -> None:
        """Raises UserError where the teacher's labels, or its loss, are not the student's."""
        if self.options.match != "labels":
            return
        if labels != self.class_names:
            raise UserError(
                f"objective.options.teacher={self.options.teacher} has other labels: set "
                "objective.options.match=features"
            )
        theirs = ClassificationOptions.loss
        if (its := stage.objective.options.get("loss", theirs)) != self.options.loss:
            raise UserError(
                f"objective.options.loss is {self.options.loss}, but the teacher "
                f"{self.options.teacher} was trained with {its}: set it to that, or "
                "objective.options.match=features"
            )

    def prepare(self, batches: Any) -> dict[str, Any]:
        """Returns the values of the teacher."""
        trained = self.trained
        module = trained.module if self.options.network["classifier"] else trained.module.encoder
        values = nnx.as_pure(nnx.state(module))
        left_out = ["teacher", "match"] + ["head"] * (self.options.match == "features")
        return {"teacher": jax.device_get({k: v for k, v in values.items() if k not in left_out})}

    def heard(self, batch: dict[str, Any]) -> View:
        """Returns what the teacher hears: the student's view, or the clip as it is."""
        if self.hears_the_same:
            return batch["views"][0]
        stage = self.teacher_stage
        if models.input_kind(stage.model) == "waveform":
            return batch["waveform"]
        return View(*make_frontend(stage.frontend, stage.data.sample_rate)(*batch["waveform"]))

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over labelled clips of both losses; metrics: also each of the two."""
        view, label = batch["views"][0], batch["label"]
        known = batch["mask"] * batch["labelled"]
        heard = self.heard(batch)
        pooled = model.embed(view.inputs, view.lengths, ctx.child(0))
        logits = model.classify(pooled, ctx)
        if self.options.match == "labels":
            its = model.teacher(heard.inputs, heard.lengths, Context())
            several = self.options.loss == "sigmoid"
            soft = soft_loss(logits, its, self.options.temperature, several=several)
        else:
            its = self.teacher_features(model.teacher, heard)
            soft = feature_loss(model.match(pooled), its, self.options.distance)
        hard, weight = self.examples(logits, label, known, ctx)
        alpha = self.options.alpha
        mixed = alpha * soft + (1 - alpha) * hard
        loss = self.summed(mixed * weight, weight, logits, label, known)
        parts = {"soft": soft, "hard": hard}
        both = {name: ((x * weight).sum(), weight.sum()) for name, x in parts.items()}
        return loss._replace(metrics=loss.metrics | both)

    def teacher_features(self, teacher: Any, view: View) -> Float[Array, "batch features"]:
        """Returns the teacher's pooled vectors; of a bare encoder the mean of its frames."""
        if self.options.network["classifier"]:
            return teacher.embed(view.inputs, view.lengths, Context())
        output = teacher(view.inputs, view.lengths, Context())
        return masked_mean(output.frames.astype(jnp.float32), output.lengths)


def soft_loss(
    student: Float[Array, "batch classes"],
    teacher: Float[Array, "batch classes"],
    temperature: float,
    *,
    several: bool = False,
) -> Float[Array, " batch"]:
    """Returns T² times the divergence of the teacher's probabilities from the student's, in nats.

    Args:
      student: logits.
      teacher: logits; no gradient reaches them.
      temperature: T, by which both are divided.
      several: each class has a sigmoid of its own, and the mean over classes is taken.
    """
    own, its = student / temperature, jax.lax.stop_gradient(teacher) / temperature
    if several:
        target = jax.nn.sigmoid(its)
        cross = optax.sigmoid_binary_cross_entropy(own, target).mean(-1)
        least = optax.sigmoid_binary_cross_entropy(its, target).mean(-1)
    else:
        target = jax.nn.softmax(its)
        cross = optax.softmax_cross_entropy(own, target)
        least = optax.softmax_cross_entropy(its, target)
    return temperature**2 * (cross - least)


def feature_loss(
    student: Float[Array, "batch features"],
    teacher: Float[Array, "batch features"],
    distance: str,
) -> Float[Array, " batch"]:
    """Returns the mean squared difference, or one minus the cosine, of each clip's vectors.

    Args:
      student: mapped onto the teacher's features.
      teacher: no gradient reaches them.
      distance: 'mse' or 'cosine'.
    """
    teacher = jax.lax.stop_gradient(teacher)
    if distance == "mse":
        return jnp.square(student - teacher).mean(-1)
    return 1 - (unit(student) * unit(teacher)).sum(-1)
