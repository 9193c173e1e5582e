"""Sounds that a user gives: files, folders or arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sacjax.data.channels import choose
from sacjax.data.recordings import MemoryClip, Recordings
from sacjax.data.sources import EXTENSIONS, OpenFiles
from sacjax.errors import UserError

Sounds = str | Path | np.ndarray | Sequence[Any]


def as_recordings(
    sounds: Sounds, sample_rate: int, labels: tuple[str, ...] = (), channel: int | str = "mix"
) -> Recordings:
    """Returns sounds as recordings without labels.

    Args:
      sounds: a file or folder, a list of them, an array [T] or [channels, T], or a list of arrays.
      sample_rate: of arrays, Hz.
      labels: the label names that the recordings are said to have.
      channel: the number of the one that is heard, from 0 on; 'mix': the mean of all.

    Raises:
      UserError: a missing file, a folder without sounds, or an array that is no sound.
    """
    if isinstance(sounds, str | Path) or hasattr(sounds, "ndim"):
        sounds = [sounds]
    sounds = list(sounds)
    if sounds and all(isinstance(sound, str | Path) for sound in sounds):
        files = find_files([str(sound) for sound in sounds], repeats=True)
        return choose(Recordings(files, [()] * len(files), labels, OpenFiles(files)), channel)
    clips = [as_clip(k, sound, sample_rate) for k, sound in enumerate(sounds)]
    if not clips:
        raise UserError("there is no sound in the list")
    names = [str(k) for k in range(len(clips))]
    return choose(Recordings(names, [()] * len(clips), labels, clips.__getitem__), channel)


def as_clip(number: int, sound: Any, sample_rate: int) -> MemoryClip:
    """Returns an array as a clip. Raises UserError for what is no sound."""
    if hasattr(sound, "detach"):  # torch: NumPy cannot read a GPU's tensor or one with a gradient
        sound = sound.detach().cpu()
    x = np.asarray(sound)
    if x.ndim not in (1, 2) or not x.size or x.dtype.kind not in "fi":
        raise UserError(
            f"sound {number} has shape {x.shape} and type {x.dtype}: give samples [T] or "
            "[channels, T], int16 or float in [-1, 1]"
        )
    if x.ndim == 2 and x.shape[0] > x.shape[1]:
        raise UserError(
            f"sound {number} has shape {x.shape}: more channels than samples; give [channels, T]"
        )
    if x.dtype.kind == "i" and x.dtype != np.int16:
        raise UserError(f"sound {number} has type {x.dtype}: integers must be int16")
    x = x.astype(np.float32) / (32768 if x.dtype == np.int16 else 1)
    return MemoryClip(x.T, sample_rate)


def find_files(paths: list[str], repeats: bool = False) -> list[str]:
    """Returns the sound files of paths: files as they are, folders searched to the bottom.

    Args:
      paths: files and folders.
      repeats: whether a file that is named twice is returned twice.

    Raises:
      UserError: a missing path, or no sound file at all.
    """
    files: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS)
            files += [str(p) for p in found if p.is_file() and not p.name.startswith(".")]
        elif path.exists():
            files.append(str(path))
        else:
            raise UserError(f"there is no file or folder '{path}'")
    if not files:
        raise UserError(f"no sound files in {', '.join(paths)}")
    return files if repeats else list(dict.fromkeys(files))
