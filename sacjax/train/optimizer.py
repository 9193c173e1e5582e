"""An optax chain: clipping, optimizer, weight decay, schedule, per-layer rates, freezing."""

import dataclasses
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from sacjax.config.options import Options as OptionsBase
from sacjax.errors import UserError

# Biases, the affine of norms, and a front end's frequencies, widths and exponents.
NO_DECAY = re.compile(r"(^|/)((bias|scale|mean|var)$|front_end/)")
# Layers of the Transformer: stacked over depth, or one after the other with a number each.
LAYER = re.compile(r"^encoder/transformer/layers/(?:(\d+)/)?")
FINAL_NORM = "encoder/transformer/final_norm/"  # of a pre-norm Transformer, above its layers


@dataclasses.dataclass(frozen=True)
class Options(OptionsBase):
    """`optimizer` of a stage."""

    where = "optimizer"

    name: Literal["adamw", "sgd", "adafactor", "lion"] = "adamw"
    learning_rate: float = 1e-3
    """The peak of the schedule."""

    schedule: Literal["cosine", "linear", "constant", "exponential", "one_cycle"] = "cosine"
    schedule_count: int = 0
    """> 0: the schedule counts what the loss averages over (wav2vec 2.0: masked frames), so many
    a step; 0: it counts updates."""

    schedule_steps: int = 0
    """Length of the schedule in its steps; 0 = the updates of the run."""

    warmup_steps: int = 0
    warmup_fraction: float = 0.05
    """Share of all steps, where `warmup_steps` is 0."""

    final_fraction: float = 0.01
    """The last learning rate as a share of the peak."""

    momentum: float = 0.9
    """Of sgd."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    """Off for biases and norms."""

    clip_norm: float = 1.0
    """Global norm of the gradient at the most; 0 = any."""

    accumulation: int = 1
    """Micro-batches an update."""

    ema_decay: float = 0.0
    """> 0: an exponential moving average of the parameters is what is evaluated."""

    multipliers: tuple[Any, ...] = ()
    """((pattern of parameter names, factor of the learning rate), …); the first that matches."""

    layer_decay: float = 1.0
    """< 1: layer i of L learns at layer_decay^(L - i) of the rate, what is below the layers at
    layer_decay^(L + 1)."""

    freeze: tuple[Any, ...] = ()
    """((pattern of parameter names, step at which they thaw; 0 = never), …); the first that
    matches. Statistics whose names match are held too."""

    def check(self) -> None:
        """Raises UserError that names the first key whose value does not fit."""
        self.require_not_negative(
            "learning_rate",
            "schedule_count",
            "schedule_steps",
            "warmup_steps",
            "final_fraction",
            "eps",
            "weight_decay",
            "clip_norm",
        )
        self.require_shares("warmup_fraction", "momentum", "ema_decay", "layer_decay")
        self.require_rates("beta1", "beta2")  # at 1 no gradient would count, without a word
        falls = self.final_fraction > 0 or self.schedule != "exponential"
        self.require(falls, "final_fraction", "an exponential schedule needs one above 0")
        self.require_positive("accumulation")
        self._check_rules("multipliers", "a factor")
        self._check_rules("freeze", "a step")

    def _check_rules(self, key: str, what: str) -> None:
        for rule in getattr(self, key):
            try:
                pattern, value = rule
                re.compile(pattern)
                fits = value >= 0
            except (TypeError, ValueError, re.error):
                fits = False
            if not fits:
                raise UserError(
                    f"optimizer.{key} has {rule!r}: give pairs of a pattern (a regular expression) "
                    f"and {what} that is not negative"
                )


def names(params: Any) -> Any:
    """Returns a tree like `params` of each leaf's name, as 'encoder/layer1/0/conv1/kernel'."""
    return jax.tree_util.tree_map_with_path(lambda path, _: name_of(path), params)


def name_of(path: tuple) -> str:
    """Returns a tree path as 'a/b/c'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def make_schedule(options: Options, steps: int) -> optax.Schedule:
    """Returns step → learning rate: a linear warm-up, then the shape that the options name.

    `exponential` goes from the learning rate to `final_fraction` of it (the learning-rate finder
    rises with it); `one_cycle` is Smith and Topin 2019, with the warm-up as the rising share (0.3
    where none is set).

    Args:
      options: of the optimizer.
      steps: its length, where `schedule_steps` is 0.
    """
    steps = options.schedule_steps or steps
    peak, end = options.learning_rate, options.learning_rate * options.final_fraction
    warmup = min(options.warmup_steps or round(options.warmup_fraction * steps), steps - 1)
    if options.schedule == "one_cycle":
        return optax.cosine_onecycle_schedule(steps, peak, pct_start=warmup / steps or 0.3)
    if options.schedule == "exponential":
        return optax.exponential_decay(peak, max(steps - 1, 1), options.final_fraction)
    rest = max(steps - warmup, 1)
    shapes = {
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=options.final_fraction),
        "linear": optax.linear_schedule(peak, end, rest),
        "constant": optax.constant_schedule(peak),
    }
    # Counted from 1, so that the first update moves and the last warm-up update has the peak rate.
    ramp = lambda count: peak * (count + 1) / max(warmup, 1)  # noqa: E731
    return optax.join_schedules([ramp, shapes[options.schedule]], [warmup])


def make_optimizer(
    options: Options, steps: int, params: Any
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation for `steps` updates of `params`.

    Its update also takes `progress`, the steps of the schedule so far.

    Raises:
      UserError: a pattern of `multipliers` or `freeze` that matches no parameter; `layer_decay`
        without layers.
    """
    decay = jax.tree.map(lambda name: not NO_DECAY.search(name), names(params))
    factors = _by_pattern(options.multipliers, 1.0, params, "multipliers")
    thaw = _by_pattern(options.freeze, -1, params, "freeze")
    gate = _gate(thaw) if options.freeze else optax.identity()
    return optax.chain(
        gate,  # before clipping and moments: a frozen parameter's gradient counts nowhere
        optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity(),
        _from_thaw(options, thaw) if options.freeze else _kind(options),
        optax.add_decayed_weights(options.weight_decay, decay)
        if options.weight_decay
        else optax.identity(),
        _scale_by(make_schedule(options, steps)),
        _scale(factors) if options.multipliers else optax.identity(),
        _scale(_layer_factors(options.layer_decay, params))
        if options.layer_decay != 1
        else optax.identity(),
        gate,
    )


def _kind(options: Options) -> optax.GradientTransformation:
    """Returns what makes the optimizer that `name` says of gradients."""
    momentum = options.momentum or None
    kinds = {
        "adamw": lambda: optax.scale_by_adam(options.beta1, options.beta2, options.eps),
        "sgd": lambda: optax.trace(momentum) if momentum else optax.identity(),
        "adafactor": lambda: optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        ),
        "lion": lambda: optax.scale_by_lion(options.beta1, options.beta2),
    }
    return kinds[options.name]()


def _from_thaw(options: Options, thaw: Any) -> optax.GradientTransformation:
    """Returns an optimizer a group of parameters that thaw at one step; it begins at that step.

    One optimizer for all would count updates from the first. Of a parameter that thaws at update
    1000, Adam knows one gradient, but would correct its moments as if it knew 1000: the first step
    would be (1 - beta1) / sqrt(1 - beta2) = 3.2 times the learning rate, the twelfth 6.6 times.

    Args:
      options: of the optimizer.
      thaw: tree of the step at which each parameter thaws: -1 never frozen, 0 frozen for good.
    """

    def begun_at(step: int) -> optax.GradientTransformation:
        if step == 0:
            return optax.set_to_zero()
        if step < 0:
            return _kind(options)
        return optax.conditionally_mask(_kind(options), lambda count: count >= step)

    def label(step: int) -> str:
        return "never" if step == 0 else "always" if step < 0 else f"from_{step}"

    groups = {label(step): begun_at(step) for step in jax.tree.leaves(thaw)}
    return optax.partition(groups, jax.tree.map(label, thaw))


def frozen(options: Options, params: Any) -> Any:
    """Returns a tree of whether a parameter is never trained: its gradient need not be computed."""
    return jax.tree.map(lambda step: step == 0, _by_pattern(options.freeze, -1, params, "freeze"))


def frozen_statistics(options: Options, old: Any, new: Any, step: Any) -> Any:
    """Returns variables that are not parameters, with the old statistics where they are frozen.

    A pattern of `freeze` that matches the name of a variable, such as
    'encoder/layer1/0/bn1/mean', holds it until the parameters that it matches thaw. Random keys and
    counters go on. A pattern need not match any.

    Args:
      options: of the optimizer.
      old: tree of arrays, before the update.
      new: the same tree, after it.
      step: int or int32 [], updates before this one.
    """

    def held(name: str, before: Any, after: Any) -> Any:
        at = _first_match(options.freeze, name, -1)
        if at < 0 or not jnp.issubdtype(after.dtype, jnp.floating):
            return after
        return before if at == 0 else jnp.where(step >= at, after, before)

    return jax.tree.map(held, names(new), old, new)


def _by_pattern(rules: tuple, default: float, params: Any, key: str) -> Any:
    """Returns a tree of the value of the first rule whose pattern is in the parameter's name."""
    tree = names(params)
    for pattern, _ in rules:
        if not any(re.search(pattern, name) for name in jax.tree.leaves(tree)):
            some = ", ".join(jax.tree.leaves(tree)[:4])
            raise UserError(
                f"optimizer.{key}: no parameter's name matches '{pattern}'; names read {some} …"
            )
    return jax.tree.map(lambda name: _first_match(rules, name, default), tree)


def _first_match(rules: tuple, name: str, default: Any) -> Any:
    return next((value for pattern, value in rules if re.search(pattern, name)), default)


def _scale_by(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Scales by minus the learning rate at `progress`; without it, at the count of updates."""

    def update(
        updates: Any, state: Any, params: Any = None, *, progress: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        rate = schedule(state.count if progress is None else progress)
        count = state.count + 1
        return jax.tree.map(lambda u: -rate * u, updates), optax.ScaleByScheduleState(count)

    return optax.GradientTransformationExtraArgs(
        lambda _: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
    )


def _layer_factors(decay: float, params: Any) -> Any:
    """Returns the factors of layer-wise decay as BEiT's (Bao et al. 2022).

    decay^(L - i) for layer i of L, counted from 0; decay^(L + 1) for what is below the layers in
    the encoder; 1 for what is above them: a final norm, and all outside the encoder.
    """
    depth = 0
    for name, leaf in zip(jax.tree.leaves(names(params)), jax.tree.leaves(params), strict=True):
        if layer := LAYER.match(name):
            depth = max(depth, leaf.shape[0] if layer[1] is None else int(layer[1]) + 1)
    if not depth:
        raise UserError(
            f"optimizer.layer_decay is {decay}, but the encoder has no layers of a Transformer; "
            "use multipliers"
        )

    def factor(name: str, leaf: Any) -> Any:
        if layer := LAYER.match(name):
            if layer[1] is not None:
                return decay ** (depth - int(layer[1]))
            return decay ** jnp.arange(depth, 0, -1.0).reshape(-1, *[1] * (leaf.ndim - 1))
        below = name.startswith("encoder/") and not name.startswith(FINAL_NORM)
        return decay ** (depth + 1.0) if below else 1.0

    return jax.tree.map(factor, names(params), params)


def _scale(factors: Any) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u, factor: u * factor, updates, factors)
    )


def _gate(thaw: Any) -> optax.GradientTransformation:
    """Zeroes updates of parameters until their step `thaw`: -1 never frozen, 0 frozen for good."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def open_(u: Any, at: int) -> Any:
            if at < 0:
                return u
            return jnp.where(state.count >= at, u, 0) if at else jnp.zeros_like(u)

        count = optax.safe_increment(state.count)
        return jax.tree.map(open_, updates, thaw), optax.ScaleByScheduleState(count)

    return optax.GradientTransformation(
        lambda _: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
    )


def update_ema(ema: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Returns the moving average after one more step; early on it averages all steps so far."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, ema, params)
