"""Short-time spectra as pure functions: STFT, mel, log, MFCC. Names and conventions are librosa's; float32 inside."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import scipy.signal


def frame_count(length: Any, *, n_fft: int, hop_length: int, center: bool = True) -> Any:
    """Returns the frames of a signal of `length` samples: 1 + length // hop when centred, else those that fit whole."""
    return 1 + length // hop_length if center else jnp.maximum(1 + (length - n_fft) // hop_length, 0)


def preemphasis(audio: jax.Array, *, coef: float = 0.97) -> jax.Array:
    """Returns y[t] = x[t] - coef * x[t - 1] over the last axis, y[0] = x[0]."""
    return audio - coef * jnp.pad(audio[..., :-1], [(0, 0)] * (audio.ndim - 1) + [(1, 0)])


def frames(audio: jax.Array, *, frame_length: int, hop_length: int) -> jax.Array:
    """Returns [B, count, frame_length], the frames that fit whole into [B, T].

    Put together from shifted runs of whole hops: XLA gathers slowly, but slices and reshapes cost next to nothing.
    """
    count = 1 + (audio.shape[-1] - frame_length) // hop_length
    blocks = -(-frame_length // hop_length)
    size = (count + blocks - 1) * hop_length
    audio = jnp.pad(audio, [(0, 0), (0, max(size - audio.shape[-1], 0))])[:, :size]
    hops = audio.reshape(audio.shape[0], -1, hop_length)
    return jnp.concatenate([hops[:, k : k + count] for k in range(blocks)], -1)[..., :frame_length]


def window_array(window: str, win_length: int, n_fft: int) -> np.ndarray:
    """Returns a periodic SciPy window of `win_length`, centred in zeros to [n_fft]."""
    values = scipy.signal.get_window(window, win_length, fftbins=True)
    left = (n_fft - win_length) // 2
    return np.pad(values, (left, n_fft - win_length - left)).astype(np.float32)


def pad_center(audio: jax.Array, *, n_fft: int, pad_mode: str, lengths: jax.Array | None = None) -> jax.Array:
    """Returns [B, T + 2 * (n_fft // 2)], padded by reflection or zeros at both ends.

    With `lengths` the end of each clip is its own: what lies beyond it is replaced by its reflection, so that a padded clip
    gives the frames that it gives alone (for clips longer than n_fft // 2).
    """
    half = n_fft // 2
    if pad_mode == "constant" or (audio.shape[-1] <= half and lengths is not None):
        return jnp.pad(audio, [(0, 0), (half, half)])
    if lengths is None:
        return jnp.pad(audio, [(0, 0), (half, half)], mode="reflect")
    out = jnp.concatenate([audio[:, 1 : half + 1][:, ::-1], audio, jnp.zeros_like(audio[:, :half])], -1)

    def one(clip: jax.Array, length: jax.Array) -> jax.Array:
        tail = jax.lax.dynamic_slice(clip, (length - 1,), (half,))  # the `half` samples before the last
        return jax.lax.dynamic_update_slice(clip, tail[::-1], (half + length,))

    return jax.vmap(one)(out, jnp.maximum(lengths, 1))


def stft(
    audio: jax.Array,
    *,
    n_fft: int = 1024,
    win_length: int | None = None,
    hop_length: int = 256,
    window: str = "hann",
    center: bool = True,
    pad_mode: str = "reflect",
    lengths: jax.Array | None = None,
) -> jax.Array:
    """Returns the short-time Fourier transform, complex64 [B, frames, n_fft // 2 + 1].

    Args:
      audio: float [B, T], in [-1, 1].
      n_fft: samples of a frame.
      win_length: samples of the window, centred in the frame; None or 0 is n_fft.
      hop_length: samples between frames.
      window: a name that `scipy.signal.get_window` knows.
      center: whether frame t is centred on sample t * hop_length (the ends are padded).
      pad_mode: reflect or constant (zeros).
      lengths: valid samples int32 [B]; the end of each clip is then padded as if it stood alone.
    """
    audio = audio.astype(jnp.float32)
    if center:
        audio = pad_center(audio, n_fft=n_fft, pad_mode=pad_mode, lengths=lengths)
    if audio.shape[-1] < n_fft:
        audio = jnp.pad(audio, [(0, 0), (0, n_fft - audio.shape[-1])])
    x = frames(audio, frame_length=n_fft, hop_length=hop_length)
    return jnp.fft.rfft(x * window_array(window, win_length or n_fft, n_fft), axis=-1)


def _hz_to_mel(hz: Any, htk: bool) -> np.ndarray:
    hz = np.asarray(hz, np.float64)
    if htk:
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    linear, step = hz / (200.0 / 3), np.log(6.4) / 27.0
    return np.where(hz >= 1000.0, 15.0 + np.log(np.maximum(hz, 1e-9) / 1000.0) / step, linear)


def _mel_to_hz(mel: np.ndarray, htk: bool) -> np.ndarray:
    if htk:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel >= 15.0, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0)), mel * (200.0 / 3))


@functools.lru_cache(maxsize=32)
def mel_filterbank(
    sample_rate: float,
    n_fft: int,
    n_mels: int = 128,
    fmin: float = 0.0,
    fmax: float | None = None,
    htk: bool = False,
    norm: str | None = "slaney",
) -> np.ndarray:
    """Returns triangular mel filters float32 [n_fft // 2 + 1, n_mels].

    Args:
      fmin, fmax: Hz; None or 0 is half the sample rate.
      htk: O'Shaughnessy's formula (HTK) instead of Slaney's Auditory Toolbox.
      norm: 'slaney' gives each filter unit area in Hz, None unit height.
    """
    top = fmax or sample_rate / 2
    edges = _mel_to_hz(np.linspace(_hz_to_mel(fmin, htk), _hz_to_mel(top, htk), n_mels + 2), htk)
    bins = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    ramps = edges[:, None] - bins[None, :]
    widths = np.diff(edges)
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if norm == "slaney":
        filters *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return filters.T.astype(np.float32)


def mel_spectrogram(
    audio: jax.Array,
    sample_rate: float,
    *,
    n_fft: int = 1024,
    win_length: int | None = None,
    hop_length: int = 256,
    window: str = "hann",
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
    """Returns mel-weighted |STFT|^power, float32 [B, frames, n_mels]; arguments as `stft` and `mel_filterbank`."""
    spectrum = stft(
        audio, n_fft=n_fft, win_length=win_length, hop_length=hop_length, window=window, center=center,
        pad_mode=pad_mode, lengths=lengths,
    )  # fmt: skip
    energy = spectrum.real**2 + spectrum.imag**2
    if power != 2.0:
        # The gradient of a power below 1 is infinite at 0.
        energy = jnp.where(energy > 0, jnp.where(energy > 0, energy, 1.0) ** (power / 2), 0.0)
    filters = mel_filterbank(sample_rate, n_fft, n_mels, fmin, fmax, htk, norm)
    return jnp.matmul(energy, filters, precision=jax.lax.Precision.HIGHEST)


def to_log(
    energy: jax.Array,
    *,
    log: str = "db",
    floor: float = 1e-10,
    ref: float | str = 1.0,
    top_db: float | None = 80.0,
    frame_lengths: jax.Array | None = None,
) -> jax.Array:
    """Returns log(max(energy, floor) / max(ref, floor)) of [B, frames, bins].

    Args:
      log: natural, log10, or db (10 * log10, as librosa's power_to_db).
      ref: a number, or 'max': each clip's maximum.
      top_db: keeps at most so many decibels below each clip's maximum; for log='db' only.
      frame_lengths: valid frames [B]; maxima leave the others out.
    """
    highest = energy
    if frame_lengths is not None:
        highest = jnp.where(jnp.arange(energy.shape[1])[:, None] < frame_lengths[:, None, None], energy, 0)
    highest = jnp.maximum(highest.max((-2, -1), keepdims=True), floor)
    reference = highest if ref == "max" else jnp.maximum(jnp.asarray(ref, jnp.float32), floor)
    unit = {"natural": 1.0, "log10": 1 / np.log(10), "db": 10 / np.log(10)}[log]
    level = unit * (jnp.log(jnp.maximum(energy, floor)) - jnp.log(reference))
    if log == "db" and top_db is not None:
        level = jnp.maximum(level, unit * (jnp.log(highest) - jnp.log(reference)) - top_db)
    return level


def log_mel_spectrogram(
    audio: jax.Array,
    sample_rate: float,
    *,
    log: str = "db",
    floor: float = 1e-10,
    ref: float | str = 1.0,
    top_db: float | None = 80.0,
    lengths: jax.Array | None = None,
    **mel: Any,
) -> jax.Array:
    """Returns the log mel spectrogram float32 [B, frames, n_mels]; arguments as `mel_spectrogram` and `to_log`."""
    energy = mel_spectrogram(audio, sample_rate, lengths=lengths, **mel)
    counts = None
    if lengths is not None:
        options = {"n_fft": 1024, "hop_length": 256, "center": True} | mel
        counts = frame_count(
            lengths, n_fft=options["n_fft"], hop_length=options["hop_length"], center=options["center"]
        )
    return to_log(energy, log=log, floor=floor, ref=ref, top_db=top_db, frame_lengths=counts)


def cepstrum(log_mel: jax.Array, *, n_mfcc: int, lifter: float = 0) -> jax.Array:
    """Returns the first `n_mfcc` coefficients of the orthonormal DCT-II over mel bins, liftered as HTK does."""
    matrix = scipy.fft.dct(np.eye(log_mel.shape[-1]), axis=-1, type=2, norm="ortho")[:, :n_mfcc].astype(np.float32)
    out = jnp.matmul(log_mel, matrix, precision=jax.lax.Precision.HIGHEST)
    if lifter:
        out = out * (1 + lifter / 2 * np.sin(np.pi * np.arange(1, 1 + n_mfcc) / lifter)).astype(np.float32)
    return out


def mfcc(audio: jax.Array, sample_rate: float, *, n_mfcc: int = 20, lifter: float = 0, **log_mel: Any) -> jax.Array:
    """Returns mel-frequency cepstral coefficients float32 [B, frames, n_mfcc]; others as `log_mel_spectrogram`."""
    return cepstrum(log_mel_spectrogram(audio, sample_rate, **log_mel), n_mfcc=n_mfcc, lifter=lifter)
