"""A file system of which one read in a hundred fails."""

import re
from pathlib import Path

from launch.benchmarks.fault_cases import runs
from launch.benchmarks.fault_cases.runs import Line


def flaky_reads(root: Path, count: int) -> Line:
    """Runs of 200 steps in which 1 % of reads fail, beside an undisturbed one."""
    data, whole = runs.tones(root / "sounds", kinds=("wav", "flac", "ogg")), root / "whole"
    changes = dict(train__steps=200)
    runs.finish(runs.command(data, whole, **changes))
    results, log = (whole / "results.json").read_text(), runs.without_time(whole)
    same = listed = failed = 0
    for seed in range(count):
        workdir = root / f"flaky{seed}"
        fault = {"reads": {"folder": str(data), "share": 0.01, "seed": seed}}
        process = runs.start(runs.injected(fault, runs.flags(data, workdir, **changes)))
        (ended,) = runs.end([process], workdir)
        found = re.search(r"(\d+) reads have failed", ended.said)
        failed += int(found[1]) if found else 0
        listed += (workdir / "bad_files.csv").is_file()
        path = workdir / "results.json"
        same += (
            path.is_file()
            and path.read_text() == results
            and runs.without_time(workdir) == log
            and ended.code == 0
        )
    return Line(
        f"1 % of reads fail, {failed} in {count} runs of 200 steps on WAV, FLAC and Ogg",
        "the metrics of an undisturbed run, nothing listed as bad",
        f"{same} of {count} with the same metrics, {listed} with a list of bad files",
        same == count and not listed and failed > 0,
    )
