"""From an open clip to samples: seek, down-mix, resample, crop, pad."""

import numpy as np
import soxr

from sacjax.data.recordings import Clip

MARGIN = 0.05  # seconds read on each side of a crop, so that the resampler's filter sees its surroundings
MAX_SECONDS = 6 * 3600.0  # a whole clip longer than this is not read at once


class AudioError(ValueError):
    """A clip that cannot be used; the message says why."""


def read(clip: Clip, sample_rate: int, start: float, seconds: float) -> np.ndarray:
    """Reads from `start` seconds on at most `seconds`, mono, at `sample_rate`: float32 [n], n <= seconds * sample_rate.

    Only the samples needed (and a margin of 0.05 s) are read from the clip.

    Raises:
      AudioError: no samples there, or none of them finite.
    """
    own = clip.sample_rate
    if own <= 0:
        raise AudioError(f"sample rate {own}")
    first = max(round(start * own), 0)
    margin = round(MARGIN * own) if own != sample_rate else 0
    before = min(margin, first)
    samples = clip.read(first - before, before + round(seconds * own) + margin)
    if samples.ndim == 2:
        samples = samples.mean(1)
    if samples.size <= before:
        raise AudioError("no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")
    if own != sample_rate:
        samples = soxr.resample(samples, own, sample_rate)
    skip = round(before * sample_rate / own)
    return samples[skip : skip + round(seconds * sample_rate)].astype(np.float32)


def pad(samples: np.ndarray, size: int, how: str) -> np.ndarray:
    """Returns `samples` [n] brought to [size]: zeros, repeats or reflections after the end; longer ones are cut."""
    if len(samples) >= size:
        return samples[:size]
    modes = {"zero": "constant", "repeat": "wrap", "reflect": "reflect"}
    mode = "wrap" if how == "reflect" and len(samples) == 1 else modes[how]
    return np.pad(samples, (0, size - len(samples)), mode=mode)  # type: ignore[call-overload]


def read_window(clip: Clip, sample_rate: int, start: float, seconds: float, how: str) -> tuple[np.ndarray, int]:
    """Returns (float32 [T], valid samples) of the window from `start` seconds on; T = round(seconds * sample_rate)."""
    samples = read(clip, sample_rate, start, seconds)
    return pad(samples, round(seconds * sample_rate), how), len(samples)


def read_crop(
    clip: Clip, sample_rate: int, seconds: float, crop: str, how: str, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Returns (float32 [T], valid samples) of a crop: random (by `rng`), center or start."""
    spare = max(clip.num_samples / max(clip.sample_rate, 1) - seconds, 0.0)
    share = {"random": rng.uniform(), "center": 0.5, "start": 0.0}[crop]  # drawn always: one draw a record
    return read_window(clip, sample_rate, spare * share, seconds, how)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Returns PCM16 of float samples in [-1, 1]; louder ones are clipped."""
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
