"""Which channel of a recording is heard: `data.channel`."""

import dataclasses
from collections.abc import Callable

import numpy as np

from sacjax.data.recordings import Clip, Recordings

MIX = "mix"


class OneChannel:
    """One channel of a clip, as a clip."""

    def __init__(self, clip: Clip, channel: int):
        """Takes a clip and the number of its channel, from 0 on."""
        self.clip, self.channel = clip, channel
        self.sample_rate, self.num_samples = clip.sample_rate, clip.num_samples
        self.promised = getattr(clip, "promised", clip.num_samples)

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, 1]. Raises ValueError where there is no such channel."""
        return pick(self.clip.read(start, count), self.channel)

    @property
    def pcm(self) -> Callable[[int, int], np.ndarray] | None:
        """Like `read`, but int16; None where that is not what the clip holds."""
        pcm = getattr(self.clip, "pcm", None)
        return pcm and (lambda start, count: pick(pcm(start, count), self.channel))


@dataclasses.dataclass
class OpenChannel:
    """Opens one channel of the recordings that another opener opens."""

    open: Callable[[int], Clip]
    channel: int

    def __call__(self, i: int) -> Clip:
        """Returns the clip. Raises what the other opener raises."""
        return of_clip(self.open(i), self.channel)


def of_clip(clip: Clip, channel: int | str) -> Clip:
    """Returns a clip's channel as a clip; for 'mix' the clip as it is."""
    return clip if channel == MIX else OneChannel(clip, int(channel))


def choose(recordings: Recordings, channel: int | str) -> Recordings:
    """Returns the recordings with one channel alone, as they are for 'mix'."""
    if channel == MIX:
        return recordings
    return dataclasses.replace(recordings, open=OpenChannel(recordings.open, int(channel)))


def pick(samples: np.ndarray, channel: int | str) -> np.ndarray:
    """Returns one channel [n, 1] of samples [n, channels]; all of them for 'mix'.

    Raises:
      ValueError: there is no such channel.
    """
    if channel == MIX:
        return samples
    count = samples.shape[1]
    if int(channel) >= count:
        has = "one channel" if count == 1 else f"{count} channels"
        raise ValueError(f"it has {has}, and data.channel, which counts from 0, is {channel}")
    return samples[:, int(channel), None]
