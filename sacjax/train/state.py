"""The state of training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sacjax.train.trained import take_encoder


class TrainState(NamedTuple):
    """Everything that a step changes; a checkpoint saves it."""

    step: Any
    """int32 [], updates done."""

    progress: Any
    """int32 [2], whole steps of the schedule, and the count since the last of them."""

    params: Any
    """Trained parameters."""

    buffers: Any
    """Other variables: batch statistics, moving averages, frozen variables."""

    opt_state: Any
    ema: Any
    """A moving average of the parameters, or None where it is off."""

    sums: Any
    """{metric: (sum, count)} since the last log line; a resumed run goes on with them."""

    skipped: Any
    """int32 [], updates in a row, up to this one, that were not finite."""

    skips: Any
    """bool [log_every], which of the updates since the last log line were skipped."""


class Pretrained(NamedTuple):
    """Trained variables, from which a new stage takes the encoder."""

    source: str
    """Their name in messages."""

    params: Any
    """Arrays, or only their shapes before they are trained."""

    buffers: Any


def split_model(model: nnx.Module) -> tuple[Any, Any, Any]:
    """Returns (graphdef, parameters, buffers) of a model, the latter two as plain trees."""
    graphdef, params, buffers = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    return graphdef, nnx.as_pure(params), nnx.as_pure(buffers)


def with_encoder(params: Any, buffers: Any, pretrained: Pretrained) -> tuple[Any, Any]:
    """Returns (parameters, buffers) of a model with the encoder of `pretrained`.

    Raises:
      UserError: the encoder of `pretrained` has another structure.
    """
    return (
        take_encoder(params, pretrained.params, pretrained.source),
        take_encoder(buffers, pretrained.buffers, pretrained.source),
    )


def new_state(
    params: Any, buffers: Any, opt_state: Any, sums: Any, *, ema: bool, log_every: int
) -> TrainState:
    """Returns the state before the first step.

    Args:
      params, buffers: of `split_model`, with the encoder of `with_encoder`, if any.
      opt_state: of the optimizer's `init`.
      sums: the shapes of the metrics.
      ema: whether to keep a moving average of the parameters.
      log_every: steps between log lines.
    """
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        progress=jnp.zeros([2], jnp.int32),
        params=params,
        buffers=buffers,
        opt_state=opt_state,
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        sums=jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums),
        skipped=jnp.zeros([], jnp.int32),
        skips=jnp.zeros([log_every], bool),
    )
