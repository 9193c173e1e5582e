"""Sounds that an objective gives, such as reconstructions: as wav files, and in the report."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sacjax import io
from sacjax.report import html

MOST = 4
"""Clips of which there are sounds."""


def write(
    folder: Path,
    sounds: dict[str, np.ndarray],
    batch: dict[str, Any],
    names: Sequence[str],
    sample_rate: int,
) -> None:
    """Writes a wav file for each sound of each clip, and `samples.json`, which lists them.

    Args:
      folder: where; it is made.
      sounds: {name: float32 [B, T]} of this host's rows.
      batch: of which they are, with `index`, `length` and `mask` [B].
      names: of the clips of the data set.
      sample_rate: Hz.
    """
    io.make_folder(folder)
    listed: list[dict[str, Any]] = []
    for row in np.flatnonzero(batch["mask"] > 0)[:MOST]:
        files = {}
        for name, values in sounds.items():
            slug = re.sub(r"\W+", "_", name.lower())
            files[name] = f"{len(listed) + 1:02d}_{slug}.wav"
            clip = np.asarray(values[row][: batch["length"][row]], np.float32)
            io.write_bytes(folder / files[name], html.wav(clip, sample_rate))
        listed.append(dict(clip=names[batch["index"][row]], files=files))
    io.write_json(folder / "samples.json", listed)


def cards(folder: Path) -> str:
    """Returns the players of the sounds in a folder, as HTML; '' where there are none."""
    path = folder / "samples.json"
    if not path.is_file():
        return ""
    shown = ""
    for entry in json.loads(path.read_text()):
        files = {name: (folder / file).read_bytes() for name, file in entry["files"].items()}
        shown += html.players(entry["clip"], files)
    return shown
