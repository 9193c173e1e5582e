"""BYOL for audio (Niizumi et al. 2021 and 2023, "BYOL for Audio"): predict one view from another.

Two augmented views of one log-mel crop go through an online network (encoder → projector →
predictor) and a teacher (encoder → projector) that follows it. There are no negatives: the
predictor, the teacher's slow average and batch norm in the heads keep the embeddings from
collapsing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from sacjax import models
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.conv import valid
from sacjax.layers.heads import MLP
from sacjax.layers.pooling import Pooling
from sacjax.layers.similarity import spread, unit
from sacjax.objectives.base import (
    LOSS,
    NEIGHBOURS,
    NORMS,
    Display,
    Loss,
    Objective,
    Options,
    build_encoder,
    follow,
    teacher_of,
)
from sacjax.views import View, join

MOMENTUM = 0.9  # of the running statistics


@dataclasses.dataclass(frozen=True)
class ByolAOptions(Options):
    """`objective.options` of BYOL-A; the defaults are those published."""

    hidden: int = 4096  # width inside the projector and the predictor
    projection_dim: int = 256  # in which views are compared
    teacher_decay: float = 0.99  # of the teacher's moving average, once an update

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("hidden", "projection_dim")
        self.require_shares("teacher_decay")


class RunningNorm(nnx.Module):
    """Brings spectrograms to mean 0 and variance 1, by one mean and variance of all cells.

    Those of the batch in training, else running averages of them.
    """

    def __init__(self) -> None:
        """Starts as if nothing had to be changed."""
        self.mean = nnx.BatchStat(jnp.zeros([]))
        self.variance = nnx.BatchStat(jnp.ones([]))

    def __call__(
        self, x: Float[Array, "batch frames bands"], lengths: Int[Array, " batch"], ctx: Context
    ) -> Float[Array, "batch frames bands"]:
        """Returns [B, frames, bands] normalized, zero beyond the valid frames [B]."""
        inside = valid(x, lengths)
        if ctx.train:
            count = jnp.maximum(inside.sum() * x.shape[-1], 1)
            mean = jnp.where(inside, x, 0).sum() / count
            variance = jnp.where(inside, jnp.square(x - mean), 0).sum() / count
            for running, new in ((self.mean, mean), (self.variance, variance)):
                moved = MOMENTUM * running[...] + (1 - MOMENTUM) * new
                running[...] = jax.lax.stop_gradient(moved)
        else:
            mean, variance = self.mean[...], self.variance[...]
        return jnp.where(inside, (x - mean) * jax.lax.rsqrt(variance + 1e-8), 0)


class Branch(nnx.Module):
    """Encoder, clip vector and projector: what a student and its teacher both are."""

    def __init__(self, encoder: Any, options: ByolAOptions, rngs: nnx.Rngs):
        """Takes any encoder."""
        self.encoder = encoder
        self.pooling = Pooling("mean_max", encoder.features, rngs=rngs)
        self.projector = MLP(encoder.features, options.hidden, options.projection_dim, rngs)

    def clip(
        self, inputs: Float[Array, "batch ..."], lengths: Int[Array, " batch"], ctx: Context
    ) -> Float[Array, "batch features"]:
        """Returns the sum of the mean and the maximum over time, float32 [B, D]."""
        output = self.encoder(inputs, lengths, ctx)
        mean, highest = jnp.split(self.pooling(output.frames, output.lengths), 2, -1)
        return mean + highest

    def __call__(
        self, view: View, mask: Float[Array, " batch"], ctx: Context
    ) -> Float[Array, "batch projection"]:
        """Returns the projections [B, P] of a view."""
        vectors = self.clip(view.inputs, view.lengths, ctx.child(0))
        return self.projector(vectors, mask, ctx.child(1))


class ByolAModel(nnx.Module):
    """A student with its predictor, and the teacher that follows the student."""

    def __init__(self, encoder: Any, options: ByolAOptions, rngs: nnx.Rngs):
        """Takes any encoder."""
        self.encoder = encoder
        self.norm = RunningNorm()
        self.student = Branch(encoder, options, rngs)
        p = options.projection_dim
        self.predictor = MLP(p, options.hidden, p, rngs)
        self.teacher = teacher_of(self.student)

    def normalize(self, view: View, ctx: Context) -> View:
        """Returns a view of spectrograms normalized; waveforms stay as they are."""
        if view.inputs.ndim == 2:
            return view
        return view._replace(inputs=self.norm(view.inputs, view.lengths, ctx))


class ByolA(Objective):
    """BYOL-A: predict a moving-average teacher's embedding of another view of the same crop."""

    Options = ByolAOptions
    options: ByolAOptions
    views = 2
    advice = (
        "what usually helps: a larger train.batch_size, objective.options.teacher_decay nearer to "
        "1, a lower optimizer.learning_rate, stronger augment.spectrogram"
    )
    display = Display(
        panels={
            "loss": LOSS,
            "cosine of prediction and target": {
                "train/cosine": "train",
                "validation/cosine": "validation",
            },
            "spread of embeddings, 1 = uniform on the sphere": {
                "train/target_spread": "targets",
                "train/prediction_spread": "predictions",
            },
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        },
    )

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError where a later stage would hear spectrograms of another scale."""
        spectrogram = models.input_kind(stage.model) == "spectrogram"
        if spectrogram and stage.frontend.normalize == "none":
            raise UserError(
                "frontend.normalize is 'none': byol_a normalizes its views, and a later stage "
                "would hear spectrograms of another scale; choose clip, band or global"
            )

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters, teacher and student alike."""
        return ByolAModel(build_encoder(self.stage, rngs), self.options, rngs)

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over clips of both directions' distances, 0 to 8."""
        mask = jnp.concatenate([batch["mask"]] * 2)
        both = join(*batch["views"])  # batch norm sees both views together
        both = model.normalize(both, ctx)
        projections = model.student(both, mask, ctx.child(0))
        predictions = unit(model.predictor(projections, mask, ctx.child(1)))
        targets = jax.lax.stop_gradient(unit(model.teacher(both, mask, ctx.child(2))))
        clips = len(batch["mask"])
        cosine = (predictions * jnp.roll(targets, clips, 0)).sum(-1)  # with the other view's target
        distance = ((2 - 2 * cosine) * mask).sum()
        count = batch["mask"].sum()
        sums = {
            "loss": (distance, count),
            "cosine": ((cosine * mask).sum(), mask.sum()),
            "target_spread": spread(targets, mask),
            "prediction_spread": spread(predictions, mask),
        }
        return Loss(distance, count, jax.lax.stop_gradient(sums))

    def after_update(self, model: Any, ctx: Context) -> None:
        """Moves the teacher towards the student."""
        follow(model.teacher, model.student, self.options.teacher_decay)

    def after_loading(self, model: Any) -> None:
        """Makes the teacher what the student is."""
        follow(model.teacher, model.student, 0.0)

    def embed(
        self, model: Any, batch: dict[str, Any], ctx: Context
    ) -> Float[Array, "batch features"]:
        """Returns the clip vectors, float32 [B, D].

        Of the spectrogram as the front end normalizes it, as a later stage hears it: the running
        statistics are those of augmented views.
        """
        view = batch["views"][0]
        return model.student.clip(view.inputs, view.lengths, ctx)

    def describe(self, values: dict[str, float]) -> str:
        """Returns the loss and how far the embeddings spread."""
        return f"loss {values['loss']:.3f}, spread of targets {values['target_spread']:.2f} of 1"

    def health(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''."""
        for name in ("target_spread", "prediction_spread"):
            if values.get(name, 1.0) < 0.1:
                return f"{name} {values[name]:.2g} of 1: all clips have nearly one embedding"
        return ""
