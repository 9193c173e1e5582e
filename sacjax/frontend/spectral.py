"""Spectral features: audio → STFT → mel → log → MFCC, as librosa defines them and names options.

Pure functions of arrays, to be jitted, vmapped, sharded and differentiated; float32 inside whatever
comes in. Where clips of different lengths share a zero-padded batch, `lengths` (valid samples, [B])
makes every valid frame the one that the clip would give alone: reflected at its own end. Frames
beyond `frame_lengths` are then meaningless.
"""

import functools
import warnings
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Array, Complex64, Float, Float32, Int

from sacjax.frontend.fft import rfft
from sacjax.frontend.normalize import Numbers

Window = str | float | tuple[str | float, ...]  # what `scipy.signal.get_window` takes


def frame_lengths(
    lengths: int | Int[Numbers, "*batch"], *, n_fft: int, hop_length: int, center: bool = True
) -> Int[Array, "*batch"]:
    """Returns how many frames clips of so many samples have.

    At least 1; for even n_fft, centred: 1 + length // hop_length.

    Args:
      lengths: samples.
      n_fft: samples of a frame.
      hop_length: samples between frames.
      center: as of `stft`.
    """
    spare = (2 * (n_fft // 2) if center else 0) - n_fft
    return jnp.maximum(1 + (lengths + spare) // hop_length, 1)


def preemphasis(
    audio: Float[Numbers, "*batch samples"], *, coef: float = 0.97
) -> Float32[Array, "*batch samples"]:
    """Returns y[t] = x[t] - coef * x[t-1].

    The first is y[0] = 3 x[0] - x[1], as librosa's.

    Args:
      audio: [..., T].
      coef: of the sample before; 0: none.
    """
    x = jnp.asarray(audio, jnp.float32)
    first = 2 * x[..., :1] - x[..., 1:2] if x.shape[-1] > 1 else jnp.zeros_like(x)
    return x - jnp.concatenate([-first, coef * x[..., :-1]], -1)


@functools.cache
def padded_window(window: Window, win_length: int, n_fft: int) -> np.ndarray:
    """Returns a periodic SciPy window, padded on both sides to n_fft, as librosa does."""
    if window == "hann" and win_length > 1:  # SciPy's, without the half second of its import
        values = np.hanning(win_length + 1)[:-1]
    else:
        from scipy.signal import get_window

        values = get_window(window, win_length, fftbins=True)
    before = (n_fft - win_length) // 2
    values = np.pad(values, (before, n_fft - win_length - before))
    return values.astype(np.float32)


def _beyond_the_ends(audio: jax.Array, lengths: jax.Array, pad: int, mode: str) -> jax.Array:
    """Returns [B, pad + T + pad]: each clip of [B, T] padded by `pad` samples at its own two ends.

    What follows is zero. Only 2 * pad samples a clip are gathered, as the frames inside a clip do
    not see its ends.
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
        phase = jnp.abs(position) % period
        return jnp.take_along_axis(audio, jnp.minimum(phase, period - phase), 1)

    padded = padded.at[:, :pad].set(reflected(jnp.arange(-pad, 0)))
    tail = reflected(last + 1 + jnp.arange(pad))
    return jax.vmap(lambda x, t, start: jax.lax.dynamic_update_slice(x, t, (start,)))(
        padded, tail, pad + lengths
    )


def _frames(x: jax.Array, n_fft: int, hop_length: int) -> jax.Array:
    """Returns the overlapping frames [..., F, n_fft] of [..., T].

    They are hop-sized blocks side by side, which XLA copies fast.
    """
    count, blocks = 1 + (x.shape[-1] - n_fft) // hop_length, -(-n_fft // hop_length)
    if blocks > 16:
        return x[..., np.arange(count)[:, None] * hop_length + np.arange(n_fft)]
    size = (count + blocks - 1) * hop_length
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, max(size - x.shape[-1], 0))])[..., :size]
    x = x.reshape(*x.shape[:-1], count + blocks - 1, hop_length)
    x = jnp.stack([x[..., i : i + count, :] for i in range(blocks)], -2)
    return x.reshape(*x.shape[:-2], blocks * hop_length)[..., :n_fft]


def stft(
    audio: Float[Numbers, "*batch samples"],
    *,
    n_fft: int = 2048,
    win_length: int | None = None,
    hop_length: int | None = None,
    window: Window = "hann",
    center: bool = True,
    pad_mode: str = "reflect",
    lengths: Int[Numbers, "*batch"] | None = None,
) -> Complex64[Array, "*batch frames bins"]:
    """Returns the short-time Fourier transform [..., frames, n_fft // 2 + 1] of audio [..., T].

    Args:
      audio: [..., T].
      n_fft: samples of a frame and its FFT.
      win_length: samples of the window, in the middle of a frame; None or 0: n_fft.
      hop_length: samples between frames; None or 0: win_length // 4.
      window: whatever `scipy.signal.get_window` takes.
      center: frame k is centred on sample k * hop_length, the ends padded; else it starts there.
      pad_mode: how `center` pads: 'reflect', 'constant' (zeros) and, without lengths, any mode of
        `jnp.pad`.
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
        x = _beyond_the_ends(x, jnp.asarray(lengths), pad, pad_mode)
    elif pad:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(pad, pad)], mode=pad_mode)
    if x.shape[-1] < n_fft:
        raise ValueError(
            f"audio of {x.shape[-1]} samples is shorter than a frame of n_fft {n_fft}: "
            "set center=True"
        )
    return rfft(_frames(x, n_fft, hop_length) * padded_window(window, win_length, n_fft))


@functools.cache
def mel_filterbank(
    sample_rate: int | float,
    *,
    n_fft: int = 2048,
    n_mels: int = 128,
    fmin: float = 0.0,
    fmax: float | None = None,
    htk: bool = False,
    norm: str | None = "slaney",
) -> Float32[np.ndarray, "bins bands"]:
    """Returns triangular mel filters [n_fft // 2 + 1, n_mels], not to be written to.

    Args:
      sample_rate: Hz.
      n_fft: samples of the FFT.
      n_mels: filters.
      fmin: Hz, where the lowest begins.
      fmax: Hz, where the highest ends; None or 0: half the sample rate.
      htk: HTK's mel scale, 2595 log10(1 + f / 700); else Slaney's, linear below 1 kHz and
        logarithmic above.
      norm: 'slaney' gives each filter unit area, None unit height.

    Raises:
      ValueError: another norm.
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
    audio: Float[Numbers, "*batch samples"],
    *,
    sample_rate: int | float,
    n_fft: int = 2048,
    win_length: int | None = None,
    hop_length: int | None = None,
    window: Window = "hann",
    center: bool = True,
    pad_mode: str = "reflect",
    power: float = 2.0,
    n_mels: int = 128,
    fmin: float = 0.0,
    fmax: float | None = None,
    htk: bool = False,
    norm: str | None = "slaney",
    lengths: Int[Numbers, "*batch"] | None = None,
) -> Float32[Array, "*batch frames bands"]:
    """Returns the mel spectrogram [..., frames, n_mels] of audio [..., T].

    Args:
      audio: [..., T].
      sample_rate: Hz.
      n_fft: of the `stft`, as are the next five.
      win_length: see `stft`.
      hop_length: see `stft`.
      window: see `stft`.
      center: see `stft`.
      pad_mode: see `stft`.
      power: of the magnitudes before the filters: 2 energy, 1 magnitude.
      n_mels: of the `mel_filterbank`, as are the next four.
      fmin: see `mel_filterbank`.
      fmax: see `mel_filterbank`.
      htk: see `mel_filterbank`.
      norm: see `mel_filterbank`.
      lengths: valid samples [B] of audio [B, T]; see the module's docstring.
    """
    spectrum = stft(
        audio,
        n_fft=n_fft,
        win_length=win_length,
        hop_length=hop_length,
        window=window,
        center=center,
        pad_mode=pad_mode,
        lengths=lengths,
    )
    values = spectrum.real**2 + spectrum.imag**2
    if power != 2:
        some = values > 0  # a root's gradient at 0 is infinite
        values = jnp.where(some, jnp.where(some, values, 1) ** (power / 2), 0)
    filters = mel_filterbank(
        sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk, norm=norm
    )
    # TF32 and bfloat16 would cost three digits.
    return jnp.matmul(values, filters, precision="highest")


def log_scale(
    spectrogram: Float[Numbers, "*batch frames bins"],
    *,
    log: str = "natural",
    floor: float = 1e-10,
    ref: int | float | Literal["max"] = 1.0,
    top_db: int | float | None = 80.0,
    power: float = 2.0,
    lengths: Int[Numbers, "*batch"] | None = None,
) -> Float32[Array, "*batch frames bins"]:
    """Returns the logarithm of a spectrogram, floored at `floor` and relative to `ref`.

    Args:
      spectrogram: [..., frames, bins], not negative.
      log: 'natural', 'log10', or 'db': decibels, 20 / power * log10, librosa's power_to_db and
        (power 1) amplitude_to_db.
      floor: what smaller values are raised to.
      ref: the value that becomes 0, or 'max': the clip's largest.
      top_db: for 'db' alone: values further below the clip's largest are raised to that; None: not.
      power: what the spectrogram holds: 2 energy, 1 magnitude.
      lengths: valid frames [B]; others have no say in the clip's largest.

    Raises:
      ValueError: an unknown log.
    """
    if log not in ("natural", "log10", "db"):
        raise ValueError(f"log is '{log}': choose 'natural', 'log10' or 'db'")
    scale = {"natural": 1.0, "log10": 1 / np.log(10), "db": 20 / power / np.log(10)}[log]
    values = scale * jnp.log(jnp.maximum(jnp.asarray(spectrogram, jnp.float32), floor))
    valid = values
    if lengths is not None:
        inside = jnp.arange(values.shape[-2]) < jnp.asarray(lengths)[..., None]
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
    audio: Float[Numbers, "*batch samples"],
    *,
    sample_rate: int | float,
    log: str = "natural",
    floor: float = 1e-10,
    ref: int | float | Literal["max"] = 1.0,
    top_db: int | float | None = 80.0,
    power: float = 2.0,
    **mel: Any,
) -> Float32[Array, "*batch frames bands"]:
    """Returns the log-mel spectrogram [..., frames, n_mels] of audio [..., T].

    Args:
      audio: [..., T].
      sample_rate: Hz.
      log: of `log_scale`, as are the next three.
      floor: see `log_scale`.
      ref: see `log_scale`.
      top_db: see `log_scale`.
      power: of both `mel_spectrogram` and `log_scale`.
      **mel: the rest of `mel_spectrogram`.
    """
    values = mel_spectrogram(audio, sample_rate=sample_rate, power=power, **mel)
    frames = _frames_of(mel) if mel.get("lengths") is not None else None
    return log_scale(
        values, log=log, floor=floor, ref=ref, top_db=top_db, power=power, lengths=frames
    )


def _frames_of(mel: dict[str, Any]) -> Int[Array, "*batch"]:
    """Returns the valid frames of the arguments of `mel_spectrogram`."""
    n_fft = mel.get("n_fft", 2048)
    hop_length = mel.get("hop_length") or (mel.get("win_length") or n_fft) // 4
    return frame_lengths(
        mel["lengths"], n_fft=n_fft, hop_length=hop_length, center=mel.get("center", True)
    )


def mfcc(
    audio: Float[Numbers, "*batch samples"],
    *,
    sample_rate: int | float,
    n_mfcc: int = 20,
    lifter: int | float = 0,
    log: str = "db",
    **mel: Any,
) -> Float32[Array, "*batch frames coefficients"]:
    """Returns mel-frequency cepstral coefficients [..., frames, n_mfcc] of audio [..., T].

    Davis & Mermelstein 1980.

    Args:
      audio: [..., T].
      sample_rate: Hz.
      n_mfcc: how many, at most n_mels.
      lifter: > 0 weighs coefficient k by 1 + lifter / 2 * sin(pi * (k + 1) / lifter).
      log: as of `log_scale`; librosa's is 'db'.
      **mel: the rest of `log_mel_spectrogram`.

    Raises:
      ValueError: n_mfcc is above n_mels.
    """
    return cepstrum(
        log_mel_spectrogram(audio, sample_rate=sample_rate, log=log, **mel),
        n_mfcc=n_mfcc,
        lifter=lifter,
    )


def cepstrum(
    log_mel: Float[Array, "*batch frames bands"], *, n_mfcc: int = 20, lifter: int | float = 0
) -> Float[Array, "*batch frames coefficients"]:
    """Returns the first n_mfcc of the orthonormal DCT-II over the bands.

    Args:
      log_mel: [..., frames, n_mels].
      n_mfcc: see `mfcc`.
      lifter: see `mfcc`.

    Raises:
      ValueError: n_mfcc is above n_mels.
    """
    n_mels = log_mel.shape[-1]
    if n_mfcc > n_mels:
        raise ValueError(f"n_mfcc {n_mfcc} must not exceed n_mels {n_mels}")
    matrix = scipy.fft.dct(np.eye(n_mels), axis=1, norm="ortho")[:, :n_mfcc]
    if lifter > 0:
        matrix = matrix * (1 + lifter / 2 * np.sin(np.pi * np.arange(1, n_mfcc + 1) / lifter))
    return jnp.matmul(log_mel, matrix.astype(np.float32), precision="highest")
