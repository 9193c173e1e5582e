"""data2vec (Baevski et al. 2022): predict of a masked clip what a teacher hears in the whole.

The teacher is a moving average of the encoder and hears the tokens unmasked. Its targets are
contextual: the mean of what the MLPs of its top blocks add to their residuals, each normalized over
time. Several masks of a clip may share one pass of the teacher (data2vec 2.0, Baevski et al. 2023).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.conv import valid
from sacjax.layers.masking import masked_positions
from sacjax.models.base import Tokens
from sacjax.objectives.base import (
    LOSS,
    NEIGHBOURS,
    NORMS,
    Display,
    Loss,
    Objective,
    build_encoder,
    ema_decay,
    follow,
    ramp_steps,
    teacher_of,
)
from sacjax.objectives.masked import MaskOptions, check_tokens, example_keys_of, take, tokens_of

LEAST_TARGET_STD = 0.1  # fairseq stops below these
LEAST_PREDICTION_STD = 0.01


@dataclasses.dataclass(frozen=True)
class Data2VecOptions(MaskOptions):
    """`objective.options` of data2vec; the defaults are those published for base on speech."""

    top_layers: int = 8  # of the teacher, whose mean is the target
    target: Literal["mlp", "layer"] = "mlp"  # what an MLP adds, or a layer's output
    instance_norm: bool = True  # of each layer's target: each channel over a clip's time
    layer_norm: bool = False  # of their mean: each token over its channels
    loss_beta: float = 0.0  # > 0: smooth L1 with this turning point; 0: squared error
    clones: int = 1  # masks of a clip that share a pass of the teacher; data2vec 2.0: 8
    teacher_tokens: Literal["student", "teacher"] = "student"  # whose convolutions it hears by
    teacher_decay: float = 0.999  # of the first update
    teacher_decay_end: float = 0.9999
    teacher_ramp: float = 30_000.0  # steps from the one to the other; up to 1: share of the run
    mask_minimum: int = 1

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        super().check()
        self.require_positive("top_layers", "clones")
        self.require_not_negative("loss_beta", "teacher_ramp")
        self.require_shares("teacher_decay", "teacher_decay_end")


class Data2VecModel(nnx.Module):
    """A student with a linear map to the targets, and the teacher that follows the student.

    The teacher has a copy of the whole encoder. Where it hears the student's tokens, its own
    convolutions, 5 % of base, only follow.
    """

    def __init__(self, encoder: Any, rngs: nnx.Rngs):
        """Takes an encoder of tokens."""
        self.encoder = encoder
        self.predictor = nnx.Linear(encoder.features, encoder.features, rngs=rngs)
        self.teacher = teacher_of(encoder)


class Data2Vec(Objective):
    """data2vec: predict a moving-average teacher's top layers of the whole clip, masked tokens."""

    hears_targets = True
    Options = Data2VecOptions
    options: Data2VecOptions
    advice = (
        "what usually helps: a lower optimizer.learning_rate with a longer warm-up, "
        "objective.options.teacher_decay nearer to 1, a larger train.batch_size"
    )
    display = Display(
        panels={
            "loss": LOSS,
            "standard deviation over tokens": {
                "train/target_std": "targets",
                "train/prediction_std": "predictions",
            },
            "the teacher's decay": {"train/teacher_decay": "decay"},
            "nearest neighbours' accuracy": NEIGHBOURS,
            "norms": NORMS,
        },
    )

    @classmethod
    def check(cls, stage: ConfigDict) -> None:
        """Raises UserError for an encoder or a run that does not fit."""
        self = cls(stage)
        check_tokens(stage, self.options)
        ramp_steps(stage, self.options.teacher_ramp)
        depth = nnx.eval_shape(lambda: build_encoder(stage, nnx.Rngs(0))).depth
        if self.options.top_layers > depth:
            raise UserError(
                f"objective.options.top_layers is {self.options.top_layers}: the encoder has "
                f"{depth} layers"
            )

    def build(self, rngs: nnx.Rngs, artifacts: dict[str, Any] | None = None) -> nnx.Module:
        """Returns the model with fresh parameters, teacher and student alike."""
        return Data2VecModel(build_encoder(self.stage, rngs), rngs)

    def decay(self, progress: Any) -> jax.Array:
        """Returns the teacher's decay after so many steps of the schedule."""
        o = self.options
        ramp = ramp_steps(self.stage, o.teacher_ramp)
        return ema_decay(progress, o.teacher_decay, o.teacher_decay_end, ramp)

    def loss(self, model: Any, batch: dict[str, Any], ctx: Context) -> Loss:
        """Returns the mean over masked tokens of the error's sum over channels, over √D.

        In training, masks are keyed by the example's row, else by its index in the data set.
        """
        o, view = self.options, batch["views"][0]
        tokens = tokens_of(model.encoder, view, batch["mask"])
        heard = tokens
        if o.teacher_tokens == "teacher":
            heard = tokens_of(model.teacher, view, batch["mask"])
        targets = self.targets(model.teacher, jax.lax.stop_gradient(heard))
        keys = example_keys_of(batch, ctx)
        if o.clones > 1:  # side by side, so that each device keeps its clips
            clone = jax.vmap(lambda key: jax.random.split(key, o.clones))
            keys = clone(keys).reshape(-1)
            tokens, targets = jax.tree.map(lambda x: jnp.repeat(x, o.clones, 0), (tokens, targets))
        size = tokens.features.shape[1]
        mask = o.masks(keys, tokens.lengths, size)
        output = model.encoder.context(tokens, ctx.child(1), mask=mask)
        positions, used = masked_positions(mask, o.most_masked(size))
        predictions = model.predictor(take(output.frames, positions).astype(jnp.float32))
        wanted = jax.lax.stop_gradient(take(targets, positions))
        errors = distance(predictions - wanted, o.loss_beta).sum(-1) * wanted.shape[-1] ** -0.5
        total, count = jnp.where(used, errors, 0).sum(), used.sum().astype(jnp.float32)
        number = valid(tokens.features, tokens.lengths).sum().astype(jnp.float32)
        sums = {
            "loss": (total, count),
            "target_std": spread(wanted, used),
            "prediction_std": spread(predictions, used),
            "mask_share": (count, number),
            "teacher_decay": (self.decay(ctx.progress), jnp.ones([])),
        }
        return Loss(total, count, jax.lax.stop_gradient(sums))

    def targets(self, teacher: Any, tokens: Tokens) -> jax.Array:
        """Returns the targets float32 [B, N, D] of all tokens; the teacher hears them unmasked."""
        o = self.options
        which = "mlp" if o.target == "mlp" else True
        states = teacher.context(tokens, Context(), hidden_states=which).hidden_states
        states = states[-o.top_layers :].astype(jnp.float32)
        if o.instance_norm:
            states = jax.vmap(over_time, (0, None))(states, tokens.lengths)
        mean = states.mean(0)
        return jax.nn.standardize(mean, epsilon=1e-5) if o.layer_norm else mean

    def after_update(self, model: Any, ctx: Context) -> None:
        """Moves the teacher towards the student."""
        follow(model.teacher, model.encoder, self.decay(ctx.progress))

    def after_loading(self, model: Any) -> None:
        """Makes the teacher what the student is."""
        follow(model.teacher, model.encoder, 0.0)

    def describe(self, values: dict[str, float]) -> str:
        """Returns the loss and how far targets spread."""
        return (
            f"loss {values['loss']:.3f}, standard deviation of targets {values['target_std']:.2f}"
        )

    def health(self, values: dict[str, float]) -> str:
        """Returns what looks collapsed in a log line of training, or ''."""
        for name, least in (
            ("target_std", LEAST_TARGET_STD),
            ("prediction_std", LEAST_PREDICTION_STD),
        ):
            if values.get(name, 1.0) < least:
                return f"{name} {values[name]:.2g}, below {least}: all tokens have nearly one value"
        return ""


def over_time(
    x: Float[Array, "batch tokens features"], lengths: Int[Array, " batch"]
) -> Float[Array, "batch tokens features"]:
    """Returns each channel of mean 0 and variance 1 over a clip's valid tokens, zero beyond."""
    inside, count = valid(x, lengths), jnp.maximum(lengths, 1)[:, None, None]
    mean = jnp.where(inside, x, 0).sum(1, keepdims=True) / count
    centred = jnp.where(inside, x - mean, 0)
    variance = jnp.square(centred).sum(1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + 1e-5)


def distance(
    difference: Float[Array, "batch tokens features"], beta: float
) -> Float[Array, "batch tokens features"]:
    """Returns the square, or with `beta` the smooth L1: a parabola up to it, then a line."""
    if not beta:
        return jnp.square(difference)
    far = jnp.abs(difference)
    return jnp.where(far < beta, 0.5 * jnp.square(difference) / beta, far - 0.5 * beta)


def spread(
    x: Float[Array, "batch tokens features"], used: Array
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns (mean over channels of the standard deviation over the tokens that count, 1)."""
    x, inside = x.astype(jnp.float32), used[..., None]
    count = jnp.maximum(used.sum(), 1)
    mean = jnp.where(inside, x, 0).sum((0, 1)) / count
    variance = jnp.where(inside, jnp.square(x - mean), 0).sum((0, 1)) / count
    some = (used.sum() > 0).astype(jnp.float32)
    return some * jnp.sqrt(variance + 1e-6).mean(), some
