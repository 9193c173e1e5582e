"""The memory that a run takes."""

import contextlib
import subprocess
from pathlib import Path

import numpy as np

from launch.benchmarks.fault_cases import runs
from launch.benchmarks.fault_cases.runs import Line


def memory(root: Path, count: int) -> Line:
    """Resident memory of a run of so many thousand steps and its decoding processes."""
    import psutil

    data, workdir, steps = runs.tones(root / "sounds"), root / "memory", 1000 * count
    changes = dict(train__steps=steps, data__workers=1, config__checkpoint__every=1000)
    process = runs.start(runs.command(data, workdir, **changes))
    own, sizes, every = psutil.Process(process.pid), {}, steps // 20
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=0.2)  # read all the while: a full pipe would stop the run
        done = [row["step"] for row in runs.log(workdir)]
        place = done[-1] // every * every if done else 0
        if done and place not in sizes:
            try:
                family = [own, *own.children(recursive=True)]
                sizes[place] = sum(one.memory_info().rss for one in family) / 2**20
            except psutil.NoSuchProcess:
                break
    process.wait()
    spans = ((0.2 * steps, 0.4 * steps), (0.8 * steps, steps + 1))
    early, late = (
        float(np.mean([size for step, size in sizes.items() if low <= step < high]))
        for low, high in spans
    )
    return Line(
        f"{steps:,} steps",
        "resident memory is flat (within 2 %)",
        f"{early:.0f} MiB at steps {spans[0][0]:.0f} to {spans[0][1]:.0f}, {late:.0f} MiB at the "
        "last fifth of them",
        process.returncode == 0 and late < 1.02 * early,
    )
