"""A disk that is full."""

import random
from pathlib import Path

from launch.benchmarks.fault_cases import runs
from launch.benchmarks.fault_cases.runs import Ended, Line
from sacjax.train.checkpoint import complete

STEPS, EVERY = 1000, 100
SIZES = (0, 100, 1000, 5000)  # bytes that a file may have


def disk_full(root: Path, count: int) -> Line:
    """From a random moment on no file grows past a random size; then there is room again."""
    data, whole = runs.tones(root / "sounds"), root / "whole"
    changes = dict(train__steps=STEPS, config__checkpoint__every=EVERY)
    runs.finish(runs.command(data, whole, **changes))
    draw, ended_so, kept, went_on, same = random.Random(0), 0, 0, 0, 0
    for k in range(count):
        workdir, step = root / f"full{k}", draw.randrange(EVERY + 10, STEPS - EVERY)
        limit = dict(log=str(workdir / "metrics.jsonl"), step=step, size=draw.choice(SIZES))
        process = runs.start(runs.injected({"disk": limit}, runs.flags(data, workdir, **changes)))
        (ended,) = runs.end([process]) or [Ended(0, "it hangs")]
        ended_so += ended.code == 2 and not ended.traceback
        last = max(complete(runs.checkpoints(workdir)), default=0)
        kept += last >= (step - EVERY) // EVERY * EVERY > 0
        said = runs.finish(runs.command(data, workdir, **changes))
        went_on += runs.resumed_at(said) == last
        same += runs.same_parameters(whole, workdir) and (
            runs.without_time(whole) == runs.without_time(workdir)
        )
    return Line(
        f"a disk full at {count} random writes",
        "a message, the last good checkpoint stays, the next run goes on and ends the same",
        f"{ended_so} of {count} ended with a message, {kept} kept the last checkpoint, {went_on} "
        f"went on from it, {same} ended with the same parameters and log",
        ended_so == kept == went_on == same == count,
    )
