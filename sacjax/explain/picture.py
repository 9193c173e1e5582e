"""Maps drawn over the log-mel spectrogram of their sound."""

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sacjax.explain.maps import Map, Transform
from sacjax.explain.subject import spectrum_of

TICKS = (200, 500, 1000, 2000, 5000, 10000, 20000)
RANGE = 70.0
"""Decibels that a spectrogram shows below its loudest cell."""


def log_mel(samples: np.ndarray, transform: Transform) -> np.ndarray:
    """Returns decibels [frames, bands] of samples [n], 0 for the loudest cell."""
    power = np.abs(np.asarray(spectrum_of(jnp.asarray(samples), transform))) ** 2
    mel = power @ transform.filters
    return 10 * np.log10(np.maximum(mel, 1e-10) / max(mel.max(), 1e-10))


def draw(
    title: str, samples: np.ndarray, transform: Transform, maps: dict[str, Map], start: float = 0
) -> Figure:
    """Draws a sound's spectrogram, and below it each map over the same.

    Red cells speak for the label and blue ones against it, the stronger the denser. Fine maps are
    smoothed; where a map is nowhere against it, the least of it is left clear.

    Args:
      title: of the whole.
      samples: float32 [n].
      transform: of the spectrogram.
      maps: {title: map}.
      start: seconds that the time axis begins with.
    """
    level, grid = log_mel(samples, transform), transform.grid(len(samples))
    figure = Figure(figsize=(9, 0.6 + 2.1 * (1 + len(maps))), layout="constrained")
    rows = list(np.atleast_1d(figure.subplots(1 + len(maps), 1, sharex=True)))
    figure.suptitle(title, fontsize=11)
    half = transform.hop / transform.sample_rate / 2
    extent = (start - half, start + grid.times[-1] + half, -0.5, len(grid.hertz) - 0.5)
    for axes in rows:
        _show(axes, level, extent, "gray" if axes is not rows[0] else "magma", -RANGE, 0)
        _hertz(axes, grid.hertz)
    rows[0].set_title("log-mel spectrogram", fontsize=9, loc="left")
    for axes, (name, map_) in zip(rows[1:], maps.items(), strict=True):
        values = map_.smoothed().on(grid)
        values = values - max(values.min(), 0)
        most = np.percentile(np.abs(values), 99.8) or np.abs(values).max() or 1.0
        strength = np.clip(values / most, -1, 1)
        colours = np.zeros([*strength.shape, 4])
        colours[..., 0], colours[..., 2] = strength > 0, strength < 0
        colours[..., 1] = 0.25
        colours[..., 3] = 0.9 * np.abs(strength) ** 0.8
        axes.imshow(
            colours.swapaxes(0, 1),
            origin="lower",
            aspect="auto",
            extent=extent,
            interpolation="nearest",
        )
        axes.set_title(name, fontsize=9, loc="left")
    rows[-1].set_xlabel("seconds")
    return figure


def _show(
    axes: Axes, level: np.ndarray, extent: tuple, colours: str, low: float, high: float
) -> None:
    axes.imshow(
        level.T, origin="lower", aspect="auto", cmap=colours, vmin=low, vmax=high, extent=extent
    )


def _hertz(axes: Axes, hertz: np.ndarray) -> None:
    """Labels a row of bands with round frequencies."""
    ticks = [tick for tick in TICKS if hertz[0] <= tick <= hertz[-1]]
    places = np.interp(ticks, hertz, np.arange(len(hertz)))
    axes.set_yticks(places, [f"{tick / 1000:g}k" if tick >= 1000 else str(tick) for tick in ticks])
    axes.set_ylabel("Hz")
    axes.tick_params(labelsize=8)
