"""Turns any source into ArrayRecord shards that train fast and move easily.

Names, labels, folds, splits and groups are kept; so are sample rates and channels unless told
otherwise. `skipped.csv` in the folder lists what could not be decoded, which is not in the shards,
and what was cut short: of that the good part is. A run that was stopped goes on by the same call:
finished shards are verified by their checksums and kept.
"""

import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from array_record.python.array_record_module import ArrayRecordWriter
from ml_collections import ConfigDict
from tqdm import tqdm

from sacjax import io as files
from sacjax.data import decode, retry
from sacjax.data.recordings import Clip, Recordings
from sacjax.data.shard_folder import checksum, finish, is_finished, writing_into
from sacjax.data.sources.array_record import BLOCK
from sacjax.errors import UserError

SHARDS = 16  # at least, so that several workers and hosts have something to do
PER_SHARD = 256  # recordings a shard, until there are `MOST_SHARDS` of them
MOST_SHARDS = 256  # files; a reader of them all has to keep them open, or open them again and again


@dataclasses.dataclass
class Job:
    """All that a worker needs."""

    recordings: Recordings
    folder: Path
    fingerprint: str  # of the recordings and options; a shard of another is not kept
    per_shard: int
    sample_rate: int  # 0 = each clip's own
    mono: bool

    @property
    def shards(self) -> list[str]:
        """The shards' file names."""
        n = -(-len(self.recordings) // self.per_shard)
        return [f"data-{k:05d}-of-{n:05d}.array_record" for k in range(n)]


def pcm_blocks(
    clip: Clip, sample_rate: int = 0, mono: bool = False, block: int = BLOCK
) -> Iterator[np.ndarray]:
    """Yields a clip as int16 [n, channels], n = `block` but for the last.

    It holds a few blocks in memory, however long the clip.

    Args:
      clip: it ends where it gives fewer samples than it is asked for.
      sample_rate: to resample to, Hz; 0 keeps the clip's.
      mono: down-mix.
      block: samples a channel that are read at a time.

    Raises:
      ValueError: samples that are not finite.
      UserError: the machine cannot read.
    """
    rate, position, channels, resampler, ended = clip.sample_rate, 0, 1, None, False
    rest = np.zeros([0, 0], np.float32)
    while not ended:
        x = retry.retried(functools.partial(clip.read, position, block))
        if not len(x):  # an end may not know how many channels there were
            x = np.zeros([0, channels], np.float32)
        position, channels = position + len(x), x.shape[1]
        ended = len(x) < block
        if not np.isfinite(x).all():
            raise ValueError("samples that are not finite")
        if mono:
            x = x.mean(axis=1, keepdims=True)
        if sample_rate and sample_rate != rate:
            resampler = resampler or soxr.ResampleStream(
                rate, sample_rate, x.shape[1], dtype="float32"
            )
            x = resampler.resample_chunk(np.ascontiguousarray(x, np.float32), last=ended)
        rest = np.concatenate([rest, x]) if len(rest) else x
        while len(rest) >= block or (ended and len(rest)):
            yield np.clip(np.rint(rest[:block] * 32768), -32768, 32767).astype(np.int16)
            rest = rest[block:]


def _wav(pcm: np.ndarray, sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


@dataclasses.dataclass
class Shard:
    """What a shard's JSON file holds."""

    records: int = 0
    recordings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    skipped: list[list[str]] = dataclasses.field(default_factory=list)  # not stored: file, reason
    cut: list[list[str]] = dataclasses.field(default_factory=list)  # stored in part: file, reason


def write_shard(job: Job, k: int, tick: Callable[[], Any] = lambda: None) -> None:
    """Writes shard k with its JSON file, unless it is there already; calls `tick` after each clip.

    Each file appears under its name only when it is whole.

    Raises:
      UserError: a recording cannot be read by the machine's fault.
    """
    first = k * job.per_shard
    indices = range(first, min(first + job.per_shard, len(job.recordings)))
    write_rows(job, job.folder / job.shards[k], indices, tick)


def write_rows(job: Job, path: Path, indices: range, tick: Callable[[], Any]) -> None:
    """Writes recordings of a job into one shard; the rest is as of `write_shard`."""
    if is_finished(path, job.fingerprint):
        for _ in indices:
            tick()
        return
    partial = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed,max_parallelism:1")
    shard = Shard()
    for i in indices:
        try:
            _write_recording(job, i, writer, shard)
        except retry.BadClip as bad:  # what was written of it stays there, and no row names it
            shard.skipped.append([job.recordings.names[i], " ".join(str(bad).split())])
        tick()
    writer.close()
    side = {
        "fingerprint": job.fingerprint,
        "bytes": partial.stat().st_size,
        "sha256": checksum(partial),
    }
    os.replace(partial, path)
    files.write_json(path.with_suffix(".json"), side | dataclasses.asdict(shard))


def _write_recording(job: Job, i: int, writer: ArrayRecordWriter, shard: Shard) -> None:
    """Writes a recording as records, and its row. Raises BadClip, and UserError as `write_shard`.

    Only opening and reading a clip may fail and be skipped; a failing disk to write to may not.
    """
    source = job.recordings
    first, samples, channels = shard.records, 0, 0
    clip = retry.attempt(functools.partial(source.open, i))
    rate = job.sample_rate or clip.sample_rate
    blocks = pcm_blocks(clip, job.sample_rate, job.mono)
    while True:
        with retry.blaming_the_clip():
            pcm = next(blocks, None)
        if pcm is None:
            break
        writer.write(_wav(pcm, rate))
        samples, channels = samples + len(pcm), pcm.shape[1]
        shard.records += 1
    if not samples:
        raise retry.BadClip("it has no samples")
    missing = decode.missing_seconds(clip, samples / rate)
    if missing:
        shard.cut.append([source.names[i], decode.missing_reason(missing)])
    labels = source.labels[i]  # null is unknown, [] none
    row = {
        "name": source.names[i],
        "labels": None if labels is None else list(labels),
        "first": first,
    }
    row |= {"sample_rate": rate, "samples": samples, "channels": channels}
    for key, column in (
        ("fold", source.folds),
        ("split", source.splits),
        ("group", source.groups),
    ):
        if column is not None:
            row[key] = column[i] if key != "fold" else int(column[i])
    shard.recordings.append(row)


_worker: dict[str, Any] = {}


def _start_worker(job: Job, counter: Any) -> None:
    """Keeps the job, which may be large, once a process.

    A worker whose parent was killed ends itself.
    """

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    def tick() -> None:
        with counter.get_lock():
            counter.value += 1

    _worker.update(job=job, tick=tick)
    threading.Thread(target=watch, daemon=True).start()


def _work(k: int) -> None:
    write_shard(_worker["job"], k, _worker["tick"])


def _run(job: Job, workers: int) -> None:
    """Writes all shards, with a progress bar."""
    count = len(job.shards)
    with tqdm(total=len(job.recordings), unit="clip", desc="preparing") as bar:
        if workers <= 1 or count == 1:
            for k in range(count):
                write_shard(job, k, bar.update)
            return
        context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
        counter = context.Value("q", 0)
        pool = ProcessPoolExecutor(min(workers, count), context, _start_worker, (job, counter))
        try:
            todo = {pool.submit(_work, k) for k in range(count)}
            while todo:
                done, todo = wait(todo, timeout=0.2, return_when=FIRST_COMPLETED)
                if counter.value > bar.n:
                    bar.update(counter.value - bar.n)
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed (out of memory?): use fewer --workers and run again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _fingerprint(recordings: Recordings, data: ConfigDict, options: list) -> str:
    """Returns a digest of what will be written.

    Of names and labels, the files' sizes and times, where parts of them end, and the options.
    """
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(json.dumps(value, default=str).encode() + b"\n")

    add(
        [1, BLOCK, options, data.source, data.name, os.path.abspath(data.path) if data.path else ""]
    )
    if data.source in ("synthetic", "tfds"):  # these settings change what such a source's clips are
        add([data.sample_rate, data.seconds, data.examples, data.split_seed])
    for key, default in (("channel", "mix"), ("audio_column", "")):  # which sound of a recording
        if data[key] != default:
            add([key, data[key]])
    add(recordings.class_names)
    for column in (
        recordings.names,
        recordings.labels,
        recordings.folds,
        recordings.splits,
        recordings.groups,
    ):
        add(column)
    opened = getattr(recordings.open, "open", recordings.open)  # within that of one channel
    if ends := getattr(opened, "ends", None):
        add(ends)
    for path in recordings.paths or dict.fromkeys(getattr(opened, "paths", ())):  # those of tars
        try:
            stat = os.stat(path)
            add([stat.st_size, stat.st_mtime_ns])
        except OSError:
            add(None)
    return digest.hexdigest()


def prepare(
    recordings: Recordings,
    data: ConfigDict,
    output: str | Path,
    workers: int = 1,
    per_shard: int = 0,
    sample_rate: int = 0,
    mono: bool = False,
) -> dict[str, Any]:
    """Writes recordings as ArrayRecord shards into a folder.

    It goes on where an earlier call was stopped.

    Args:
      recordings: what to write.
      data: the data config that the recordings came from.
      output: the folder; new, empty, or of an earlier call.
      workers: processes.
      per_shard: recordings a shard; 0: see `default_per_shard`.
      sample_rate: resample to it (Hz); 0 keeps each clip's own.
      mono: down-mix.

    Returns:
      What `metadata.json` holds: 'recordings', 'skipped' (not stored) and 'cut_short' (stored as
      far as they go) are numbers, 'seconds' the sum of durations.

    Raises:
      UserError: the folder holds something else or cannot be written, nothing could be decoded, or
        a recording cannot be read by the machine's fault.
    """
    folder = files.on_disk(output, "--output")
    per_shard = per_shard or default_per_shard(len(recordings))
    fingerprint = _fingerprint(recordings, data, [per_shard, sample_rate, mono])
    job = Job(recordings, folder, fingerprint, per_shard, sample_rate, mono)
    with writing_into(folder, fingerprint):
        _run(job, workers)
        return finish(folder, job.shards, recordings.class_names)


def default_per_shard(recordings: int) -> int:
    """Returns how many recordings go into a shard: from 16 shards on, of up to 256 recordings.

    From 65,536 recordings on it is 256 shards, which hold more: LibriSpeech's 281,241 are 256 files
    and not 1,099.
    """
    return max(min(-(-recordings // SHARDS), PER_SHARD), -(-recordings // MOST_SHARDS), 1)
