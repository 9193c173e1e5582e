"""Sounds that libsndfile does not read (`.m4a`, `.webm`, `.wma` …), by FFmpeg in PyAV.

PyAV is optional: `pip install 'sacjax[av]'`.
"""

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from sacjax.data.retry import Content, RetriedFile, retried

INSTALLED = importlib.util.find_spec("av") is not None
EXTENSIONS = frozenset(
    ".3gp .aac .ac3 .amr .ape .asf .avi .dts .eac3 .flv .m4a .m4b .m4v .mka .mkv .mov .mp2 .mp4 "
    ".mpg .spx .tta .webm .wma .wmv .wv".split()
)
PREROLL = 0.25  # seconds decoded before a position, as lossy decoders need some to settle
ROUNDING = 0.2  # seconds by which a container's length may differ from that of its sound
_GUESSES = 0x100  # FFmpeg's flag of formats without a header: it guesses lengths and positions


class AvClip:
    """The first sound of a file, or a part of it. It is for one thread.

    Positions are as exact as the container's times: a sample in most, a millisecond in WebM.
    """

    file: RetriedFile | Content
    container: Any
    stream: Any
    resampler: Any
    frames: Iterator[Any]
    origin: int  # of time, in the container's units
    nothing: np.ndarray  # float32 [channels, 0]
    parts: list[np.ndarray]  # decoded and not yet asked for, [channels, n] each
    position: int  # where the parts begin, in samples of the file
    held: int  # where they end

    def __init__(
        self, path: str, start: float = 0.0, end: float | None = None, content: bytes | None = None
    ):
        """Decodes the beginning.

        Args:
          path: the file's.
          start: where the clip begins, in seconds.
          end: where it ends; None: with the file.
          content: the file's bytes, where they are in memory; `path` is then only a name.

        Raises:
          OSError: there is no such file, or it is empty.
          ValueError: there is no sound in it, or it cannot be decoded.
          UserError: it cannot be read now.
        """
        self.path, self.content = path, content
        size, changed = (len(content), 0) if content is not None else _status(path)
        if not size:
            raise OSError("empty file")
        frame = self._open()
        self.sample_rate = frame.sample_rate
        self.first = round(start * self.sample_rate)
        seconds = self._told_seconds()
        if not seconds and content is not None:
            seconds = _packets_seconds(self._bytes())
        elif not seconds:
            seconds = _count_seconds(path, size, changed)
        last = round((seconds if end is None else min(end, seconds)) * self.sample_rate)
        self.num_samples = max(last - self.first, 0)

    @property
    def promised(self) -> int:
        """Samples that must be there by what the header tells."""
        return max(self.num_samples - round(ROUNDING * self.sample_rate), 0)

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, channels]: what there is before the first damage.

        Raises:
          ValueError: the very first sample cannot be decoded.
          UserError: the file cannot be read now.
        """
        begin = self.first + start
        end = begin + max(min(count, self.num_samples - start), 0)
        try:
            with _decoding(self.file):
                self._decode(begin, end)
        except ValueError:
            self.frames = iter(())
            if begin == 0 and not self.held:
                raise
            if begin < self.position:  # it could not go there
                self.parts, self.position, self.held = [], begin, begin
        block = np.concatenate([self.nothing, *self.parts], 1)[:, max(begin - self.position, 0) :]
        found, rest = block[:, : end - begin], block[:, end - begin :]
        self.parts, self.position = [rest], begin + found.shape[1]
        self.held = self.position + rest.shape[1]
        return np.ascontiguousarray(found.T)

    def _decode(self, begin: int, end: int) -> None:
        """Decodes until the parts reach from `begin`, or before, to `end`, if there is so much."""
        if not self.position <= begin <= self.held:
            self._seek(begin)
        while self.held < end and (frame := next(self.frames, None)) is not None:
            if self.held <= begin:  # what lies before is not kept
                self.parts, self.position = [], self.held
            self._add(frame)

    def _open(self) -> Any:
        """Opens the file and decodes its first frame, which it returns."""
        import av

        self.file = self._bytes()
        with _decoding(self.file):
            self.container = _container(self.file)
            if not self.container.streams.audio:
                raise ValueError("there is no sound in it")
            self.stream = self.container.streams.audio[0]
            self.frames = self.container.decode(self.stream)
            frame = next(self.frames, None)
            if frame is None:
                raise ValueError("no sound in it can be decoded")
        self.origin = frame.pts or 0
        self.resampler = av.AudioResampler(format="fltp")
        self.nothing = np.zeros([len(frame.layout.channels), 0], np.float32)
        self._start(frame, 0)
        return frame

    def _bytes(self) -> RetriedFile | Content:
        return RetriedFile(self.path) if self.content is None else Content(self.content)

    def _start(self, frame: Any, position: int) -> None:
        """Begins with a frame, whose first sample is the `position`-th of the file."""
        self.parts, self.position, self.held = [], position, position
        self._add(frame)

    def _add(self, frame: Any) -> None:
        for part in self.resampler.resample(frame):
            self.parts.append(part.to_ndarray())
            self.held += part.samples

    def _seek(self, begin: int) -> None:
        """Moves to a position at or before the sample `begin` of the file."""
        seconds = begin / self.sample_rate - PREROLL
        if seconds > 0 and not self.container.format.flags & _GUESSES:
            unit = self.stream.time_base
            self.container.seek(self.origin + int(seconds / unit), stream=self.stream)
            self.frames = self.container.decode(self.stream)
            frame = next(self.frames, None)
            if frame is not None and frame.pts is not None:
                position = round((frame.pts - self.origin) * unit * self.sample_rate)
                if position <= begin:
                    self._start(frame, position)
                    return
        self._open()

    def _told_seconds(self) -> float:
        """Returns the length that the header tells, 0 where it tells none."""
        if self.container.format.flags & _GUESSES:
            return 0.0
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        return (self.container.duration or 0) / 1e6


def _status(path: str) -> tuple[int, int]:
    """Returns a file's (bytes, time of its last change)."""
    status = retried(lambda: os.stat(path))
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(1 << 18)
def _count_seconds(path: str, size: int, changed: int) -> float:
    """Returns `_packets_seconds` of a file, which is looked through once."""
    return _packets_seconds(RetriedFile(path))


def _packets_seconds(file: RetriedFile | Content) -> float:
    """Returns the length of a file's sound, by its packets."""
    with _decoding(file):
        container: Any = _container(file)
        stream = container.streams.audio[0]
        total = sum(packet.duration or 0 for packet in container.demux(stream))
    return float(total * stream.time_base)


@contextlib.contextmanager
def _decoding(file: RetriedFile | Content) -> Iterator[None]:
    """Makes ValueError of FFmpeg's errors.

    It says "Input/output error" of much that is damaged; whether it was one, the file knows.
    """
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise ValueError(f"FFmpeg: {error}") from error
    finally:
        file.check()


def _container(file: RetriedFile | Content) -> Any:
    """Opens a file. It may name others, such as a play list does: those are not opened."""
    import av

    return av.open(file, metadata_errors="ignore", options={"protocol_whitelist": ""})
