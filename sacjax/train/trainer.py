"""What a stage compiles: the train step, evaluation and the rest, jitted over a mesh."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sacjax.context import Context
from sacjax.layers.platform import compiled_for
from sacjax.plan import flops
from sacjax.train.optimizer import frozen, make_optimizer
from sacjax.train.sharding import of_state, over_batch, replicated, without_fsdp
from sacjax.train.state import Pretrained, TrainState, new_state, split_model, with_encoder
from sacjax.train.step import Setup, micro_loss, schedule_progress, train_step
from sacjax.views import make_views


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

    losses: Any
    """(state, batch) → the objective's loss of each example alone, [B, 1]."""

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
        losses=apply(partial(_losses, setup)),
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


def _losses(setup: Setup, state: TrainState, batch: dict[str, Any]) -> jax.Array:
    """Returns what `_evaluate` has as the loss, of batches of one example each."""
    graphdef, variables = nnx.split(_evaluated(setup, state))
    progress = schedule_progress(state.step, state.progress, setup.stage.optimizer.schedule_count)

    def loss(example: dict[str, Any]) -> jax.Array:
        model = nnx.merge(graphdef, variables)
        found = setup.objective.loss(model, example, Context(progress=progress))
        return found.total / jnp.maximum(found.count, 1)

    alone = jax.tree.map(lambda x: x[:, None], setup.views(batch))
    return jax.vmap(loss)(alone)[:, None]


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
