"""Training clips kept in the devices' memory whole, and cropped there: `data.on_device`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sacjax.data import decode, pipeline, retry
from sacjax.data.labels import label_array
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.train import sharding


class Resident:
    """All clips of a training part, as one array on every device.

    As the `reader` of `pipeline.train_batches` it returns positions in that array, not sound.
    """

    def __init__(
        self,
        recordings: Recordings,
        indices: np.ndarray,
        data: ConfigDict,
        mesh: Mesh,
        labels: bool = True,
    ):
        """Decodes all clips.

        Raises:
          UserError: they take more than half of a device's memory, or cannot be read now.
        """
        self.size = round(data.seconds * data.sample_rate)
        self.recordings, self.rate = recordings, data.sample_rate
        indices = np.unique(indices)
        with ThreadPoolExecutor(pipeline.cores(), "decode") as pool:
            clips = list(pool.map(self._decode, indices.tolist()))
        longest = max([self.size, *(len(samples) for samples, _, _ in clips)])
        memory = (jax.local_devices()[0].memory_stats() or {}).get(
            "bytes_limit", 2 * pipeline.CACHE_BYTES
        )
        if 2 * len(clips) * longest > memory // 2:
            raise UserError(
                f"data.on_device needs {2 * len(clips) * longest / 2**30:.1f} GiB on each device "
                f"({len(clips)} clips as long as the longest), more than half of its "
                f"{memory / 2**30:.1f} GiB: use data.cache or ArrayRecord shards instead"
            )
        table = np.zeros([len(clips), longest], np.int16)
        for row, (samples, _, _) in zip(table, clips, strict=True):
            if len(samples):
                row[: max(len(samples), self.size)] = decode.pad(
                    samples, max(len(samples), self.size), data.pad
                )
        self.store = jax.device_put(table, sharding.replicated(mesh))
        self.slot = np.full(len(recordings), -1, np.int32)
        self.slot[indices] = np.arange(len(indices))
        self.lengths = np.asarray([len(samples) for samples, _, _ in clips], np.int64)
        self.missing = np.asarray([missing for _, missing, _ in clips], np.float32)
        self.heard = np.asarray(
            [decode.heard(min(n, self.size), self.size, data.pad) for n in self.lengths], np.int32
        )
        self.errors = [error for _, _, error in clips]
        self.label = label_array(recordings, data.multi_label, indices)  # of each slot
        if not labels:
            self.label = np.full_like(self.label, -1)
        self._crop = jax.jit(self._crops, out_shardings=sharding.over_batch(mesh))

    def _decode(self, index: int) -> tuple[np.ndarray, float, str]:
        """Returns (samples int16 [n], seconds that are missing, why it cannot be decoded)."""
        try:
            return *retry.attempt(lambda: self._whole(index)), ""
        except retry.BadClip as bad:
            return np.zeros(0, np.int16), 0.0, str(bad)

    def _whole(self, index: int) -> tuple[np.ndarray, float]:
        clip = self.recordings.open(index)
        seconds = decode.count_samples(clip) / max(clip.sample_rate, 1)
        samples = decode.read_pcm(clip, self.rate, 0.0, seconds)
        return samples, decode.missing_seconds(clip, seconds)

    def __call__(self, crops: Sequence[pipeline.Place]) -> pipeline.Batch:
        """Returns the host's part of a batch, with `slot` and `start` where `audio` would be."""
        index = np.asarray([i for i, _ in crops], np.int32)
        share = np.asarray([where for _, where in crops])
        slot = self.slot[index]
        lengths = self.lengths[slot]
        errors = [self.errors[k] for k in slot]
        good = np.asarray([not error for error in errors])
        label = self.label[slot].copy()
        label[~good] = -1
        return dict(
            slot=slot,
            start=np.rint(np.maximum(lengths - self.size, 0) * share).astype(np.int32),
            length=self.heard[slot],
            label=label,
            index=index,
            mask=good.astype(np.float32),
            missing=self.missing[slot],
            error=errors,
        )

    def crop(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns a batch on the devices with its `audio`, cut from what is there."""
        batch = dict(batch)
        return batch | {"audio": self._crop(self.store, batch.pop("slot"), batch.pop("start"))}

    def _crops(self, store: jax.Array, slot: jax.Array, start: jax.Array) -> jax.Array:
        cut = lambda k, first: jax.lax.dynamic_slice(store, (k, first), (1, self.size))[0]  # noqa: E731
        return jax.vmap(cut)(slot, jnp.asarray(start))
