"""The contract of an objective: what is learned, from one file, whatever the encoder."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from sacjax import models
from sacjax.config import options as options_lib
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.pooling import masked_mean
from sacjax.train import metrics

Sums = dict[str, tuple[Any, Any]]


class Teacher(nnx.Variable):
    """A variable that follows a parameter, as a moving average does: no gradient reaches it."""


class Frozen(nnx.Variable):
    """A variable that never changes: a random projection, centroids."""


class Loss(NamedTuple):
    """A loss as a sum and a count, so that it averages right over micro-batches and devices."""

    total: Float[Array, ""]
    """Sum over what is counted, float32 []."""

    count: Float[Array, ""]  # type: ignore[assignment]
    """What the sum is divided by, such as clips or masked frames, float32 []."""

    metrics: Sums
    """{name: (sum, count)}; `loss` is among them."""


@dataclasses.dataclass(frozen=True)
class Options(options_lib.Options):
    """Base of an objective's options: the keys of `objective.options`."""

    where = "objective.options"

    collapse_patience: int = 10
    """Log lines in a row with a complaint of `health` before the run stops; 0 = never."""

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        self.require_not_negative("collapse_patience")


@dataclasses.dataclass(frozen=True)
class Display:
    """What the console, the log and the report show of an objective."""

    bar: dict[str, str] = dataclasses.field(default_factory=lambda: {"loss": "train/loss"})
    """{label: metric} beside the progress bar."""

    panels: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    """{title of a picture: {metric: label of its curve}}; see `LOSS`, `NORMS`."""

    scales: dict[str, float] = dataclasses.field(default_factory=dict)
    """{metric: factor} by which a curve is drawn."""

    reference: Path | None = None
    """CSV of a healthy run's curves (`share_of_run` and metrics), drawn in gray for comparison."""


LOSS = {"train/loss": "train", "validation/loss": "validation"}
NORMS = {"train/gradient_norm": "gradient", "train/feature_norm": "features"}
NEIGHBOURS = {
    "train/knn_accuracy": "train, one left out",
    "validation/knn_accuracy": "validation",
}


class Objective:
    """Builds its model and gives the loss of a batch.

    A subclass sets `Options`, `build` and `loss`; the rest has defaults. Its class docstring's
    first line is what `sacjax list objectives` shows.
    """

    Options: type[options_lib.Options] = Options
    """Frozen dataclass of `objective.options`: defaults, meanings, checks."""

    hears_targets = False
    """Whether its targets are made of what the encoder hears, so that no front end may learn."""

    source_option = "targets"
    """The option that `source` is."""

    whole_source = False
    """Whether `prepare` needs the whole model of `source`, not only its encoder."""

    needs_start = False
    """Whether `prepare` needs the encoder that `init_from` names, as `trained`."""

    needs_labels = False
    """Whether a training example without a label is useless to it."""

    views = 1
    """How many views of a clip the loss takes, each augmented by keys of its own."""

    evaluators: tuple[dict[str, Any], ...] = (dict(name="objective"),)
    """What judges it where `eval.evaluators` is empty."""

    display = Display()
    trained: Any = None
    """What `source` names, its encoder or its `inference.Model`, or the encoder that `init_from`
    names, while `prepare` runs."""

    advice = ""
    """What usually helps against a collapse."""

    def __init__(
        self, stage: ConfigDict, class_names: tuple[str, ...] = (), class_counts: Any = None
    ):
        """Takes a stage's config.

        Args:
          stage: the config of one stage.
          class_names: label names, in the order of the label indices.
          class_counts: [C] training clips of each class.
        """
        self.stage, self.class_names = stage, tuple(class_names)
        self.num_classes = len(self.class_names)
        self.options = self.Options(**stage.objective.options)

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for what does not fit the stage's model or data."""

    @classmethod
    def source(cls, stage: ConfigDict) -> str:
        """Returns the earlier stage, workdir or hf:FOLDER whose encoder `prepare` needs, or ''.

        An objective with a source has an option `network`, in which `sacjax.stages.resolve` tells
        that encoder's name and options; of a whole source its `model`, `frontend` and sample rate.
        """
        return ""

    def check_source(self, labels: tuple[str, ...], stage: ConfigDict) -> None:
        """Raises UserError where the model of a whole source does not fit, before any training.

        Args:
          labels: its label names.
          stage: the config of its stage.
        """

    def prepare(self, batches: Callable[[], Iterable[dict[str, np.ndarray]]]) -> dict[str, Any]:
        """Returns arrays that `build` needs, made on the host once, before the first step.

        Args:
          batches: gives the stage's training batches, without end, in their own order.
        """
        return {}

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> Any:
        """Returns the model, with `.encoder`, from which later stages start.

        Args:
          rngs: of fresh parameters.
          artifacts: what `prepare` gave; None where a checkpoint will replace all values.
        """
        raise NotImplementedError

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the loss of a batch.

        Args:
          model: of `build`.
          batch: `views`, a tuple of View(inputs, lengths); `clean`, the View without
            augmentation; `waveform`, the View of its samples; `source`, the View of the first
            view's crop without augmentation; `label` float32 [B, C]; `labelled`, `mask` float32
            [B]; `index` [B].
          ctx: says whether this is a training step.
        """
        raise NotImplementedError

    def after_update(self, model: Any, ctx: Context) -> None:
        """Changes `Teacher` variables of the model, once an update, within the jitted step."""

    def after_loading(self, model: Any) -> None:
        """Changes a fresh model whose encoder has just been loaded, such as its teacher."""

    def embed(
        self, model: Any, batch: dict[str, Any], ctx: Context
    ) -> Float[Array, "batch features"]:
        """Returns clip embeddings, float32 [B, D]: here the mean over the encoder's frames."""
        view = batch["views"][0]
        output = model.encoder(view.inputs, view.lengths, ctx)
        return masked_mean(output.frames.astype(jnp.float32), output.lengths)

    def samples(self, model: Any, batch: dict[str, Any], ctx: Context) -> dict[str, jax.Array]:
        """Returns sounds to be played in the report, {name: float32 [B, T]}: here none."""
        return {}

    @property
    def features(self) -> int:
        """D of the embeddings."""
        return models.width(self.stage.model)

    def summarize(self, sums: Sums) -> dict[str, float]:
        """Returns the metrics on the host."""
        return metrics.means(sums)

    def describe(self, values: dict[str, float]) -> str:
        """Returns one line that sums up a part's metrics, such as 'loss 0.123'."""
        return f"loss {values['loss']:.4g}" if "loss" in values else ""

    def health(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''."""
        return ""

    def verdict(self, values: dict[str, float]) -> str:
        """Returns a warning about a part's final metrics, or ''."""
        return ""


def num_features(stage: ConfigDict) -> int:
    """Returns the bands of a stage's spectrogram: mel bins or MFCC."""
    return stage.frontend.n_mfcc or stage.frontend.n_mels


def build_encoder(stage: ConfigDict, rngs: nnx.Rngs) -> Any:
    """Returns the encoder that a stage's config names, with fresh parameters."""
    return models.build_encoder(
        stage.model, num_features=num_features(stage), rngs=rngs, stage=stage
    )


def teacher_of(student: nnx.Module) -> Any:
    """Returns a copy of a module whose parameters are `Teacher` variables."""
    return _copy_as(student, Teacher)


def frozen_of(network: nnx.Module) -> Any:
    """Returns a copy of a module whose parameters are `Frozen` variables."""
    return _copy_as(network, Frozen)


def _copy_as(module: nnx.Module, kind: type[nnx.Variable]) -> Any:
    copy = nnx.clone(module)
    for _, node in nnx.iter_graph(copy):
        if isinstance(node, nnx.Module):
            for name, value in vars(node).items():
                if isinstance(value, nnx.Param):
                    setattr(node, name, kind(value[...]))
    return copy


def follow(teacher: nnx.Module, student: nnx.Module, decay: Float[Array, ""] | float) -> None:
    """Moves a teacher towards its student: decay · teacher + (1 − decay) · student."""
    new = nnx.as_pure(nnx.state(student, nnx.Param))
    old = nnx.as_pure(nnx.state(teacher, Teacher))
    nnx.update(teacher, jax.tree.map(lambda t, s: decay * t + (1 - decay) * s, old, new))


def ema_decay(progress: Any, start: float, end: float, ramp: float | int) -> jax.Array:
    """Returns a teacher's decay: from `start` to `end` in a line over `ramp` steps, then `end`.

    Args:
      progress: steps of the schedule so far.
      start: decay of the first update.
      end: decay from step `ramp` on.
      ramp: steps; 0: `end` from the start.
    """
    share = jnp.minimum(jnp.asarray(progress, jnp.float32) / ramp, 1.0) if ramp else 1.0
    return jnp.asarray(end - (end - start) * (1.0 - share), jnp.float32)


def ramp_steps(stage: ConfigDict, ramp: float | int) -> float | int:
    """Returns the steps of an option that is given in steps, or up to 1 as a share of the run.

    Raises:
      UserError: a share of a run whose steps the config does not tell.
    """
    steps = stage.optimizer.schedule_steps or stage.train.steps
    if 0 < ramp <= 1 and not steps:
        raise UserError(
            "objective.options.teacher_ramp is a share of the run, which has no train.steps: set "
            "these, or give the ramp in steps"
        )
    return ramp * steps if ramp <= 1 else ramp
