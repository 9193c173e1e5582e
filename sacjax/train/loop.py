"""State, step and loop: the only train loop. It knows objectives, not models."""

import collections
import contextlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sacjax.data import pipeline, splits
from sacjax.data.bad_files import BadFiles
from sacjax.data.resident import Resident
from sacjax.errors import Terminated, UserError, nearest
from sacjax.plan import flops
from sacjax.train import metrics
from sacjax.train.checkpoint import Checkpoints, is_better, take_encoder
from sacjax.train.faults import Skipped, Termination
from sacjax.train.optimizer import frozen, make_optimizer, make_schedule, update_ema
from sacjax.train.sharding import of_state, over_batch, put_batch, replicated, without_fsdp
from sacjax.views import make_preprocess

AHEAD = 2  # updates that the host is ahead of the devices: each holds a batch there, and SIGTERM waits for them


class TrainState(NamedTuple):
    """All that a step changes. `sums` adds up metrics since the last log line, so that a resumed run logs the same."""

    step: Any  # int32 [], updates done
    progress: Any  # int32 [2], place in the schedule: whole steps, and masked frames beyond (see `schedule_frames`)
    params: Any
    extra: Any  # variables that are not trained, such as batch statistics
    opt_state: Any
    ema: Any  # None where it is off
    sums: Any  # {metric: (sum, count)}
    skipped: Any  # int32 [], updates in a row up to this one whose loss, gradient or result was not finite
    skips: Any  # bool [log_every], which of the updates since the last log line were skipped


class Start(NamedTuple):
    """Trained variables, of which a new stage takes the encoder's."""

    where: str  # what a message calls them
    params: Any  # arrays, or their shapes as long as they are not there yet
    extra: Any


class Program(NamedTuple):
    """What a stage compiles: pure functions over arrays."""

    init: Callable[..., TrainState]  # (None | Start, with arrays)
    step: Any  # jitted, (TrainState, batch) -> TrainState; donates the state
    predict: Callable[
        [TrainState, dict], jax.Array
    ]  # logits or embeddings, by the EMA where it is on
    evaluate: Callable[
        [TrainState, dict], Any
    ]  # {metric: (sum, count)} of a batch in evaluation mode, by the EMA
    graphdef: Any  # of the model in evaluation mode
    flops: float  # of the model, of a step: three times those of its forward pass
    activations: Callable[
        [], float
    ]  # bytes that a micro-batch's forward pass keeps for the way back, over all devices


def make_program(
    objective: Any, stage: ConfigDict, mesh: Mesh, steps: int, seed: int, start: Start | None = None
) -> Program:
    """Returns the compiled functions of a stage.

    Args:
      objective: see `sacjax.objectives`.
      steps: updates in all, for the schedule.
      seed: of parameters, dropout and augmentation.
      start: variables of an encoder that training will start from; only their shapes are looked at.

    Raises:
      UserError: they are not those of the config's encoder.
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))
    preprocess = make_preprocess(stage, objective.num_classes)
    accumulation, schedule_frames = stage.optimizer.accumulation, stage.optimizer.schedule_frames

    def build() -> nnx.Module:
        return objective.build(nnx.Rngs(init_key))

    def fresh(source: tuple | None) -> tuple[Any, Any]:
        _, params, extra = nnx.split(build(), nnx.Param, ...)  # type: ignore[misc]
        params, extra = nnx.as_pure(params), nnx.as_pure(extra)
        if source is None:
            return params, extra
        return take_encoder(params, source[0], where), take_encoder(extra, source[1], where)

    model = nnx.eval_shape(build)
    model.eval()
    eval_graphdef = nnx.graphdef(model)
    model.train()
    graphdef, shapes, _ = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    optimizer = make_optimizer(stage.optimizer, steps, nnx.as_pure(shapes))
    where = start.where if start else ""
    if start:
        jax.eval_shape(
            fresh, (start.params, start.extra)
        )  # a misfit is told before anything compiles

    # Where parameters are at rest; they are gathered over `fsdp` for a step, and gradients scattered: left to itself, the compiler
    # would rather add up activations between the devices, which are far larger.
    split = of_state(nnx.as_pure(shapes), mesh)

    never = frozen(stage.optimizer, nnx.as_pure(shapes))

    def micro_loss(
        params: Any, extra: Any, batch: dict, key: jax.Array, progress: Any
    ) -> tuple[Any, Any]:
        params = jax.tree.map(
            lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, never
        )
        model = nnx.merge(graphdef, params, extra, copy=True)
        (total, count), sums = objective.loss(
            model, batch | {"progress": progress}, nnx.Rngs(dropout=key)
        )
        _, _, extra = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
        return total, (count, sums, nnx.as_pure(extra))

    def gradients(
        params: Any, extra: Any, batch: dict, key: jax.Array, progress: jax.Array
    ) -> tuple[Any, Any, Any, Any]:
        """Sums gradients and counts over micro-batches and divides once, so that unequal counts weigh right."""

        def micro(carry: tuple, xs: tuple) -> tuple[tuple, None]:
            grads, count, sums, extra = carry
            part, k = xs
            grad_fn = jax.grad(micro_loss, has_aux=True)
            new, (n, s, extra) = grad_fn(used, extra, part, jax.random.fold_in(key, k), progress)
            new = jax.lax.with_sharding_constraint(new, split)
            return (metrics.add(grads, new), count + n, metrics.add(sums, s), extra), None

        used = jax.lax.with_sharding_constraint(params, without_fsdp(split))
        # Row i goes to micro-batch i mod k: each device's rows stay on it.
        parts = jax.tree.map(
            lambda x: x.reshape(len(x) // accumulation, accumulation, *x.shape[1:]).swapaxes(0, 1),
            batch,
        )
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(micro_loss, params, extra, first, key, progress)[1]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        carry = (jax.tree.map(jnp.zeros_like, params), zeros[0], zeros[1], extra)
        if accumulation == 1:
            carry, _ = micro(carry, (first, 0))
        else:
            carry, _ = jax.lax.scan(micro, carry, (parts, jnp.arange(accumulation)))
        grads, count, sums, extra = carry
        return jax.tree.map(lambda g: g / jnp.where(count > 0, count, 1), grads), count, sums, extra

    def step(state: TrainState, batch: dict) -> TrainState:
        key = jax.random.fold_in(step_key, state.step)
        augment_key, dropout_key = jax.random.split(key)
        batch = preprocess(batch, augment_key)
        place = schedule_place(state.step, state.progress, schedule_frames)
        grads, _, sums, extra = gradients(state.params, state.extra, batch, dropout_key, place)
        sums = sums | {"gradient_norm": (optax.tree.norm(grads), jnp.ones([]))}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, progress=place)
        params = optax.apply_updates(state.params, updates)
        decay = stage.optimizer.ema_decay
        ema = update_ema(state.ema, params, decay, state.step) if decay else None
        progress = state.progress
        if schedule_frames:  # whole steps and the rest, so that no count is too large to be exact
            rest = progress[1] + sums["masked_frames"][0].astype(jnp.int32)
            progress = jnp.stack([progress[0] + rest // schedule_frames, rest % schedule_frames])
        # An update whose loss or gradient is not finite is left out: nothing of it stays but that it was. So is each single number that
        # the optimizer makes not finite, where it is made: to look at all of them first would be one more pass over memory.
        good = all_finite((sums["loss"], sums["gradient_norm"], extra))
        new = (progress, params, extra, opt_state, ema, metrics.add(state.sums, sums))
        old = (state.progress, state.params, state.extra, state.opt_state, state.ema, state.sums)
        progress, params, extra, opt_state, ema, sums = jax.tree.map(
            partial(keep_finite, good), new, old
        )
        skips = state.skips.at[state.step % stage.train.log_every].set(~good)
        skipped = jnp.where(good, 0, state.skipped + 1)
        return TrainState(
            state.step + 1, progress, params, extra, opt_state, ema, sums, skipped, skips
        )

    micro_shapes = batch_shapes(
        stage, stage.train.batch_size // accumulation, objective.num_classes
    )
    arguments = (
        *jax.eval_shape(fresh, None),
        jax.eval_shape(preprocess, micro_shapes, init_key),
        init_key,
        jax.ShapeDtypeStruct([], jnp.float32),
    )

    def activations() -> float:
        backward = jax.eval_shape(
            lambda p, *rest: jax.vjp(lambda p: micro_loss(p, *rest)[0], p)[1], *arguments
        )
        kept = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(backward)]
        for leaf in jax.tree.leaves(arguments[0]):  # what is kept of the parameters themselves
            if (leaf.shape, leaf.dtype) in kept:
                kept.remove((leaf.shape, leaf.dtype))
        return float(sum(np.prod(shape) * dtype.itemsize for shape, dtype in kept))

    jaxpr, (_, (_, sums_shapes, _)) = jax.make_jaxpr(micro_loss, return_shape=True)(*arguments)
    step_flops = 3 * accumulation * flops.of_jaxpr(jaxpr.jaxpr)

    def init(source: tuple | None) -> TrainState:
        params, extra = fresh(source)
        sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums_shapes)
        sums["gradient_norm"] = (jnp.zeros([]), jnp.zeros([]))
        ema = jax.tree.map(jnp.copy, params) if stage.optimizer.ema_decay else None
        zero = jnp.zeros([], jnp.int32)
        skips = jnp.zeros([stage.train.log_every], bool)
        start = jnp.zeros([2], jnp.int32)
        return TrainState(
            zero, start, params, extra, optimizer.init(params), ema, sums, zero, skips
        )

    def evaluated(state: TrainState) -> Any:
        params = state.params if state.ema is None else state.ema
        params = jax.lax.with_sharding_constraint(params, without_fsdp(split))
        return nnx.merge(eval_graphdef, params, state.extra, copy=True)

    def predict(state: TrainState, batch: dict) -> jax.Array:
        return objective.predict(evaluated(state), preprocess(batch))

    def evaluate(state: TrainState, batch: dict) -> Any:
        place = schedule_place(state.step, state.progress, schedule_frames)
        return objective.loss(evaluated(state), preprocess(batch) | {"progress": place})[1]

    rows, placed = over_batch(mesh), of_state(jax.eval_shape(init, None), mesh)
    jitted_init = jax.jit(
        init, out_shardings=placed
    )  # the source is an argument: as a constant it would be compiled in
    return Program(
        init=lambda start=None: jitted_init(start and (start.params, start.extra)),
        step=jax.jit(step, in_shardings=(placed, rows), out_shardings=placed, donate_argnums=0),
        predict=jax.jit(predict, in_shardings=(placed, rows), out_shardings=rows),
        evaluate=jax.jit(evaluate, in_shardings=(placed, rows), out_shardings=replicated(mesh)),
        graphdef=eval_graphdef,
        flops=step_flops,
        activations=activations,
    )


def batch_shapes(stage: ConfigDict, size: int, num_classes: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch of so many examples, as the data pipeline makes it."""
    samples, rows = (
        round(stage.data.seconds * stage.data.sample_rate),
        jax.ShapeDtypeStruct([size], jnp.int32),
    )
    several = jax.ShapeDtypeStruct([size, num_classes], jnp.float32)
    return dict(
        audio=jax.ShapeDtypeStruct([size, samples], jnp.int16), length=rows, index=rows,
        label=several if stage.data.multi_label else rows, mask=jax.ShapeDtypeStruct([size], jnp.float32),
    )  # fmt: skip


def all_finite(tree: Any) -> jax.Array:
    """Returns bool [], whether every number of a tree is finite; what has none, such as random keys, counts as finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def keep_finite(good: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Returns the new numbers where all is `good` and they are finite, else the old ones."""
    return jnp.where(
        good & jnp.isfinite(new) if jnp.issubdtype(new.dtype, jnp.floating) else good, new, old
    )


def schedule_place(step: Any, progress: Any, schedule_frames: int) -> Any:
    """Returns float32 [], the steps of the schedule so far: updates, or masked frames seen over `schedule_frames`."""
    if not schedule_frames:
        return jnp.asarray(step, jnp.float32)
    return progress[0] + progress[1] / schedule_frames


def epoch_examples(recordings: Any, indices: np.ndarray, data: ConfigDict, seed: int) -> int:
    """Returns the examples of an epoch: the training part, as `data.balance` repeats or drops clips of it."""
    return len(splits.balance(recordings, indices, data.balance, seed))


def total_steps(train: ConfigDict, examples: int) -> tuple[int, int]:
    """Returns (updates in all, updates an epoch) for so many training examples; an epoch has at least one update."""
    epoch = max(examples // train.batch_size, 1)
    return (train.steps or max(round(train.epochs * examples / train.batch_size), 1)), epoch


def fit(
    name: str,
    stage: ConfigDict,
    config: ConfigDict,
    objective: Any,
    program: Program,
    recordings: Any,
    indices: np.ndarray,
    validate: Callable[[TrainState], dict[str, float]],
    mesh: Mesh,
    workdir: Path,
    start: Callable[[], Start | None] = lambda: None,
) -> tuple[TrainState, Checkpoints]:
    """Trains one stage to its end, from its last checkpoint where there is one.

    Args:
      name: the stage's, for folders and log lines.
      indices: the training examples, places in `recordings`.
      validate: state -> validation metrics; called at each evaluation.
      start: gives what a run without a checkpoint starts from; None: fresh parameters.

    Returns:
      (the last state, the stage's checkpoints, still open).

    Raises:
      UserError: too many undecodable files, updates that are not finite again after it went back once, or a collapse.
      Terminated: SIGTERM came; the checkpoint is saved.
    """
    steps, epoch = total_steps(
        stage.train, epoch_examples(recordings, indices, stage.data, config.seed)
    )
    schedule = make_schedule(stage.optimizer, steps)
    schedule_frames = stage.optimizer.schedule_frames
    evaluate_every = stage.train.evaluate_every or max(epoch, stage.train.log_every)
    first = jax.process_index() == 0
    checkpoints = Checkpoints(
        workdir, name, config.checkpoint.keep, stage.eval.best_mode, config.checkpoint.asynchronous
    )
    bad = BadFiles(workdir, recordings, stage.data.max_bad_fraction)
    skipped = Skipped(workdir, name, recordings)
    resident = (
        Resident(recordings, indices, stage.data, mesh, objective.needs_labels)
        if stage.data.on_device
        else None
    )

    def begin(order: int) -> tuple[TrainState, dict[str, Any], Any, Any, Any]:
        """Starts from the last checkpoint, if any; an `order` above 0 is another order of the data from there on."""
        meta: dict[str, Any] = dict(
            best=None, best_step=0, since_best=0, stopped=False, collapsed=0, order=0
        )
        meta |= dict(began=time.time(), productive=0.0)
        if checkpoints.latest() is None:
            state = program.init(start())
        else:
            state, meta = checkpoints.restore(program.init())
        meta |= {"order": order, "data": None} if order else {}
        batches = iter(
            pipeline.train_batches(
                recordings, indices, stage.data, stage.train.batch_size, config.seed + meta["order"],
                jax.process_index(), jax.process_count(), objective.needs_labels, resident,
            )
        )  # fmt: skip
        if meta.get("data"):
            batches.set_state(json.loads(meta["data"]))
        step = int(state.step)
        if first and step:
            print(f"{name}: goes on from step {step}")
        log = metrics.Log(workdir, name, step, config.tensorboard) if first else None
        progress = metrics.Progress(
            name, step, steps, stage.train.batch_size, stage.data.seconds, first, program.flops
        )
        return state, meta, batches, log, progress

    def save(step: int, metric: float | None = None) -> None:
        bad.flush()
        checkpoints.save(step, state, meta | {"data": json.dumps(batches.get_state())}, metric)

    state, meta, batches, log, progress = begin(0)
    step = int(state.step)
    profiled = step + 3  # past what compiles
    under_way: collections.deque[jax.Array] = collections.deque()

    def end() -> None:
        progress.close()
        bad.flush()
        if log:
            log.close()

    with contextlib.ExitStack() as stack:
        stack.callback(end)  # also before an error is told
        termination = stack.enter_context(Termination())
        while step < steps and not meta["stopped"]:
            batch = progress.wait(batches)
            bad.note(batch)
            skipped.note(step + 1, batch)
            logged = (step + 1) % stage.train.log_every == 0 or step + 1 == steps
            place = schedule_place(step, state.progress, schedule_frames) if logged else 0.0
            if config.profile and step == profiled:
                jax.profiler.start_trace(str(workdir / "profile"))
            batch = put_batch(batch, mesh)
            state = program.step(state, resident.crop(batch) if resident else batch)
            step += 1
            under_way.append(jnp.copy(state.step))  # the next step takes the state itself
            if len(under_way) > AHEAD:
                under_way.popleft().block_until_ready()
            if config.profile and step == profiled + 5:
                jax.block_until_ready(state)
                jax.profiler.stop_trace()
            progress.tick()
            last = step == steps
            if logged:
                values = objective.summarize(state.sums)
                reason = objective.collapse(values)
                meta["collapsed"] = meta["collapsed"] + 1 if reason else 0
                values = {f"train/{key}": value for key, value in values.items()}
                in_row, skips = jax.device_get((state.skipped, state.skips))
                lost = [
                    s
                    for s in range(max(step - len(skips), 0) + 1, step + 1)
                    if skips[(s - 1) % len(skips)]
                ]
                skipped.write(lost)
                if lost:
                    values["train/skipped_updates"] = len(lost)
                state = state._replace(
                    sums=jax.tree.map(jnp.zeros_like, state.sums), skips=jnp.zeros_like(state.skips)
                )
                rates = progress.rates()
                meta["productive"] += rates.get("time/productive_seconds", 0.0)
                # Goodput: the share of the time since the run first began that went into steps that are kept.
                rates["time/goodput"] = meta["productive"] / max(time.time() - meta["began"], 1e-9)
                values |= {"learning_rate": float(schedule(place)), "epoch": step / epoch} | rates
                progress.show(values)
                if log:
                    log.write(step, values)
                progress.reset()
                if in_row >= stage.train.max_skipped:
                    what = f"stage {name}: {in_row} updates in a row up to step {step} were not finite ({skipped.path.name} lists their clips)"
                    if meta["order"] or not checkpoints.back_before(step - in_row):
                        raise UserError(
                            f"{what}: lower optimizer.learning_rate, or set optimizer.clip_norm"
                        )
                    progress.close()
                    if log:
                        print(
                            f"{what}: back to step {checkpoints.latest()}, with the data in another order"
                        )
                        log.close()
                    state, meta, batches, log, progress = begin(1)
                    step = int(state.step)
                    continue
                if objective.collapse_patience and meta["collapsed"] >= objective.collapse_patience:
                    raise UserError(
                        f"stage {name} has collapsed ({meta['collapsed']} log lines in a row, up to step {step}): {reason}; {objective.advice}"
                    )
            if step % evaluate_every == 0 or last:
                values = validate(state)
                progress.show(values)
                if log and values:
                    log.write(step, values)
                patience = stage.train.early_stopping
                needed = bool(patience) or stage.eval.checkpoint == "best"
                metric = _best(meta, values, stage.eval, step, needed)
                meta["stopped"] = bool(patience and meta["since_best"] >= patience)
                if (
                    not config.checkpoint.every
                    or last
                    or meta["stopped"]
                    or meta["best_step"] == step
                ):
                    save(step, metric)
                progress.reset()
            if config.checkpoint.every and step % config.checkpoint.every == 0:
                save(step)
            if step < steps and termination.asked(step):
                save(step)
                checkpoints.close()
                raise Terminated(
                    f"stage {name}: SIGTERM at step {step}; its checkpoint is saved, the same command goes on"
                )
    checkpoints.wait()
    return state, checkpoints


def _best(
    meta: dict[str, Any], values: dict[str, float], evaluation: ConfigDict, step: int, needed: bool
) -> float | None:
    """Notes in `meta` whether this evaluation is the best so far; returns its value of the metric `eval.best`.

    Raises:
      UserError: there is no such metric, and it is `needed`.
    """
    value = values.get(evaluation.best)
    if value is None and needed and any(name.startswith("validation/") for name in values):
        raise UserError(
            f"eval.best: there is no metric '{evaluation.best}'{nearest(evaluation.best, values)}"
        )
    if value is None:
        return None
    if is_better(value, meta["best"], evaluation.best_mode):
        meta.update(best=value, best_step=step, since_best=0)
    else:
        meta["since_best"] += 1
    return value
