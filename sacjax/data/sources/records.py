"""Records of many ArrayRecord files as one sequence, with few of the files open at a time."""

import collections
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

MOST_OPEN = 64  # files; each also holds threads and a buffer


class Records:
    """Record k of all files, in their order. For many threads; pickles as the files' names."""

    def __init__(self, files: Sequence[tuple[str, int]], most_open: int = MOST_OPEN):
        """Takes (file, number of records) of each; opens none yet."""
        self.files, self.most_open = list(files), most_open
        self.stops = np.cumsum([count for _, count in self.files])
        self._start()

    def __len__(self) -> int:
        return int(self.stops[-1]) if len(self.files) else 0

    def __iter__(self) -> Iterator[bytes]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> bytes:
        """Returns record k.

        Raises:
          RuntimeError: its file is damaged, or cannot be read: ArrayRecord tells no more.
        """
        file = int(np.searchsorted(self.stops, k, side="right"))
        row = k - (int(self.stops[file - 1]) if file else 0)
        try:
            return self._reader(file).read([row])[0]
        except Exception:
            with self.lock:  # it may never get well again; the next try opens another
                self.readers.pop(file, None)
            raise

    def _reader(self, file: int) -> Any:
        with self.lock:
            reader = self.readers.pop(file, None)
            if reader is None:
                # One that is dropped is closed when the last thread is done with it.
                while len(self.readers) >= self.most_open:
                    self.readers.popitem(last=False)
                reader = ArrayRecordReader(
                    self.files[file][0],
                    options="readahead_buffer_size:0",
                    file_reader_buffer_size=32768,
                )
            self.readers[file] = reader  # the last one used is at the end
            return reader

    def _start(self) -> None:
        self.readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"readers": None, "lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()
