"""Which part of a sound makes a label: four methods, each from a `Subject` to a `Map`."""

import dataclasses
import heapq

import jax
import jax.numpy as jnp
import numpy as np

from sacjax.explain.maps import Grid, Map, frontend_grid
from sacjax.explain.network import ROWS, Network
from sacjax.explain.subject import Subject
from sacjax.models.spectrogram_transformer import SpectrogramTransformer
from sacjax.models.whisper import Whisper

POINTS = (ROWS - 1) // 2
"""Of a quadrature: two halves of an interval and its middle go through the network at once."""

SLICES = (10, 8)
"""Windows that an occlusion has side by side along time and frequency; they overlap by half."""


@dataclasses.dataclass(frozen=True)
class Integral:
    """Integrated gradients, and how well they add up."""

    map: Map
    difference: float
    """Of the label's logit between the sound and the baseline."""

    missing: float
    """What the map's sum lacks of it."""


def integrated_gradients(subject: Subject, tolerance: float = 1e-3, most: int = 4096) -> Integral:
    """Returns the gradient along the straight line from the baseline to the sound, times its way.

    Sundararajan, Taly and Yan 2017. Gauss-Legendre quadrature on intervals of the line. Of each
    interval is known what it shall add up to, so the one that misses it most is halved until the
    whole is as exact as wanted.

    Args:
      subject: what is explained.
      tolerance: largest share of the logit's difference that may be missing.
      most: gradients after which it ends, however exact.
    """
    x, start = subject.x, subject.baseline
    way = np.float64(x - start)
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    nodes, weights = (nodes + 1) / 2, weights / 2

    def halves(low: float, high: float, before: float, after: float) -> list[tuple]:
        """Returns the heap's entries of both halves of an interval, given its ends' logits."""
        middle, half = (low + high) / 2, (high - low) / 2
        at = np.concatenate([low + half * nodes, middle + half * nodes, [middle]])
        points = start + at.reshape(-1, *[1] * x.ndim) * way
        values, slopes = subject.gradients(points.astype(np.float32))
        entries = []
        for k, (a, b, f, g) in enumerate(
            [(low, middle, before, values[-1]), (middle, high, values[-1], after)]
        ):
            own = slopes[k * POINTS : (k + 1) * POINTS]
            slope = half * np.tensordot(weights, np.float64(own), 1)
            miss = float((slope * way).sum() - (g - f))
            entries.append((-abs(miss), a, b, f, g, miss, slope))
        return entries

    first, last = subject.logits(np.stack([start, x]))
    heap = halves(0.0, 1.0, first, last)
    heapq.heapify(heap)
    goal, used = tolerance * max(abs(last - first), 1e-2), ROWS

    def exact() -> bool:
        misses = [entry[5] for entry in heap]  # of either sign: several may cancel by chance
        return abs(sum(misses)) <= goal and sum(map(abs, misses)) <= 10 * goal

    while used < 4 * ROWS or (used < most and not exact()):
        _, low, high, before, after, _, _ = heapq.heappop(heap)
        for entry in halves(low, high, before, after):
            heapq.heappush(heap, entry)
        used += ROWS
    values = subject.shares(sum(entry[6] for entry in heap))
    difference = float(last - first)
    return Integral(Map(values, subject.grid), difference, difference - float(values.sum()))


def occlusion(subject: Subject, slices: tuple[int, int] = SLICES) -> Map:
    """Returns how far the label's logit falls where a window is put over a part of the sound.

    Zeiler and Fergus 2014. What is under the window is as in the baseline. The windows lie half
    over each other; a cell has the mean of those that cover it.

    Args:
      subject: what is explained.
      slices: windows side by side along time and along frequency.
    """
    frames, bands = subject.grid.shape
    windows = [
        (slice(*rows), slice(*columns))
        for rows in _slices(frames, slices[0])
        for columns in _slices(bands, slices[1])
    ]
    (whole,) = subject.logits(subject.x[None])
    total, count = np.zeros([frames, bands]), np.zeros([frames, bands])
    for begin in range(0, len(windows), ROWS):
        part = windows[begin : begin + ROWS]
        cells = np.zeros([len(part), frames, bands], bool)
        for row, window in enumerate(part):
            cells[row][window] = True
        for window, value in zip(part, subject.logits(subject.without(cells)), strict=True):
            total[window] += whole - value
            count[window] += 1
    return Map(total / count, subject.grid)


def _slices(size: int, number: int) -> list[tuple[int, int]]:
    """Returns the (begin, end) of windows over `size` cells, half over each other."""
    width = max(-(-size // number), 1)
    starts = range(0, max(size - width, 0) + 1, max(width // 2, 1))
    last = max(size - width, 0)
    return [(start, start + width) for start in sorted({*starts, last})]


def grad_cam(subject: Subject) -> Map:
    """Returns where the features that speak for the label are, in the last convolutions' maps.

    Selvaraju et al. 2017: a channel's weight is the mean over the map of the logit's gradient;
    what the weighted sum has below 0 is left out. The map is as coarse as those convolutions.
    """
    network = subject.network
    maps, slopes = network.maps(subject.x, subject.length, subject.label)
    times = network.embedder.frame_times(subject.samples)
    maps, slopes = maps[: len(times)], slopes[: len(times)]
    weights = slopes.mean(tuple(range(slopes.ndim - 1)))
    values = np.maximum(maps.astype(np.float64) @ weights.astype(np.float64), 0)
    if values.ndim == 1:
        return Map(values[:, None], Grid(times, np.zeros(1)))
    grid = frontend_grid(network.stage.frontend, network.sample_rate, len(subject.grid.times))
    if len(grid.hertz) == 1:
        return Map(values.mean(1, keepdims=True), Grid(times, grid.hertz))
    # Kernels and strides are the same along time and frequency, and so are the places.
    hop = (grid.times[1] - grid.times[0]) if len(grid.times) > 1 else 1.0
    stride = network.embedder.frame_seconds / hop
    places = (times[0] - grid.times[0]) / hop + stride * np.arange(values.shape[1])
    hertz = np.interp(places, np.arange(len(grid.hertz)), grid.hertz)
    return Map(values, Grid(times, hertz))


def attention_rollout(subject: Subject) -> Map:
    """Returns which tokens reach what the head reads, through the attention of all layers.

    Abnar and Zuidema 2020: heads are averaged, the residual branch counts as much as attention
    does, and layers are multiplied. It is the same for all labels. The head reads the class tokens
    or the mean of all.
    """
    network, encoder = subject.network, subject.network.encoder
    flow = rollout(network.attention(subject.x, subject.length))
    classes, number = getattr(encoder, "classes", 0), int(token_count(subject))
    reads_classes = classes and encoder.settings.output == "class"
    rows = flow[:classes] if reads_classes else flow[classes : classes + number]
    values = rows.mean(0)[classes : classes + number]
    grid = token_grid(network, subject)
    if isinstance(encoder, Whisper):
        values = values[: len(grid.times)]  # the others are of the silence after the clip
    values = values.reshape(len(grid.times), -1)  # of MFCC several tokens, but one band
    return Map(values if values.shape == grid.shape else values.mean(1, keepdims=True), grid)


def rollout(weights: np.ndarray) -> np.ndarray:
    """Returns how much of each input token [.., last axis] each output token holds.

    Args:
      weights: of attention [layers, heads, tokens, tokens], the first layer first.
    """
    mean = np.mean(weights, 1, dtype=np.float64)
    layers = (mean + np.eye(mean.shape[-1])) / 2
    layers /= layers.sum(-1, keepdims=True)
    flow = layers[0]
    for layer in layers[1:]:
        flow = layer @ flow
    return flow


def token_count(subject: Subject) -> int:
    """Returns the valid tokens of a Transformer's input, without class tokens."""
    encoder = subject.network.encoder
    if isinstance(encoder, SpectrogramTransformer):
        return int(encoder.frame_lengths(_frames(subject)))
    if hasattr(encoder, "stack"):
        return -(-_frames(subject) // encoder.stack)
    return int(encoder.frame_lengths(subject.length))


def token_grid(network: Network, subject: Subject) -> Grid:
    """Returns where the tokens of a Transformer lie; of frames, one band."""
    encoder, count = network.encoder, token_count(subject)
    grid = frontend_grid(network.stage.frontend, network.sample_rate, _frames(subject))
    everywhere = np.zeros(1)

    def at(places: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.interp(places, np.arange(len(values)), values)

    if isinstance(encoder, SpectrogramTransformer):
        (size, bands), (hop, step) = encoder.patch, encoder.stride
        times = at(np.arange(count // encoder.bands) * hop + (size - 1) / 2, grid.times)
        if encoder.bands == 1 or network.stage.frontend.n_mfcc:
            return Grid(times, everywhere)
        return Grid(times, at(np.arange(encoder.bands) * step + (bands - 1) / 2, grid.hertz))
    if hasattr(encoder, "stack"):
        return Grid(
            at(np.arange(count) * encoder.stack + (encoder.stack - 1) / 2, grid.times), everywhere
        )
    if isinstance(encoder, Whisper):
        heard = np.arange(min(_frames(subject), encoder.settings.max_frames))
        return Grid(at(heard[::2], grid.times), everywhere)
    return Grid(network.embedder.frame_times(subject.samples), everywhere)


def _frames(subject: Subject) -> int:
    """Returns the valid frames of the spectrogram that the encoder hears."""
    network = subject.network
    if not network.hears_waves:
        return subject.length
    front_end = getattr(network.encoder, "front_end", None)
    if front_end is None:
        return len(subject.grid.times)
    audio = jax.ShapeDtypeStruct((1, subject.length), jnp.float32)
    features, _ = jax.eval_shape(front_end, audio, jax.ShapeDtypeStruct((1,), jnp.int32))
    return int(features.shape[1])
