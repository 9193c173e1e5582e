"""What every source gives: a table of recordings, each opened on demand."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from sacjax.errors import UserError


class Clip(Protocol):
    """One open recording.

    It may also have `pcm`, like `read` but int16, where that is what it holds; and `promised`, the
    samples that its header tells of where a file cannot hold so many.
    """

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def num_samples(self) -> int:
        """Samples per channel, as far as the header tells."""
        ...

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, channels], n <= count, from sample `start` of the clip's own rate."""
        ...


class MemoryClip:
    """A clip whose samples are in memory, int16 or float32, [n] or [n, channels]."""

    def __init__(self, samples: np.ndarray, sample_rate: int, promised: float | None = None):
        """Takes samples.

        Args:
          samples: float32 ones in [-1, 1].
          sample_rate: Hz.
          promised: how many samples its header told of; None: as many.
        """
        self.samples, self.sample_rate, self.num_samples = samples, sample_rate, len(samples)
        self.promised = len(samples) if promised is None else promised

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns float32 [n, channels], n <= count."""
        x = self._part(start, count)
        return x.astype(np.float32) / 32768 if x.dtype == np.int16 else x.astype(np.float32)

    @property
    def pcm(self) -> Callable[[int, int], np.ndarray] | None:
        """Like `read`, but int16; None where that is not what it holds."""
        return self._part if self.samples.dtype == np.int16 else None

    def _part(self, start: int, count: int) -> np.ndarray:
        x = self.samples[start : start + count]
        return x if x.ndim == 2 else x[:, None]


@dataclasses.dataclass
class Recordings:
    """A random-access set of recordings; all columns have one entry a recording."""

    # Unique and stable: the file name relative to the source's root, or the record's id.
    names: list[str]
    # None where nothing is known, () where it is known to have none (multi-label), else the names:
    # one, or several for multi-label.
    labels: Sequence[tuple[str, ...] | None]
    class_names: tuple[str, ...]
    # Picklable. It may raise anything for a bad file; `retry.attempt` tells that from a bad disk.
    open: Callable[[int], Clip]
    folds: list[int] | None = None  # official cross-validation folds
    splits: list[str] | None = None  # official 'train' | 'validation' | 'test'
    # What must not cross a split: source recording, speaker; '' is no group.
    groups: list[str] | None = None
    paths: list[str] | None = None  # absolute paths where the clips are files of their own
    memo: dict[Any, Any] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What reading has found out, for all pipelines of this process: lengths, decoded clips."""

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"memo": {}}  # another process finds out for itself

    def with_classes(self, class_names: Sequence[str]) -> "Recordings":
        """Returns the same recordings with a given label order.

        Raises:
          UserError: a label that is not in it.
        """
        unknown = sorted(set(self.class_names) - set(class_names))
        if unknown:
            raise UserError(
                f"the data set has labels that the model does not know: {', '.join(unknown[:5])}"
            )
        return dataclasses.replace(self, class_names=tuple(class_names))
