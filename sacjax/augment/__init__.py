"""Augmentation on the accelerator, listed in a config in order.

`dict(name='gain', probability=0.5, low_db=-6.0)`: every entry has a `name`, a `probability`
(default 1, drawn for each example) and that augmentation's options; see `waveform`, `spectrogram`
and, for both kinds, `mixing` and `adversarial`. What happens to an example follows from its key
alone (and, where examples are mixed, from the others' keys), so that it does not depend on how many
devices share the batch.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from sacjax.augment import adversarial, mixing, sounds, spectrogram, waveform
from sacjax.augment.draws import fold_in
from sacjax.config import options as options_lib
from sacjax.errors import UserError, nearest
from sacjax.layers.conv import valid, zero_padding

Kind = Literal["waveform", "spectrogram"]
MIXING: dict[str, Callable] = {
    "mixup": mixing.mixup,
    "cutmix": mixing.cutmix,
    "log_mixup": mixing.log_mixup,
}
CLIP: dict[str, dict[str, Callable]] = {
    "waveform": {
        "gain": waveform.gain,
        "polarity": waveform.polarity,
        "shift": waveform.shift,
        "noise": waveform.noise,
        "reverb": waveform.reverb,
        "speed": waveform.speed,
        "pitch": waveform.pitch,
    },
    "spectrogram": {
        "frequency_mask": spectrogram.frequency_mask,
        "time_mask": spectrogram.time_mask,
        "time_warp": spectrogram.time_warp,
        "frequency_warp": spectrogram.frequency_warp,
        "resize_crop": spectrogram.resize_crop,
        "linear_fade": spectrogram.linear_fade,
    },
}
ATTACKS: dict[str, Callable] = {"fgsm": adversarial.fgsm, "pgd": adversarial.pgd}
MOVING = ("shift", "speed", "time_warp", "resize_crop")
"""Augmentations after which a sound is elsewhere in time."""

SHARES = ("max_share", "probability", "knee")
POSITIVE = ("alpha", "low_factor", "low_t60", "steps")
NOT_NEGATIVE = ("epsilon", "step")


@dataclasses.dataclass(frozen=True)
class Options(options_lib.Options):
    """`augment` of a stage."""

    where = "augment"

    waveform: tuple[Any, ...] = ()  # dict(name=…, probability=…, …) each, in order
    spectrogram: tuple[Any, ...] = ()
    crop_seconds: float = 0.0  # > 0: a view is a random stretch so long of the clip's crop

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        self.require_not_negative("crop_seconds")


class Attack(NamedTuple):
    """The adversarial augmentation of a stage."""

    kind: Kind
    """What it changes."""

    find: Callable[..., Array]
    """(gradient, keys, shape) → offset; see `adversarial`."""


def attack_of(config: Any) -> Attack | None:
    """Returns the attack that a stage's `augment` lists, where it may change anything."""
    for kind in get_args(Kind):
        for spec in config[kind]:
            options = dict(spec)
            name, probability = options.pop("name"), options.pop("probability", 1.0)
            if name in ATTACKS and probability > 0 and options.get("epsilon", 1.0) > 0:
                return Attack(kind, functools.partial(ATTACKS[name], **options))
    return None


def apply(
    specs: Iterable[Mapping[str, Any]],
    keys: Key[Array, " batch"],
    x: Shaped[Array, "batch time *bands"],
    lengths: Int[Array, " batch"],
    labels: Float[Array, "batch classes"],
    mask: Float[Array, " batch"],
    *,
    kind: Kind,
    sample_rate: int,
    offset: Float[Array, "batch time *bands"] | None = None,
) -> tuple[Shaped[Array, "batch time *bands"], Int[Array, " batch"], Float[Array, "batch classes"]]:
    """Applies augmentations in order; pure and jit-able. Returns (x, lengths, labels).

    Args:
      specs: what `check` has passed. Probability 0 leaves an example as it is, to the bit.
      keys: [B] typed keys, one an example, folded from (seed, step, global row). Entry i of `specs`
        folds 2 * i into each for its draws, 2 * i + 1 to choose the examples.
      x: [B, T] audio or [B, frames, bands]; its dtype is kept, the work is in float32. What lies
        beyond a clip's valid length stays.
      lengths: int [B], valid samples or frames. Only `speed` changes them, and never to more.
      labels: float32 [B, C], one-hot, soft or multi-hot; mixed by mixup and cut-mix.
      mask: [B]; rows of 0 are mixed with nobody.
      kind: what `x` is.
      sample_rate: Hz, of the audio.
      offset: what an attack adds where it stands in the list; None: nothing.
    """
    dtype, inside = x.dtype, valid(x, lengths)
    original, x = x, jnp.where(inside, x, 0).astype(jnp.float32)
    for i, spec in enumerate(specs):
        options = dict(spec)
        name, probability = options.pop("name"), options.pop("probability", 1.0)
        if probability <= 0 or (name in ATTACKS and offset is None):
            continue
        own, chosen = fold_in(keys, 2 * i), _choose(keys, 2 * i + 1, probability)
        if name in MIXING:
            x, labels = MIXING[name](
                own,
                x,
                lengths,
                labels,
                chosen & (mask > 0),
                mask,
                sample_rate=sample_rate,
                **options,
            )
        elif name in ATTACKS and offset is not None:
            x = jnp.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), x + offset, x)
        else:
            change = functools.partial(CLIP[kind][name], sample_rate=sample_rate, **options)
            changed, shorter = jax.vmap(change)(own, x, lengths)
            x = jnp.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), changed, x)
            lengths = jnp.where(chosen, shorter, lengths)
        x = zero_padding(x, lengths)
    return jnp.where(inside, x.astype(dtype), original), lengths, labels


def _choose(keys: Key[Array, " batch"], number: int, probability: float) -> Bool[Array, " batch"]:
    """Returns bool [B], each true with a probability."""
    if probability >= 1:
        return jnp.ones(len(keys), bool)
    return jax.vmap(jax.random.uniform)(fold_in(keys, number)) < probability


def moves_in_time(config: Any, seconds: float) -> str:
    """Returns the key of what moves sound in time in a stage's `augment`, or ''.

    Args:
      config: a stage's `augment`.
      seconds: of the stage's clips; a crop as long as they are moves nothing.
    """
    if 0 < config.crop_seconds < seconds:
        return "augment.crop_seconds"
    for kind in get_args(Kind):
        for i, spec in enumerate(config[kind]):
            if spec["name"] in MOVING and spec.get("probability", 1) > 0:
                return f"augment.{kind}.{i}, {spec['name']},"
    return ""


def check(specs: Any, kind: Kind) -> None:
    """Checks a config's list of augmentations before anything compiles.

    Raises:
      UserError: an unknown name or option (with the nearest known one), a wrong type or value, a
        folder without sounds.
    """
    if not isinstance(specs, list | tuple):
        raise UserError(
            f"augment.{kind} is {specs!r}: give a tuple of dict(name=…, probability=…, …)"
        )
    for i, spec in enumerate(specs):
        _check_spec(f"augment.{kind}.{i}", spec, kind)


def check_attacks(config: Any, input_kind: str, learned: bool) -> None:
    """Checks the attacks in a stage's `augment`, whose lists have passed `check`.

    Args:
      config: a stage's `augment`.
      input_kind: of the encoder, waveform or spectrogram.
      learned: whether its front end learns, and so is part of the model.

    Raises:
      UserError: several attacks, or one on spectrograms that are not made before the model.
    """
    found = [
        (f"augment.{kind}.{i}", kind, spec["name"])
        for kind in get_args(Kind)
        for i, spec in enumerate(config[kind])
        if spec["name"] in ATTACKS
    ]
    if len(found) > 1:
        raise UserError(f"{found[1][0]} is a second attack, after {found[0][0]}: keep one")
    for where, kind, name in found:
        if kind == "spectrogram" and (learned or input_kind != kind):
            raise UserError(
                f"{where}: {name} finds no spectrogram before this model: put it into "
                "augment.waveform"
            )


def _check_spec(where: str, spec: Any, kind: Kind) -> None:
    known = CLIP[kind] | MIXING | ATTACKS
    try:
        options = dict(spec)
        name = options.pop("name")
    except (TypeError, ValueError, KeyError):
        raise UserError(f"{where} is {spec!r}: give dict(name=…, probability=…, …)") from None
    if name not in known:
        raise UserError(
            f"{where}.name: there is no augmentation '{name}'{nearest(str(name), known)}"
        )
    parameters = _parameters(known[name])
    for key, value in options.items():
        if key not in parameters:
            raise UserError(f"{where}: '{name}' has no option '{key}'{nearest(key, parameters)}")
        _check_value(f"{where}.{key}", key, value, parameters[key])
    values = {key: options.get(key, p.default) for key, p in parameters.items()}
    for key in values:
        high = key.replace("low_", "high_", 1)
        if high != key and high in values and values[key] > values[high]:
            raise UserError(f"{where}: {key} {values[key]} is above {high} {values[high]}")
    if values.get("folder"):
        sounds.files(values["folder"])
    if values.get("between_class") and kind != "waveform":
        raise UserError(f"{where}.between_class is for waveforms")
    if name == "log_mixup" and kind != "spectrogram":
        raise UserError(f"{where}: log_mixup is for spectrograms")


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """Returns an augmentation's options: its parameters that have defaults, and `probability`."""
    given = inspect.signature(function).parameters
    probability = inspect.Parameter(
        "probability", inspect.Parameter.KEYWORD_ONLY, default=1.0, annotation=float
    )
    return {
        key: parameter
        for key, parameter in given.items()
        if parameter.default is not inspect.Parameter.empty
    } | {"probability": probability}


def _check_value(where: str, key: str, value: Any, parameter: inspect.Parameter) -> None:
    kind = type(parameter.default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number if kind is float else type(value) is kind):
        raise UserError(
            f"{where} is {value!r}: expected {kind.__name__}, such as {parameter.default!r}"
        )
    choices = get_args(parameter.annotation)
    if choices and value not in choices:
        raise UserError(f"{where} is '{value}'; choose one of {', '.join(choices)}")
    if kind is int and value < 0:
        raise UserError(f"{where} is {value}: it must not be negative")
    if key in SHARES and not 0 <= value <= 1:
        raise UserError(f"{where} is {value}: it must lie between 0 and 1")
    if key in POSITIVE and not value > 0:
        raise UserError(f"{where} is {value}: it must be greater than 0")
    if key == "canvas" and not value >= 1:
        raise UserError(f"{where} is {value}: it must be 1 or more")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{where} is {value}: it must be a finite number")
    if key in NOT_NEGATIVE and not 0 <= value < float("inf"):
        raise UserError(f"{where} is {value}: it must be a finite number that is not negative")
