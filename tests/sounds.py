"""Small sound files for the tests of sources."""

import struct

import numpy as np
import soundfile as sf

from sacjax import config as config_lib


def settings(**values):
    """A stage's data config with some values set."""
    data = config_lib.stage().data
    data.update(values)
    return data


def tone(seconds=1.0, rate=8000, channels=1):
    x = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    return np.repeat(x[:, None], channels, 1)


def write(path, samples=None, rate=8000, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, tone(rate=rate) if samples is None else samples, rate, **kwargs)
    return path


def wav_header(data_bytes, rate=8000, channels=1, bits=16):
    frame = channels * bits // 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * frame, frame, bits)
    return (
        struct.pack("<4sI4s", b"RIFF", (data_bytes + 36) % 2**32, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", data_bytes)
    )
