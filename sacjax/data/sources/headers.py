"""What a sound file's header promises: more than there is, where the file was cut short."""

import io
import math
import os
import re

import soundfile as sf

from sacjax.data.retry import RetriedFile

UNKNOWN = 1 << 62  # samples; libsndfile tells more where it does not know
# What a header says that was written before the length was known, in bytes.
_OPEN_ENDED = (range(0x7FFFF000, 0x80001000), range(0xFFFFF000, 1 << 32))
_OGG_TAIL = 1 << 17  # bytes; a page has at most 65,307


def promised(file: sf.SoundFile) -> int:
    """Returns the samples a channel that a file's header tells of; 0 where it does not know.

    libsndfile cuts the length of a WAV or AIFF down to what the file holds; its log says so, as
    `data : 16000 (should be 9582)`.
    """
    most = file.frames if file.frames < UNKNOWN else 0
    if file.format in ("FLAC", "MP3", "OGG"):
        return most
    for line in re.finditer(r": (\d+) \(should be (\d+)\)", file.extra_info):
        told, held = map(int, line.groups())
        if told > held > 0 and not any(told in sizes for sizes in _OPEN_ENDED):
            most = max(most, math.ceil(file.frames * told / held))
    return most


def ogg_ends(file: RetriedFile | io.BytesIO) -> bool:
    """Returns whether an Ogg stream has its last page, which is marked as the last one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _OGG_TAIL, 0))
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return page < 0  # no page: something else follows it
    lengths = tail[page + 27 : page + 27 + tail[page + 26]]
    whole = len(tail) >= page + 27 + tail[page + 26] + sum(lengths)
    return whole and bool(tail[page + 5] & 4)
