"""How long an MP3 is whose header does not tell, or not the truth.

Only the first frame of an MP3 can tell its length (as LAME's `Xing` or `Info`, or as `VBRI`).
Without it libsndfile divides the file's size by the first frame's: right where all frames are as
large, but else it may tell 8 of 40 s, and never gives the other 32. Also the header of two files
that were joined tells the length of the first alone. So the frames are counted here, and libsndfile
is told.
"""

import dataclasses
import struct
from typing import Protocol

# Bytes a second of layer III, by (MPEG 1 or not) and the index in a frame's header.
_KBPS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}  # fmt: skip
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
SEARCH = (1 << 12, 1 << 16)  # bytes in which a frame must begin
SLACK = 1 << 12  # bytes of tags that may follow the frames that a header tells of


class Readable(Protocol):
    """An open file."""

    def read(self, count: int = -1, /) -> bytes:
        """Returns the next bytes."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Moves."""
        ...


@dataclasses.dataclass(frozen=True)
class Frame:
    """What the four bytes at a frame's begin say."""

    header: int
    size: int  # bytes
    kind: tuple[int, int, bool]  # version, sample rate, mono: all frames of a file have the same

    @classmethod
    def parse(cls, data: bytes, at: int) -> "Frame | None":
        """Returns the layer III frame that begins there; None where none does."""
        if not 0 <= at <= len(data) - 4:
            return None
        header = int.from_bytes(data[at : at + 4], "big")
        version, layer, rate = header >> 19 & 3, header >> 17 & 3, header >> 10 & 3
        if header >> 21 != 0x7FF or version == 1 or layer != 1 or rate == 3:
            return None
        kbps = _KBPS[version == 3][header >> 12 & 15]
        if not kbps:
            return None
        hertz = _RATES[version][rate]
        size = (144000 if version == 3 else 72000) * kbps // hertz + (header >> 9 & 1)
        return cls(header, size, (version, hertz, header >> 6 & 3 == 3))

    @property
    def tag_offset(self) -> int:
        """Where in the frame a `Xing` lies: behind the side information."""
        version, _, mono = self.kind
        return 4 + ((17 if mono else 32) if version == 3 else (9 if mono else 17))


def corrected(file: Readable, size: int) -> tuple[bytes, int]:
    """Returns (a frame that tells the length, how many bytes of the file it stands for).

    (b"", 0) where the file's own header tells it, or where this is no layer III at all.

    Args:
      file: read from its start; all of it where it has no header.
      size: its bytes.
    """
    begin = _after_tags(file)
    for search in SEARCH:
        file.seek(begin)
        head = file.read(search)
        start = next((at for at in range(len(head)) if _is_frame(head, at)), -1)
        frame = Frame.parse(head, start)
        if frame is not None:
            break
    else:
        return b"", 0
    told = _told_bytes(head, start, frame)
    if told is not None and begin + start + told + SLACK >= size:
        return b"", 0
    skip = begin + start + (frame.size if told is not None else 0)
    file.seek(skip)
    count = _count(file.read(), frame.kind)
    return (_header(frame, count), skip) if count else (b"", 0)


def _after_tags(file: Readable) -> int:
    """Returns where the file goes on behind its ID3v2 tags."""
    begin = 0
    while True:
        file.seek(begin)
        tag = file.read(10)
        if len(tag) < 10 or tag[:3] != b"ID3":
            return begin
        length = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        begin += length + (20 if tag[5] & 16 else 10)


def _is_frame(data: bytes, at: int) -> bool:
    """Whether a frame begins there: another of its kind must follow, for any bytes may look so."""
    frame = Frame.parse(data, at) if data[at] == 0xFF else None
    following = Frame.parse(data, at + frame.size) if frame else None
    return frame is not None and following is not None and following.kind == frame.kind


def _told_bytes(head: bytes, start: int, frame: Frame) -> int | None:
    """Returns for how many bytes of frames the first one speaks; None where it tells no length."""
    at = start + frame.tag_offset
    if head[at : at + 4] in (b"Xing", b"Info") and len(head) >= at + 16:
        flags, frames, told = struct.unpack(">III", head[at + 4 : at + 16])
        return None if not flags & 1 or not frames else told if flags & 2 else 1 << 62
    if head[start + 36 : start + 40] == b"VBRI" and len(head) >= start + 50:
        told, frames = struct.unpack(">II", head[start + 46 : start + 54])
        return told if frames else None
    return None


def _count(data: bytes, kind: tuple[int, int, bool]) -> int:
    """Returns how many frames of a kind there are, whatever lies between them."""
    count, at = 0, 0
    while at >= 0:
        frame = Frame.parse(data, at)
        if frame is not None and frame.kind == kind:
            count += at + frame.size <= len(data)
            at += frame.size
        else:
            at = data.find(b"\xff", at + 1)
    return count


def _header(frame: Frame, count: int) -> bytes:
    """Returns a frame of silence that tells of `count` frames behind it."""
    for index in range(1, 15):
        # The smallest that holds it; without checksum and padding.
        word = frame.header & ~(15 << 12) & ~(1 << 9) | 1 << 16 | index << 12
        made = Frame.parse(word.to_bytes(4, "big"), 0)
        assert made is not None
        if made.size >= made.tag_offset + 12:
            body = bytes(made.tag_offset - 4) + b"Xing" + struct.pack(">II", 1, count)
            return (word.to_bytes(4, "big") + body).ljust(made.size, b"\0")
    raise AssertionError
