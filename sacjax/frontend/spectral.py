"""Spectral features: audio → STFT → mel → log → MFCC, with librosa's definitions and parameter names.

Pure functions of arrays, to be jitted, vmapped, sharded and differentiated; float32 inside whatever comes in. Where clips of different
lengths share a zero-padded batch, `lengths` (valid samples, [B]) makes every valid frame the one that the clip would give alone: reflected
at its own end. Frames beyond `frame_lengths` are then meaningless.
"""

import functools
import warnings
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import scipy.signal

from sacjax.frontend.fft import irfft, rfft

Log = Literal["natural", "log10", "db"]


def frame_lengths(lengths: Any, *, n_fft: int, hop_length: int, center: bool = True) -> Any:
    """Returns how many frames clips of so many samples have (at least 1; for even n_fft, centred: 1 + length // hop_length)."""
    spare = (2 * (n_fft // 2) if center else 0) - n_fft
    return jnp.maximum(1 + (lengths + spare) // hop_length, 1)


def preemphasis(audio: jax.Array, *, coef: float = 0.97) -> jax.Array:
    """Returns y[t] = x[t] - coef * x[t-1], float32 [..., T]; before the first sample the line through the first two goes on.

    That start, y[0] = 3 x[0] - x[1], is librosa's.
    """
    x = jnp.asarray(audio, jnp.float32)
    first = 2 * x[..., :1] - x[..., 1:2] if x.shape[-1] > 1 else jnp.zeros_like(x)
    return x - jnp.concatenate([-first, coef * x[..., :-1]], -1)


@functools.cache
def _window(window: Any, win_length: int, n_fft: int) -> np.ndarray:
    """A periodic SciPy window, padded on both sides to n_fft, as librosa does."""
    values = np.zeros(n_fft)
    start = (n_fft - win_length) // 2
    values[start : start + win_length] = scipy.signal.get_window(window, win_length, fftbins=True)
    return values.astype(np.float32)


def _beyond_the_ends(audio: jax.Array, lengths: jax.Array, pad: int, mode: str) -> jax.Array:
    """Returns [B, pad + T + pad]: each clip of [B, T] padded by `pad` samples at its own two ends, zeros after that.

    Only 2 * pad samples a clip are gathered, as the frames inside a clip do not see its ends.
    """
    size = audio.shape[1]
    audio = jnp.where(jnp.arange(size) < lengths[:, None], audio, 0)
    padded = jnp.pad(audio, ((0, 0), (pad, pad)))
    if mode == "constant" or not pad:
        return padded
    if mode != "reflect":
        raise ValueError(f"pad_mode '{mode}' does not go with lengths: use 'reflect' or 'constant'")
    last = jnp.maximum(lengths - 1, 0)[:, None]
    period = jnp.maximum(2 * last, 1)  # short clips are reflected again and again, as by np.pad

    def reflected(position: Any) -> jax.Array:
        place = jnp.abs(position) % period
        return jnp.take_along_axis(audio, jnp.minimum(place, period - place), 1)

    padded = padded.at[:, :pad].set(reflected(jnp.arange(-pad, 0)))
    tail = reflected(last + 1 + jnp.arange(pad))
    return jax.vmap(lambda x, t, start: jax.lax.dynamic_update_slice(x, t, (start,)))(
        padded, tail, pad + lengths
    )


def _frames(x: jax.Array, n_fft: int, hop_length: int) -> jax.Array:
    """Returns the overlapping frames [..., F, n_fft] of [..., T]: hop-sized blocks side by side, which XLA copies fast."""
    count, blocks = 1 + (x.shape[-1] - n_fft) // hop_length, -(-n_fft // hop_length)
    if blocks > 16:
        return x[..., np.arange(count)[:, None] * hop_length + np.arange(n_fft)]
    size = (count + blocks - 1) * hop_length
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, max(size - x.shape[-1], 0))])[..., :size]
    x = x.reshape(*x.shape[:-1], count + blocks - 1, hop_length)
    x = jnp.stack([x[..., i : i + count, :] for i in range(blocks)], -2)
    return x.reshape(*x.shape[:-2], blocks * hop_length)[..., :n_fft]


def stft(
    audio: jax.Array,
    *,
    n_fft: int = 2048,
    win_length: int | None = None,
    hop_length: int | None = None,
    window: Any = "hann",
    center: bool = True,
    pad_mode: str = "reflect",
    lengths: jax.Array | None = None,
) -> jax.Array:
    """Short-time Fourier transform, complex64 [..., frames, n_fft // 2 + 1] of audio [..., T].

    Args:
      n_fft: samples of a frame and its FFT.
      win_length: samples of the window, in the middle of a frame; None or 0: n_fft.
      hop_length: samples between frames; None or 0: win_length // 4.
      window: whatever `scipy.signal.get_window` takes.
      center: frame k is centred on sample k * hop_length, the ends padded; else it starts there.
      pad_mode: how `center` pads: 'reflect', 'constant' (zeros) and, without lengths, any mode of `jnp.pad`.
      lengths: valid samples [B] of audio [B, T]; see the module's docstring.

    Raises:
      ValueError: win_length is above n_fft, or not one whole frame fits.
    """
    win_length = win_length or n_fft
    hop_length = hop_length or win_length // 4
    if win_length > n_fft:
        raise ValueError(f"win_length {win_length} must not exceed n_fft {n_fft}")
    x = jnp.asarray(audio, jnp.float32)
    pad = n_fft // 2 if center else 0
    if lengths is not None:
        x = _beyond_the_ends(x, lengths, pad, pad_mode)
    elif pad:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(pad, pad)], mode=pad_mode)
    if x.shape[-1] < n_fft:
        raise ValueError(
            f"audio of {x.shape[-1]} samples is shorter than a frame of n_fft {n_fft}: set center=True"
        )
    return rfft(_frames(x, n_fft, hop_length) * _window(window, win_length, n_fft))


def istft(spectrum: jax.Array, *, hop_length: int, window: Any = "hann", length: int) -> jax.Array:
    """Inverse of the centred `stft` by windowed overlap-add: float32 [..., length] of [..., frames, n_fft // 2 + 1]."""
    n_fft = 2 * (spectrum.shape[-1] - 1)
    values = _window(window, n_fft, n_fft)

    def overlap_add(frames: jax.Array) -> jax.Array:
        blocks = -(-n_fft // hop_length)
        frames = jnp.pad(frames, [(0, 0)] * (frames.ndim - 1) + [(0, blocks * hop_length - n_fft)])
        frames = frames.reshape(*frames.shape[:-1], blocks, hop_length)
        none = [(0, 0)] * (frames.ndim - 3)
        parts = [
            jnp.pad(frames[..., i, :], [*none, (i, blocks - 1 - i), (0, 0)]) for i in range(blocks)
        ]
        return functools.reduce(jnp.add, parts).reshape(*frames.shape[:-3], -1)

    weight = overlap_add(jnp.broadcast_to(values**2, (spectrum.shape[-2], n_fft)))
    x = overlap_add(irfft(spectrum, n_fft) * values) / jnp.where(weight > 1e-8, weight, 1)
    x = x[..., n_fft // 2 : n_fft // 2 + length]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])])


@functools.cache
def mel_filterbank(
    sample_rate: float,
    *,
    n_fft: int = 2048,
    n_mels: int = 128,
    fmin: float = 0.0,
    fmax: float | None = None,
    htk: bool = False,
    norm: str | None = "slaney",
) -> np.ndarray:
    """Triangular mel filters, float32 [n_fft // 2 + 1, n_mels].

    Args:
      fmin, fmax: Hz; fmax None or 0: half the sample rate.
      htk: HTK's mel scale, 2595 log10(1 + f / 700); else Slaney's, linear below 1 kHz and logarithmic above.
      norm: 'slaney' gives each filter unit area, None unit height.
    """
    if norm not in ("slaney", None):
        raise ValueError(f"norm is '{norm}': choose 'slaney' or None")
    step = np.log(6.4) / 27  # Slaney: 27 mels from 1 kHz to 6.4 kHz, and 15 from 0 to 1 kHz

    def to_mel(hz: float) -> float:
        if htk:
            return 2595 * np.log10(1 + hz / 700)
        return 15 + np.log(hz / 1000) / step if hz >= 1000 else hz * 3 / 200

    def to_hz(mel: np.ndarray) -> np.ndarray:
        if htk:
            return 700 * (10 ** (mel / 2595) - 1)
        return np.where(mel >= 15, 1000 * np.exp(step * (mel - 15)), mel * 200 / 3)

    edges = to_hz(np.linspace(to_mel(fmin), to_mel(fmax or sample_rate / 2), n_mels + 2))
    bins = (
        np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
        if n_fft % 2 == 0
        else np.fft.rfftfreq(n_fft, 1 / sample_rate)
    )
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (
        (bins[:, None] - low) / (middle - low),
        (high - bins[:, None]) / (high - middle),
    )
    weights = np.maximum(0, np.minimum(rising, falling))
    empty = int((weights.max(0) == 0).sum())
    if empty:
        warnings.warn(
            f"{empty} of {n_mels} mel filters are empty: take fewer n_mels or a larger n_fft",
            stacklevel=2,
        )
    if norm == "slaney":
        weights *= 2 / (high - low)
    weights = weights.astype(np.float32)
    weights.setflags(write=False)  # it is shared by all callers
    return weights


def mel_spectrogram(
    audio: jax.Array,
    *,
    sample_rate: float,
    n_fft: int = 2048,
    win_length: int | None = None,
    hop_length: int | None = None,
    window: Any = "hann",
    center: bool = True,
    pad_mode: str = "reflect",
    power: float = 2.0,
    n_mels: int = 128,
    fmin: float = 0.0,
    fmax: float | None = None,
    htk: bool = False,
    norm: str | None = "slaney",
    lengths: jax.Array | None = None,
) -> jax.Array:
    """Mel spectrogram, float32 [..., frames, n_mels] of audio [..., T]; see `stft` and `mel_filterbank`.

    Args:
      power: of the magnitudes before the filters: 2 energy, 1 magnitude.
    """
    spectrum = stft(
        audio, n_fft=n_fft, win_length=win_length, hop_length=hop_length, window=window,
        center=center, pad_mode=pad_mode, lengths=lengths,
    )  # fmt: skip
    values = spectrum.real**2 + spectrum.imag**2
    if power != 2:
        some = values > 0  # a root's gradient at 0 is infinite
        values = jnp.where(some, jnp.where(some, values, 1) ** (power / 2), 0)
    filters = mel_filterbank(
        sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk, norm=norm
    )
    return jnp.matmul(
        values, filters, precision="highest"
    )  # TF32 and bfloat16 would cost three digits


def log_scale(
    spectrogram: jax.Array,
    *,
    log: Log = "natural",
    floor: float = 1e-10,
    ref: float | Literal["max"] = 1.0,
    top_db: float | None = 80.0,
    power: float = 2.0,
    lengths: jax.Array | None = None,
) -> jax.Array:
    """Logarithm of a spectrogram [..., frames, bins], floored at `floor`, relative to `ref`.

    Args:
      log: 'natural', 'log10', or 'db': decibels, 20 / power * log10, librosa's power_to_db and (power 1) amplitude_to_db.
      ref: the value that becomes 0, or 'max': the clip's largest.
      top_db: for 'db' alone: values further below the clip's largest are raised to that; None: not.
      power: what the spectrogram holds: 2 energy, 1 magnitude.
      lengths: valid frames [B], others have no say in the clip's largest.
    """
    if log not in ("natural", "log10", "db"):
        raise ValueError(f"log is '{log}': choose 'natural', 'log10' or 'db'")
    scale = {"natural": 1.0, "log10": 1 / np.log(10), "db": 20 / power / np.log(10)}[log]
    values = scale * jnp.log(jnp.maximum(jnp.asarray(spectrogram, jnp.float32), floor))
    valid = values
    if lengths is not None:
        inside = jnp.arange(values.shape[-2]) < lengths[..., None]
        valid = jnp.where(inside[..., None], values, scale * np.log(floor))
    if ref == "max":
        values = values - valid.max((-2, -1), keepdims=True)
        top = jnp.zeros([])
    else:
        offset = scale * np.log(max(float(ref), floor))
        values, top = values - offset, valid.max((-2, -1), keepdims=True) - offset
    if log == "db" and top_db is not None:
        values = jnp.maximum(values, top - top_db)
    return values


def log_mel_spectrogram(
    audio: jax.Array,
    *,
    sample_rate: float,
    log: Log = "natural",
    floor: float = 1e-10,
    ref: float | Literal["max"] = 1.0,
    top_db: float | None = 80.0,
    power: float = 2.0,
    **mel: Any,
) -> jax.Array:
    """Log-mel spectrogram, float32 [..., frames, n_mels] of audio [..., T]; see `log_scale`, the rest as `mel_spectrogram`."""
    values = mel_spectrogram(audio, sample_rate=sample_rate, power=power, **mel)
    frames = _frames_of(mel) if mel.get("lengths") is not None else None
    return log_scale(
        values, log=log, floor=floor, ref=ref, top_db=top_db, power=power, lengths=frames
    )


def _frames_of(mel: dict[str, Any]) -> jax.Array:
    n_fft = mel.get("n_fft", 2048)
    hop_length = mel.get("hop_length") or (mel.get("win_length") or n_fft) // 4
    return frame_lengths(
        mel["lengths"], n_fft=n_fft, hop_length=hop_length, center=mel.get("center", True)
    )


def mfcc(
    audio: jax.Array,
    *,
    sample_rate: float,
    n_mfcc: int = 20,
    lifter: float = 0,
    log: Log = "db",
    **mel: Any,
) -> jax.Array:
    """Mel-frequency cepstral coefficients, float32 [..., frames, n_mfcc] of audio [..., T] (Davis & Mermelstein 1980).

    Args:
      n_mfcc: how many, at most n_mels.
      lifter: > 0 weighs coefficient k by 1 + lifter / 2 * sin(pi * (k + 1) / lifter).
      log, mel: as in `log_mel_spectrogram`; librosa's is 'db'.
    """
    return cepstrum(
        log_mel_spectrogram(audio, sample_rate=sample_rate, log=log, **mel),
        n_mfcc=n_mfcc,
        lifter=lifter,
    )


def cepstrum(log_mel: jax.Array, *, n_mfcc: int = 20, lifter: float = 0) -> jax.Array:
    """Returns the first n_mfcc of the orthonormal DCT-II over the bands of [..., frames, n_mels]; see `mfcc`."""
    n_mels = log_mel.shape[-1]
    if n_mfcc > n_mels:
        raise ValueError(f"n_mfcc {n_mfcc} must not exceed n_mels {n_mels}")
    matrix = scipy.fft.dct(np.eye(n_mels), axis=1, norm="ortho")[:, :n_mfcc]
    if lifter > 0:
        matrix = matrix * (1 + lifter / 2 * np.sin(np.pi * np.arange(1, n_mfcc + 1) / lifter))
    return jnp.matmul(log_mel, matrix.astype(np.float32), precision="highest")
