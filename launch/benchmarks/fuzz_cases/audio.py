"""Sound files: bits, header fields, cut short."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf

from launch.benchmarks.fuzz_cases import mutate
from sacjax import config as config_lib
from sacjax.data import pipeline, sources

# (file name, format, subtype, rate, channels, seconds)
FILES = (
    ("a.wav", "WAV", "PCM_16", 16000, 1, 1.0),
    ("b.wav", "WAV", "FLOAT", 8000, 2, 0.5),
    ("c.wav", "WAV", "PCM_24", 44100, 1, 0.2),
    ("d.wav", "WAV", "MS_ADPCM", 22050, 1, 0.5),
    ("a.flac", "FLAC", "PCM_16", 16000, 1, 1.0),
    ("b.flac", "FLAC", "PCM_24", 44100, 2, 0.2),
    ("a.ogg", "OGG", "VORBIS", 16000, 1, 1.0),
    ("b.ogg", "OGG", "VORBIS", 44100, 2, 0.3),
    ("c.ogg", "OGG", "OPUS", 48000, 1, 0.5),
    ("a.mp3", "MP3", "MPEG_LAYER_III", 16000, 1, 1.0),
    ("b.mp3", "MP3", "MPEG_LAYER_III", 44100, 2, 0.5),
)
RATE, SECONDS = 16000, 0.5


def corpus(folder: Path) -> None:
    """Writes a few short files of each format."""
    rng = np.random.default_rng(0)
    for name, kind, subtype, rate, channels, seconds in FILES:
        moments = np.arange(round(rate * seconds)) / rate
        sound = 0.5 * np.sin(2 * np.pi * 440 * moments) + 0.05 * rng.standard_normal(len(moments))
        sound = np.stack([sound] * channels, 1)
        sf.write(folder / name, sound, rate, format=kind, subtype=subtype)


def reads(kind: str) -> Callable[[np.random.Generator, Path, Path], str]:
    """Returns the check of a format's files."""

    def check(rng: np.random.Generator, originals: Path, folder: Path) -> str:
        original = mutate.pick(rng, sorted(originals.glob(f"*.{kind}")))
        (folder / "label").mkdir()
        mutated = mutate.of_bytes(rng, original.read_bytes())
        (folder / "label" / original.name).write_bytes(mutated)
        return read_folder(folder)

    return check


def read_folder(folder: Path) -> str:
    """Reads a folder's sounds as evaluation and training do; returns why one is a bad clip.

    Raises:
      UserError: as the sources do.
      AssertionError: a batch that breaks its contract.
    """
    data = config_lib.default().supervised.data
    data.source, data.path = "folder", str(folder)
    data.sample_rate, data.seconds, data.prefetch = RATE, SECONDS, 1
    recordings = sources.load(data)
    everything, reason = np.arange(len(recordings)), ""
    for batch in pipeline.eval_batches(recordings, everything, data, batch_size=2):
        reason = reason or reason_of(batch)
    training = iter(pipeline.train_batches(recordings, everything, data, batch_size=2, seed=0))
    return reason or reason_of(next(training))


def reason_of(batch: pipeline.Batch) -> str:
    """Returns why a clip of a batch is bad, '' where none is; checks what a batch promises."""
    size = round(RATE * SECONDS)
    assert batch["audio"].shape[1] == size and batch["audio"].dtype == np.int16, "shape of audio"
    assert (0 <= batch["length"]).all() and (batch["length"] <= size).all(), "lengths"
    for mask, length, index, error in zip(
        batch["mask"], batch["length"], batch["index"], batch["error"], strict=True
    ):
        assert bool(mask) == (index >= 0 and not error), "a bad clip counts, or a good one does not"
        assert length > 0 or not mask, "a good clip without a sample"
    return next((error for error in batch["error"] if error), "")
