"""Sounds made by rule, for trying everything without a download: 20 classes.

Each clip is a pure function of (seed, index). The pitched classes share one range of pitch and
random timbres, the noisy ones overlapping ranges of colour, so that they differ in how they unfold
in time; level, onset, noise floor and a weaker overlapping sound of another class are drawn for
each clip too. A linear model on mean log-mel features does poorly, a small network on spectrograms
does well.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import scipy.fft
from ml_collections import ConfigDict

from sacjax.data.recordings import Recordings
from sacjax.errors import UserError

Rng = np.random.Generator
Maker = Callable[
    [Rng, np.ndarray, float], np.ndarray
]  # (rng, time [n] in seconds, rate in Hz) -> samples [n]
LOW, HIGH = 220.0, 1200.0  # Hz, fundamentals of the pitched classes


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _voice(
    rng: Rng, frequency: float | np.ndarray, t: np.ndarray, rate: float, partials: int = 5
) -> np.ndarray:
    """A harmonic sound of a frequency in Hz, fixed or [n].

    Its random timbre does not tell its class.
    """
    cycles = np.cumsum(frequency) / rate if isinstance(frequency, np.ndarray) else frequency * t
    angle = (2 * np.pi * (cycles % 1.0)).astype(
        np.float32
    )  # single precision sines are several times faster
    z = np.cos(angle) + 1j * np.sin(angle)
    partials = int(np.clip(0.48 * rate / np.max(frequency), 1, partials))
    order = np.arange(1, partials + 1)
    weights = (
        rng.uniform(0.3, 1, partials)
        / order ** rng.uniform(0.6, 2.0)
        * np.exp(1j * rng.uniform(0, 6.28, partials))
    )
    sound = np.zeros_like(z)
    for weight in weights[::-1].astype(np.complex64):  # Horner: partial k is z ** k
        sound = (sound + weight) * z
    return sound.imag


def _noise(rng: Rng, n: int, rate: float, exponent: float) -> np.ndarray:
    """Gaussian noise of power ~ f ** -exponent above 40 Hz, of unit peak.

    An exponent of 0 is white, 1 pink, 2 brown, -1 blue.
    """
    size = scipy.fft.next_fast_len(n, real=True)
    frequency = np.maximum(np.arange(size // 2 + 1, dtype=np.float32) * np.float32(rate / size), 40)
    spectrum = rng.standard_normal(2 * len(frequency), np.float32).view(np.complex64)
    sound = scipy.fft.irfft(spectrum * frequency ** np.float32(-exponent / 2), size)[:n]
    return sound / np.abs(sound).max()


def _coloured(low: float, high: float) -> Maker:
    return lambda rng, t, rate: _noise(rng, len(t), rate, rng.uniform(low, high))


def _swing(rng: Rng, t: np.ndarray, low: float, high: float) -> np.ndarray:
    """A sine of a rate between `low` and `high` Hz and any phase."""
    return np.sin(
        (2 * np.pi * rng.uniform(low, high) * t + rng.uniform(0, 6.28)).astype(np.float32)
    )


def _tremolo(rng: Rng, t: np.ndarray, fast: bool) -> np.ndarray:
    return 0.5 + 0.5 * (_swing(rng, t, 11, 16) if fast else _swing(rng, t, 3, 5))


def _tone(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _voice(rng, _log_uniform(rng, LOW, HIGH), t, rate)


def _chirp(rng: Rng, t: np.ndarray, rate: float, up: bool) -> np.ndarray:
    span = rng.uniform(1.6, 2.6)
    share = t / t[-1]
    return _voice(
        rng, _log_uniform(rng, LOW, HIGH / span) * span ** (share if up else 1 - share), t, rate
    )


def _vibrato(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    depth = rng.uniform(0.06, 0.12)
    return _voice(rng, _log_uniform(rng, LOW, HIGH) * (1 + depth * _swing(rng, t, 8, 12)), t, rate)


def _siren(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _voice(
        rng,
        _log_uniform(rng, LOW * 1.4, HIGH / 1.4) * 2 ** (0.45 * _swing(rng, t, 2, 3.2)),
        t,
        rate,
    )


def _staircase(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    """Four to six notes, upwards."""
    notes, span = int(rng.integers(4, 7)), rng.uniform(1.8, 2.8)
    note = np.minimum(np.floor(t / t[-1] * notes), notes - 1)
    return _voice(rng, _log_uniform(rng, LOW, HIGH / span) * span ** (note / (notes - 1)), t, rate)


def _bell(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    """Inharmonic partials, the higher the shorter."""
    ratios = np.array([1.0, 2.0, 2.4, 3.0, 4.5]) * _log_uniform(rng, LOW, HIGH)
    decay, sound = rng.uniform(2.5, 5), np.zeros(len(t), np.float32)
    for k, frequency in enumerate(ratios[: max(int((ratios < 0.48 * rate).sum()), 1)]):
        cycles = (frequency * t + rng.uniform()) % 1.0
        sound += (
            np.sin((2 * np.pi * cycles).astype(np.float32))
            * np.exp((-decay * (1 + 0.3 * k) * t).astype(np.float32))
            / (1 + 0.5 * k)
        )
    return sound


def _comb(burst: np.ndarray, period: int, gain: float) -> np.ndarray:
    """Returns y[n] = burst[n] + gain (y[n - period] + y[n - period - 1]), float32 [n].

    It and `_decay` give what `scipy.signal.lfilter` gives: importing that took half a second of the
    time to a first step.
    """
    sound = np.concatenate([np.zeros(1, np.float32), burst])  # y[-1], y[0], …
    for start in range(period + 1, len(sound), period):
        heard = np.float32(gain) * sound[start - period - 1 : start]
        new = sound[start : start + period]
        new += (heard[:-1] + heard[1:])[: len(new)]
    return sound[1:]


def _decay(drops: np.ndarray, keep: float) -> np.ndarray:
    """Returns y[n] = drops[n] + keep y[n - 1], float32 [n]."""
    sound = np.where(drops, drops, np.float32(keep))
    sound[0] = drops[0]
    for start, end in itertools.pairwise([0, *np.flatnonzero(drops[1:]) + 1, len(drops)]):
        if start:
            sound[start] += np.float32(keep) * sound[start - 1]
        np.multiply.accumulate(sound[start:end], out=sound[start:end])
    return sound


def _plucked(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    """Karplus and Strong 1983: a burst of noise in a comb that averages two neighbours."""
    period = max(round(rate / _log_uniform(rng, LOW, HIGH)), 3)
    burst = np.zeros(len(t), np.float32)
    burst[:period] = rng.uniform(-1, 1, period)[: len(t)]
    return _comb(burst, period, 0.497)


def _rain(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    """Short bursts of noise at random times and levels."""
    drops = np.zeros(len(t), np.float32)
    count = max(int(rng.uniform(60, 90) * len(t) / rate), 1)
    drops[rng.integers(0, len(t), count)] = rng.exponential(1.0, count) + 0.2
    return _decay(drops, np.exp(-1 / (0.004 * rate))) * _noise(
        rng, len(t), rate, rng.uniform(-1, 0.3)
    )


def _clicks(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    period = rng.uniform(0.09, 0.14)
    since = (t + rng.uniform(0, period)) % period
    return np.exp((-since / 0.006).astype(np.float32)) * _noise(
        rng, len(t), rate, rng.uniform(0, 2)
    )


def _engine(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    """Thuds 25 to 40 times a second, at a speed that wanders."""
    speed = rng.uniform(25, 40) * (1 + 0.1 * _swing(rng, t, 0.5, 2))
    pulse = np.sin((np.pi * (np.cumsum(speed) / rate % 1.0)).astype(np.float32)) ** 8
    return pulse * _noise(rng, len(t), rate, rng.uniform(1.5, 2.2))


MAKERS: dict[str, Maker] = {
    "am_fast": lambda rng, t, rate: _tone(rng, t, rate) * _tremolo(rng, t, True),
    "am_slow": lambda rng, t, rate: _tone(rng, t, rate) * _tremolo(rng, t, False),
    "bell": _bell,
    "blue_noise": _coloured(-1.15, -0.85),
    "brown_noise": _coloured(1.85, 2.15),
    "chirp_down": lambda rng, t, rate: _chirp(rng, t, rate, False),
    "chirp_up": lambda rng, t, rate: _chirp(rng, t, rate, True),
    "clicks": _clicks,
    "engine": _engine,
    "noise_fast": lambda rng, t, rate: (
        _noise(rng, len(t), rate, rng.uniform(-1, 1)) * _tremolo(rng, t, True) ** 2
    ),
    "noise_slow": lambda rng, t, rate: (
        _noise(rng, len(t), rate, rng.uniform(0, 2)) * _tremolo(rng, t, False) ** 2
    ),
    "pink_noise": _coloured(0.85, 1.15),
    "plucked": _plucked,
    "rain": _rain,
    "reversed_bell": lambda rng, t, rate: _bell(rng, t, rate)[::-1],
    "siren": _siren,
    "staircase": _staircase,
    "tone": _tone,
    "vibrato": _vibrato,
    "white_noise": _coloured(-0.15, 0.15),
}
CLASSES = tuple(MAKERS)


def _event(rng: Rng, name: str, samples: int, rate: float) -> tuple[slice, np.ndarray]:
    """A sound of a class, of peak 1, and the part of the clip that it takes."""
    start, count = (
        int(rng.uniform(0, 0.25) * samples),
        max(int(rng.uniform(0.65, 0.75) * samples), 2),
    )
    sound = MAKERS[name](rng, np.arange(count) / rate, rate)
    fade = np.linspace(0, 1, max(min(int(0.004 * rate), count // 4), 1), dtype=np.float32)
    sound = sound / (np.abs(sound).max() + 1e-9)
    sound[: len(fade)] *= fade
    sound[-len(fade) :] *= fade[::-1]
    return slice(start, start + count), sound


def make_clip(seed: int, index: int, samples: int, rate: float) -> np.ndarray:
    """Returns float32 [samples] in (-1, 1): clip `index`, of class `CLASSES[index % 20]`.

    There is no state but the arguments. Peak -1 to -20 dB; noise of any colour 22 to 40 dB below
    the sound; in 3 of 10 clips a sound of another class, 14 to 22 dB below.
    """
    rng = np.random.default_rng([seed, index])
    sound = _noise(rng, samples, rate, rng.uniform(0, 2)) * np.float32(
        10 ** (-rng.uniform(22, 40) / 20)
    )
    part, event = _event(rng, CLASSES[index % len(CLASSES)], samples, rate)
    sound[part] += event
    if rng.uniform() < 0.3:
        other = CLASSES[(index + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)]
        part, event = _event(rng, other, samples, rate)
        sound[part] += event * np.float32(10 ** (-rng.uniform(14, 22) / 20))
    sound -= sound.mean()  # microphones give no constant, yet a piece of low noise has one
    return sound * np.float32(10 ** (-rng.uniform(1, 20) / 20) / np.abs(sound).max())


@dataclasses.dataclass
class SyntheticClip:
    """A clip that is made when it is read."""

    seed: int
    index: int
    num_samples: int
    sample_rate: int

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, 1]."""
        return make_clip(self.seed, self.index, self.num_samples, self.sample_rate)[
            start : start + count, None
        ]


@dataclasses.dataclass
class OpenSynthetic:
    """Makes the i-th clip."""

    seed: int
    samples: int
    rate: int

    def __call__(self, i: int) -> SyntheticClip:
        """Returns clip `i`."""
        return SyntheticClip(self.seed, i, self.samples, self.rate)


def load_synthetic(data: ConfigDict) -> Recordings:
    """Returns `data.examples` clips of `data.seconds` at `data.sample_rate`, classes in turn.

    The seed is `data.split_seed`. Twenty neighbours, one of each class, go to one part. Which one
    depends on the index and `data.holdout` alone: a larger `data.examples` adds clips to the parts
    and moves none.

    Raises:
      UserError: fewer clips than classes, or clips or a rate too short for the sounds.
    """
    if data.examples < len(CLASSES):
        raise UserError(
            f"data.examples is {data.examples}: give at least {len(CLASSES)}, a clip for each "
            "synthetic class"
        )
    if data.sample_rate < 4000 or data.seconds < 0.1:
        raise UserError(
            f"data.sample_rate {data.sample_rate} with data.seconds {data.seconds}: synthetic "
            "sounds need at least 4000 Hz and 0.1 s"
        )
    train, validation, _ = data.holdout
    # Multiples of the golden ratio fill [0, 1) evenly, however many there are.
    share = np.arange(data.examples) // len(CLASSES) * 0.6180339887498949 % 1
    part = np.where(
        share < train, "train", np.where(share < train + validation, "validation", "test")
    )
    names = [f"{CLASSES[i % len(CLASSES)]}_{i:06d}" for i in range(data.examples)]
    labels: list[tuple[str, ...]] = [(CLASSES[i % len(CLASSES)],) for i in range(data.examples)]
    samples = round(data.seconds * data.sample_rate)
    return Recordings(
        names,
        labels,
        CLASSES,
        OpenSynthetic(data.split_seed, samples, data.sample_rate),
        splits=part.tolist(),
    )
