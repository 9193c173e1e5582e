"""Long recordings as probabilities over time: predict's and stream's common ground."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from sacjax.data import channels, decode, retry
from sacjax.data.sources.files import open_file
from sacjax.errors import UserError
from sacjax.inference.events import Segment
from sacjax.inference.listening import Listener
from sacjax.inference.model import Model

BLOCK = 30.0  # seconds that are read at a time


def blocks(file: str, sample_rate: int, channel: int | str = "mix") -> Iterator[np.ndarray]:
    """Yields a recording as int16 [n] at `sample_rate`, `BLOCK` seconds at a time.

    Args:
      file: of the recording.
      sample_rate: Hz.
      channel: the number of the one to read, from 0 on; 'mix': the mean of all.

    Raises:
      retry.BadClip: a file that cannot be read, or has no sound.
      UserError: the machine cannot read.
    """
    clip = channels.of_clip(retry.attempt(lambda: open_file(file)), channel)
    total = retry.attempt(lambda: decode.count_samples(clip)) / max(clip.sample_rate, 1)
    for number in range(max(math.ceil(total / BLOCK), 1)):
        start = number * BLOCK
        if number and round(total * sample_rate) <= round(start * sample_rate):
            return  # what is left is less than a sample
        read = partial(decode.read_pcm, clip, sample_rate, start, min(BLOCK, total - start))
        samples = retry.attempt(read)
        missing = round((start + BLOCK) * sample_rate) - round(start * sample_rate) - len(samples)
        if start + BLOCK < total and missing > 0:  # damage in the middle: times stay what they are
            samples = np.pad(samples, (0, missing))
        yield samples


def timeline(listeners: Sequence[Listener], file: str) -> list[Segment]:
    """Returns a recording's probabilities over time, the mean of several models'.

    They are segments without gaps from 0 to the end. Memory does not grow with the recording's
    length, but for the result.

    Args:
      listeners: of `listeners_of`.
      file: of the recording.

    Raises:
      retry.BadClip: a file that cannot be read, or has no sound.
      UserError: the machine cannot read.
    """
    for listener in listeners:
        listener.start()
    found: list[list[Segment]] = [[] for _ in listeners]
    for samples in blocks(file, listeners[0].sample_rate, listeners[0].channel):
        for segments, listener in zip(found, listeners, strict=True):
            segments += listener.push(samples)
    for segments, listener in zip(found, listeners, strict=True):
        segments += listener.finish()
    return [
        Segment(same[0].start, same[0].end, np.mean([one.probabilities for one in same], 0))
        for same in zip(*found, strict=True)
    ]


def listeners_of(
    models: Sequence[Model], hop: float = 0.0, windows: bool = False
) -> list[Listener]:
    """Returns a listener of each model, all of which hear at the same times.

    Args:
      models: one, or an ensemble: of the same labels, rate and window.
      hop: seconds from a window to the next; 0: a quarter of a window.
      windows: slides windows also where an encoder's state could be carried.

    Raises:
      UserError: models that do not fit together, or what `Listener` raises.
    """
    listeners = [Listener(model, hop, windows) for model in models]
    first, *others = listeners
    for other in others:
        if other.carries != first.carries:
            raise UserError(
                "one of the checkpoints carries its encoder's state and another slides windows: "
                "give --windows, so that both do"
            )
        for what in ("labels", "sample_rate", "window", "hop", "channel"):
            if getattr(other, what) != getattr(first, what):
                raise UserError(
                    f"the checkpoints have different {what.replace('_', ' ')} "
                    f"({getattr(first, what)} and {getattr(other, what)}): over time an ensemble "
                    "needs the same"
                )
    return listeners
