"""The only train step: pure, `(state, batch) → state`, for every model and objective."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from sacjax.context import Context
from sacjax.objectives.base import Objective
from sacjax.parts import part
from sacjax.train import metrics
from sacjax.train.optimizer import frozen_statistics, update_ema
from sacjax.train.sharding import without_fsdp
from sacjax.train.state import TrainState, split_model
from sacjax.views import Views, attacked


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What is fixed while a stage trains."""

    objective: Objective
    stage: ConfigDict
    views: Views
    optimizer: optax.GradientTransformationExtraArgs
    graphdef: Any
    key: jax.Array
    """Folded with the step's number for every draw."""

    never_trained: Any
    """Tree of bool, which parameters are frozen for good: no gradient of them is computed."""

    params_at_rest: Any
    """Tree of shardings of the parameters between steps."""

    buffers_at_rest: Any
    counted: Any = None
    """Shapes of a micro-batch's (count, metrics), as `micro_loss` gives them."""


class Gradients(NamedTuple):
    """What the backward pass of a whole batch gives."""

    grads: Any
    count: Any
    sums: Any
    buffers: Any


def train_step(setup: Setup, state: TrainState, batch: dict[str, Any]) -> TrainState:
    """Returns the state after one update on a batch, as the data pipeline makes it.

    An update whose loss or gradient is not finite is left out: nothing of it stays but that it
    was. So is each single number that the optimizer makes not finite, where it is made.
    """
    augment_key, model_key = jax.random.split(jax.random.fold_in(setup.key, state.step))
    progress = schedule_progress(state.step, state.progress, setup.stage.optimizer.schedule_count)
    loss = partial(whole_loss, setup, state, key=model_key, progress=progress)
    views = attacked(setup.stage, setup.views, batch, augment_key, loss)
    found = accumulate(setup, state, views, model_key, progress)
    sums = found.sums | {"gradient_norm": (optax.tree.norm(found.grads), jnp.ones([]))}
    good = all_finite((sums["loss"], sums["gradient_norm"], found.buffers))
    updated = apply_gradients(setup, state, found._replace(sums=sums), progress)
    kept = keep_all_finite(good, updated, state)
    return kept._replace(
        step=state.step + 1,
        skipped=jnp.where(good, 0, state.skipped + 1),
        skips=state.skips.at[state.step % setup.stage.train.log_every].set(~good),
    )


@part("optimizer")
def apply_gradients(
    setup: Setup, state: TrainState, found: Gradients, progress: jax.Array
) -> TrainState:
    """Returns the state after the optimizer's update and what follows the parameters."""
    options = setup.stage.optimizer
    updates, opt_state = setup.optimizer.update(
        found.grads, state.opt_state, state.params, progress=progress
    )
    params = optax.apply_updates(state.params, updates)
    return state._replace(
        progress=advance(state.progress, found.count, options.schedule_count),
        params=params,
        buffers=follow_parameters(
            setup,
            params,
            frozen_statistics(options, state.buffers, found.buffers, state.step),
            progress,
        ),
        opt_state=opt_state,
        ema=update_ema(state.ema, params, options.ema_decay, state.step)
        if options.ema_decay
        else None,
        sums=metrics.add(state.sums, found.sums),
    )


@part("teacher")
def follow_parameters(setup: Setup, params: Any, buffers: Any, progress: jax.Array) -> Any:
    """Returns the buffers after the objective's `after_update`, such as a teacher's average."""
    if type(setup.objective).after_update is Objective.after_update:
        return buffers
    model = nnx.merge(setup.graphdef, params, buffers, copy=True)
    setup.objective.after_update(model, Context(progress=progress))
    return split_model(model)[2]


def accumulate(
    setup: Setup, state: TrainState, batch: dict[str, Any], key: jax.Array, progress: jax.Array
) -> Gradients:
    """Sums gradients and counts over micro-batches and divides once, so that counts weigh right.

    Parameters are gathered over `fsdp` before their use, and gradients scattered: left to itself,
    the compiler would rather add up activations between the devices, which are far larger.
    """
    number = setup.stage.optimizer.accumulation
    gather = jax.lax.with_sharding_constraint
    params = gather(state.params, without_fsdp(setup.params_at_rest))

    def micro(carry: Gradients, part: dict[str, Any], k: Any) -> Gradients:
        grad = jax.grad(micro_loss, argnums=1, has_aux=True)
        buffers = gather(carry.buffers, without_fsdp(setup.buffers_at_rest))
        ctx = Context(jax.random.fold_in(key, k), progress)
        grads, (count, sums, buffers) = grad(setup, params, buffers, part, ctx)
        grads = gather(grads, setup.params_at_rest)
        return Gradients(
            metrics.add(carry.grads, grads),
            carry.count + count,
            metrics.add(carry.sums, sums),
            gather(buffers, setup.buffers_at_rest),
        )

    parts = micro_batches(batch, number)
    first = jax.tree.map(lambda x: x[0], parts)
    count, sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), setup.counted)
    carry = Gradients(jax.tree.map(jnp.zeros_like, params), count, sums, state.buffers)
    if number == 1:
        found = micro(carry, first, 0)
    else:
        found, _ = jax.lax.scan(
            lambda carry, xs: (micro(carry, *xs), None), carry, (parts, jnp.arange(number))
        )
    divisor = jnp.where(found.count > 0, found.count, 1)
    return found._replace(grads=jax.tree.map(lambda g: g / divisor, found.grads))


def micro_batches(batch: Any, number: int) -> Any:
    """Returns a tree of arrays [B, …] as one of [number, B / number, …].

    Row i goes to micro-batch i mod number: each device's rows stay on it.
    """
    return jax.tree.map(
        lambda x: x.reshape(len(x) // number, number, *x.shape[1:]).swapaxes(0, 1), batch
    )


def whole_loss(
    setup: Setup, state: TrainState, batch: dict[str, Any], *, key: jax.Array, progress: jax.Array
) -> jax.Array:
    """Returns the loss that `accumulate` sums of a batch of views, for its gradient by these."""
    gather = jax.lax.with_sharding_constraint
    params = gather(state.params, without_fsdp(setup.params_at_rest))
    buffers = gather(state.buffers, without_fsdp(setup.buffers_at_rest))
    number = setup.stage.optimizer.accumulation

    def add(total: jax.Array, xs: tuple[Any, Any]) -> tuple[jax.Array, None]:
        part, k = xs
        ctx = Context(jax.random.fold_in(key, k), progress)
        return total + micro_loss(setup, params, buffers, part, ctx)[0], None

    parts = micro_batches(batch, number)
    if number == 1:  # XLA:CPU is slow within loops
        return add(jnp.zeros([]), (jax.tree.map(lambda x: x[0], parts), 0))[0]
    add = jax.checkpoint(add)  # one micro-batch's activations at a time
    return jax.lax.scan(add, jnp.zeros([]), (parts, jnp.arange(number)))[0]


@part("loss")
def micro_loss(
    setup: Setup, params: Any, buffers: Any, batch: dict[str, Any], ctx: Context
) -> tuple[jax.Array, tuple[jax.Array, Any, Any]]:
    """Returns (the loss's sum, (its count, metrics, buffers)) of a micro-batch of views."""
    stop = jax.lax.stop_gradient
    params = jax.tree.map(lambda p, never: stop(p) if never else p, params, setup.never_trained)
    model = nnx.merge(setup.graphdef, params, buffers, copy=True)
    loss = setup.objective.loss(model, batch, ctx)
    return loss.total, (loss.count, loss.metrics, split_model(model)[2])


def schedule_progress(step: Any, progress: Any, schedule_count: int) -> jax.Array:
    """Returns the steps of the schedule so far, float32 [].

    They are updates, or what was counted divided by `schedule_count` where that is set.
    """
    if not schedule_count:
        return jnp.asarray(step, jnp.float32)
    return progress[0] + progress[1] / schedule_count


def advance(progress: jax.Array, count: jax.Array, schedule_count: int) -> jax.Array:
    """Returns the schedule's (whole steps, rest), so that no count is too large to be exact."""
    if not schedule_count:
        return progress
    rest = progress[1] + count.astype(jnp.int32)
    return jnp.stack([progress[0] + rest // schedule_count, rest % schedule_count])


def all_finite(tree: Any) -> jax.Array:
    """Returns bool [], whether every floating-point number of a tree is finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


@part("optimizer")
def keep_all_finite(good: jax.Array, new: Any, old: Any) -> Any:
    """Returns a tree of what `keep_finite` returns of each of its arrays."""
    return jax.tree.map(partial(keep_finite, good), new, old)


def keep_finite(good: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Returns the new numbers where all is `good` and they are finite, else the old ones."""
    floating = jnp.issubdtype(new.dtype, jnp.floating)
    return jnp.where(good & jnp.isfinite(new) if floating else good, new, old)
