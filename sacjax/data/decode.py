"""From an open clip to samples: seek, down-mix, resample, crop, pad."""

import math

import numpy as np
import soxr

from sacjax.data.recordings import Clip
from sacjax.data.retry import raise_fault

MARGIN = 0.05  # seconds read on each side of a crop, which the resampler's filter sees
NOT_MISSING = 0.01  # seconds; less than this is rounding


class AudioError(ValueError):
    """A clip that cannot be used; the message says why."""


class NoSamples(AudioError):
    """There is nothing where the header says that there is."""


def read(clip: Clip, sample_rate: int, start: float, seconds: float) -> np.ndarray:
    """Reads from `start` seconds on at most `seconds`, mono, at `sample_rate`.

    Only the samples needed, and 0.05 s on each side where the clip is resampled, are read. `start`
    is rounded to a sample of the result, so that a part equals the same part of the whole clip's
    resampling.

    Returns:
      float32 [n], n <= seconds * sample_rate.

    Raises:
      NoSamples: the clip is empty or ends before `start`.
      AudioError: samples that are NaN or infinite.
    """
    own = clip.sample_rate
    if own <= 0:
        raise AudioError(f"its sample rate is {own}")
    first, size = round(start * sample_rate), round(seconds * sample_rate)
    begin = offset = round(first * own / sample_rate)  # in the clip's own samples
    margin = round(MARGIN * own) if own != sample_rate else 0
    period = own // math.gcd(own, sample_rate)  # both rates have a sample at its multiples
    begin = max(begin - margin, 0)
    begin -= begin % period if period <= margin else 0
    samples = clip.read(begin, math.ceil((first + size) * own / sample_rate) + margin - begin)
    if len(samples) <= offset - begin:
        raise NoSamples(f"no samples at {start:.3f} s" if start else "no samples")
    samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(1)
    # The sum is quick and settles most.
    if not np.isfinite(samples.sum()) and not np.isfinite(samples).all():
        raise AudioError(f"{np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")
    if own != sample_rate:
        samples = soxr.resample(samples, own, sample_rate)
    skip = first - round(begin * sample_rate / own)
    samples = samples[skip : skip + size]
    if not len(samples):
        raise NoSamples("shorter than one sample")
    return samples.astype(np.float32, copy=False)


def read_pcm(clip: Clip, sample_rate: int, start: float, seconds: float) -> np.ndarray:
    """Reads as `read` does, as int16 [n]: without a detour where the clip holds just that.

    Raises:
      NoSamples, AudioError: as `read`.
    """
    pcm = getattr(clip, "pcm", None)
    if pcm is None or clip.sample_rate != sample_rate:
        return to_int16(read(clip, sample_rate, start, seconds))
    samples = pcm(round(start * sample_rate), round(seconds * sample_rate))
    if samples.shape[1] != 1 or not len(samples):
        return to_int16(read(clip, sample_rate, start, seconds))
    return samples[:, 0]


def count_samples(clip: Clip) -> int:
    """Returns how many samples a channel can be read: what the header tells, if the last is there.

    Else they are counted.

    Raises:
      Exception: the machine's fault, as of `sacjax.data.retry`; what is damage ends the count.
    """
    count = 0
    try:
        if clip.num_samples > 0 and len(clip.read(clip.num_samples - 1, 1)):
            return clip.num_samples
    except Exception as error:  # whatever a broken file does to a decoder
        raise_fault(error)
    try:
        while part := len(clip.read(count, 1 << 18)):
            count += part
    except Exception as error:  # the end, of whatever kind
        raise_fault(error)
    return count


def missing_seconds(clip: Clip, seconds: float) -> float:
    """Returns how many of the seconds that a clip's header tells of are not there; 0.0 for none.

    Infinite where it is known that some are missing, and not how many.

    Args:
      clip: may tell by `promised` that the header tells of more than `num_samples`.
      seconds: what there is.
    """
    told = getattr(clip, "promised", clip.num_samples)
    missing = told / max(clip.sample_rate, 1) - seconds
    return missing if missing > NOT_MISSING else 0.0


def missing_reason(seconds: float) -> str:
    """Returns what to say of a clip of which so many seconds are missing."""
    how_much = f"{seconds:.3f} s are" if math.isfinite(seconds) else "its end is"
    return f"cut short or damaged: {how_much} missing"


def pad(samples: np.ndarray, size: int, how: str) -> np.ndarray:
    """Returns `samples` [n] brought to [size]: zeros, repeats or reflections after the end.

    Longer ones are cut.
    """
    if len(samples) >= size:
        return samples[:size]
    modes = {"zero": "constant", "repeat": "wrap", "reflect": "reflect"}
    mode = "wrap" if how == "reflect" and len(samples) == 1 else modes[how]
    return np.pad(samples, (0, size - len(samples)), mode=mode)  # type: ignore[call-overload]


def read_window(
    clip: Clip, sample_rate: int, start: float, seconds: float, how: str, pcm: bool = False
) -> tuple[np.ndarray, int]:
    """Returns the window from `start` seconds on.

    Returns:
      (float32 [T], or int16 if `pcm`; valid samples), T = round(seconds * sample_rate).
    """
    samples = (read_pcm if pcm else read)(clip, sample_rate, start, seconds)
    return pad(samples, round(seconds * sample_rate), how), len(samples)


def read_crop(
    clip: Clip, sample_rate: int, seconds: float, crop: str, how: str, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Returns (float32 [T], valid samples) of a crop.

    Random (by one draw of `rng`), center or start.
    """
    return read_crop_at(clip, sample_rate, seconds, crop_share(crop, rng), how)[:2]


def crop_share(crop: str, rng: np.random.Generator) -> float:
    """Returns the share, in [0, 1), of the spare time that lies before a crop.

    Random (by one draw of `rng`), center or start.
    """
    return {"random": rng.uniform(), "center": 0.5, "start": 0.0}[crop]


def read_crop_at(
    clip: Clip, sample_rate: int, seconds: float, share: float, how: str, pcm: bool = False
) -> tuple[np.ndarray, int, float]:
    """Returns the crop before which `share`, in [0, 1], of what is left over lies.

    A clip that is shorter than its header says, such as a half-copied FLAC, is cropped by the
    length that it has.

    Returns:
      (float32 [T], or int16 if `pcm`; valid samples; seconds of the clip that are missing, as far
      as this crop noticed).
    """
    size, rate = round(seconds * sample_rate), max(clip.sample_rate, 1)

    def crop(num_samples: int) -> tuple[np.ndarray, int, int]:
        total = round(num_samples * sample_rate / rate)
        start = round(max(total - size, 0) * share) / sample_rate
        return *read_window(clip, sample_rate, start, seconds, how, pcm), min(total, size)

    count = clip.num_samples
    try:
        samples, length, expected = crop(count)
    except NoSamples:
        samples, length, expected = np.zeros(0), 0, size
    if not length or length < expected - 2:  # 2: what rounding may take
        count = count_samples(clip)
        samples, length, expected = crop(count)
    lost = (expected - length) / sample_rate  # by damage in the middle
    missing = missing_seconds(clip, count / rate)
    return samples, length, max(missing, lost if lost > NOT_MISSING else 0.0)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Returns PCM16 of float samples in [-1, 1]; louder ones are clipped."""
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
