"""Maps of importance over time and frequency, and how they come from one grid to another."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from sacjax.frontend import mel_filterbank

SMOOTH = 0.025
"""Seconds: standard deviation by which fine maps are smoothed to be drawn or heard."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the cells of a map are."""

    times: np.ndarray
    """Seconds of the frames' centres, rising [F]."""

    hertz: np.ndarray
    """Frequencies of the bands' centres, rising [M]; of one band: all frequencies."""

    @property
    def shape(self) -> tuple[int, int]:
        """(F, M)."""
        return len(self.times), len(self.hertz)


@dataclasses.dataclass(frozen=True)
class Map:
    """How much each cell speaks for a label; below 0, against it."""

    values: np.ndarray
    """[F, M]."""

    grid: Grid

    def on(self, grid: Grid) -> np.ndarray:
        """Returns the values between and beyond this map's cells at those of another grid."""
        rows = [np.interp(grid.hertz, self.grid.hertz, row) for row in self.values]
        columns = [np.interp(grid.times, self.grid.times, column) for column in np.stack(rows, 1)]
        return np.stack(columns, 1)

    def smoothed(self) -> "Map":
        """Returns the map without single cells that contradict their neighbours.

        By a Gaussian of 25 ms and a fortieth of the bands; coarse maps stay as they are.
        """
        from scipy.ndimage import gaussian_filter  # here: it takes long to import

        times, bands = self.grid.times, len(self.grid.hertz)
        step = (times[-1] - times[0]) / max(len(times) - 1, 1)
        wanted = (SMOOTH / step if step > 0 else 0.0, bands / 40)
        widths = [width if width >= 0.5 else 0.0 for width in wanted]
        return Map(gaussian_filter(self.values, widths, mode="nearest"), self.grid)


@dataclasses.dataclass(frozen=True)
class Transform:
    """The centred STFT in which sound is drawn, masked, and made again."""

    sample_rate: int
    n_fft: int
    bands: int = 64

    @classmethod
    def at(cls, sample_rate: int) -> "Transform":
        """Returns one of about 46 ms."""
        return cls(sample_rate, 1 << max(round(np.log2(0.046 * sample_rate)), 5))

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return self.n_fft // 4

    def times(self, samples: int) -> np.ndarray:
        """Returns the frames' centres of so many samples, in seconds."""
        return np.arange(1 + samples // self.hop) * self.hop / self.sample_rate

    @property
    def bins(self) -> np.ndarray:
        """Frequencies of the bins, Hz."""
        return np.linspace(0, self.sample_rate / 2, self.n_fft // 2 + 1)

    @property
    def filters(self) -> np.ndarray:
        """Shares [bins, bands] of each bin that its mel bands take; each row adds up to 1."""
        weights = mel_filterbank(self.sample_rate, n_fft=self.n_fft, n_mels=self.bands, norm=None)
        weights = np.array(weights, np.float64)
        for k in np.flatnonzero(weights.sum(1) == 0):  # below the lowest and above the highest
            weights[k, 0 if k < len(weights) / 2 else -1] = 1.0
        return weights / weights.sum(1, keepdims=True)

    def grid(self, samples: int) -> Grid:
        """Returns the cells of the mel spectrogram of so many samples."""
        return Grid(self.times(samples), centres(self.filters, self.bins))


def centres(filters: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Returns the mean frequency of each filter; filters [bins, bands], bins in Hz."""
    total = filters.sum(0)
    found = bins @ filters / np.where(total > 0, total, 1)
    return np.maximum.accumulate(found)  # of a filter without a bin: that of the one below


def frontend_grid(frontend: ConfigDict, sample_rate: int, frames: int) -> Grid:
    """Returns the cells of a stage's log-mel spectrogram; of MFCC, one band.

    Args:
      frontend: of a stage.
      sample_rate: Hz.
      frames: valid ones.
    """
    f = frontend
    hop = f.hop_length or (f.win_length or f.n_fft) // 4
    first = 0 if f.center else f.n_fft / 2
    times = (np.arange(frames) * hop + first) / sample_rate
    if f.n_mfcc:
        return Grid(times, np.zeros(1))
    filters = mel_filterbank(
        sample_rate, n_fft=f.n_fft, n_mels=f.n_mels, fmin=f.fmin, fmax=f.fmax, htk=f.htk, norm=None
    )
    return Grid(times, centres(filters, np.linspace(0, sample_rate / 2, len(filters))))
