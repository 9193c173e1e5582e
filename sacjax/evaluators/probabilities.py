"""Probabilities of many clips in the memory of their logits, and the table of predictions."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sacjax.data.recordings import Recordings

BLOCK = 8192
"""Clips whose probabilities are made at a time."""


def blocks(count: int) -> Iterator[slice]:
    """Yields the slices of `BLOCK` that cover so many clips."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


class Probabilities:
    """Probabilities of N clips and C classes, float64, made of logits when they are looked at.

    As of an array [N, C]: `p[k]` is a clip's, `p[a:b]` those of clips, `p[:, c]` a class's. It
    keeps 4 bytes a clip and class, and 16 a clip. Probabilities kept in float32 would tie near 1,
    which would change their ranks, and with them ROC and average precision.
    """

    def __init__(self, logits: np.ndarray, temperature: float = 1.0, *, sigmoid: bool = False):
        """Keeps logits.

        Args:
          logits: float32 [N, C].
          temperature: by which they are divided.
          sigmoid: whether each is a decision of its own, instead of a softmax's.
        """
        self.logits, self.temperature, self.sigmoid = logits, temperature, sigmoid
        self.shape = logits.shape
        self._highest, self._sums = np.zeros(len(logits)), np.ones(len(logits))
        if not sigmoid:
            for part in blocks(len(logits)):
                scaled = self._scaled(part)
                self._highest[part] = scaled.max(-1)
                self._sums[part] = np.exp(scaled - self._highest[part, None]).sum(-1)

    def _scaled(self, key: Any) -> np.ndarray:
        return self.logits[key].astype(np.float64) / self.temperature

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Returns a clip's [C], a slice's [n, C], or, of `[rows, c]`, those of a class [n]."""
        from scipy.special import expit

        if self.sigmoid:
            return expit(self._scaled(key))
        clips = key[0] if isinstance(key, tuple) else (key, None)
        return np.exp(self._scaled(key) - self._highest[clips]) / self._sums[clips]

    def take(self, indices: np.ndarray, axis: int = 0) -> "Probabilities":
        """Returns those of some clips, as `numpy.ndarray.take` does along axis 0."""
        if axis:
            raise ValueError(f"axis is {axis}: only clips can be taken")
        return Probabilities(self.logits[indices], self.temperature, sigmoid=self.sigmoid)


class Rows(Sequence[dict[str, Any]]):
    """The table of predictions of a part; a row is made when it is looked at.

    A row is {`file`, `split`, `label`, `probabilities` [C], `index`}.
    """

    def __init__(
        self,
        recordings: Recordings,
        part: str,
        indices: np.ndarray,
        probabilities: np.ndarray | Probabilities,
        seen: np.ndarray,
    ):
        """Makes rows of the clips of a part that were seen.

        Args:
          recordings: of the data set.
          part: its name.
          indices: int [n], its clips.
          probabilities: [n, C].
          seen: bool [n].
        """
        self.recordings, self.part, self.indices = recordings, part, indices
        self.probabilities, self.places = probabilities, np.flatnonzero(seen)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, k: Any) -> Any:
        place = self.places[operator.index(k)]
        return self._row(place, self.probabilities[place])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for part in blocks(len(self.places)):
            places = self.places[part]
            yield from map(self._row, places, self.probabilities.take(places, axis=0)[:])

    def _row(self, place: int, probabilities: np.ndarray) -> dict[str, Any]:
        index = int(self.indices[place])
        return {
            "file": self.recordings.names[index],
            "split": self.part,
            "label": "|".join(self.recordings.labels[index] or ()),
            "probabilities": probabilities,
            "index": index,
        }
