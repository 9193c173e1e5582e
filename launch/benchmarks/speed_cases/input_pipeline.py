"""(e) The input pipeline, in as many threads as a torch DataLoader has processes."""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from ml_collections import ConfigDict

from launch.benchmarks.speed_cases.case import Case, Run, Sizes, same_for
from launch.benchmarks.speed_cases.peers import peer_torch
from sacjax import config as config_lib
from sacjax.data import pipeline, sources
from sacjax.data.prepare import prepare

FORMATS = {"ogg": "VORBIS", "wav": "PCM_16", "flac": "PCM_16"}


class SoundFiles:
    """A torch data set over sound files: samples of random crops, mono float32, by soundfile."""

    def __init__(self, paths: list[str], size: int, seek: bool):
        """Reads no more than the crop where it may `seek`, else the whole file."""
        self.paths, self.size, self.seek = paths, size, seek

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Any:
        import torch

        with soundfile.SoundFile(self.paths[i]) as file:
            start = np.random.randint(max(file.frames - self.size, 0) + 1)
            if self.seek:
                file.seek(start)
            samples = file.read(
                self.size if self.seek else -1, dtype="float32", always_2d=True
            ).mean(1)
        samples = samples if self.seek else samples[start : start + self.size]
        return torch.from_numpy(np.pad(samples, (0, self.size - len(samples))))


def timed(batches: Iterator[Any], sizes: Sizes) -> float:
    """Returns the seconds for some batches in the middle of a stream; its ends differ."""
    for _ in range(ahead()):
        next(batches)
    begin = time.perf_counter()
    for _ in range(sizes.batches):
        next(batches)
    return time.perf_counter() - begin


def ahead() -> int:
    """Returns how many batches are taken before the clock starts: those that may be made ahead."""
    return 2 * pipeline.cores()


def our_pipeline(data: ConfigDict, sizes: Sizes) -> Run:
    """Returns what reads a stream of batches by sacjax, in a thread a core."""
    recordings = sources.load(data)
    # Each file many times: Grain takes milliseconds to shuffle a place among a few, microseconds
    # among as many as a data set has.
    indices = np.arange(4096) % len(recordings)

    def run() -> float:
        batches = iter(pipeline.train_batches(recordings, indices, data, sizes.batch, seed=0))
        seconds = timed(batches, sizes)
        batches.close()
        return seconds

    return run


def torch_pipeline(data: ConfigDict, sizes: Sizes, seek: bool) -> Run:
    """Returns what reads a stream of batches by a torch DataLoader, in a process a core."""
    torch, _ = peer_torch()
    paths = sources.load(data).paths or []
    count = sizes.batch * (sizes.batches + 2 * ahead())
    order = np.random.default_rng(0).permutation(np.arange(count) % len(paths)).tolist()
    # Forked from a server, as a fork of a process with JAX's threads may hang; what the server
    # imports beforehand starts quickly.
    multiprocessing.set_forkserver_preload(["torch", "sacjax.train.loop"])
    loader = torch.utils.data.DataLoader(
        SoundFiles(paths, round(data.seconds * data.sample_rate), seek),
        batch_size=sizes.batch,
        sampler=order,
        num_workers=pipeline.cores(),
        persistent_workers=True,
        multiprocessing_context="forkserver",
    )

    def run() -> float:
        batches = iter(loader)
        seconds = timed(batches, sizes)
        for _ in batches:  # so that nothing is read beside the next measurement
            pass
        return seconds

    return run


def data_config(source: str, path: Path, seconds: float) -> ConfigDict:
    """Returns how a folder is read: at its own rate, in crops of so many seconds."""
    data = config_lib.default().supervised.data
    data.source, data.path, data.sample_rate, data.seconds = source, str(path), 44100, seconds
    return data


def write_sounds(folder: Path, sizes: Sizes) -> None:
    """Writes FOLDER/FORMAT/LABEL/FILE: the same synthesized clips in each format.

    `long` is FLAC files made of several clips.
    """
    data = data_config("synthetic", folder, sizes.seconds)
    data.examples = sizes.files
    recordings = sources.load(data)
    clips = [
        recordings.open(i).read(0, round(data.seconds * data.sample_rate))
        for i in range(sizes.files)
    ]
    long = [
        np.concatenate([clips[(k + j) % len(clips)] for j in range(sizes.long_parts)])
        for k in range(sizes.long_files)
    ]
    for name, sounds, kind in [*((kind, clips, kind) for kind in FORMATS), ("long", long, "flac")]:
        (folder / name / "sound").mkdir(parents=True)
        for k, sound in enumerate(sounds):
            soundfile.write(
                folder / name / "sound" / f"{k:04d}.{kind}",
                sound,
                data.sample_rate,
                subtype=FORMATS[kind],
            )


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yields the cases: from files that the operating system holds in memory, clips of 44.1 kHz."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sounds(folder, sizes)
        for kind, target in (("ogg", 1.0), ("wav", 1.5), ("flac", 1.0)):
            yield whole_clips(folder / kind, kind, target, sizes)
        yield crops(folder / "long", sizes)
        yield from_array_record(folder, sizes)


def whole_clips(folder: Path, kind: str, target: float, sizes: Sizes) -> Case:
    """Returns the case of whole clips of a format."""
    data = data_config("folder", folder, sizes.seconds)
    peers = {"torch DataLoader, soundfile": torch_pipeline(data, sizes, seek=False)}
    what = f"batches of {sizes.seconds:g} s clips from {kind}"
    targets, clips = same_for(peers, target), sizes.batch * sizes.batches
    return Case(what, our_pipeline(data, sizes), peers, targets, clips)


def crops(folder: Path, sizes: Sizes) -> Case:
    """Returns the case of crops of long files.

    The target is against reading the files whole, as a data set of a few lines does; one that seeks
    is beside it.
    """
    crop = min(1.0, sizes.seconds / 2)
    data = data_config("folder", folder, crop)
    whole, seeks = (f"torch DataLoader, soundfile, {how}" for how in ("reads whole files", "seeks"))
    peers = {
        whole: torch_pipeline(data, sizes, seek=False),
        seeks: torch_pipeline(data, sizes, seek=True),
    }
    long = sizes.long_parts * sizes.seconds
    what = f"batches of {crop:g} s crops of FLAC files of {long:g} s"
    clips = sizes.batch * sizes.batches
    return Case(what, our_pipeline(data, sizes), peers, {whole: 3.0}, clips)


def from_array_record(folder: Path, sizes: Sizes) -> Case:
    """Returns the case of clips that `prepare` has written, beside their files."""
    source = data_config("folder", folder / "ogg", sizes.seconds)
    prepare(sources.load(source), source, folder / "shards")
    # Longer, as a pipeline that was closed still decodes what it had begun.
    longer = sizes._replace(batches=10 * sizes.batches)
    ours = our_pipeline(data_config("arrayrecord", folder / "shards", sizes.seconds), longer)
    peers = {"sacjax from ogg": our_pipeline(source, longer)}
    what = f"batches of {sizes.seconds:g} s clips from ArrayRecord"
    return Case(what, ours, peers, same_for(peers, 10.0), longer.batch * longer.batches)
