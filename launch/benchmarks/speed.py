"""How fast sacjax is beside transformers, torch, librosa and a torch DataLoader, on this machine.

    python launch/benchmarks/speed.py --output speed.json     # everything; a quarter of an hour
    python launch/benchmarks/speed.py --only d e --repeats 9  # some parts

a, b: a training step of wav2vec 2.0 base, pretraining and fine-tuning; c: its inference; d: log-mel
and SpecAugment; e: the input pipeline, in as many threads as the DataLoader has processes; f: the
front end's share of a training step; g: from a command to the end of its first step; h: a training
step of a spectrogram ResNet-18; i: `import sacjax` and `sacjax predict`; j: cross-validation
in one program. Each is a file of `speed_cases`; here is what measures them, writes one JSON and
prints one table.

Both sides run on all cores (or the GPU), in turn, after a warm-up; the figures are medians. Another
library runs in a process of its own, as sacjax sets up its process by `compilation.start`. Targets
are those of two cores. Needs the extras `test` and `parity`.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import jax

from launch.benchmarks.speed_cases import OTHER_LIBRARIES, PARTS, first_step
from launch.benchmarks.speed_cases.case import SMALL, Case, Run, Sizes
from sacjax import compilation, errors
from sacjax.data import pipeline
from sacjax.errors import UserError


def seconds_of(run: Run) -> float:
    """Returns how long a run takes, by its own clock where it has one."""
    begin = time.perf_counter()
    own = run()
    return time.perf_counter() - begin if own is None else own


def measure(part: str, case: Case, repeats: int) -> list[dict[str, Any]]:
    """Runs both sides once to warm up, then in turn; returns a row of the table for each peer."""
    runs = {"": case.ours} | case.peers
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds_of(run))
    return [row_of(part, case, name, times[""], times[name]) for name in case.peers]


def row_of(
    part: str, case: Case, peer: str, our_times: list[float], peer_times: list[float]
) -> dict[str, Any]:
    """Returns a row of the table."""
    ours, theirs = statistics.median(our_times), statistics.median(peer_times)
    figure, target = ours / theirs if case.share else theirs / ours, case.targets.get(peer)
    reached = None if target is None else figure <= target if case.share else figure >= target
    if case.seconds:
        reached = ours <= case.seconds
    return dict(
        part=part,
        what=case.what,
        peer=peer,
        ours_seconds=ours,
        peer_seconds=theirs,
        clips=case.clips or None,
        figure=figure,
        is_share=case.share,
        target=target,
        most_seconds=case.seconds or None,
        reached=reached,
        ours_all=our_times,
        peer_all=peer_times,
    )


def serve_peers(part: str, small: bool, pipe: Any) -> None:
    """What the peers' process does: runs what it is told, case by case, and answers in seconds."""
    for case in PARTS[part](SMALL if small else Sizes()):
        while name := pipe.recv():
            pipe.send(seconds_of(case.peers[name]))


@contextlib.contextmanager
def peers_of(part: str, small: bool) -> Iterator[Callable[[Case], dict[str, Run]]]:
    """Yields what gives a case's peers, each case once and in their order.

    Those of OTHER_LIBRARIES run in a process of their own: how sacjax sets up its process is no
    help to them, nor the other way round.
    """
    if part not in OTHER_LIBRARIES:
        yield lambda case: case.peers
        return
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve_peers, args=(part, small, there), daemon=True)
    process.start()
    there.close()
    cases: list[Case] = []

    def ask(name: str) -> float:
        here.send(name)
        return here.recv()

    def peers(case: Case) -> dict[str, Run]:
        if cases:
            here.send("")
        cases.append(case)
        return {name: functools.partial(ask, name) for name in case.peers}

    try:
        yield peers
    finally:
        here.close()
        process.terminate()
        process.join()


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on."""
    packages = {}
    for name in ("jax", "jaxlib", "flax", "torch", "transformers", "librosa", "soundfile", "grain"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    devices = [device.device_kind for device in jax.devices()]
    return dict(
        date=time.strftime("%Y-%m-%d"),
        cores=pipeline.cores(),
        devices=devices,
        processor=_processor(),
        packages=packages,
        # Far from 0, the figures are of a machine that did something else too.
        load_before=os.getloadavg()[0],
    )


def _processor() -> str:
    """Returns the processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def told(seconds: float, clips: int | None) -> str:
    """Returns a time, or the throughput that it is."""
    return f"{clips / seconds:.0f} clips/s" if clips else f"{seconds:.3g} s"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows in Markdown.

    The ratio is how many times faster ours is, or, where it says so, a share of time.
    """
    lines = [
        "| part | what | ours | peer | peer's figure | ratio | target | reached |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ratio, target = f"{row['figure']:.2f} ×", f"≥ {row['target'] or 0:g} ×"
        if row["is_share"]:
            ratio = f"{100 * row['figure']:.1f} % of it"
            target = f"≤ {100 * (row['target'] or 0):.0f} %"
        if row["target"] is None:
            target = f"≤ {row['most_seconds']:g} s" if row.get("most_seconds") else ""
        reached = {True: "yes", False: "no", None: ""}[row["reached"]]
        cells = [row["part"], row["what"], told(row["ours_seconds"], row["clips"]), row["peer"]]
        cells += [told(row["peer_seconds"], row["clips"]), ratio, target, reached]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measures what is asked for, writes the JSON after each figure, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="which parts"
    )
    parser.add_argument("--repeats", type=int, default=7, help="rounds; medians are over them")
    parser.add_argument("--output", type=Path, default=Path("speed.json"))
    parser.add_argument(
        "--small",
        action="store_true",
        help="tiny sizes, to see that it works: figures mean nothing",
    )
    parser.add_argument("--first-step", choices=first_step.NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.repeats < 1:
        raise UserError(f"--repeats is {args.repeats}: it must be at least 1")
    # torch has to find room on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
    if args.first_step:
        first_step.first_step_of(args.first_step, args.small)
        return 0
    args.output.parent.mkdir(parents=True, exist_ok=True)
    compilation.start()
    about, rows = machine(), []
    for part in args.only:
        with peers_of(part, args.small) as peers:
            for case in PARTS[part](SMALL if args.small else Sizes()):
                print(f"({part}) {case.what} …", file=sys.stderr)
                rows += measure(part, case._replace(peers=peers(case)), args.repeats)
                result = dict(machine=about, small=args.small, repeats=args.repeats, rows=rows)
                args.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(table(rows))
    print(
        "\nMedians. × faster: the peer's time over ours, or our clips a second over the peer's; "
        "a share: our time over the peer's."
    )
    return 0


if __name__ == "__main__":
    errors.run(main)
