"""Augmentation on the accelerator: a config lists `dict(name=…, probability=…, **options)`, applied in order.

Everything is drawn from one key an example, folded from (seed, step, row), so that the same example in the same step is
augmented alike on any number of devices.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sacjax.augment import mixing, spectrogram, waveform
from sacjax.errors import UserError, nearest

PAIRS = {"mixup": mixing.mixup, "cutmix": mixing.cutmix}
SINGLE: dict[str, dict[str, Any]] = {
    "waveform": {
        f.__name__: f
        for f in (waveform.gain, waveform.polarity, waveform.shift, waveform.noise, waveform.noise_folder,
                  waveform.speed, waveform.pitch, waveform.reverb)
    },
    "spectrogram": {f.__name__: f for f in (spectrogram.frequency_mask, spectrogram.time_mask, spectrogram.time_warp)},
}  # fmt: skip
PAIRED: dict[str, dict[str, Any]] = {"waveform": PAIRS | {"between_class": mixing.between_class}, "spectrogram": PAIRS}

__all__ = ["apply", "check"]


def check(specs: Sequence[Mapping[str, Any]], kind: str) -> None:
    """Raises UserError for an unknown augmentation or option (the nearest known one is named) or a wrong type.

    Args:
      specs: the config's list for `kind`, 'waveform' or 'spectrogram'.
    """
    known = SINGLE[kind] | PAIRED[kind]
    for spec in specs:
        if not isinstance(spec, Mapping) or "name" not in spec:
            raise UserError(f"augment.{kind}: each entry reads dict(name=…, probability=…); this one is {spec!r}")
        name = spec["name"]
        if name not in known:
            raise UserError(f"augment.{kind}: there is no '{name}'{nearest(name, known)}")
        parameters = inspect.signature(known[name]).parameters.values()
        options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "sample_rate"}
        options["probability"] = 1.0
        for option, value in spec.items():
            if option == "name":
                continue
            if option not in options:
                raise UserError(f"augment.{kind}: {name} has no option '{option}'{nearest(option, options)}")
            default = options[option]
            fits = isinstance(value, int | float) if isinstance(default, float) else isinstance(value, type(default))
            if not fits or isinstance(value, bool) != isinstance(default, bool):
                raise UserError(f"augment.{kind}: {name}.{option} is {value!r}: expected {type(default).__name__}")
        if not 0 <= spec.get("probability", 1.0) <= 1:
            raise UserError(f"augment.{kind}: {name}.probability is {spec['probability']}: it must lie between 0 and 1")


def apply(
    specs: Sequence[Mapping[str, Any]],
    keys: jax.Array,
    x: jax.Array,
    lengths: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    kind: str,
    sample_rate: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Applies the listed augmentations in order; pure and jit-able.

    Args:
      specs: dicts with `name`, `probability` (default 1) and the options of the function of that name.
      keys: [B] typed keys, one an example.
      x: float32 [B, T] waveforms, or [B, F, M] spectrograms.
      lengths: int32 [B], valid samples or frames.
      labels: float32 [B, C], one-hot, soft or multi-hot.
      mask: float32 [B], 0 for rows that are padding.
      kind: 'waveform' or 'spectrogram'.
      sample_rate: Hz.

    Returns:
      (x, lengths, labels), shapes as given.
    """
    for place, spec in enumerate(specs):
        options = {name: value for name, value in spec.items() if name not in ("name", "probability")}
        probability, name = spec.get("probability", 1.0), spec["name"]
        own = jax.vmap(lambda key, place=place: jax.random.fold_in(key, place))(keys)
        if name in PAIRED[kind]:
            x, lengths, labels = PAIRED[kind][name](
                own, x, lengths, labels, mask, sample_rate=sample_rate, probability=probability, **options
            )
            continue
        function = SINGLE[kind][name]

        def one(key: Any, clip: Any, length: Any, function: Any = function, p: Any = probability, o: Any = options) -> Any:
            coin, draw = jax.random.split(key)
            new, new_length = function(draw, clip, length, sample_rate=sample_rate, **o)
            on = jax.random.uniform(coin) < p
            return jnp.where(on, new, clip).astype(clip.dtype), jnp.where(on, new_length, length).astype(length.dtype)

        x, lengths = jax.vmap(one)(own, x, lengths)
    return x, lengths, labels
