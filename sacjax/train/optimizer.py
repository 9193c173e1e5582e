"""An optax chain from a config: clipping, optimizer, weight decay, schedule, per-layer rates, freezing."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from sacjax.errors import UserError

NO_DECAY = re.compile(r"(^|/)(bias|scale|mean|var)$")  # biases and the affine of norms


def names(params: Any) -> Any:
    """Returns a tree like `params` with each leaf's name, such as 'encoder/layer1/0/conv1/kernel'."""
    return jax.tree_util.tree_map_with_path(lambda path, _: name_of(path), params)


def name_of(path: tuple) -> str:
    """Returns a tree path as 'a/b/c'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Returns step → learning rate over `steps` (or `schedule_steps`) steps: a linear warm-up, then the config's shape.

    `exponential` goes from the learning rate to `final_fraction` of it (the learning-rate finder rises with it);
    `one_cycle` is Smith and Topin 2019, with the warm-up as the rising share (0.3 where none is set).
    """
    steps = config.schedule_steps or steps
    peak, end = config.learning_rate, config.learning_rate * config.final_fraction
    warmup = min(config.warmup_steps or round(config.warmup_fraction * steps), steps - 1)
    if config.schedule == "one_cycle":
        return optax.cosine_onecycle_schedule(steps, peak, pct_start=warmup / steps or 0.3)
    if config.schedule == "exponential":
        return optax.exponential_decay(peak, max(steps - 1, 1), config.final_fraction)
    rest = max(steps - warmup, 1)
    shapes = {
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction),
        "linear": optax.linear_schedule(peak, end, rest),
        "constant": optax.constant_schedule(peak),
    }
    # Counted from 1, so that the first update moves and the last warm-up update has the peak rate.
    ramp = lambda count: peak * (count + 1) / max(warmup, 1)  # noqa: E731
    return optax.join_schedules([ramp, shapes[config.schedule]], [warmup])


def make_optimizer(
    config: ConfigDict, steps: int, params: Any
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation for `steps` updates of `params`; its update also takes `progress`, the steps of the schedule so far.

    Raises:
      UserError: a pattern of `multipliers` or `freeze` that matches no parameter.
    """
    schedule = make_schedule(config, steps)
    momentum = config.momentum or None
    kinds = {
        "adamw": lambda: optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        "sgd": lambda: optax.trace(momentum) if momentum else optax.identity(),
        "adafactor": lambda: optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        ),
        "lion": lambda: optax.scale_by_lion(config.beta1, config.beta2),
    }
    decay = jax.tree.map(lambda name: not NO_DECAY.search(name), names(params))
    factors = _by_pattern(config.multipliers, 1.0, params, "multipliers")
    thaw = _by_pattern(config.freeze, -1, params, "freeze")
    gate = _gate(thaw) if config.freeze else optax.identity()
    return optax.chain(
        gate,  # before clipping and moments: a frozen parameter's gradient counts nowhere
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        kinds[config.name](),
        optax.add_decayed_weights(config.weight_decay, decay)
        if config.weight_decay
        else optax.identity(),
        _scale_by(schedule),
        _scale(factors) if config.multipliers else optax.identity(),
        _scale(_layer_factors(config.layer_decay, params))
        if config.layer_decay != 1
        else optax.identity(),
        gate,
    )


def frozen(config: ConfigDict, params: Any) -> Any:
    """Returns a tree of whether a parameter is never trained, so that nothing need be computed for its gradient."""
    return jax.tree.map(lambda step: step == 0, _by_pattern(config.freeze, -1, params, "freeze"))


def _by_pattern(rules: tuple, default: float, params: Any, key: str) -> Any:
    """Returns a tree of the value of the first rule whose pattern is found in the parameter's name."""
    tree = names(params)
    for pattern, _ in rules:
        if not any(re.search(pattern, name) for name in jax.tree.leaves(tree)):
            some = ", ".join(jax.tree.leaves(tree)[:4])
            raise UserError(
                f"optimizer.{key}: no parameter's name matches '{pattern}'; names read {some} …"
            )
    return jax.tree.map(
        lambda name: next((value for pattern, value in rules if re.search(pattern, name)), default),
        tree,
    )


def _scale_by(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Scales by minus the learning rate at `progress`, the steps of the schedule so far; without it, at the count of updates."""

    def update(
        updates: Any, state: Any, params: Any = None, *, progress: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        rate = schedule(state.count if progress is None else progress)
        return jax.tree.map(lambda u: -rate * u, updates), optax.ScaleByScheduleState(
            state.count + 1
        )

    return optax.GradientTransformationExtraArgs(
        lambda _: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
    )


def _layer_factors(decay: float, params: Any) -> Any:
    """Returns the factors of layer-wise decay (BEiT): decay^(L - i) for layer i of a stack of L, decay^(L + 1) below it, 1 above."""
    tree = zip(jax.tree.leaves(names(params)), jax.tree.leaves(params), strict=True)
    depth = next((leaf.shape[0] for name, leaf in tree if name.startswith("encoder/layers/")), 0)
    if not depth:
        raise UserError(
            f"optimizer.layer_decay is {decay}, but the encoder has no stack of layers; use multipliers"
        )

    def factor(name: str, leaf: Any) -> Any:
        if name.startswith("encoder/layers/"):
            return decay ** jnp.arange(depth, 0, -1.0).reshape(-1, *[1] * (leaf.ndim - 1))
        return decay ** (depth + 1.0) if name.startswith("encoder/") else 1.0

    return jax.tree.map(factor, names(params), params)


def _scale(factors: Any) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u, factor: u * factor, updates, factors)
    )


def _gate(thaw: Any) -> optax.GradientTransformation:
    """Zeroes updates of parameters until their step `thaw`: -1 never frozen, 0 frozen for good."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def open_(u: Any, at: int) -> Any:
            return (
                u
                if at < 0
                else jnp.zeros_like(u)
                if at == 0
                else jnp.where(state.count >= at, u, 0)
            )

        count = optax.safe_increment(state.count)
        return jax.tree.map(open_, updates, thaw), optax.ScaleByScheduleState(count)

    return optax.GradientTransformation(
        lambda _: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
    )


def update_ema(ema: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Returns the exponential moving average after one more step; early on it averages all steps so far."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, ema, params)


import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    name: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    schedule_count: int = 0
    schedule_steps: int = 0
    warmup_steps: int = 0
    warmup_fraction: float = 0.05
    final_fraction: float = 0.01
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    accumulation: int = 1
    ema_decay: float = 0.0
    multipliers: tuple = ()
    layer_decay: float = 1.0
    freeze: tuple = ()
