"""What is done to runs: a function a part, which returns its line of the table."""

from collections.abc import Callable
from pathlib import Path

from launch.benchmarks.fault_cases import disk, files, memory, reads, restore, signals
from launch.benchmarks.fault_cases.runs import Line

# {part: (what does it, how often or how many)}.
PARTS: dict[str, tuple[Callable[[Path, int], Line], int]] = {
    "killed": (signals.killed, 20),
    "terminated": (signals.terminated, 5),
    "interrupted": (signals.interrupted, 3),
    "broken": (files.broken, 10),
    "cut": (files.cut, 5),
    "memory": (memory.memory, 10),
    "restore": (restore.restore, 5),
    "flaky_reads": (reads.flaky_reads, 3),
    "two_hosts": (restore.two_hosts, 6),
    "disk_full": (disk.disk_full, 10),
}
