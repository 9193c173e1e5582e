"""From a spectrogram back to sound: inverse STFT, Griffin-Lim, and what undoes log and mel.

Pure functions like those of `spectral`, which they invert; `lengths` leaves padding out here too.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Float32, Int

from sacjax.frontend.fft import irfft
from sacjax.frontend.normalize import Numbers
from sacjax.frontend.spectral import Window, frame_lengths, padded_window, stft

TINY = float(np.finfo(np.float32).tiny)


def istft(
    spectrum: Complex[Array, "*batch frames bins"],
    *,
    hop_length: int,
    win_length: int | None = None,
    window: Window = "hann",
    length: int,
    padding: Literal["center", "same"] = "center",
    frames: Int[Numbers, "*batch"] | None = None,
) -> Float32[Array, "*batch samples"]:
    """Returns the audio [..., length] of a spectrum, by windowed overlap-add.

    Args:
      spectrum: [..., frames, n_fft // 2 + 1], n_fft even.
      hop_length: samples between frames.
      win_length: as of `stft`.
      window: as of `stft`.
      length: samples of the result.
      padding: 'center': frame k is centred on sample k * hop_length, as of a centred `stft`;
        'same': on the middle of the k-th hop, so that so many frames are as many hops.
      frames: valid frames [...]; others add nothing. None: all are valid.
    """
    n_fft = 2 * (spectrum.shape[-1] - 1)
    values = padded_window(window, win_length or n_fft, n_fft)
    squares = jnp.broadcast_to(values**2, (spectrum.shape[-2], n_fft))
    parts = irfft(spectrum, n_fft) * values
    if frames is not None:
        inside = (jnp.arange(spectrum.shape[-2]) < jnp.asarray(frames)[..., None])[..., None]
        parts, squares = jnp.where(inside, parts, 0), jnp.where(inside, squares, 0)
    weight = overlap_add(squares, hop_length)
    x = overlap_add(parts, hop_length) / jnp.where(weight > 1e-8, weight, 1)
    begin = n_fft // 2 if padding == "center" else (n_fft - hop_length) // 2
    x = x[..., begin : begin + length]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])])


def overlap_add(
    frames: Float[Array, "*batch frames window"], hop_length: int
) -> Float[Array, "*batch samples"]:
    """Returns the sum of frames [..., F, n], each `hop_length` after the one before."""
    blocks = -(-frames.shape[-1] // hop_length)
    pad = blocks * hop_length - frames.shape[-1]
    frames = jnp.pad(frames, [(0, 0)] * (frames.ndim - 1) + [(0, pad)])
    frames = frames.reshape(*frames.shape[:-1], blocks, hop_length)
    none = [(0, 0)] * (frames.ndim - 3)
    parts = [
        jnp.pad(frames[..., i, :], [*none, (i, blocks - 1 - i), (0, 0)]) for i in range(blocks)
    ]
    return functools.reduce(jnp.add, parts).reshape(*frames.shape[:-3], -1)


def griffin_lim(
    magnitude: Float[Numbers, "*batch frames bins"],
    *,
    hop_length: int,
    win_length: int | None = None,
    window: Window = "hann",
    rounds: int = 32,
    momentum: float = 0.99,
    phase: Float[Numbers, "*batch frames bins"] | None = None,
    length: int | None = None,
    lengths: Int[Numbers, "*batch"] | None = None,
) -> Float32[Array, "*batch samples"]:
    """Returns audio [..., length] whose centred STFT has nearly these magnitudes.

    Perraudin, Balazs and Søndergaard 2013, "A fast Griffin-Lim algorithm", as librosa's: each round
    takes the phases of the sound that the last ones gave, moved on by the momentum.

    Args:
      magnitude: [..., frames, n_fft // 2 + 1], n_fft even: the root of a power spectrogram.
      hop_length: samples between frames, at most a quarter of the window.
      win_length: as of `stft`.
      window: as of `stft`.
      rounds: of inverse and forward STFT.
      momentum: 0: the algorithm of Griffin and Lim 1984; above 1 it may diverge.
      phase: radians from which it starts, best at random from 0 to 2 π; None: zeros.
      length: samples of the result; None: up to the centre of the last frame.
      lengths: valid samples [...] of clips in a batch; None: all are valid.
    """
    goal = jnp.asarray(magnitude, jnp.float32)
    number, n_fft = goal.shape[-2], 2 * (goal.shape[-1] - 1)
    size = hop_length * (number - 1) if length is None else length
    frames = None
    if lengths is not None:
        frames = jnp.asarray(frame_lengths(lengths, n_fft=n_fft, hop_length=hop_length))
        goal = jnp.where(jnp.arange(number)[:, None] < frames[..., None, None], goal, 0)
    shape = dict(hop_length=hop_length, win_length=win_length, window=window)

    def sound(spectrum: jax.Array) -> jax.Array:
        x = istft(spectrum, length=size, frames=frames, **shape)  # type: ignore[arg-type]
        return x if lengths is None else jnp.where(jnp.arange(size) < lengths[..., None], x, 0)

    def one_round(_: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        spectrum, before = carry
        rebuilt = stft(sound(spectrum), n_fft=n_fft, pad_mode="constant", **shape)  # type: ignore
        rebuilt = rebuilt[..., :number, :]
        moved = rebuilt - momentum / (1 + momentum) * before
        return goal * moved / (jnp.abs(moved) + TINY), rebuilt

    begin = goal * jnp.exp(1j * (0.0 if phase is None else jnp.asarray(phase)))
    begin = begin.astype(jnp.complex64)
    spectrum, _ = jax.lax.fori_loop(0, rounds, one_round, (begin, jnp.zeros_like(begin)))
    return sound(spectrum)


def linear_of_mel(
    mel: Float[Numbers, "*batch frames bands"],
    filters: Float[np.ndarray, "bins bands"],
    *,
    rounds: int = 100,
) -> Float32[Array, "*batch frames bins"]:
    """Returns a spectrogram that is nowhere negative and whose mel spectrogram is nearly this.

    Non-negative least squares: the pseudo-inverse, raised above 0, then multiplicative updates (Lee
    and Seung 2001), which never make the squared error larger.

    Args:
      mel: [..., frames, bands], not negative.
      filters: of `mel_filterbank`.
      rounds: updates.
    """
    goal, a = jnp.asarray(mel, jnp.float32), filters / filters.max()
    start = jnp.matmul(goal, np.linalg.pinv(a).astype(np.float32), precision="highest")
    start = jnp.maximum(start, 1e-3 * start.max(-1, keepdims=True))
    wanted = jnp.matmul(goal, a.T, precision="highest")

    def update(_: Any, x: jax.Array) -> jax.Array:
        found = jnp.matmul(jnp.matmul(x, a, precision="highest"), a.T, precision="highest")
        return x * wanted / jnp.maximum(found, TINY)

    return jax.lax.fori_loop(0, rounds, update, jnp.maximum(start, 0)) / filters.max()


def unlog(
    values: Float[Numbers, "*batch frames bands"],
    *,
    log: str = "natural",
    ref: float = 1.0,
    power: float = 2.0,
) -> Float32[Array, "*batch frames bands"]:
    """Returns the spectrogram of which `log_scale` made these values, but for what it floored.

    Args:
      values: [..., frames, bands].
      log: as of `log_scale`, as are the next two.
      ref: a number; where it was 'max', 1 gives the clip relative to its largest value.
      power: see `log_scale`.
    """
    scale = {"natural": 1.0, "log10": 1 / np.log(10), "db": 20 / power / np.log(10)}[log]
    return ref * jnp.exp(jnp.asarray(values, jnp.float32) / scale)
