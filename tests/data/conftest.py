"""A disk that fails."""

import errno
import os

import pytest

from sacjax.data import retry


class FailingDisk:
    """Makes each `every`-th `os.pread` fail with `error`; 0: none."""

    def __init__(self):
        self.every, self.error = 0, errno.EIO
        self.reads = self.failed = 0
        self.whole = os.pread

    def __call__(self, descriptor, count, place):
        self.reads += 1
        if self.every and self.reads % self.every == 0:
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
