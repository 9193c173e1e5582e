"""Folders of noises and impulse responses, read once on the host into constant arrays."""

import functools
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from jaxtyping import Float32, Int16

from sacjax.errors import UserError

MAX_SECONDS = 300.0  # of noise kept in memory, and in each compiled step
MAX_RESPONSES = 64
SUFFIXES = {f".{name.lower()}" for name in sf.available_formats() if name != "RAW"} | {
    ".oga",
    ".opus",
    ".aif",
    ".mp3",
}


def files(folder: str) -> list[Path]:
    """Returns the sound files below a folder, sorted. Raises UserError where there are none."""
    root = Path(folder)
    found = (
        sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES) if root.is_dir() else []
    )
    if not found:
        raise UserError(f"augment: there is no folder of sound files at {folder}")
    return found


def _some(found: list[Path], most: int) -> list[Path]:
    """Every so-manieth of the list, so that no more than `most` are left."""
    return found[:: -(-len(found) // most)]


def _read(path: Path, sample_rate: int, seconds: float) -> Float32[np.ndarray, " samples"]:
    try:
        with sf.SoundFile(path) as file:
            samples = file.read(
                int(seconds * file.samplerate), dtype="float32", always_2d=True
            ).mean(1)
            rate = file.samplerate
    except Exception as error:
        raise UserError(f"augment: {path} cannot be read: {error}") from error
    if not np.isfinite(samples).all() or not np.any(samples):
        raise UserError(f"augment: {path} is silent or not finite; remove it from the folder")
    return soxr.resample(samples, rate, sample_rate)


@functools.lru_cache(maxsize=4)
def pool(folder: str, sample_rate: int, size: int) -> Int16[np.ndarray, " samples"]:
    """Returns all sounds of a folder one after another: int16 [n], n >= size.

    Each is brought to the same level. Files over `MAX_SECONDS` in all are cut, each to the same
    length.
    """
    found = _some(files(folder), int(MAX_SECONDS))
    parts = [_read(path, sample_rate, max(MAX_SECONDS / len(found), 1.0)) for path in found]
    samples = np.concatenate([part / np.sqrt((part**2).mean()) for part in parts])
    samples = np.tile(samples, -(-size // len(samples)))
    return np.round(samples / np.abs(samples).max() * 32767).astype(np.int16)


@functools.lru_cache(maxsize=4)
def responses(folder: str, sample_rate: int, taps: int) -> Float32[np.ndarray, "responses {taps}"]:
    """Returns the impulse responses of a folder, float32 [N, taps].

    Each begins at its highest peak and has energy 1.
    """
    table = []
    for path in _some(files(folder), MAX_RESPONSES):
        samples = _read(path, sample_rate, 60.0)
        samples = samples[np.abs(samples).argmax() :][:taps]
        table.append(np.pad(samples / np.sqrt((samples**2).sum()), (0, taps - len(samples))))
    return np.stack(table).astype(np.float32)
