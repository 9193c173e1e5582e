"""From audio to normalized features, on the accelerator.

`make_frontend` makes the whole from a config; its functions can be used one by one.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Int32
from ml_collections import ConfigDict

from sacjax.config import options as options_lib
from sacjax.errors import UserError
from sacjax.frontend.inversion import griffin_lim, istft, linear_of_mel, unlog
from sacjax.frontend.normalize import normalize, statistics
from sacjax.frontend.repeating import repeat_whole
from sacjax.frontend.silence import trim
from sacjax.frontend.spectral import (
    Numbers,
    cepstrum,
    frame_lengths,
    log_mel_spectrogram,
    log_scale,
    mel_filterbank,
    mel_spectrogram,
    mfcc,
    padded_window,
    preemphasis,
    stft,
)

__all__ = [
    "cepstrum",
    "frame_lengths",
    "griffin_lim",
    "istft",
    "linear_of_mel",
    "log_mel_spectrogram",
    "log_scale",
    "make_frontend",
    "mel_filterbank",
    "mel_frames",
    "mel_spectrogram",
    "mfcc",
    "normalize",
    "preemphasis",
    "repeat_whole",
    "statistics",
    "stft",
    "trim",
    "unlog",
]


@dataclasses.dataclass(frozen=True)
class Options(options_lib.Options):
    """`frontend` of a stage: from audio to log-mel or MFCC."""

    where = "frontend"

    trim_db: float = 0.0  # > 0: silence at both ends is cut: so far below the loudest frame
    repeat_seconds: float = 0.0  # > 0: shorter clips are repeated whole, then silent up to these
    n_fft: int = 1024
    win_length: int = 0  # 0 = n_fft
    hop_length: int = 256
    window: str = "hann"
    center: bool = True
    pad_mode: Literal["reflect", "constant"] = "reflect"
    n_mels: int = 64
    fmin: float = 0.0  # Hz
    fmax: float = 0.0  # Hz; 0 = half the sample rate
    htk: bool = False
    mel_norm: Literal["slaney", "none"] = "slaney"
    power: float = 2.0
    log: Literal["natural", "log10", "db"] = "db"
    floor: float = 1e-10
    ref: float | str = 1.0  # 0 dB: a power, or 'max' of the clip
    top_db: float | None = 80.0  # decibels below the maximum to keep, or None
    n_mfcc: int = 0  # > 0: so many MFCC instead of mel bins
    preemphasis: float = 0.0
    normalize: Literal["none", "clip", "band", "global"] = "clip"
    mean: float = 0.0  # for global
    std: float = 1.0  # for global

    def check(self) -> None:
        """Raises UserError for values out of range, or that do not fit together."""
        self.require_positive("n_fft", "hop_length", "n_mels", "floor", "power", "top_db", "std")
        self.require_not_negative(
            "trim_db", "repeat_seconds", "win_length", "fmin", "fmax", "n_mfcc"
        )
        good = self.win_length <= self.n_fft
        self.require(good, "win_length", f"it must not exceed n_fft {self.n_fft}")
        good = self.n_mfcc <= self.n_mels
        self.require(good, "n_mfcc", f"it must not exceed n_mels {self.n_mels}")
        good = self.ref == "max" if isinstance(self.ref, str) else 0 < self.ref < float("inf")
        self.require(good, "ref", "give max, or a power above 0")
        try:
            padded_window(self.window, 16, 16)
        except (ValueError, TypeError) as error:
            self.require(False, "window", f"SciPy has no such window: {error}")


def make_frontend(
    config: ConfigDict, sample_rate: int
) -> Callable[
    [Float[Numbers, "batch samples"], Int[Numbers, " batch"]],
    tuple[Float32[Array, "batch frames features"], Int32[Array, " batch"]],
]:
    """Returns the front end that a stage's `frontend` config describes, pure and jit-able.

    `frontend(audio, lengths)` takes float audio [B, T] and valid samples [B] and gives (features
    float32 [B, frames, n_mels or n_mfcc], valid frames int32 [B]). A clip's valid frames are those
    that it gives alone, whatever it is batched with: it is reflected at its own end, and reference,
    `top_db` and normalization look at its valid frames only. Frames beyond are 0. Without `center`
    a clip shorter than n_fft gives one frame, filled up with zeros.

    Args:
      config: a stage's `frontend`.
      sample_rate: Hz, of the audio.

    Raises:
      UserError: (when traced) a window of audio shorter than n_fft, without `center`.
    """
    c = config

    def frontend(
        audio: Float[Numbers, "batch samples"], lengths: Int[Numbers, " batch"]
    ) -> tuple[Float32[Array, "batch frames features"], Int32[Array, " batch"]]:
        if c.repeat_seconds:
            size = round(c.repeat_seconds * sample_rate)
            audio, lengths = repeat_whole(jnp.asarray(audio), jnp.asarray(lengths), size)
        mel, frames = mel_frames(c, sample_rate, audio, lengths)
        features = log_scale(
            mel, log=c.log, floor=c.floor, ref=c.ref, top_db=c.top_db, power=c.power, lengths=frames
        )
        if c.n_mfcc:
            features = cepstrum(features, n_mfcc=c.n_mfcc)
        return normalize(features, kind=c.normalize, lengths=frames, mean=c.mean, std=c.std), frames

    return frontend


def mel_frames(
    config: ConfigDict | Options,
    sample_rate: int,
    audio: Float[Numbers, "batch samples"],
    lengths: Int[Numbers, " batch"],
) -> tuple[Float32[Array, "batch frames mels"], Int32[Array, " batch"]]:
    """Returns (the mel spectrogram that a stage's `frontend` describes, without log; valid frames).

    Frames beyond a clip's own are meaningless.

    Args:
      config: a stage's `frontend`.
      sample_rate: Hz, of the audio.
      audio: samples [B, T].
      lengths: valid samples [B].

    Raises:
      UserError: a window of audio shorter than n_fft, without `center`.
    """
    c = config
    hop_length = c.hop_length or (c.win_length or c.n_fft) // 4
    if not c.center and audio.shape[1] < c.n_fft:
        raise UserError(
            f"frontend.n_fft {c.n_fft} is longer than the audio, {audio.shape[1]} samples: "
            "lower it or set frontend.center"
        )
    if c.preemphasis:
        audio = preemphasis(audio, coef=c.preemphasis)
    mel = mel_spectrogram(
        audio,
        sample_rate=sample_rate,
        n_fft=c.n_fft,
        win_length=c.win_length,
        hop_length=hop_length,
        window=c.window,
        center=c.center,
        pad_mode=c.pad_mode,
        power=c.power,
        n_mels=c.n_mels,
        fmin=c.fmin,
        fmax=c.fmax,
        htk=c.htk,
        norm=None if c.mel_norm == "none" else c.mel_norm,
        lengths=lengths,
    )
    frames = frame_lengths(lengths, n_fft=c.n_fft, hop_length=hop_length, center=c.center)
    return mel, frames.astype("int32")
