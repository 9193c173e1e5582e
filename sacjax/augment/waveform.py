"""Augmentations of a waveform, one example at a time: `f(key, x [T], length, *, sample_rate, …options) -> (x, length)`.

All shapes are static; what lies beyond `length` stays zero. `apply` in this package's `__init__` maps them over a batch.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sacjax.errors import UserError


def valid(x: jax.Array, length: jax.Array) -> jax.Array:
    """Returns x with zeros beyond `length`."""
    return jnp.where(jnp.arange(x.shape[0]) < length, x, 0)


def power(x: jax.Array, length: jax.Array) -> jax.Array:
    """Returns the mean square of the valid part."""
    return (valid(x, length) ** 2).sum() / jnp.maximum(length, 1)


def gain(key: Any, x: Any, length: Any, *, sample_rate: int, low_db: float = -6.0, high_db: float = 6.0) -> Any:
    """Multiplies by a level drawn uniformly in decibels."""
    return x * 10 ** (jax.random.uniform(key, minval=low_db, maxval=high_db) / 20), length


def polarity(key: Any, x: Any, length: Any, *, sample_rate: int) -> Any:
    """Turns the sign."""
    return -x, length


def shift(
    key: Any, x: Any, length: Any, *, sample_rate: int, max_share: float = 1.0, circular: bool = True
) -> Any:
    """Moves by up to ±`max_share` of the valid length; what leaves comes in at the other end, or zeros do."""
    by = jnp.round(jax.random.uniform(key, minval=-1.0, maxval=1.0) * max_share * length).astype(jnp.int32)
    size, at = jnp.maximum(length, 1), jnp.arange(x.shape[0])
    source = at - by
    moved = x[jnp.where(at < length, jnp.mod(source, size), at)]
    return moved if circular else jnp.where((source >= 0) & (source < length), moved, 0), length


def _add_noise(key: Any, x: Any, length: Any, noise: Any, low_snr: float, high_snr: float) -> Any:
    snr = jax.random.uniform(key, minval=low_snr, maxval=high_snr)
    level = jnp.sqrt(power(x, length) / jnp.maximum(power(noise, length), 1e-20) * 10 ** (-snr / 10))
    return valid(x + level * noise, length), length


def noise(
    key: Any, x: Any, length: Any, *, sample_rate: int, low_snr: float = 10.0, high_snr: float = 30.0,
    low_exponent: float = 0.0, high_exponent: float = 0.0,
) -> Any:  # fmt: skip
    """Adds noise at a signal-to-noise ratio in dB, drawn uniformly; its power falls as 1 / f^exponent (0 white, 1 pink, 2 brown)."""
    keys = jax.random.split(key, 3)
    sound = jax.random.normal(keys[0], x.shape)
    if low_exponent or high_exponent:
        exponent = jax.random.uniform(keys[1], minval=low_exponent, maxval=high_exponent)
        bins = jnp.maximum(jnp.arange(x.shape[0] // 2 + 1), 1)
        sound = jnp.fft.irfft(jnp.fft.rfft(sound) * bins ** (-exponent / 2), x.shape[0])
    return _add_noise(keys[2], x, length, sound, low_snr, high_snr)


@functools.lru_cache(maxsize=8)
def _folder(folder: str, sample_rate: int, seconds: float, most: int = 512) -> np.ndarray:
    """Returns the first `most` sounds of a folder as float32 [N, samples], repeated or cut to `seconds`."""
    import soundfile as sf

    from sacjax.data import decode, sources

    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in sources.EXTENSIONS and p.is_file())
    if not paths:
        raise UserError(f"augment: there are no sound files in the folder '{folder}'")
    sounds = []
    for path in paths[:most]:
        try:
            sounds.append(decode.read_window(sources.FileClip(str(path)), sample_rate, 0.0, seconds, "repeat")[0])
        except (OSError, ValueError, sf.LibsndfileError) as error:
            raise UserError(f"augment: {path} cannot be read: {error}") from error
    return np.stack(sounds)


def noise_folder(
    key: Any, x: Any, length: Any, *, sample_rate: int, folder: str = "", low_snr: float = 0.0, high_snr: float = 20.0
) -> Any:
    """Adds a recording of a folder, from a random place on, at a signal-to-noise ratio in dB. The folder is kept on the device."""
    sounds = jnp.asarray(_folder(folder, sample_rate, x.shape[0] / sample_rate))
    keys = jax.random.split(key, 3)
    sound = sounds[jax.random.randint(keys[0], (), 0, sounds.shape[0])]
    sound = jnp.roll(sound, jax.random.randint(keys[1], (), 0, x.shape[0]))
    return _add_noise(keys[2], x, length, sound, low_snr, high_snr)


def speed(key: Any, x: Any, length: Any, *, sample_rate: int, low: float = 0.9, high: float = 1.1) -> Any:
    """Plays faster or slower (tempo and pitch together) by linear interpolation; the valid length changes with it.

    Faster than 1 is band-limited first, so that nothing folds back. A slower clip is cut to the array's length.
    """
    rate = jnp.exp(jax.random.uniform(key, minval=np.log(low), maxval=np.log(high)))
    return _play(x, length, rate)


def _play(x: jax.Array, length: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
    size = x.shape[0]
    spectrum = jnp.fft.rfft(x)
    keep = jnp.arange(spectrum.shape[0]) <= spectrum.shape[0] / jnp.maximum(rate, 1.0)
    smooth = jnp.where(rate > 1, jnp.fft.irfft(jnp.where(keep, spectrum, 0), size), x)
    at = jnp.arange(size) * rate
    low = jnp.minimum(at.astype(jnp.int32), size - 1)
    part = at - low
    out = smooth[low] * (1 - part) + smooth[jnp.minimum(low + 1, size - 1)] * part
    new = jnp.minimum(jnp.ceil(length / rate).astype(jnp.int32), size)
    return valid(out, new), new


def pitch(
    key: Any, x: Any, length: Any, *, sample_rate: int, low: float = -2.0, high: float = 2.0, n_fft: int = 1024
) -> Any:
    """Moves the pitch by semitones drawn uniformly and keeps the duration: a phase vocoder (Laroche and Dolson 1999), then
    resampling.
    """
    hop = n_fft // 4
    rate = 2 ** (jax.random.uniform(key, minval=low, maxval=high) / 12)
    window = jnp.hanning(n_fft + 1)[:-1]
    size = x.shape[0]
    padded = jnp.pad(x, (n_fft, 2 * n_fft))
    count = 1 + int(np.ceil((size + n_fft) / hop))  # frames of the stretched signal that can matter for any rate ≥ 1
    stretch = max(2 ** (high / 12), 1.0)
    count = int(np.ceil(count * stretch))
    # Analysis frames at steps of hop / rate: stretched by `rate`, then played `rate` times as fast.
    at = jnp.arange(count) * hop / rate + n_fft / 2
    first = jnp.clip(at.astype(jnp.int32), 0, padded.shape[0] - n_fft - hop)
    take = lambda start: jax.vmap(lambda s: jax.lax.dynamic_slice(padded, (s,), (n_fft,)))(start)
    now, before = jnp.fft.rfft(take(first) * window), jnp.fft.rfft(take(jnp.maximum(first - hop, 0)) * window)
    expected = 2 * jnp.pi * hop * jnp.arange(n_fft // 2 + 1) / n_fft
    advance = jnp.angle(now) - jnp.angle(before) - expected
    advance = expected + advance - 2 * jnp.pi * jnp.round(advance / (2 * jnp.pi))
    phase = jnp.cumsum(advance.at[0].set(jnp.angle(now[0])), 0)
    frames = jnp.fft.irfft(jnp.abs(now) * jnp.exp(1j * phase), n_fft) * window
    total = (count + 3) * hop
    quarters = frames.reshape(count, 4, hop)
    out = sum(
        jnp.pad(quarters[:, q].reshape(-1), (q * hop, total - count * hop - q * hop)) for q in range(4)
    ) / 1.5  # the squared Hann windows at a hop of a quarter add up to 1.5
    out = out[n_fft // 2 :]
    played, _ = _play(jnp.pad(out, (0, max(0, size - out.shape[0]))), jnp.asarray(out.shape[0]), rate)
    return valid(played[:size], length), length


def reverb(
    key: Any, x: Any, length: Any, *, sample_rate: int, folder: str = "", low_seconds: float = 0.1,
    high_seconds: float = 0.8, low_wet: float = 0.1, high_wet: float = 0.5,
) -> Any:  # fmt: skip
    """Mixes in a room: an impulse response of `folder`, or exponentially decaying noise (60 dB in a reverberation time drawn uniformly).

    `wet` is the reverberated share, drawn uniformly; the level of the clip is kept.
    """
    keys = jax.random.split(key, 4)
    size = x.shape[0]
    if folder:
        rooms = jnp.asarray(_folder(folder, sample_rate, high_seconds))
        response = rooms[jax.random.randint(keys[0], (), 0, rooms.shape[0])]
    else:
        time = jnp.arange(int(high_seconds * sample_rate)) / sample_rate
        decay = jax.random.uniform(keys[1], minval=low_seconds, maxval=high_seconds)
        response = jax.random.normal(keys[0], time.shape) * jnp.exp(-np.log(1000) * time / decay)
    total = size + response.shape[0]
    wet = jnp.fft.irfft(jnp.fft.rfft(x, total) * jnp.fft.rfft(response, total), total)[:size]
    wet = wet * jnp.sqrt(power(x, length) / jnp.maximum(power(wet, length), 1e-20))
    share = jax.random.uniform(keys[2], minval=low_wet, maxval=high_wet)
    return valid((1 - share) * x + share * wet, length), length
