"""A trained classifier that hears sound as it comes, of any length, in bounded memory.

It gives the same whatever the chunks are in which the sound comes. An encoder that hears no future
carries its state from chunk to chunk, and the head hears the frames of the last window of time. For
any other, windows of samples slide over the sound.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from sacjax.data import decode
from sacjax.errors import UserError
from sacjax.inference.causal import CausalFrames, why_not_carried
from sacjax.inference.embedder import ROWS, SAMPLES
from sacjax.inference.events import ROUNDING, Segment
from sacjax.inference.model import Model

OVERLAP = 4  # windows that hear each moment, where the user does not say


class SlidingWindows:
    """Cuts a sequence that comes in chunks into windows: of `size` entries, every `hop`."""

    def __init__(self, size: int, hop: int):
        """Takes 0 < hop <= size."""
        self.size, self.hop, self.count = size, hop, 0
        self.rest: np.ndarray | None = None  # from where the next window starts

    def push(self, entries: np.ndarray) -> list[np.ndarray]:
        """Returns the windows [size, ...] that entries [n, ...] make whole."""
        x = entries if self.rest is None else np.concatenate([self.rest, entries])
        starts = range(0, len(x) - self.size + 1, self.hop)
        self.rest = x[len(starts) * self.hop :].copy()  # not a view of all that came
        self.count += len(starts)
        return [x[start : start + self.size] for start in starts]

    def finish(self) -> list[np.ndarray]:
        """Returns a last, shorter window [n, ...] if the others have not reached the end."""
        heard = self.size - self.hop if self.count else 0
        return [self.rest] if self.rest is not None and len(self.rest) > heard else []


class Listener:
    """Turns samples that come in chunks of any size into probabilities over time.

    A window's probabilities stand for the `hop` seconds in its middle; those of the first also for
    what is before them, those of the last for what follows.

    Attributes:
      labels: the C label names.
      sample_rate: Hz, of the samples.
      window: seconds that are heard at a time.
      hop: seconds from a window to the next.
      carries: whether the encoder's state is carried.
    """

    def __init__(self, model: Model, hop: float = 0.0, windows: bool = False):
        """Takes a classifier.

        Args:
          model: of `sacjax.load`.
          hop: seconds from a window to the next, rounded to a sample, or to a token where the state
            is carried; 0: a quarter of a window.
          windows: slides windows also where the state could be carried.

        Raises:
          UserError: a model without labels, or a hop that is negative or longer than a window.
        """
        if not model.is_classifier:
            raise UserError(
                f"stage {model.stage} was trained without labels and cannot give any: fine-tune it "
                "(init_from), or use embed or probe"
            )
        seconds = float(model.stage_config.data.seconds)
        if not 0 <= hop <= seconds:
            raise UserError(f"--hop is {hop:g}: the model hears {seconds:g} s, so 0 to {seconds:g}")
        self.model, self.labels, self.sample_rate = model, model.labels, model.sample_rate
        self.channel = model.channel
        self.carries = not windows and why_not_carried(model) is None
        self.frames = CausalFrames(model, hop or seconds / OVERLAP) if self.carries else None
        if self.frames is not None:
            size, step = self.frames.window, self.frames.step
            rate, first = self.sample_rate / self.frames.interval, self.frames.first
            self._logits = _pooled_logits(model.module)
        else:
            size = round(seconds * self.sample_rate)
            step = max(round((hop or seconds / OVERLAP) * self.sample_rate), 1)
            rate, first = self.sample_rate, size / 2 / self.sample_rate
            self._logits = model.logits
        self.size, self.step = size, step
        self.window, self.hop, self.first = size / rate, step / rate, first  # first's middle
        self.start()

    def start(self) -> None:
        """Forgets what was heard: the next samples are another sound."""
        self.windows = SlidingWindows(self.size, self.step)
        self.heard = self.made = 0  # samples, windows
        self.last: Segment | None = None
        if self.frames is not None:
            self.frames.start()

    @property
    def delay(self) -> float:
        """Seconds from a sound to when its probabilities can be known, computing apart."""
        return (self.window + self.hop) / 2

    def push(self, samples: np.ndarray) -> list[Segment]:
        """Returns the segments of windows that int16 samples [n] make whole."""
        self.heard += len(samples)
        entries = samples if self.frames is None else self.frames.push(samples)
        return self._segments(self.windows.push(entries))

    def finish(self) -> list[Segment]:
        """Returns the segments to the end of the sound; then another may start."""
        whole = [] if self.frames is None else self.windows.push(self.frames.finish())
        segments = self._segments(whole + self.windows.finish())
        end = self.heard / self.sample_rate
        if self.last is not None and self.last.end < end - ROUNDING:
            segments.append(Segment(self.last.end, end, self.last.probabilities))
        self.start()
        # The stretch of the last window may reach beyond the end.
        return [s._replace(end=min(s.end, end)) for s in segments if s.start < end]

    def warm_up(self) -> None:
        """Compiles what `push` runs, so that the first sound does not wait for it."""
        if self.frames is not None:
            self.frames.warm_up()
            entry = np.zeros([1, self.model.module.encoder.features], np.float32)
        else:
            entry = np.zeros(1, np.int16)
        self._probabilities([entry])

    def _segments(self, windows: list[np.ndarray]) -> list[Segment]:
        if not windows:
            return []
        segments = []
        for probabilities in self._probabilities(windows):
            start = self.last.end if self.last else 0.0
            end = self.first + (self.made + 0.5) * self.hop
            self.last = Segment(start, end, probabilities)
            segments.append(self.last)
            self.made += 1
        return segments

    def _probabilities(self, windows: list[np.ndarray]) -> np.ndarray:
        """Returns [k, C] of windows [n, ...], n <= size."""
        size, pad = self.size, self.model.stage_config.data.pad
        rows = min(ROWS, len(windows), max(SAMPLES // size, 1))
        rows = 1 << (rows - 1).bit_length()  # few shapes to compile
        found = []
        for begin in range(0, len(windows), rows):
            part = windows[begin : begin + rows]
            x = np.zeros([rows, size, *part[0].shape[1:]], part[0].dtype)
            lengths = np.zeros(rows, np.int32)
            for k, window in enumerate(part):
                if self.frames is None and len(window) < size:
                    x[k] = decode.pad(window, size, pad)
                    lengths[k] = decode.heard(len(window), size, pad)
                else:
                    x[k, : len(window)], lengths[k] = window, len(window)
            found.append(np.asarray(self._logits(x, lengths))[: len(part)])
        return self.model.objective.probabilities(np.concatenate(found).astype(np.float64))


def _pooled_logits(module: Any) -> Callable[..., jax.Array]:
    """Returns the jitted (frames [B, N, D], valid frames [B]) → logits [B, C] of a classifier."""
    graphdef, variables = nnx.split(module)

    @jax.jit
    def apply(variables: Any, frames: jax.Array, lengths: jax.Array) -> jax.Array:
        module = nnx.merge(graphdef, variables)
        return module.classify(module.pool(frames, lengths))

    return lambda *args: apply(variables, *args)
