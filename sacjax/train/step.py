"""The only train step: pure, `(state, batch) → state`, for every model and objective."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sacjax.context import Context
from sacjax.layers.platform import compiled_for
from sacjax.objectives.base import Objective
from sacjax.parts import part
from sacjax.plan import flops
from sacjax.train import metrics
from sacjax.train.optimizer import frozen, frozen_statistics, make_optimizer, update_ema
from sacjax.train.sharding import of_state, over_batch, replicated, without_fsdp
from sacjax.train.state import Pretrained, TrainState, new_state, split_model, with_encoder
from sacjax.views import Views, make_views


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
    found = accumulate(setup, state, setup.views(batch, augment_key), model_key, progress)
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

    # Row i goes to micro-batch i mod k: each device's rows stay on it.
    parts = jax.tree.map(
        lambda x: x.reshape(len(x) // number, number, *x.shape[1:]).swapaxes(0, 1), batch
    )
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


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """What a stage compiles: functions of states and batches, jitted over a mesh."""

    setup: Setup
    init: Callable[..., TrainState]
    """(Pretrained | None, artifacts of the objective | None) → state."""

    step: Any
    """(state, batch) → state; donates the state."""

    predict: Any
    """(state, batch) → logits [B, C], by the moving average where it is on."""

    embed: Any
    """(state, batch) → clip embeddings [B, D]."""

    samples: Any
    """(state, batch) → the objective's sounds to be played, {name: [B, T]}."""

    evaluate: Any
    """(state, batch) → {metric: (sum, count)} of the objective in evaluation mode."""

    state_shapes: Any
    """The state as shapes with their shardings."""

    flops: Callable[[], float]
    """Floating-point operations of a step: the model's forward and backward pass."""

    activations: Callable[[], float]
    """Bytes that a micro-batch's forward pass keeps for the backward pass, over all devices."""


def make_trainer(
    objective: Any,
    stage: ConfigDict,
    mesh: Mesh,
    steps: int,
    seed: int,
    pretrained: Pretrained | None = None,
) -> Trainer:
    """Returns the compiled functions of a stage.

    Args:
      objective: see `sacjax.objectives.base`.
      stage: the config of the stage.
      mesh: of devices.
      steps: updates in all, for the schedule.
      seed: of parameters, dropout and augmentation.
      pretrained: the encoder that training will start from; only its shapes are looked at.

    Raises:
      UserError: a pretrained encoder that is not the config's.
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))

    def build(artifacts: dict[str, Any] | None = None) -> Any:
        return objective.build(nnx.Rngs(init_key), artifacts)

    graphdef, params, buffers = split_model(nnx.eval_shape(build))
    optimizer = make_optimizer(stage.optimizer, steps, params)
    views = make_views(
        stage, objective.num_classes, number=objective.views, needs_labels=objective.needs_labels
    )
    setup = Setup(
        objective=objective,
        stage=stage,
        views=views,
        optimizer=optimizer,
        graphdef=graphdef,
        key=step_key,
        never_trained=frozen(stage.optimizer, params),
        params_at_rest=of_state(params, mesh),
        buffers_at_rest=of_state(buffers, mesh),
    )
    example = _example(setup, params, buffers, init_key)
    count, sums, _ = jax.eval_shape(partial(micro_loss, setup), *example)[1]
    setup = dataclasses.replace(setup, counted=(count, sums))
    logged = sums | {"gradient_norm": (jax.ShapeDtypeStruct([], jnp.float32),) * 2}

    def begin(params: Any, buffers: Any, source: tuple[Any, Any] | None) -> TrainState:
        if source is not None:
            params, buffers = with_encoder(params, buffers, Pretrained(name, *source))
            model = nnx.merge(graphdef, params, buffers, copy=True)
            objective.after_loading(model)
            buffers = split_model(model)[2]
        return new_state(
            params,
            buffers,
            optimizer.init(params),
            logged,
            ema=bool(stage.optimizer.ema_decay),
            log_every=stage.train.log_every,
        )

    def init(source: tuple[Any, Any] | None, artifacts: dict[str, Any] | None) -> TrainState:
        return begin(*split_model(build(artifacts))[1:], source)

    name = pretrained.source if pretrained else ""
    # A misfit of the pretrained encoder is told here, before anything compiles.
    shapes = jax.eval_shape(
        begin, params, buffers, pretrained and (pretrained.params, pretrained.buffers)
    )
    rows, at_rest = over_batch(mesh), of_state(shapes, mesh)
    # The source is an argument: as a constant it would be compiled in.
    jitted_init = jax.jit(init, out_shardings=at_rest)
    apply = partial(jax.jit, in_shardings=(at_rest, rows), out_shardings=rows)
    return Trainer(
        setup=setup,
        init=lambda pretrained=None, artifacts=None: jitted_init(
            pretrained and (pretrained.params, pretrained.buffers), artifacts
        ),
        step=jax.jit(
            partial(train_step, setup),
            in_shardings=(at_rest, rows),
            out_shardings=at_rest,
            donate_argnums=0,
        ),
        predict=apply(partial(_predict, setup)),
        embed=apply(partial(_embed, setup)),
        samples=apply(partial(_samples, setup)),
        evaluate=apply(partial(_evaluate, setup), out_shardings=replicated(mesh)),
        state_shapes=jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, at_rest
        ),
        flops=cache(lambda: stage.optimizer.accumulation * _flops(setup, *example)),
        activations=lambda: _activations(setup, *example),
    )


def _evaluated(setup: Setup, state: TrainState) -> Any:
    """Returns the model that is judged: of the moving average where there is one."""
    gather = jax.lax.with_sharding_constraint
    params = gather(
        state.params if state.ema is None else state.ema, without_fsdp(setup.params_at_rest)
    )
    return nnx.merge(setup.graphdef, params, state.buffers, copy=True)


def _predict(setup: Setup, state: TrainState, batch: dict[str, Any]) -> jax.Array:
    objective: Any = setup.objective
    return objective.predict(_evaluated(setup, state), setup.views(batch), Context())


def _embed(setup: Setup, state: TrainState, batch: dict[str, Any]) -> jax.Array:
    return setup.objective.embed(_evaluated(setup, state), setup.views(batch), Context())


def _samples(setup: Setup, state: TrainState, batch: dict[str, Any]) -> dict[str, jax.Array]:
    return setup.objective.samples(_evaluated(setup, state), setup.views(batch), Context())


def _evaluate(setup: Setup, state: TrainState, batch: dict[str, Any]) -> Any:
    """Views of an objective that takes several are augmented as in training, by a fixed key."""
    progress = schedule_progress(state.step, state.progress, setup.stage.optimizer.schedule_count)
    key = jax.random.key(0) if setup.objective.views > 1 else None
    ctx = Context(progress=progress)
    return setup.objective.loss(_evaluated(setup, state), setup.views(batch, key), ctx).metrics


def batch_shapes(stage: ConfigDict, size: int, num_classes: int) -> dict[str, Any]:
    """Returns the shapes of a training batch of so many examples, as the data pipeline makes it."""
    samples = round(stage.data.seconds * stage.data.sample_rate)
    rows = jax.ShapeDtypeStruct([size], jnp.int32)
    several = jax.ShapeDtypeStruct([size, num_classes], jnp.float32)
    return dict(
        audio=jax.ShapeDtypeStruct([size, samples], jnp.int16),
        length=rows,
        index=rows,
        label=several if stage.data.multi_label else rows,
        mask=jax.ShapeDtypeStruct([size], jnp.float32),
    )


def _example(setup: Setup, params: Any, buffers: Any, key: jax.Array) -> tuple[Any, ...]:
    """Returns the shapes of `micro_loss`'s arguments after `setup`."""
    size = setup.stage.train.batch_size // setup.stage.optimizer.accumulation
    batch = batch_shapes(setup.stage, size, setup.objective.num_classes)
    views = jax.eval_shape(setup.views, batch, key)
    progress: Any = jax.ShapeDtypeStruct([], jnp.float32)
    return params, buffers, views, Context(key, progress)


def _flops(setup: Setup, *example: Any) -> float:
    """Returns the FLOPs of a micro-batch's loss and its gradient.

    Parameters that never train have no gradient.
    """
    with compiled_for("gpu"):  # plain forms: those of a TPU compute padding too
        loss = jax.make_jaxpr(partial(micro_loss, setup))(*example)
    return flops.of_gradient(loss, [not never for never in jax.tree.leaves(setup.never_trained)])


def _activations(setup: Setup, params: Any, *rest: Any) -> float:
    def backward(params: Any, *rest: Any) -> Any:
        return jax.vjp(lambda p: micro_loss(setup, p, *rest)[0], params)[1]

    kept = [
        (leaf.shape, leaf.dtype)
        for leaf in jax.tree.leaves(jax.eval_shape(backward, params, *rest))
    ]
    for leaf in jax.tree.leaves(params):  # what is kept of the parameters themselves
        if (leaf.shape, leaf.dtype) in kept:
            kept.remove((leaf.shape, leaf.dtype))
    return float(sum(np.prod(shape) * dtype.itemsize for shape, dtype in kept))
