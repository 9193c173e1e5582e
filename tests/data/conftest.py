"""A disk that fails."""

import errno
import os
import threading

import pytest

from sacjax.data import retry


class FailingDisk:
    """Makes each `every`-th `os.pread` of a thread fail with `error`; 0: none.

    By thread, so that the try after a failed one never meets the failure of another thread's turn.
    """

    def __init__(self):
        self.every, self.error = 0, errno.EIO
        self.failed, self.here = 0, threading.local()
        self.whole = os.pread

    def __call__(self, descriptor, count, place):
        self.here.reads = getattr(self.here, "reads", 0) + 1
        if self.every and self.here.reads % self.every == 0:
            self.failed += 1
            raise OSError(self.error, os.strerror(self.error))
        return self.whole(descriptor, count, place)


@pytest.fixture
def failing_disk(monkeypatch):
    """Reads through Python that fail as told; nobody waits between two tries."""
    disk = FailingDisk()
    monkeypatch.setattr(os, "pread", disk)
    monkeypatch.setattr(retry, "WAITS", (0, 0, 0))
    return disk
