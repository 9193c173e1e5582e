"""Probes frozen encoders on a list of tasks, each by its field's protocol: one table.

    sacjax benchmark --checkpoint WORKDIR [WORKDIR2 …] [--tasks NAME[=PATH] …] [--quick]
        [--random] [--output FILE.md|FILE.csv]

Each encoder embeds every clip once; a linear classifier, nearest neighbours and linear classifiers
trained on few labels are then tested on each split of the task. There is a row for each probe and
task and a column for each encoder: the mean over splits ± their standard deviation, in percent.

Data are looked for below $SACJAX_DATA, or in the PATH given; tasks without data, or whose data
are not whole, are named and left out, and synthesized ones need none. With --output the scores are
also kept in FILE.json: what is there already is not computed again, so an interrupted benchmark
goes on where it was, and several may write the same file. --quick takes two splits at the most and
few clips of each class: a look, not a result.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sacjax import io
from sacjax.commands import embed
from sacjax.commands.probe import aligned, check_seed
from sacjax.errors import UserError

ENDINGS = (".md", ".csv")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's flags."""
    from sacjax.inference.tasks import TASKS

    tasks = "\n".join(f"  {name:14s} {task.title}: {task.protocol}" for name, task in TASKS.items())
    parser = argparse.ArgumentParser(
        prog="sacjax benchmark",
        description=__doc__,
        epilog=f"tasks:\n{tasks}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    embed.add_flags(parser, several=True)
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="NAME[=PATH]",
        help="see below (default: all whose data are there)",
    )
    parser.add_argument(
        "--random", action="store_true", help="also each network with fresh parameters"
    )
    parser.add_argument("--quick", action="store_true", help="two splits and few clips of each")
    parser.add_argument("--shots", type=int, nargs="+", default=[10], help="labels a class")
    parser.add_argument(
        "--draws", type=int, default=5, help="random choices of the labels in each split"
    )
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument(
        "--seed", type=int, default=0, help="of draws, cross-validation and fresh parameters"
    )
    parser.add_argument("--output", metavar="FILE.md|FILE.csv")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parses flags, probes, prints and writes; 1 where no encoder could be probed on any task."""
    args = make_parser().parse_args(argv)
    if min(*args.shots, args.draws, args.neighbours) < 1:
        raise UserError("--shots, --draws and --neighbours must be 1 or more")
    check_seed(args.seed)
    output = output_of(args.output)
    from sacjax import compilation
    from sacjax.inference import benchmark, comparison, tasks
    from sacjax.report import benchmark as report

    names = dict(zip(comparison.names_of(args.checkpoint), args.checkpoint, strict=True))
    found, missing = tasks.find(args.tasks)
    if missing:
        where = ", ".join(f"{name} ({path})" for name, path in missing.items())
        print(f"left out, no data: {where}", file=sys.stderr)
    if not found:
        raise UserError("--tasks: none of them has data here; set SACJAX_DATA, or give NAME=PATH")
    settings = benchmark.Settings(
        layer=embed.layer_of(args.layer),
        pooling=args.pooling,
        neighbours=args.neighbours,
        shots=tuple(args.shots),
        draws=args.draws,
        seed=args.seed,
        quick=args.quick,
    )
    store = benchmark.Store(output.with_suffix(".json") if output else None)
    compilation.start()
    prepared: dict[str, benchmark.Prepared] = {}
    for name, task in found.items():
        try:
            prepared[name] = benchmark.prepare(name, task, settings)
        except UserError as error:  # such as files that are not all there: the others are no worse
            print(f"left out, {error}", file=sys.stderr)
    if not prepared:
        raise UserError("--tasks: none of them has data here that can be probed on; see above")
    loaders: dict[str, Callable[[], dict[str, Any]]]
    loaders = {path: functools.partial(load, name, path, args) for name, path in names.items()}
    tell = functools.partial(print, file=sys.stderr)
    results = benchmark.run(loaders, list(prepared.values()), settings, store, tell)
    table = report.summaries(results, settings.neighbours)
    lines = report.lines_of(table, prepared)
    print(aligned(lines, left=3))
    if output:
        as_markdown = output.suffix == ".md"
        text = (
            report.as_markdown(lines, report.notes(prepared, args.quick))
            if as_markdown
            else report.as_csv(table, prepared)
        )
        io.write_text(output, text)
        print(f"{output}: the table; {store.path}: the scores on each split")
    return 0 if any(splits for own in results.values() for splits in own.values()) else 1


def load(name: str, checkpoint: str, args: argparse.Namespace) -> dict[str, Any]:
    """Returns {title: encoder} of a checkpoint: the trained one, and with --random a fresh one."""
    from sacjax import inference
    from sacjax.inference.model import untrained

    model = inference.load(checkpoint, args.which, args.checkpoint_stage)
    fresh = {f"{name}, untrained": untrained(model, args.seed)} if args.random else {}
    return {name: model, **fresh}


def output_of(text: str | None) -> Path | None:
    """Returns where the table goes. Raises UserError for a file that it cannot be."""
    if text is None:
        return None
    path = io.to_path(text)
    if path.suffix not in ENDINGS:
        raise UserError(f"--output {text}: give FILE{' or FILE'.join(ENDINGS)}")
    io.check_writable(path, "--output")
    return path
