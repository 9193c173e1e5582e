"""Sounds made by rule, for trying everything without a download: 20 classes, each clip a pure function of (seed, index).

The classes share pitch ranges and differ in how they unfold in time; pitch, level, onset, noise floor and a weaker overlapping
sound of another class are drawn for each clip, so that a linear model on mean spectra does poorly.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.signal
from ml_collections import ConfigDict

from sacjax.data.recordings import Recordings

Rng = np.random.Generator
Maker = Callable[[Rng, np.ndarray, float], np.ndarray]  # (rng, time [n] in seconds, rate in Hz) -> samples [n]


def _pitch(rng: Rng) -> float:
    """A fundamental between 180 and 1400 Hz, shared by most classes."""
    return float(np.exp(rng.uniform(np.log(180), np.log(1400))))


def _phase(frequency: np.ndarray, rate: float) -> np.ndarray:
    return 2 * np.pi * np.cumsum(frequency) / rate


def _harmonics(rng: Rng, phase: np.ndarray, count: int = 5) -> np.ndarray:
    """A tone with a random timbre, so that its spectrum does not tell its class."""
    tilt = rng.uniform(0.6, 2.0)
    return sum(np.sin(k * phase + rng.uniform(0, 6)) * rng.uniform(0.3, 1) / k**tilt for k in range(1, count + 1))


def _coloured(rng: Rng, n: int, exponent: float) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** (-exponent / 2)
    sound = np.fft.irfft(spectrum, n)
    return sound / (np.abs(sound).max() + 1e-9)


def _band_noise(rng: Rng, n: int, rate: float) -> np.ndarray:
    """Noise in a random band: the carrier of the noisy classes."""
    low = rng.uniform(200, 1500)
    sos = scipy.signal.butter(2, [low, min(low * rng.uniform(1.5, 4), 0.45 * rate)], "bandpass", fs=rate, output="sos")
    sound = scipy.signal.sosfilt(sos, rng.standard_normal(n))
    return sound / (np.abs(sound).max() + 1e-9)


def _ring(rng: Rng, t: np.ndarray, rate: float, ratios: tuple[float, ...], decay: float) -> np.ndarray:
    f = _pitch(rng)
    return sum(
        np.exp(-t * decay * (1 + 0.3 * k)) * np.sin(2 * np.pi * f * r * t + rng.uniform(0, 6)) / (1 + 0.5 * k)
        for k, r in enumerate(ratios)
        if f * r < 0.45 * rate
    )


def _tone(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _harmonics(rng, 2 * np.pi * _pitch(rng) * t)


def _sweep(rng: Rng, t: np.ndarray, rate: float, up: bool) -> np.ndarray:
    low, span = float(np.exp(rng.uniform(np.log(180), np.log(700)))), rng.uniform(1.6, 2.6)
    share = t / t[-1]
    return _harmonics(rng, _phase(low * span ** (share if up else 1 - share), rate), 3)


def _chirp_up(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _sweep(rng, t, rate, True)


def _chirp_down(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _sweep(rng, t, rate, False)


def _tremolo(rng: Rng, t: np.ndarray, slow: bool) -> np.ndarray:
    f = rng.uniform(3, 5) if slow else rng.uniform(11, 18)
    return 0.5 + 0.5 * np.sin(2 * np.pi * f * t + rng.uniform(0, 6))


def _am_slow(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _tone(rng, t, rate) * _tremolo(rng, t, True)


def _am_fast(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _tone(rng, t, rate) * _tremolo(rng, t, False)


def _vibrato(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    f = _pitch(rng) * (1 + rng.uniform(0.06, 0.1) * np.sin(2 * np.pi * rng.uniform(9, 13) * t + rng.uniform(0, 6)))
    return _harmonics(rng, _phase(f, rate), 3)


def _siren(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    swing = np.sin(2 * np.pi * rng.uniform(2.0, 3.2) * t + rng.uniform(0, 6))
    return _harmonics(rng, _phase(_pitch(rng) * 2 ** (0.45 * swing), rate), 3)


def _two_tone(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    high = scipy.signal.square(2 * np.pi * rng.uniform(3, 5) * t + rng.uniform(0, 6)) > 0
    return _harmonics(rng, _phase(_pitch(rng) * np.where(high, rng.uniform(1.25, 1.5), 1.0), rate), 3)


def _staircase(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    steps = np.floor(t / t[-1] * rng.integers(6, 9))
    return _harmonics(rng, _phase(_pitch(rng) * 0.6 * 2 ** (steps / 6), rate), 3)


def _noise(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _band_noise(rng, len(t), rate)


def _noise_slow(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _band_noise(rng, len(t), rate) * _tremolo(rng, t, True) ** 2


def _noise_fast(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _band_noise(rng, len(t), rate) * _tremolo(rng, t, False) ** 2


def _rain(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    drops = (rng.uniform(size=len(t)) < 60 / rate) * rng.exponential(1.0, len(t))
    n = int(0.012 * rate)
    drop = rng.standard_normal(n) * np.exp(-np.arange(n) / (0.25 * n))
    return np.convolve(drops, drop)[: len(t)] + 0.03 * rng.standard_normal(len(t))


def _clicks(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    period = rng.uniform(0.07, 0.14)
    since = np.mod(t + rng.uniform(0, period), period)
    return _band_noise(rng, len(t), rate) * np.exp(-since / 0.006)


def _engine(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    phase = _phase(rng.uniform(24, 42) * (1 + 0.08 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * t)), rate)
    return np.maximum(np.sin(phase), 0) ** 8 * (_band_noise(rng, len(t), rate) + 0.5 * np.sin(2 * np.pi * _pitch(rng) * t))


def _plucked(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    """Karplus and Strong 1983: a burst of noise in a comb that averages two neighbours."""
    period = max(round(rate / _pitch(rng)), 3)
    burst = np.zeros(len(t))
    burst[:period] = rng.uniform(-1, 1, min(period, len(t)))[: len(burst[:period])]
    comb = np.zeros(period + 2)
    comb[0], comb[period], comb[period + 1] = 1, -0.498, -0.498
    return scipy.signal.lfilter([1.0], comb, burst)


def _bell(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _ring(rng, t, rate, (1.0, 2.0, 2.4, 3.0, 4.5, 5.3), rng.uniform(3, 6))


def _reversed_bell(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    return _bell(rng, t, rate)[::-1]


def _bouncing(rng: Rng, t: np.ndarray, rate: float) -> np.ndarray:
    times, at, gap = [], 0.0, rng.uniform(0.16, 0.24)
    while at < t[-1] and gap > 0.012:
        times.append(at)
        at, gap = at + gap, gap * rng.uniform(0.78, 0.84)
    sound = np.zeros(len(t))
    carrier = _harmonics(rng, 2 * np.pi * _pitch(rng) * t, 3)
    for k, start in enumerate(times):
        sound += np.where(t >= start, np.exp(-(t - start) / 0.02), 0) * 0.9**k
    return sound * carrier


MAKERS: dict[str, Maker] = {
    "am_fast": _am_fast, "am_slow": _am_slow, "bell": _bell, "bouncing": _bouncing, "chirp_down": _chirp_down,
    "chirp_up": _chirp_up, "clicks": _clicks, "engine": _engine, "noise": _noise, "noise_fast": _noise_fast,
    "noise_slow": _noise_slow, "plucked": _plucked, "rain": _rain, "reversed_bell": _reversed_bell, "siren": _siren,
    "staircase": _staircase, "tone": _tone, "two_tone": _two_tone, "vibrato": _vibrato,
    "brown_noise": lambda rng, t, rate: _coloured(rng, len(t), 2.0) * _tremolo(rng, t, True) ** 0.3,
}  # fmt: skip
CLASSES = tuple(sorted(MAKERS))


def _event(rng: Rng, name: str, samples: int, rate: float) -> np.ndarray:
    """A sound of a class, of peak 1, that starts and ends at random places of the clip."""
    onset, length = rng.uniform(0, 0.25), rng.uniform(0.65, 0.75)
    start, count = int(onset * samples), int(length * samples)
    sound = MAKERS[name](rng, np.arange(count) / rate, rate)
    fade = min(int(0.004 * rate), count // 4)
    sound[:fade] *= np.linspace(0, 1, fade)
    sound[-fade:] *= np.linspace(1, 0, fade)
    out = np.zeros(samples)
    out[start : start + count] = sound / (np.abs(sound).max() + 1e-9)
    return out


def make_clip(seed: int, index: int, samples: int, rate: float) -> np.ndarray:
    """Returns float32 [samples] in [-1, 1]: a clip of class `index % 20`, the same for the same arguments everywhere."""
    rng = np.random.default_rng([seed, index])
    name = CLASSES[index % len(CLASSES)]
    sound = _event(rng, name, samples, rate)
    if rng.uniform() < 0.3:  # a weaker sound of another class
        other = CLASSES[(index + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)]
        sound = sound + _event(rng, other, samples, rate) * 10 ** (-rng.uniform(12, 20) / 20)
    sound = sound + _coloured(rng, samples, rng.uniform(0, 2)) * 10 ** (-rng.uniform(18, 36) / 20)
    return (sound / np.abs(sound).max() * 10 ** (-rng.uniform(1, 20) / 20)).astype(np.float32)


@dataclasses.dataclass
class SyntheticClip:
    """A clip that is made when it is read."""

    seed: int
    index: int
    num_samples: int
    sample_rate: int

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, 1]."""
        return make_clip(self.seed, self.index, self.num_samples, self.sample_rate)[start : start + count, None]


@dataclasses.dataclass
class OpenSynthetic:
    """Makes the i-th clip."""

    seed: int
    samples: int
    rate: int

    def __call__(self, i: int) -> SyntheticClip:
        return SyntheticClip(self.seed, i, self.samples, self.rate)


def load_synthetic(data: ConfigDict) -> Recordings:
    """Returns `data.examples` clips of `data.seconds`, split by `data.holdout` in turns of 20, a clip of each class.

    The seed is `data.split_seed`.
    """
    rounds = np.arange(data.examples) // len(CLASSES)
    place = np.random.default_rng([data.split_seed, 99]).permutation(rounds.max() + 1) / (rounds.max() + 1)
    train, validation, _ = data.holdout
    part = np.where(place < train, "train", np.where(place < train + validation, "validation", "test"))[rounds]
    names = [f"{CLASSES[i % len(CLASSES)]}_{i:06d}" for i in range(data.examples)]
    labels = [(CLASSES[i % len(CLASSES)],) for i in range(data.examples)]
    samples = round(data.seconds * data.sample_rate)
    return Recordings(names, labels, CLASSES, OpenSynthetic(data.split_seed, samples, data.sample_rate), splits=part.tolist())
