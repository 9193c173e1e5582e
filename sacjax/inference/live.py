"""Sound as it comes: from a pipe, a file at real time, or a microphone."""

import contextlib
import queue
import time
import wave
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

import numpy as np
import soxr

from sacjax.data import decode, retry
from sacjax.data.channels import pick
from sacjax.errors import UserError, first_line
from sacjax.inference.timeline import blocks

ENCODINGS = {"s16le": "<i2", "f32le": "<f4"}
# How files begin that are neither WAV nor raw samples.
FILES = {b"fLaC": "FLAC", b"OggS": "Ogg", b"FORM": "AIFF", b"ID3": "MP3", b"RF64": "RF64"}
LONGEST_NOTE = 1 << 20  # bytes of a chunk before the format of a WAV file
UNKNOWN = 0x7FF00000  # bytes of sound, from which on a WAV file says only that it does not know
UNANSWERED = 10.0  # seconds without a sample, after which a microphone is taken for dead


class Source(Protocol):
    """Where sound comes from."""

    sample_rate: int

    def chunks(self, seconds: float) -> Iterator[np.ndarray]:
        """Yields float32 in [-1, 1] or int16 samples [n, channels], about so many seconds each."""
        ...


class Pipe:
    """Raw samples or a WAV file that another program writes, such as standard input."""

    def __init__(
        self,
        stream: BinaryIO,
        sample_rate: int | None,
        default_rate: int,
        encoding: str = "s16le",
        channels: int = 1,
        channel: int | str = "mix",
    ):
        """Reads the first bytes, which tell a WAV file from raw samples.

        Args:
          stream: to read from; each read waits until it has all bytes, or the end is there.
          sample_rate: Hz, as the user says; None: that of the WAV file, or `default_rate`.
          default_rate: of raw samples.
          encoding: of raw samples, one of `ENCODINGS`.
          channels: of raw samples.
          channel: the number of the one that is heard, from 0 on; 'mix': the mean of all.

        Raises:
          UserError: nothing comes, a WAV file that cannot be read, or of another rate, or no such
            channel.
        """
        magic = stream.read(4)
        if not magic:
            raise UserError("no sound: standard input ended before the first sample")
        for first, kind in FILES.items():
            if magic.startswith(first):
                raise UserError(
                    f"standard input is a file of {kind}: name it as FILE, or pipe it through "
                    "ffmpeg -i - -f wav -"
                )
        if magic == b"RIFF":  # what streams say of their size is no help, and may be 0
            magic = _with_plain_format(magic + (stream.read(4) and b"\xff" * 4), stream)
        self.stream = _Prefixed(magic, stream)
        self.left: int | None = None  # bytes of sound; None: all to the end
        self.type, self.channels = ENCODINGS[encoding], channels
        self.sample_rate = sample_rate or default_rate
        if magic.startswith(b"RIFF"):
            self._read_header(sample_rate)
        self.channel = channel
        try:
            pick(np.zeros([0, self.channels]), channel)
        except ValueError as error:
            raise UserError(f"the sound of standard input: {error}") from None

    def _read_header(self, sample_rate: int | None) -> None:
        try:
            wav = wave.open(self.stream, "rb")  # type: ignore[call-overload]
        except (wave.Error, EOFError, RuntimeError) as error:
            raise UserError(
                f"standard input is a WAV file that cannot be read ({first_line(error)}): write "
                "16 bits, such as by ffmpeg -i FILE -f wav -acodec pcm_s16le -"
            ) from error
        width, self.sample_rate = wav.getsampwidth(), wav.getframerate()
        self.channels = wav.getnchannels()
        if width not in (2, 4):
            raise UserError(f"standard input is a WAV file of {8 * width} bits: write 16 or 32")
        if sample_rate not in (None, self.sample_rate):
            raise UserError(
                f"--rate is {sample_rate}, but the WAV file of standard input has "
                f"{self.sample_rate} Hz: leave --rate out"
            )
        self.type, size = f"<i{width}", wav.getnframes() * width * self.channels
        self.left = size if 0 < size < UNKNOWN else None

    def chunks(self, seconds: float) -> Iterator[np.ndarray]:
        """Yields samples until the end; a part of a sample there is left out."""
        count = max(round(seconds * self.sample_rate), 1)
        frame = self.channels * np.dtype(self.type).itemsize
        while True:
            size = count * frame if self.left is None else min(count * frame, self.left)
            data = self.stream.read(size)
            if self.left is not None:
                self.left -= len(data)
            if not (whole := len(data) // frame):
                return
            x = np.frombuffer(data[: whole * frame], self.type).reshape(whole, self.channels)
            x = pick(x, self.channel)
            yield (x >> 16).astype(np.int16) if self.type == "<i4" else x


def _with_plain_format(first: bytes, stream: BinaryIO) -> bytes:
    """Returns the beginning of a WAV file up to its format, an extensible one as what it extends.

    ffmpeg and SoX write more than two channels, 16 bits or 48 kHz so. Python's library reads that
    from 3.12 on.
    """
    read = first + stream.read(4)  # WAVE
    while True:
        head = stream.read(8)
        read += head
        size = int.from_bytes(head[4:], "little")
        if len(head) < 8 or head[:4] == b"data" or size > LONGEST_NOTE:
            return read
        body = stream.read(size + size % 2)
        if head[:4] == b"fmt ":
            return read + (body[24:26] + body[2:] if body[:2] == b"\xfe\xff" else body)
        read += body


class _Prefixed:
    """A stream whose first bytes have been read already."""

    def __init__(self, first: bytes, stream: BinaryIO):
        self.first, self.stream = first, stream

    def read(self, count: int) -> bytes:
        first, self.first = self.first[:count], self.first[count:]
        return first + self.stream.read(count - len(first))

    def close(self) -> None:
        """Leaves the stream open: it is not ours."""


class File:
    """A sound file, as if it were heard now: each chunk comes when its last sample would."""

    def __init__(self, path: str, sample_rate: int, fast: bool = False, channel: int | str = "mix"):
        """Takes a file, the rate to read it at, whether as fast as can be, and `data.channel`."""
        self.path, self.sample_rate, self.fast, self.channel = path, sample_rate, fast, channel

    def chunks(self, seconds: float) -> Iterator[np.ndarray]:
        """Yields samples. Raises UserError for a file that cannot be read."""
        start, heard = time.perf_counter(), 0
        count = max(round(seconds * self.sample_rate), 1)
        try:
            for block in blocks(self.path, self.sample_rate, self.channel):
                for begin in range(0, len(block), count):
                    chunk = block[begin : begin + count]
                    heard += len(chunk)
                    if not self.fast:
                        due = start + heard / self.sample_rate
                        time.sleep(max(due - time.perf_counter(), 0))
                    yield chunk[:, None]
        except retry.BadClip as bad:
            raise UserError(f"{self.path}: {bad}") from bad


class Microphone:
    """A microphone, by PortAudio (`sounddevice`, the extra `live`)."""

    def __init__(self, device: str | None, sample_rate: int):
        """Looks for the device.

        Args:
          device: its number, or a part of its name; None: the system's default.
          sample_rate: Hz; where the device does not have it, its own is taken.

        Raises:
          UserError: sounddevice or PortAudio is not installed, or there is no such microphone.
        """
        try:
            import sounddevice
        except ImportError as error:
            raise UserError("a microphone needs sounddevice: pip install 'sacjax[live]'") from error
        except OSError as error:
            raise UserError(
                f"{first_line(error)}: a microphone needs it, such as by apt install libportaudio2"
            ) from error
        self.library: Any = sounddevice
        self.device: Any = int(device) if device and device.isdigit() else device
        self.overflows, self.sample_rate = 0, sample_rate
        try:
            own = self.library.query_devices(self.device, "input")
            try:
                self._check(sample_rate)
            except self.library.PortAudioError:
                self.sample_rate = int(own["default_samplerate"])
                self._check(self.sample_rate)
        except (ValueError, self.library.PortAudioError) as error:
            which = "there is no microphone" if device is None else f"--microphone {device}"
            raise UserError(
                f"{which}: {first_line(error)}; python -m sounddevice lists what there is"
            ) from error

    def _check(self, sample_rate: int) -> None:
        settings = dict(device=self.device, channels=1, dtype="int16", samplerate=sample_rate)
        self.library.check_input_settings(**settings)

    def chunks(self, seconds: float) -> Iterator[np.ndarray]:
        """Yields samples until interrupted. Raises UserError where the device falls silent."""
        waiting: queue.Queue[bytes] = queue.Queue()

        def take(data: Any, frames: int, when: Any, status: Any) -> None:
            self.overflows += bool(status)
            waiting.put(bytes(data))

        try:
            with self.library.RawInputStream(
                samplerate=self.sample_rate,
                blocksize=max(round(seconds * self.sample_rate), 1),
                device=self.device,
                channels=1,
                dtype="int16",
                callback=take,
            ):
                while True:
                    data = waiting.get(timeout=UNANSWERED + seconds)
                    yield np.frombuffer(data, np.int16)[:, None]
        except self.library.PortAudioError as error:
            raise UserError(f"the microphone cannot be heard: {first_line(error)}") from error
        except queue.Empty as error:
            raise UserError(f"the microphone gave no sound for {UNANSWERED:g} s") from error


def listen(source: Source, sample_rate: int, seconds: float) -> Iterator[np.ndarray]:
    """Yields a source's sound as int16 [n], mono, at `sample_rate`, chunk by chunk.

    Raises:
      UserError: samples that are NaN or infinite, or what the source raises.
    """
    resampler = None
    if source.sample_rate != sample_rate:
        resampler = soxr.ResampleStream(source.sample_rate, sample_rate, 1, dtype="float32")
    with contextlib.closing(source.chunks(seconds)) as chunks:  # type: ignore[type-var]
        for chunk in chunks:
            x = _mono(chunk)
            if resampler is not None:
                x = resampler.resample_chunk(_as_float(x))
            yield x if x.dtype == np.int16 else decode.to_int16(x)
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        yield decode.to_int16(rest)


def _mono(chunk: np.ndarray) -> np.ndarray:
    """Returns samples [n, channels] as [n]: int16 of one channel as it is, all else float32."""
    if chunk.dtype == np.int16 and chunk.shape[1] == 1:
        return chunk[:, 0]
    x = _as_float(chunk).mean(1)
    if not np.isfinite(x).all():
        raise UserError(
            "the sound has samples that are NaN or infinite: is --encoding what it is written in?"
        )
    return x


def _as_float(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) / (32768 if x.dtype == np.int16 else 1)
