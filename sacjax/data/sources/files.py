"""Sound files as clips: which files are read, and how."""

import contextlib
import dataclasses
import functools
import math
import os

import numpy as np
import soundfile as sf

from sacjax.data.recordings import Clip
from sacjax.data.retry import Content, RetriedFile, retried
from sacjax.data.sources import headers, mp3, pyav

# libsndfile's formats and their other endings; RAW has no header to read.
LIBSNDFILE = frozenset("." + name.lower() for name in sf.available_formats() if name != "RAW") | {
    ".aif",
    ".aifc",
    ".opus",
    ".oga",
    ".mp3",
    ".wave",
    ".snd",
}
EXTENSIONS = LIBSNDFILE | (pyav.EXTENSIONS if pyav.INSTALLED else frozenset())
SAMPLES_A_BYTE = 8192  # more than any codec gives (FLAC's silence: about 5,000)
# Of these formats libsndfile tells every read that fails. In other headers it takes what it could
# not read for zeros, and plays a WAV of 16 bits as one of 8.
TELLING = {"FLAC": (".flac",), "OGG": (".ogg", ".oga", ".opus"), "MP3": (".mp3",)}
_ENDINGS = tuple(ending for endings in TELLING.values() for ending in endings)


class _SoundFile(sf.SoundFile):
    def seekable(self) -> bool:
        """No: else each read is followed by a seek to where it ended.

        That costs time, and fails at a broken end.
        """
        return False


class FileClip:
    """A sound file, or a part of one, read by seeking. It is for one thread.

    libsndfile reads FLAC, Ogg and MP3 by itself, which is quickest. All other formats, and a file
    of which it gets less than the header tells, are read through `RetriedFile`: libsndfile does not
    know damage from a disk that fails.
    """

    def __init__(
        self, path: str, start: float = 0.0, end: float | None = None, content: bytes | None = None
    ):
        """Reads the header.

        Args:
          path: the file's.
          start: where the clip begins, in seconds.
          end: where it ends; None: with the file.
          content: the file's bytes, where they are in memory; `path` is then only a name.

        Raises:
          OSError: there is no such file, or it is empty.
          sf.LibsndfileError: it is no sound.
          UserError: it cannot be read now.
        """
        self.path, self.content = path, content
        size, self.changed = _status(path) if content is None else (len(content), 0)
        if not size:
            raise OSError("empty file")
        self.size = size
        self.alone = content is None and path.lower().endswith(_ENDINGS)  # libsndfile reads alone
        self.bytes: RetriedFile | Content | None = None
        self.file = self._open()
        self.sample_rate = self.file.samplerate
        self.first = round(start * self.sample_rate)
        self.end = None if end is None else round(end * self.sample_rate)
        # A header may promise more than the file can hold.
        self.num_samples = self._within(min(self.file.frames, size * SAMPLES_A_BYTE))

    @property
    def promised(self) -> float:
        """Samples that the header tells of: more than can be read where the file was cut short.

        Infinite where the end of an Ogg stream is missing: its header tells no length.
        """
        if self.file.format == "OGG" and self.end is None and not self._ogg_ends():
            return math.inf
        return self._within(headers.promised(self.file))

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, channels]: what there is, if that is less than the header says.

        Raises:
          sf.LibsndfileError: the very first sample cannot be decoded.
          UserError: the file cannot be read now.
        """
        count = max(min(count, self.num_samples - start), 0)
        samples, error = self._decode(start, count)
        if len(samples) < count and self.alone:  # damage, or a disk that fails?
            self.alone = False
            self.file = self._open()
            samples, error = self._decode(start, count)
        if error is not None:
            self.file = self._open()  # after an error the decoder is of no more use
            if start == 0 and not len(samples):
                raise error
        return samples

    def _decode(self, start: int, count: int) -> tuple[np.ndarray, sf.LibsndfileError | None]:
        """Returns what can be decoded, and why it is not all."""
        channels, failed = self.file.channels, None
        pieces, most = [np.zeros([0, channels], np.float32)], max((1 << 20) // channels, 1)
        try:
            if count and self.file.tell() != self.first + start:
                self.file.seek(self.first + start)
            while count > 0:  # in pieces: nothing is allocated for samples that are not there
                piece = np.full([min(count, most), channels], np.nan, np.float32)
                pieces.append(piece)
                got = len(self.file.read(dtype="float32", out=piece))
                pieces[-1] = piece[:got]
                count -= got or count
        except sf.LibsndfileError as error:  # keep what came before the damage
            failed = error
            pieces[-1] = pieces[-1][: np.count_nonzero(~np.isnan(pieces[-1][:, 0]))]
        self._check()
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces), failed

    def _open(self) -> _SoundFile:
        """Returns a new decoder, of libsndfile alone if it may be."""
        if self.alone:
            with contextlib.suppress(sf.LibsndfileError):
                file = _SoundFile(os.fsencode(self.path))
                if file.format in TELLING and file.frames < headers.UNKNOWN:
                    if file.format != "MP3" or not self._mp3_header()[0]:
                        return file
            self.alone = False
        file = self._decoder()
        if file.format == "MP3" and any(header := self._mp3_header()):
            file = self._decoder(*header)
        return file

    def _decoder(self, first: bytes = b"", skip: int = 0) -> _SoundFile:
        self.bytes = self._bytes(first, skip)
        try:
            return _SoundFile(self.bytes)
        finally:
            self._check()

    def _bytes(self, first: bytes = b"", skip: int = 0) -> RetriedFile | Content:
        if self.content is None:
            return RetriedFile(self.path, first, skip)
        return Content(first + self.content[skip:])

    def _check(self) -> None:
        """Raises UserError if the file could not be read."""
        if self.bytes is not None:
            self.bytes.check()

    def _mp3_header(self) -> tuple[bytes, int]:
        if self.content is None:
            return _mp3_header(self.path, self.size, self.changed)
        return mp3.corrected(self._bytes(), self.size)

    def _ogg_ends(self) -> bool:
        if self.content is None:
            return _ogg_ends(self.path, self.size, self.changed)
        return headers.ogg_ends(Content(self.content))

    def _within(self, frames: int) -> int:
        """Returns how many of a file's samples are this clip's."""
        return max((frames if self.end is None else min(self.end, frames)) - self.first, 0)


def _status(path: str) -> tuple[int, int]:
    """Returns a file's (bytes, time of its last change)."""
    status = retried(lambda: os.stat(path))
    return status.st_size, status.st_mtime_ns


# A file is looked through once, and not each time that it is opened.
@functools.lru_cache(1 << 18)
def _mp3_header(path: str, size: int, changed: int) -> tuple[bytes, int]:
    file = RetriedFile(path)
    header = mp3.corrected(file, size)
    file.check()
    return header


@functools.lru_cache(1 << 18)
def _ogg_ends(path: str, size: int, changed: int) -> bool:
    file = RetriedFile(path)
    ends = headers.ogg_ends(file)
    file.check()
    return ends


def open_file(path: str, start: float = 0.0, end: float | None = None) -> Clip:
    """Returns a file, or its part from `start` to `end` (seconds); read by PyAV if need be."""
    if os.path.splitext(path)[1].lower() not in pyav.EXTENSIONS:
        return FileClip(path, start, end)
    if pyav.INSTALLED:
        return pyav.AvClip(path, start, end)
    try:
        return FileClip(path, start, end)
    except sf.LibsndfileError as error:
        raise ImportError(f"{error} PyAV may read it: pip install 'sacjax[av]'") from error


def open_content(content: bytes, name: str = "") -> Clip:
    """Returns a file whose bytes are in memory; read by PyAV where libsndfile does not read it.

    Args:
      content: the file's bytes.
      name: its name, whose ending tells the format; '': unknown.

    Raises:
      ImportError: PyAV would be needed, and is not installed.
      Exception: it cannot be opened.
    """
    if os.path.splitext(name)[1].lower() in pyav.EXTENSIONS and pyav.INSTALLED:
        return pyav.AvClip(name, content=content)
    try:
        return FileClip(name, content=content)
    except sf.LibsndfileError as error:
        if os.path.splitext(name)[1].lower() in LIBSNDFILE:
            raise
        if pyav.INSTALLED:
            return pyav.AvClip(name, content=content)
        raise ImportError(f"{error} PyAV may read it: pip install 'sacjax[av]'") from error


@dataclasses.dataclass
class OpenFiles:
    """Opens the i-th file of a list."""

    paths: list[str]
    starts: list[float] | None = None
    ends: list[float | None] | None = None

    def __call__(self, i: int) -> Clip:
        """Returns the clip. Raises whatever a bad file makes its decoder raise."""
        return open_file(
            self.paths[i],
            self.starts[i] if self.starts else 0.0,
            self.ends[i] if self.ends else None,
        )
