"""One window of sound as a network hears it, with the grid on which its map lies."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sacjax.explain.maps import Transform, frontend_grid
from sacjax.explain.network import Network
from sacjax.frontend import istft, stft


class Subject:
    """A window and a label; a map says which of its cells speak for the label.

    Of an encoder of spectrograms a cell is one of what it takes: a mel band of a frame. Of an
    encoder of waves it is a mel band of a frame of their STFT. From its coefficients to the wave
    all is linear, so what a gradient says of samples it says of cells too, as in the virtual layer
    of Vielhaben et al. 2024.

    Attributes:
      x: what the encoder takes, [T] or [F, M].
      length: its valid samples or frames.
      baseline: the same without sound: silence, or a spectrogram as quiet as its quietest cell
        (of MFCC, zeros).
      grid: of maps.
      samples: how many valid samples the window has.
    """

    def __init__(self, network: Network, audio: np.ndarray, length: int, label: int):
        """Takes samples float32 [T], those that are valid, and the number of a label."""
        self.network, self.label, self.samples = network, label, length
        self.x, self.length = network.view(audio, length)
        self.transform = Transform.at(network.sample_rate)
        if network.hears_waves:
            self.grid = self.transform.grid(self.length)
            self.baseline = np.zeros_like(self.x)
            return
        rate = network.sample_rate
        self.grid = frontend_grid(network.stage.frontend, rate, self.length)
        inside = np.arange(len(self.x))[:, None] < self.length
        quiet = 0.0 if network.stage.frontend.n_mfcc else self.x[: self.length].min()
        self.baseline = np.where(inside, np.float32(quiet), self.x)

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Returns the label's logit of each of some inputs [K, …], float64 [K]."""
        return self.network.logits(inputs, self.length, self.label)

    def gradients(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (the label's logits [K], their gradients) of inputs [K, …]."""
        return self.network.gradients(inputs, self.length, self.label)

    def shares(self, slope: np.ndarray) -> np.ndarray:
        """Returns slope · (x − baseline) as a map [F, M] of the same sum, float64."""
        if not self.network.hears_waves:
            map_ = (slope * (self.x - self.baseline))[: self.length].astype(np.float64)
            return map_.sum(1, keepdims=True) if self.network.stage.frontend.n_mfcc else map_
        pulled = _pull(self.x[: self.length], slope[: self.length], self.transform)
        return np.asarray(pulled, np.float64) @ self.transform.filters

    def without(self, cells: np.ndarray) -> np.ndarray:
        """Returns inputs [K, …] with some cells as in the baseline; cells bool [K, F, M]."""
        if not self.network.hears_waves:
            frames = np.zeros([len(cells), len(self.x), cells.shape[2]], bool)
            frames[:, : self.length] = cells
            return np.where(frames, self.baseline, self.x)
        gains = (1.0 - cells) @ self.transform.filters.T
        kept = self._masked(jnp.asarray(gains, jnp.float32))
        return np.pad(np.asarray(kept), [(0, 0), (0, len(self.x) - self.length)])

    @functools.cached_property
    def _masked(self) -> Callable[[jax.Array], jax.Array]:
        """Gains [K, frames, bins] → waves [K, T]."""
        spectrum = spectrum_of(jnp.asarray(self.x[: self.length]), self.transform)
        back = lambda gain: wave_of(spectrum * gain, self.transform, self.length)
        return jax.jit(jax.vmap(back))


def spectrum_of(samples: jax.Array, transform: Transform) -> jax.Array:
    """Returns the STFT complex [frames, bins] of samples [n]; both ends are followed by zeros."""
    sizes = dict(n_fft=transform.n_fft, hop_length=transform.hop)
    return stft(samples, pad_mode="constant", **sizes)  # type: ignore[arg-type]


def wave_of(spectrum: jax.Array, transform: Transform, samples: int) -> jax.Array:
    """Returns so many samples float32 [n] of an STFT of `spectrum_of`."""
    return istft(spectrum, hop_length=transform.hop, length=samples)


@functools.partial(jax.jit, static_argnums=2)
def _pull(samples: jax.Array, slope: jax.Array, transform: Transform) -> jax.Array:
    """Returns slope · samples by the STFT's coefficients [frames, bins], with the same sum."""
    x = spectrum_of(samples, transform)
    back = lambda real, imaginary: wave_of(
        jax.lax.complex(real, imaginary), transform, len(samples)
    )
    real, imaginary = jax.vjp(back, x.real, x.imag)[1](slope)
    return real * x.real + imaginary * x.imag
