"""A disk that is full."""

import random
from pathlib import Path

from launch.benchmarks.fault_cases import runs
from launch.benchmarks.fault_cases.runs import Line
from sacjax.train.checkpoint_files import complete

STEPS, EVERY = 1000, 100
# Bytes that a file may have: the log comes to 60,000, a checkpoint's files to 300,000.
SIZES = (0, 3000, 100_000, 150_000, 300_000)


def disk_full(root: Path, count: int) -> Line:
    """From a random moment on no file grows past a random size; then there is room again."""
    data, whole = runs.tones(root / "sounds"), root / "whole"
    changes = dict(train__steps=STEPS, config__checkpoint__every=EVERY)
    runs.finish(runs.command(data, whole, **changes))
    draw, told, tracebacks, kept, went_on, same = random.Random(0), 0, 0, 0, 0, 0
    for k in range(count):
        workdir, step = root / f"full{k}", draw.randrange(2 * EVERY, STEPS - EVERY)
        limit = dict(log=str(workdir / "metrics.jsonl"), step=step, size=draw.choice(SIZES))
        process = runs.start(runs.injected({"disk": limit}, runs.flags(data, workdir, **changes)))
        (ended,) = runs.end([process], workdir)
        told += ended.code == 2 and "cannot be written" in ended.said
        tracebacks += ended.traceback
        last = max(complete(runs.checkpoints(workdir)), default=0)
        kept += last >= (step - EVERY) // EVERY * EVERY  # one save may have been under way
        said = runs.finish(runs.command(data, workdir, **changes))
        went_on += runs.resumed_at(said) == last
        same += runs.same_parameters(whole, workdir) and (
            runs.without_time(whole) == runs.without_time(workdir)
        )
    return Line(
        f"a disk full at {count} random writes",
        "one line, the last good checkpoint stays, the next run goes on and ends the same",
        f"{told} of {count} ended with a message ({tracebacks} with a library's traceback before "
        f"it), {kept} kept the last checkpoint, {went_on} went on from it, {same} ended with the "
        "same parameters and log",
        told == kept == went_on == same == count and not tracebacks,
    )
