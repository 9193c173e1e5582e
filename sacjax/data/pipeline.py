"""The Grain pipelines: endless shuffled training batches, and windows that cover each clip once."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain.python as grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from sacjax.data import decode, hosts, retry, splits
from sacjax.data.labels import LabelRows
from sacjax.data.labels import label_array as label_array  # its callers look here
from sacjax.data.recordings import Clip, MemoryClip, Recordings
from sacjax.errors import UserError

# Of decoded clips, as `data.cache` may hold them; half of the memory there is where that is less.
CACHE_BYTES = 8 << 30
# What a container may use: bytes, or "max". Linux's control groups, version 2 and 1.
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Examples of a training stream: it has no end, but Grain must be able to count its batches.
ENDLESS = 1 << 48

Batch = dict[str, Any]
# (index or -1, share of the spare time before a crop or start of a window in seconds).
Place = tuple[int, float]
PLACE = np.dtype([("index", np.int64), ("start", np.float64)])  # of a table of windows
MEASURED = 4096  # clips whose lengths are asked for at a time


class Cache:
    """Opens recordings and keeps them, decoded as int16 at the wanted rate, while memory lasts.

    For many threads.
    """

    def __init__(self, open_clip: Callable[[int], Clip], sample_rate: int, most_bytes: int):
        """Takes what opens a recording, the rate in Hz, and how many bytes it may keep."""
        self.open, self.sample_rate, self.most_bytes = open_clip, sample_rate, most_bytes
        self.clips: dict[int, MemoryClip] = {}
        self.used, self.lock = 0, threading.Lock()

    def __call__(self, i: int) -> Clip:
        """Returns recording i, from memory if it may be kept there."""
        if i in self.clips:
            return self.clips[i]
        clip = self.open(i)
        rate = max(clip.sample_rate, 1)
        seconds = clip.num_samples / rate
        if self.used + 2 * seconds * self.sample_rate > self.most_bytes:
            return clip
        try:
            samples = decode.read_pcm(clip, self.sample_rate, 0.0, seconds)
        except Exception as error:  # another part of it may be good
            retry.raise_fault(error)
            return clip
        promised = getattr(clip, "promised", clip.num_samples) * self.sample_rate / rate
        with self.lock:
            if i not in self.clips and self.used + samples.nbytes <= self.most_bytes:
                self.clips[i] = MemoryClip(samples, self.sample_rate, promised)
                self.used += samples.nbytes
        return self.clips.get(i, clip)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"lock": None, "clips": {}, "used": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.Lock())


def _opener(recordings: Recordings, data: ConfigDict) -> Callable[[int], Clip]:
    """Returns what opens a recording; if `data.cache`, through what all pipelines of it share."""
    if not data.cache:
        return recordings.open
    most = min(CACHE_BYTES, memory_bytes() // 2) // max(data.workers, 1)
    return recordings.memo.setdefault(
        ("cache", data.sample_rate), Cache(recordings.open, data.sample_rate, most)
    )


class _Reader:
    """Makes a batch of crops or windows.

    A clip that cannot be decoded becomes a row of silence with mask 0, and a reason in `error`. A
    clip that is shorter than its header says is used as it is; `missing` has the seconds.
    """

    def __init__(
        self, recordings: Recordings, data: ConfigDict, windows: bool, labels: bool = True
    ):
        self.open, self.windows = _opener(recordings, data), windows
        self.rate, self.seconds, self.pad = data.sample_rate, data.seconds, data.pad
        self.size = round(data.seconds * data.sample_rate)
        self.lengths = recordings.memo["lengths"] if windows else np.zeros(0)
        self.label = LabelRows(recordings, data.multi_label, withheld=not labels)
        self.threads = cores() if windows else max(cores() // max(data.workers, 1), 1)
        self.pool: ThreadPoolExecutor | None = None
        self.lock = threading.Lock()

    def __call__(self, crops: Sequence[Place]) -> Batch:
        with self.lock:
            self.pool = self.pool or ThreadPoolExecutor(self.threads, "decode")
        rows = list(self.pool.map(self.row, crops))
        return {
            key: [r[key] for r in rows] if key == "error" else np.stack([r[key] for r in rows])
            for key in rows[0]
        }

    def row(self, crop: Place) -> dict[str, Any]:
        index, where = crop
        audio, length, missing, error = np.zeros(self.size, np.int16), 0, 0.0, ""
        if index >= 0:
            try:
                audio, length, missing = retry.attempt(lambda: self._read(index, where))
            except retry.BadClip as bad:
                error = str(bad)
        good = index >= 0 and not error
        return dict(
            audio=audio,
            length=np.int32(length),
            label=self.label[index] if good else self.label.unknown,
            index=np.int32(index),
            mask=np.float32(good),
            missing=np.float32(missing),
            error=error,
        )

    def _read(self, index: int, where: float) -> tuple[np.ndarray, int, float]:
        clip = self.open(index)
        if not self.windows:
            audio, length, missing = decode.read_crop_at(
                clip, self.rate, self.seconds, where, self.pad, pcm=True
            )
            return audio, decode.heard(length, self.size, self.pad), missing
        audio, length = decode.read_window(clip, self.rate, where, self.seconds, self.pad, pcm=True)
        there = self.lengths[index]
        if length < self.size:  # this is its end
            there = min(there, where + length / self.rate)
        heard = decode.heard(length, self.size, self.pad)
        return audio, heard, decode.missing_seconds(clip, there)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"lock": None, "pool": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.Lock())


class _Draw(grain.RandomMapTransform):
    """Gives each position of the stream its crop; Grain's generator is that of the position."""

    def __init__(self, crop: str):
        self.crop = crop

    def random_map(self, index: int, rng: np.random.Generator) -> Place:
        """Returns (index, share of the spare time before the crop)."""
        return int(index), decode.crop_share(self.crop, rng)


def train_batches(
    recordings: Recordings,
    indices: np.ndarray,
    data: ConfigDict,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    labels: bool = True,
    reader: Callable[[Sequence[Place]], Batch] | None = None,
) -> grain.IterDataset:
    """Returns an endless data set of this host's rows of each global batch.

    Row r of global batch t is element t * batch_size + r of one stream that depends on nothing but
    the seed: epochs shuffled one by one. Host p takes the p-th block of each batch. The iterator's
    `get_state` and `set_state` keep and restore the position: the number of batches taken, whatever
    `data.workers`.

    Args:
      indices: the training examples, indices into `recordings`; balanced as `data.balance` says.
      batch_size: rows over all hosts; a multiple of `process_count`.
      labels: False withholds the labels.
      reader: makes a host's batch of (index, share) pairs; None: one that decodes.

    Raises:
      UserError: no examples, or a batch size that does not divide over the hosts; by the iterator:
        the machine cannot read.
    """
    seed %= 2**32
    chosen = splits.balance(recordings, np.asarray(indices, int), data.balance, seed)
    if not len(chosen):
        raise UserError(
            "there are no clips to train on: see data.fold, data.holdout, data.label_fraction"
        )
    stream = (
        grain.MapDataset.source(chosen)
        .shuffle(seed=seed)
        .repeat(ENDLESS // len(chosen) + 1)
        .random_map(_Draw(data.crop), seed=seed)
    )
    stream = _host_rows(stream, batch_size, process_index, process_count)
    if reader is not None:
        return _in_threads(stream.map(reader), data.prefetch)
    stream = stream.map(_Reader(recordings, data, windows=False, labels=labels))
    return (
        _InWorkers(stream, data.workers, data.prefetch)
        if data.workers
        else _in_threads(stream, data.prefetch)
    )


def eval_batches(
    recordings: Recordings,
    indices: np.ndarray,
    data: ConfigDict,
    batch_size: int,
    overlap: float = 0.5,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Returns this host's rows of batches of windows that cover each clip of `indices` once.

    Windows of `data.seconds` are spread evenly from a clip's start to its end, at most
    (1 - overlap) * data.seconds apart, alike whatever the number of hosts. Rows of mask 0 fill the
    last batch. Decodes in threads also where training has workers: those would start anew each
    time.

    Raises:
      UserError: a batch size that does not divide over the hosts, an overlap outside [0, 1), or the
        machine cannot read (one of the hosts is enough); by the iterator: the same of this host.
    """
    table = windows(recordings, indices, data.seconds, overlap, process_index, process_count)
    table = np.concatenate([table, np.array([(-1, 0.0)] * (-len(table) % batch_size), PLACE)])
    stream = _host_rows(grain.MapDataset.source(table), batch_size, process_index, process_count)
    return _in_threads(stream.map(_Reader(recordings, data, windows=True)), data.prefetch)


def windows(
    recordings: Recordings,
    indices: np.ndarray,
    seconds: float,
    overlap: float,
    process_index: int = 0,
    process_count: int = 1,
) -> np.ndarray:
    """Returns PLACE [n], (index, start in seconds) of the windows; all hosts get the same.

    A clip that cannot be opened has one window, which will say why. Of several hosts each measures
    its share of the clips and tells the others, so that there is one table, whatever single hosts
    can open.

    Raises:
      UserError: an overlap outside [0, 1), or a host cannot read.
    """
    if not 0 <= overlap < 1:
        raise UserError(f"eval.overlap is {overlap}: it must be at least 0 and less than 1")
    indices = np.asarray(indices, np.int64)
    lengths = recordings.memo.setdefault("lengths", np.full(len(recordings), np.nan))
    new = np.unique(indices[np.isnan(lengths[indices])])
    if len(new) and process_count > 1 and hosts.place() == (process_index, process_count):
        lengths[new] = _measure_together(recordings, new, seconds, process_index, process_count)
    elif len(new):
        lengths[new] = _measure(recordings, new, seconds)
    spare = lengths[indices] - seconds
    hops = np.maximum(np.ceil(spare / (seconds * (1 - overlap)) - 1e-6), 0).astype(np.int64)
    clip = np.repeat(np.arange(len(indices)), hops + 1)
    number = np.arange(len(clip)) - (np.cumsum(hops + 1) - hops - 1)[clip]
    table = np.empty(len(clip), PLACE)
    table["index"] = indices[clip]
    table["start"] = np.maximum(spare, 0)[clip] * number / np.maximum(hops, 1)[clip]
    return table


def _measure(recordings: Recordings, indices: np.ndarray, seconds: float) -> np.ndarray:
    """Returns each clip's length in seconds, float64 [n]; 0.0 where it cannot be opened."""

    def length(index: int) -> float:
        clip = recordings.open(index)
        # More windows than one: make sure that there is something in them.
        several = clip.num_samples > seconds * clip.sample_rate
        return (decode.count_samples(clip) if several else clip.num_samples) / clip.sample_rate

    def measure(index: int) -> float:
        try:
            return retry.attempt(lambda: length(index))
        except retry.BadClip:  # reading that window tells the reason
            return 0.0

    with ThreadPoolExecutor(cores()) as pool:
        parts = (indices[k : k + MEASURED].tolist() for k in range(0, len(indices), MEASURED))
        found = (length for part in parts for length in pool.map(measure, part))
        return np.fromiter(found, np.float64, len(indices))


def _measure_together(
    recordings: Recordings, indices: np.ndarray, seconds: float, process_index: int, count: int
) -> np.ndarray:
    """Returns what `_measure` returns, on all hosts; each measures every `count`-th clip."""
    own, error = np.zeros(-(-len(indices) // count)), None
    try:
        found = _measure(recordings, indices[process_index::count], seconds)
        own[: len(found)] = found
    except Exception as problem:  # the others must not wait for this host
        error = problem
    return hosts.gather(own, error).T.reshape(-1)[: len(indices)]


def memory_bytes() -> int:
    """Returns the machine's memory, or what the container may use of it where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int(Path(limit).read_text()))
    return memory


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _host_rows(
    stream: grain.MapDataset, batch_size: int, process_index: int, process_count: int
) -> grain.MapDataset:
    """Returns lists of a host's elements of each global batch."""
    if batch_size % process_count:
        raise UserError(
            f"batch_size is {batch_size}: it must be a multiple of the number of hosts, "
            f"{process_count}"
        )
    return stream.batch(batch_size // process_count, batch_fn=list)[process_index::process_count]


def _in_threads(stream: grain.MapDataset, prefetch: int) -> grain.IterDataset:
    """Makes `prefetch` batches ahead, two at a time: rows are decoded side by side anyway."""
    ahead = max(prefetch, 1)
    return stream.to_iter_dataset(
        grain.ReadOptions(num_threads=min(ahead, 2), prefetch_buffer_size=ahead)
    )


class _InWorkers(grain.IterDataset):
    """Decodes in processes.

    Its position is a number of batches, as in threads; Grain's own is one number a process.
    """

    def __init__(self, stream: grain.MapDataset, workers: int, prefetch: int):
        super().__init__()
        self.stream, self.workers, self.prefetch = stream, workers, prefetch

    def __iter__(self) -> "_WorkersIterator":
        return _WorkersIterator(self)


class _WorkersIterator(grain.DatasetIterator):
    def __init__(self, parent: _InWorkers):
        super().__init__()
        self.parent, self.position = parent, 0
        self.inner: Any = None

    def __next__(self) -> Batch:
        if self.inner is None:
            if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags; we have none
                flags.FLAGS.mark_as_parsed()
            ahead = max(self.parent.prefetch, 1)
            rest = _in_threads(self.parent.stream[self.position :], ahead)
            options = grain.MultiprocessingOptions(
                num_workers=self.parent.workers, per_worker_buffer_size=ahead
            )
            self.inner = iter(rest.mp_prefetch(options))
        batch = next(self.inner)
        self.position += 1
        return batch

    def get_state(self) -> dict[str, int]:
        return {"next_index": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        self.close()
        self.position = state["next_index"]

    def close(self) -> None:
        if self.inner is not None:
            self.inner.close()
        self.inner = None
