"""Augmentations of audio.

Each is a function of one clip: `(key, x [T] float32, length, *, sample_rate, **options) ->
(x, length)`. They are vmapped, run inside jit, and are a pure function of their key. `x` is zero
beyond `length`, its valid samples; `sacjax.augment.apply` throws away whatever they write beyond. A
returned length is never greater than the one given.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Array, Float, Int, Key

from sacjax.augment import sounds
from sacjax.augment.draws import between, integer, scalars
from sacjax.frontend.fft import irfft, rfft
from sacjax.frontend.inversion import istft
from sacjax.frontend.spectral import stft

Clip = tuple[Float[Array, " time"], Int[Array, ""]]


def _power(x: Float[Array, " time"], length: Int[Array, ""]) -> Float[Array, ""]:
    """Mean square of the valid samples."""
    inside = jnp.arange(x.shape[0]) < length
    return jnp.where(inside, x**2, 0).sum() / jnp.maximum(length, 1)


def gain(
    key: Key[Array, ""],
    x: Float[Array, " time"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
    low_db: float = -6.0,
    high_db: float = 6.0,
) -> Clip:
    """Changes the level by low_db to high_db decibels."""
    return x * 10 ** (between(scalars(key, 1)[0], low_db, high_db) / 20), length


def polarity(
    key: Key[Array, ""],
    x: Float[Array, " time"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
) -> Clip:
    """Flips the sign; set `probability`, as it always does."""
    return -x, length


def shift(
    key: Key[Array, ""],
    x: Float[Array, " time"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
    max_share: float = 0.5,
    circular: bool = True,
) -> Clip:
    """Moves the sound later or earlier by up to max_share of its length, both alike.

    Args:
      circular: what leaves at one end of the valid part enters at the other; else silence enters.
    """
    size = x.shape[0]
    most = jnp.floor(max_share * length).astype(jnp.int32)
    step = integer(scalars(key, 1)[0], 2 * most + 1) - most
    silence = jnp.zeros_like(x)
    # Slices of the clip between silences: contiguous copies, where indexing would be a gather.
    if not circular:
        padded = jnp.concatenate([silence, x, silence])
        return jax.lax.dynamic_slice(padded, (size - step,), (size,)), length
    step = step % jnp.maximum(length, 1)
    late = jax.lax.dynamic_slice(jnp.concatenate([silence, x]), (size - step,), (size,))
    wrapped = jax.lax.dynamic_slice(jnp.concatenate([x, silence]), (length - step,), (size,))
    return jnp.where(jnp.arange(size) < step, wrapped, late), length


def noise(
    key: Key[Array, ""],
    x: Float[Array, " time"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
    low_snr_db: float = 5.0,
    high_snr_db: float = 30.0,
    low_exponent: float = 0.0,
    high_exponent: float = 0.0,
    folder: str = "",
) -> Clip:
    """Adds noise at a signal-to-noise ratio of low_snr_db to high_snr_db.

    By mean power over the valid part.

    Args:
      low_exponent, high_exponent: the noise's power falls with frequency as f ** -exponent: 0 is
        white, 1 pink, 2 brown, -1 blue.
      folder: of sound files to take noise from instead, a random stretch each time; read once, up
        to `sounds.MAX_SECONDS`.
    """
    size = x.shape[0]
    key, noise_key = jax.random.split(key)
    u = scalars(key, 3)
    if folder:
        pool = sounds.pool(folder, sample_rate, size)
        start = integer(u[2], pool.shape[0] - size + 1)
        added = jax.lax.dynamic_slice(jnp.asarray(pool), (start,), (size,)).astype(jnp.float32)
    else:
        added = jax.random.normal(noise_key, (size,))
        if (low_exponent, high_exponent) != (0, 0):
            fast = scipy.fft.next_fast_len(size, real=True)
            frequency = jnp.maximum(jnp.arange(fast // 2 + 1), 1) / fast
            slope = -between(u[1], low_exponent, high_exponent) / 2  # of magnitudes
            added = irfft((rfft(added, fast) * frequency**slope).at[0].set(0), fast)[:size]
    snr = 10 ** (between(u[0], low_snr_db, high_snr_db) / 10)
    noise_power = _power(added, length)
    wanted = _power(x, length) / snr
    return x + added * jnp.sqrt(wanted / jnp.where(noise_power > 0, noise_power, 1)), length


def reverb(
    key: Key[Array, ""],
    x: Float[Array, " time"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
    low_t60: float = 0.1,
    high_t60: float = 0.8,
    low_drr_db: float = 0.0,
    high_drr_db: float = 15.0,
    folder: str = "",
) -> Clip:
    """Puts the sound in a room; its mean power stays. The tail is cut at the clip's end.

    The impulse response is the direct sound and, after it, white noise that decays exponentially
    (Polack 1988; Moorer 1979).

    Args:
      low_t60, high_t60: seconds in which the tail falls by 60 dB.
      low_drr_db, high_drr_db: energy of the direct sound over that of the tail, decibels.
      folder: of recorded impulse responses (wav …) to draw from instead; read once, from their
        highest peak on, `high_t60` seconds of each.
    """
    size, taps = x.shape[0], max(round(high_t60 * sample_rate), 2)
    key, noise_key = jax.random.split(key)
    u = scalars(key, 2)
    if folder:
        responses = jnp.asarray(sounds.responses(folder, sample_rate, taps))
        response = responses[integer(u[0], responses.shape[0])]
    else:
        time = jnp.arange(1, taps) / sample_rate
        tail = jax.random.normal(noise_key, (taps - 1,)) * 10 ** (
            -3 * time / between(u[0], low_t60, high_t60)
        )
        tail *= 10 ** (-between(u[1], low_drr_db, high_drr_db) / 20) / jnp.sqrt((tail**2).sum())
        response = jnp.concatenate([jnp.ones(1), tail])
    fast = scipy.fft.next_fast_len(size + taps - 1, real=True)
    y = irfft(rfft(x, fast) * rfft(response, fast), fast)[:size]
    power = _power(y, length)
    return y * jnp.sqrt(_power(x, length) / jnp.where(power > 0, power, 1)), length


# Factors of speed are whole numbers over this, so that positions are whole numbers too: float32
# tells neighbours apart in clips of 5 minutes at 48 kHz at most.
STEPS = 2048
OVERSAMPLE = 4  # then a 5 kHz tone at 16 kHz keeps 55 dB from its errors


def _factor(factor: jax.Array | float) -> jax.Array:
    return jnp.maximum(jnp.round(factor * STEPS), 1) / STEPS


def _step(factor: jax.Array) -> jax.Array:
    """Returns int32: how many STEPS of a sample a sound of `factor` moves on in one."""
    return jnp.round(factor * STEPS).astype(jnp.int32)


def _position(time: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns where output sample `time` is read, exactly: (sample [N], share of the next [N]).

    In samples of the oversampled sound: time * step / part. No product of int32 overflows before
    these positions do, at 3 hours of 48 kHz.
    """
    part = STEPS // OVERSAMPLE
    whole, rest = step // part, step % part
    blocks, left = time // part, time % part * rest
    return time * whole + blocks * rest + left // part, left % part / part


def _resample(x: jax.Array, factor: jax.Array, size: int) -> jax.Array:
    """Returns [size] samples of x [T] read at `factor` times the speed, silence after the end.

    y[t] = x(factor * t). Low-passed below the new Nyquist frequency and oversampled by FFT, then
    cubic interpolation between those (Catmull-Rom).
    """
    # Even, and some silence before the FFT's wrap-around.
    fast = scipy.fft.next_fast_len(x.shape[0] // 2 + 32, real=True) * 2
    spectrum = rfft(x, fast)
    frequency = jnp.arange(spectrum.shape[0]) / (fast / 2)
    spectrum *= jnp.clip((jnp.minimum(1 / factor, 1) - frequency) / 0.02, 0, 1)
    dense = OVERSAMPLE * irfft(spectrum, OVERSAMPLE * fast)
    position, u = _position(jnp.arange(size), _step(factor))
    a, b, c, d = (jnp.take(dense, position + i, mode="wrap") for i in (-1, 0, 1, 2))
    y = b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
    return jnp.where(position <= OVERSAMPLE * (x.shape[0] - 1), y, 0)


def speed(
    key: Key[Array, ""],
    x: Float[Array, " time"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
    low_factor: float = 0.9,
    high_factor: float = 1.1,
) -> Clip:
    """Plays the sound low_factor to high_factor times as fast, pitch and all (Ko et al. 2015).

    A faster clip gets shorter, its valid length with it; a slower one is cut at its old length.
    """
    factor = _factor(between(scalars(key, 1)[0], low_factor, high_factor))
    # ceil(length / factor) in whole numbers; a slower sound is as long as it was.
    step = jnp.maximum(_step(factor), STEPS)
    shorter = length // step * STEPS + -(-(length % step) * STEPS // step)
    return _resample(x, factor, x.shape[0]), shorter


def pitch(
    key: Key[Array, ""],
    x: Float[Array, " time"],
    length: Int[Array, ""],
    *,
    sample_rate: int,
    low_semitones: float = -2.0,
    high_semitones: float = 2.0,
) -> Clip:
    """Moves the pitch by low_semitones to high_semitones, the duration kept.

    The sound is read faster or slower, then stretched back by a phase vocoder (Flanagan & Golden
    1966). By far the dearest augmentation.
    """
    size = x.shape[0]
    n_fft = 2 ** round(np.log2(0.064 * sample_rate))
    hop = n_fft // 4
    factor = _factor(2 ** (between(scalars(key, 1)[0], low_semitones, high_semitones) / 12))
    longest = int(np.ceil(size / min(2 ** (low_semitones / 12), 1.0)))
    spectrum = stft(_resample(x, factor, longest), n_fft=n_fft, hop_length=hop, pad_mode="constant")
    magnitude, phase = jnp.abs(spectrum), jnp.angle(spectrum)
    # Output frame i is input frame i / factor: magnitudes in between, phases advanced as between
    # its neighbours.
    ticks, step = jnp.arange(1 + size // hop) * STEPS, _step(factor)
    frame, share = ticks // step, (ticks % step / step)[:, None]
    before = jnp.take(magnitude, frame, 0, mode="fill", fill_value=0)
    after = jnp.take(magnitude, frame + 1, 0, mode="fill", fill_value=0)
    advance = jnp.take(phase, frame + 1, 0, mode="clip") - jnp.take(phase, frame, 0, mode="clip")
    expected = jnp.asarray(
        2 * np.pi * ((np.arange(n_fft // 2 + 1) * hop) % n_fft) / n_fft, jnp.float32
    )
    advance -= expected
    advance += expected - 2 * np.pi * jnp.round(advance / (2 * np.pi))
    total = phase[:1] + jnp.cumsum(advance, 0) - advance
    stretched = ((1 - share) * before + share * after) * jnp.exp(1j * total)
    return istft(stretched, hop_length=hop, length=size), length
