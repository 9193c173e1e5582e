"""The Grain pipelines: shuffled endless training batches, and evaluation windows that cover every clip once."""

import threading
from typing import Any

import grain.python as grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from sacjax.data import decode, splits
from sacjax.data.recordings import Recordings

CACHE_BYTES = 8 << 30  # of decoded clips that `data.cache` may hold


class MemoryClip:
    """A decoded clip: int16 [n] at the rate that the model wants."""

    def __init__(self, samples: np.ndarray, sample_rate: int):
        self.samples, self.sample_rate, self.num_samples = samples, sample_rate, len(samples)

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, 1]."""
        return self.samples[start : start + count, None].astype(np.float32) / 32768


class Cache:
    """Opens recordings; keeps them decoded, as int16 at the wanted rate, while `CACHE_BYTES` last."""

    def __init__(self, recordings: Recordings, sample_rate: int, keep: bool):
        self.recordings, self.sample_rate, self.keep = recordings, sample_rate, keep
        self.clips: dict[int, MemoryClip] = {}
        self.used = 0
        self.lock = threading.Lock()

    def __call__(self, i: int) -> Any:
        if i in self.clips:
            return self.clips[i]
        clip = self.recordings.open(i)
        seconds = clip.num_samples / max(clip.sample_rate, 1)
        if not self.keep or self.used + seconds * self.sample_rate * 2 > CACHE_BYTES:
            return clip
        memory = MemoryClip(decode.to_int16(decode.read(clip, self.sample_rate, 0.0, seconds)), self.sample_rate)
        with self.lock:
            self.clips[i] = memory
            self.used += memory.samples.nbytes
        return memory

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("lock", "clips")} | {"used": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, clips={}, lock=threading.Lock())


def label_array(recordings: Recordings, multi_label: bool) -> np.ndarray:
    """Returns int32 [N] (-1 where unknown), or float32 [N, C] of zeros and ones for multi-label."""
    if not multi_label:
        return splits.first_labels(recordings).astype(np.int32)
    place = {name: k for k, name in enumerate(recordings.class_names)}
    table = np.zeros([len(recordings), len(recordings.class_names)], np.float32)
    for i, labels in enumerate(recordings.labels):
        table[i, [place[label] for label in labels]] = 1
    return table


class _Reader:
    """Makes one row of a batch; a clip that cannot be decoded becomes a row of silence with mask 0 and a reason."""

    def __init__(self, recordings: Recordings, data: ConfigDict, labels: bool = True):
        self.open = Cache(recordings, data.sample_rate, data.cache)
        self.rate, self.seconds, self.crop, self.pad = data.sample_rate, data.seconds, data.crop, data.pad
        self.size = round(data.seconds * data.sample_rate)
        self.label = label_array(recordings, data.multi_label)
        if not labels:
            self.label = np.full_like(self.label, 0 if data.multi_label else -1)

    def row(self, index: int, read: Any) -> dict[str, Any]:
        error = ""
        audio, length = np.zeros(self.size, np.int16), 0
        if index >= 0:
            try:
                samples, length = read(self.open(index))
                audio = decode.to_int16(samples)
            except Exception as problem:  # noqa: BLE001: whatever a broken file does to a decoder
                error = f"{type(problem).__name__}: {problem}"[:200]
        good = index >= 0 and not error
        return dict(
            audio=audio, length=np.int32(length), label=self.label[index] if good else np.zeros_like(self.label[0]) - (self.label.ndim == 1),
            index=np.int32(index), mask=np.float32(good), error=error,
        )  # fmt: skip


class _Train(_Reader, grain.RandomMapTransform):
    def random_map(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A random crop; the generator is Grain's for this place in the stream."""
        return self.row(int(index), lambda clip: decode.read_crop(clip, self.rate, self.seconds, self.crop, self.pad, rng))


class _Evaluate(_Reader, grain.MapTransform):
    def map(self, window: tuple[int, float]) -> dict[str, Any]:
        """A window (index, start in seconds); index -1 is padding."""
        index, start = window
        return self.row(index, lambda clip: decode.read_window(clip, self.rate, start, self.seconds, self.pad))


def _batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: np.stack([row[key] for row in rows]) if key != "error" else [row[key] for row in rows] for key in rows[0]}


def train_batches(
    recordings: Recordings,
    indices: np.ndarray,
    data: ConfigDict,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    labels: bool = True,
) -> grain.IterDataset:
    """Returns an endless data set of this host's rows of each global batch.

    Row r of global batch t is place t * batch_size + r of one stream that depends on nothing but the seed: epochs shuffled one by one.
    Host p takes the p-th block of each batch. The iterator's `get_state` and `set_state` keep and restore the position.

    Args:
      indices: the training examples, places in `recordings`; balanced as `data.balance` says.
      batch_size: rows over all hosts; a multiple of `process_count`.
      labels: False withholds the labels.
    """
    chosen = splits.balance(recordings, np.asarray(indices), data.balance, seed)
    stream = grain.MapDataset.source(chosen.tolist()).shuffle(seed=seed).repeat()
    stream = stream.random_map(_Train(recordings, data, labels), seed=seed)
    stream = stream.batch(batch_size // process_count, batch_fn=_batch)[process_index::process_count]
    return _iterate(stream, data)


def eval_batches(
    recordings: Recordings,
    indices: np.ndarray,
    data: ConfigDict,
    batch_size: int,
    overlap: float = 0.5,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Returns this host's rows of batches of windows that cover each clip of `indices` once, whatever the number of hosts.

    Windows of `data.seconds` start every (1 - overlap) * data.seconds; the last one ends with the clip. Rows of mask 0
    fill the last batch.
    """
    table = windows(recordings, indices, data.seconds, overlap)
    table += [(-1, 0.0)] * (-len(table) % batch_size)
    stream = grain.MapDataset.source(table).map(_Evaluate(recordings, data))
    return _iterate(stream.batch(batch_size // process_count, batch_fn=_batch)[process_index::process_count], data)


def windows(recordings: Recordings, indices: np.ndarray, seconds: float, overlap: float) -> list[tuple[int, float]]:
    """Returns (index, start in seconds) of the windows; a clip that cannot be opened has one, which will say why."""
    table = []
    for index in map(int, indices):
        try:
            clip = recordings.open(index)
            spare = clip.num_samples / clip.sample_rate - seconds
        except Exception:  # noqa: BLE001: reading that window tells the reason
            spare = 0.0
        hops = max(int(np.ceil(spare / (seconds * (1 - overlap)) - 1e-6)), 0)
        table += [(index, spare * k / hops if hops else 0.0) for k in range(hops + 1)]
    return table


def _iterate(stream: grain.MapDataset, data: ConfigDict) -> grain.IterDataset:
    """Decodes ahead: in threads of this process, or in `data.workers` processes."""
    if data.workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, which none of our commands use
            flags.FLAGS.mark_as_parsed()
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=max(data.prefetch, 1))
        workers = grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=max(data.prefetch, 1))
        return stream.to_iter_dataset(options).mp_prefetch(workers)
    threads = min(max(data.prefetch, 1), 8)
    return stream.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(data.prefetch, 1)))
