"""From audio to features on the accelerator: pure, jit-able, differentiable functions, and one made from a config."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sacjax.frontend.normalize import normalize
from sacjax.frontend.spectral import (
    cepstrum,
    frame_count,
    log_mel_spectrogram,
    mel_filterbank,
    mel_spectrogram,
    mfcc,
    preemphasis,
    stft,
    to_log,
)

__all__ = ["cepstrum", "frame_count", "log_mel_spectrogram", "make_frontend", "mel_filterbank", "mel_spectrogram",
           "mfcc", "normalize", "preemphasis", "stft", "to_log"]  # fmt: skip

Frontend = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def make_frontend(config: ConfigDict, sample_rate: int) -> Frontend:
    """Returns `frontend(audio [B, T], lengths [B]) -> (features float32 [B, frames, bins], valid frames int32 [B])`.

    Features beyond the valid frames are zero. A clip gives the same features alone and in a padded batch.

    Args:
      config: `config.frontend`.
      sample_rate: Hz.
    """

    def frontend(audio: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        audio = audio.astype(jnp.float32)
        if config.preemphasis:
            audio = preemphasis(audio, coef=config.preemphasis)
        audio = jnp.where(jnp.arange(audio.shape[1]) < lengths[:, None], audio, 0)
        features = log_mel_spectrogram(
            audio, sample_rate, lengths=lengths, log=config.log, floor=config.floor, ref=config.ref,
            top_db=config.top_db, n_fft=config.n_fft, win_length=config.win_length, hop_length=config.hop_length,
            window=config.window, center=config.center, pad_mode=config.pad_mode, power=config.power,
            n_mels=config.n_mels, fmin=config.fmin, fmax=config.fmax, htk=config.htk,
            norm=None if config.mel_norm in ("none", None) else config.mel_norm,
        )  # fmt: skip
        if config.n_mfcc:
            features = cepstrum(features, n_mfcc=config.n_mfcc)
        counts = frame_count(lengths, n_fft=config.n_fft, hop_length=config.hop_length, center=config.center)
        counts = jnp.where(lengths > 0, jnp.minimum(counts, features.shape[1]), 0).astype(jnp.int32)
        return normalize(features, counts, kind=config.normalize, mean=config.mean, std=config.std), counts

    return frontend
