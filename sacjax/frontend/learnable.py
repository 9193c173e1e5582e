"""Front ends with parameters, which learn with the encoder that they stand before.

They hear audio and give features of the same bands and hop as the log-mel spectrogram that they
replace: of a stage's `frontend` they take `n_mels` (filters), `hop_length`, `win_length` or else
`n_fft` (samples of a filter), `fmin`, `fmax` and `normalize`; LEAF as published is n_fft=512,
win_length=400, hop_length=160, n_mels=40, fmin=60, fmax=7800 at 16 kHz. All is float32. A clip
gives the same alone and in a padded batch. What a parameter may not be it is clipped to at use.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from sacjax import frontend
from sacjax.config import options as options_lib
from sacjax.frontend.fft import irfft, rfft
from sacjax.frontend.normalize import normalize
from sacjax.layers.platform import platform

FLOOR = 1e-5
"""Of the smoothed energy of a filter, as LEAF's."""

LARGEST = {"cpu": 1 << 20, "gpu": 1 << 26, "tpu": 1 << 26}
"""Numbers of filtered audio on a device at a time: a CPU's cache holds 4 MiB, others 256 MiB."""

Features = tuple[Float32[Array, "batch frames bands"], Int[Array, " batch"]]


@dataclasses.dataclass(frozen=True)
class PCENOptions(options_lib.Options):
    """`model.frontend_options`: where PCEN's parameters start, each of them one a band."""

    where = "model.frontend_options"

    alpha: float = 0.96
    """Exponent of the moving average by which energy is divided; used up to 1."""

    smooth: float = 0.04
    """Weight of the newest frame in the moving average; used from 0 to 1."""

    delta: float = 2.0
    """Added before the root."""

    root: float = 2.0
    """Used from 1."""

    floor: float = 1e-6
    """Added to the moving average; it does not learn."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        self.require_shares("alpha", "smooth")
        self.require_positive("delta", "floor")
        self.require(self.root >= 1, "root", "it must be 1 or more")


@dataclasses.dataclass(frozen=True)
class FilterOptions(PCENOptions):
    """`model.frontend_options` of filters on the waveform: as of PCEN, and of the low-pass."""

    floor: float = 1e-12
    """Added to the moving average; it does not learn."""

    lowpass: float = 0.4
    """Where the low-pass's width starts: standard deviation, in halves of a filter's length."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        super().check()
        self.require(0 < self.lowpass <= 0.5, "lowpass", "it must lie between 0 and 0.5")


def moving_average(
    x: Float[Array, "batch frames bands"], smooth: Float[Array, " bands"]
) -> Float[Array, "batch frames bands"]:
    """Returns M[t] = smooth · x[t] + (1 − smooth) · M[t − 1], from M[0] = x[0].

    Args:
      x: of each band.
      smooth: from 0 to 1.
    """
    new = smooth * x
    new = new.at[:, 0].set(x[:, 0])
    old = jnp.broadcast_to(1 - smooth, (1, *x.shape[1:]))

    def then(first: tuple, second: tuple) -> tuple:
        return first[0] * second[0], second[0] * first[1] + second[1]

    return jax.lax.associative_scan(then, (old, new), axis=1)[1]


class PCEN(nnx.Module):
    """Per-channel energy normalization (Wang et al. 2017), each parameter one a band (sPCEN)."""

    def __init__(self, bands: int, options: PCENOptions):
        """Makes parameters for so many bands, where the options start them."""
        start = lambda value: nnx.Param(jnp.full([bands], value, jnp.float32))
        self.alpha, self.smooth = start(options.alpha), start(options.smooth)
        self.delta, self.root = start(options.delta), start(options.root)
        self.floor = options.floor

    def __call__(
        self, energy: Float[Array, "batch frames bands"]
    ) -> Float[Array, "batch frames bands"]:
        """Returns (E / (floor + M)^α + δ)^(1/r) − δ^(1/r), M being E's moving average.

        Args:
          energy: E, not negative.
        """
        alpha, root = jnp.minimum(self.alpha[...], 1), jnp.maximum(self.root[...], 1)
        delta = jnp.maximum(self.delta[...], 1e-3)  # a root's gradient at 0 is infinite
        average = moving_average(energy, jnp.clip(self.smooth[...], 0, 1))
        gained = energy * (self.floor + average) ** -alpha
        return (gained + delta) ** (1 / root) - delta ** (1 / root)


class GaborFilters(nnx.Module):
    """Complex Gabor filters (Zeghidour et al. 2021), which start as mel filters do."""

    def __init__(self, config: frontend.Options, sample_rate: int, taps: int):
        """Makes a filter of `taps` samples for each of the config's mel filters."""
        centre, width = gabor_like_mel(config, sample_rate)
        self.centre, self.width = nnx.Param(jnp.asarray(centre)), nnx.Param(jnp.asarray(width))
        self.taps = taps

    def __call__(self) -> Float[Array, "2 filters taps"]:
        """Returns the real and the imaginary parts."""
        unit = np.sqrt(2 * np.log(2)) / np.pi
        centre = jnp.clip(self.centre[...], 0, np.pi)[:, None]
        width = jnp.clip(self.width[...], 4 * unit, self.taps * unit)[:, None]
        time = jnp.arange(self.taps) - self.taps // 2
        bell = jnp.exp(-0.5 * (time / width) ** 2) / (np.sqrt(2 * np.pi) * width)
        return jnp.stack([bell * jnp.cos(centre * time), bell * jnp.sin(centre * time)])


def gabor_like_mel(
    config: frontend.Options, sample_rate: int
) -> tuple[Float32[np.ndarray, " filters"], Float32[np.ndarray, " filters"]]:
    """Returns (centres in radians a sample, widths in samples) of the mel filters as Gabor filters.

    The centre is the peak of the filter's square root, the width follows from the width at its half
    maximum, both in bins of n_fft.
    """
    root = np.sqrt(_mel(config, sample_rate))
    bins = np.maximum((root >= root.max(0) / 2).sum(0), 1)
    centre = root.argmax(0) * 2 * np.pi / config.n_fft
    width = np.sqrt(2 * np.log(2)) * config.n_fft / (np.pi * bins)
    return centre.astype(np.float32), width.astype(np.float32)


def _mel(config: frontend.Options, sample_rate: int) -> np.ndarray:
    """Returns HTK's mel filters [bins, filters] of unit height, as LEAF starts from."""
    return frontend.mel_filterbank(
        sample_rate,
        n_fft=config.n_fft,
        n_mels=config.n_mels,
        fmin=config.fmin,
        fmax=config.fmax,
        htk=True,
        norm=None,
    )


class SincFilters(nnx.Module):
    """Windowed ideal band-passes with learned edges (Ravanelli and Bengio 2018), height 1."""

    LEAST = 50.0  # Hz, of the lower edge and of the width of a band

    def __init__(self, config: frontend.Options, sample_rate: int, taps: int):
        """Makes a filter of `taps` samples for each of n_mels bands, equally wide in mel."""
        to_radians = 2 * np.pi / sample_rate
        highest = (config.fmax or sample_rate / 2) - 2 * self.LEAST
        low, high = np.log10(1 + np.array([max(config.fmin, self.LEAST), highest]) / 700)
        mel = np.linspace(low, high, config.n_mels + 1)
        edges = (700 * (10**mel - 1) * to_radians).astype(np.float32)
        self.low = nnx.Param(jnp.asarray(edges[:-1]))
        self.band = nnx.Param(jnp.asarray(np.diff(edges)))
        self.least, self.taps = self.LEAST * to_radians, taps

    def edges(self) -> tuple[Float[Array, " filters"], Float[Array, " filters"]]:
        """Returns (lower, upper) edges in radians a sample."""
        low = jnp.minimum(self.least + jnp.abs(self.low[...]), np.pi - self.least)
        return low, jnp.minimum(low + self.least + jnp.abs(self.band[...]), np.pi)

    def __call__(self) -> Float[Array, "1 filters taps"]:
        """Returns the filters."""
        low, high = (edge[:, None] for edge in self.edges())
        half = self.taps // 2
        time = np.arange(-half, 0)
        # SpeechBrain's Hamming window, whose steps are slightly longer than a sample.
        place = np.linspace(0, self.taps / 2 - 1, half) / self.taps
        window = 0.54 - 0.46 * np.cos(2 * np.pi * place)
        left = (jnp.sin(high * time) - jnp.sin(low * time)) / (time * (high - low)) * window
        return jnp.concatenate([left, jnp.ones_like(low), left[:, ::-1]], 1)[None]


def smoothed_bands(
    audio: Float[Array, "batch samples"],
    lengths: Int[Array, " batch"],
    filters: Float[Array, "parts filters taps"],
    windows: Float[Array, "filters taps"],
    *,
    hop_length: int,
    activation: Callable[[jax.Array], jax.Array],
) -> Float[Array, "batch frames filters"]:
    """Returns filtered, rectified and smoothed audio, a frame at each `hop_length` samples.

    Frame k is centred on sample k · hop_length; beyond a clip's ends there are zeros. The filters
    work by one FFT of the whole clip, which is exact: at 401 taps, stride 1, it is an eighth of the
    convolution's work. Groups of filters that are too large are computed one after the other, and
    again in the backward pass.

    Args:
      audio: samples.
      lengths: valid samples.
      filters: an odd number of taps.
      windows: by which a filter's output is smoothed.
      hop_length: samples between frames.
      activation: from [batch, parts, filters, samples] to [batch, filters, samples].
    """
    parts, count, taps = filters.shape
    rows, samples = audio.shape
    inside = (jnp.arange(samples) < lengths[:, None])[:, None]
    half = taps // 2
    size = scipy.fft.next_fast_len(samples + half, real=True)
    spectrum = rfft(jnp.where(inside[:, 0], audio, 0).astype(jnp.float32), size)

    def some(given: tuple[jax.Array, jax.Array]) -> jax.Array:
        filters, windows = given
        response = jnp.fft.rfft(filters.swapaxes(0, 1), size)
        filtered = irfft(spectrum[:, None, None] * response.swapaxes(0, 1), size)
        energy = activation(filtered[..., half : half + samples])
        return smooth(jnp.where(inside, energy, 0), windows, hop_length)

    most = max(LARGEST[platform()] * jax.device_count() // (rows * parts * samples), 1)
    groups = next(g for g in range(1, count + 1) if count % g == 0 and count // g <= most)
    if groups == 1:
        return some((filters, windows)).swapaxes(1, 2)
    split = filters.reshape(parts, groups, -1, taps).swapaxes(0, 1)
    found = jax.lax.map(jax.checkpoint(some), (split, windows.reshape(groups, -1, taps)))
    return found.transpose(1, 3, 0, 2).reshape(rows, -1, count)


def smooth(
    x: Float[Array, "batch filters samples"],
    windows: Float[Array, "filters taps"],
    hop_length: int,
) -> Float[Array, "batch filters frames"]:
    """Returns x under a window centred on every `hop_length`-th sample.

    Args:
      x: of each filter.
      windows: an odd number of taps.
      hop_length: samples between frames.
    """
    samples, taps = x.shape[-1], windows.shape[-1]
    frames, blocks = -(-samples // hop_length), -(-taps // hop_length)
    size = (frames + blocks - 1) * hop_length
    x = jnp.pad(x, ((0, 0), (0, 0), (taps // 2, max(size - samples, 0))))[..., :size]
    x = x.reshape(*x.shape[:2], -1, hop_length)
    windows = jnp.pad(windows, ((0, 0), (0, blocks * hop_length - taps)))
    windows = windows.reshape(-1, blocks, hop_length)
    product = functools.partial(jnp.einsum, "bmfh,mh->bmf", precision="highest")
    parts = [product(x[:, :, j : j + frames], windows[:, j]) for j in range(blocks)]
    return functools.reduce(jnp.add, parts)


class FrontEnd(nnx.Module):
    """From audio to features. A subclass sets `Options` and `energies`.

    The first line of its docstring is what `sacjax list frontends` shows.
    """

    Options: ClassVar[type[PCENOptions]]
    """Frozen dataclass of the keys of `model.frontend_options`."""

    def __init__(self, config: frontend.Options, sample_rate: int, options: PCENOptions):
        """Makes parameters as they start; nothing is drawn.

        Args:
          config: a stage's `frontend`.
          sample_rate: Hz, of the audio.
          options: of the class's own kind.
        """
        self.config, self.sample_rate = config, sample_rate
        self.pcen = PCEN(config.n_mels, options)

    def energies(
        self, audio: Float[Array, "batch samples"], lengths: Int[Array, " batch"]
    ) -> Features:
        """Returns (energies, which are not negative; valid frames)."""
        raise NotImplementedError

    def __call__(
        self, audio: Float[Array, "batch samples"], lengths: Int[Array, " batch"]
    ) -> Features:
        """Returns (features; valid frames). Frames beyond them are 0.

        Args:
          audio: in [-1, 1].
          lengths: valid samples.
        """
        energies, frames = self.energies(audio.astype(jnp.float32), lengths)
        return normalize(self.pcen(energies), kind=self.config.normalize, lengths=frames), frames


class MelPCEN(FrontEnd):
    """Mel energies under a learned per-channel energy normalization (Wang et al. 2017)."""

    Options = PCENOptions

    def energies(
        self, audio: Float[Array, "batch samples"], lengths: Int[Array, " batch"]
    ) -> Features:
        """Returns (the mel spectrogram that the config describes; its valid frames)."""
        return frontend.mel_frames(self.config, self.sample_rate, audio, lengths)


class Filters(FrontEnd):
    """Filters on the waveform, a Gaussian low-pass with a learned width, PCEN."""

    Options = FilterOptions
    filters: GaborFilters | SincFilters

    def __init__(self, config: frontend.Options, sample_rate: int, options: FilterOptions):
        """Makes parameters as they start; see `FrontEnd`."""
        super().__init__(config, sample_rate, options)
        self.taps = (config.win_length or config.n_fft) | 1
        self.hop_length = config.hop_length or (config.win_length or config.n_fft) // 4
        self.lowpass = nnx.Param(jnp.full([config.n_mels], options.lowpass, jnp.float32))

    @staticmethod
    def activation(x: jax.Array) -> jax.Array:
        """Returns [batch, filters, samples] of [batch, parts, filters, samples]."""
        raise NotImplementedError

    def windows(self) -> Float[Array, "filters taps"]:
        """Returns the low-passes, of height 1."""
        half = (self.taps - 1) / 2
        width = jnp.clip(self.lowpass[...], 2 / self.taps, 0.5)[:, None] * half
        return jnp.exp(-0.5 * ((jnp.arange(self.taps) - half) / width) ** 2)

    def energies(
        self, audio: Float[Array, "batch samples"], lengths: Int[Array, " batch"]
    ) -> Features:
        """Returns (smoothed bands; valid frames, one for each hop that has begun)."""
        bands = smoothed_bands(
            audio,
            lengths,
            self.filters(),
            self.windows(),
            hop_length=self.hop_length,
            activation=self.activation,
        )
        frames = jnp.maximum(-(-lengths // self.hop_length), 1)
        return jnp.maximum(bands, FLOOR), frames


class Leaf(Filters):
    """LEAF (Zeghidour et al. 2021): Gabor filters, squared modulus, Gaussian low-pass, PCEN."""

    def __init__(self, config: frontend.Options, sample_rate: int, options: FilterOptions):
        """Makes parameters as they start; see `FrontEnd`."""
        super().__init__(config, sample_rate, options)
        self.filters = GaborFilters(config, sample_rate, self.taps)

    @staticmethod
    def activation(x: jax.Array) -> jax.Array:
        """Returns the squared modulus."""
        return (x * x).sum(1)


class SincNet(Filters):
    """SincNet+ (Zeghidour et al. 2021): learned band-passes, leaky ReLU, low-pass, PCEN."""

    def __init__(self, config: frontend.Options, sample_rate: int, options: FilterOptions):
        """Makes parameters as they start; see `FrontEnd`."""
        super().__init__(config, sample_rate, options)
        self.filters = SincFilters(config, sample_rate, self.taps)

    @staticmethod
    def activation(x: jax.Array) -> jax.Array:
        """Returns x where positive, else a fifth of it."""
        return nnx.leaky_relu(x[:, 0], 0.2)


FRONT_ENDS: dict[str, type[FrontEnd]] = {"leaf": Leaf, "pcen": MelPCEN, "sincnet": SincNet}
"""By `model.frontend`."""
