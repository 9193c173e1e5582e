"""Turns any source into ArrayRecord shards that train fast and move easily.

    sacjax prepare --config FILE[:ARG] [--config.STAGE.data.key=value] --output DIR
    sacjax prepare --folder DIR | --manifest FILE --output DIR

Read the result with `data.source='arrayrecord'`, `data.path=DIR`. Names, labels, folds, splits and
groups are kept; so are sample rates and channels unless `--sample-rate` or `--mono` say otherwise.
`DIR/skipped.csv` lists what could not be decoded, and what was cut short: of that the good part is
stored. A run that was stopped goes on by the same command: finished shards are verified by their
checksums and kept. With `--stream` a data set of the Hugging Face Hub is written as it comes,
without storing it first.
"""

import argparse
import os
from pathlib import Path

from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import errors
from sacjax.data import prepare, prepare_stream, sources
from sacjax.errors import UserError


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, `--folder`, `--manifest` (one of them) and `--stage`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--config", metavar="FILE[:ARG]", help="config file; --config.key=value overrides"
    )
    source.add_argument(
        "--folder", metavar="DIR", help="DIR/<label>/**/*, or files without a label directly in DIR"
    )
    source.add_argument("--manifest", metavar="FILE", help="CSV, TSV or JSONL with filename,label")
    parser.add_argument(
        "--stage", default="", help="whose data to read (default: the config's first stage)"
    )


def stage_from_flags(args: argparse.Namespace, unknown: list[str]) -> ConfigDict:
    """Returns the stage config that the flags of `add_source_flags` name. Raises UserError."""
    if args.config:
        config = config_lib.from_flags(args, unknown)
        name = args.stage or config.stages[0]
        if name not in config.stages:
            raise UserError(
                f"--stage: the config has no stage '{name}'{errors.nearest(name, config.stages)}"
            )
        return config[name]
    config = config_lib.default()
    config.supervised.data.source = "folder" if args.folder else "manifest"
    config.supervised.data.path = args.folder or args.manifest
    return config_lib.override(config, config_lib.overrides_from(unknown)).supervised


def main(argv: list[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        "sacjax prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_source_flags(parser)
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for shards and metadata"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--per-shard",
        type=int,
        default=0,
        help="recordings a shard (default: up to 256, or more so that 256 shards are enough)",
    )
    parser.add_argument(
        "--sample-rate", type=int, default=0, help="resample to it, Hz (default: keep)"
    )
    parser.add_argument("--mono", action="store_true", help="down-mix to one channel")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="data.source=huggingface: as it is downloaded, without storing it first; one process",
    )
    args, unknown = parser.parse_known_args(argv)
    data = stage_from_flags(args, unknown).data
    for name, least in (("workers", 1), ("per_shard", 0), ("sample_rate", 0)):
        if getattr(args, name) < least:
            raise UserError(
                f"--{name.replace('_', '-')} is {getattr(args, name)}: it must be at least {least}"
            )
    shape = (args.per_shard, args.sample_rate, args.mono)
    if args.stream:
        meta = prepare_stream.prepare_stream(data, args.output, *shape)
    else:
        meta = prepare.prepare(sources.load(data), data, args.output, args.workers, *shape)
    print(
        f"{meta['recordings']} recordings ({meta['seconds'] / 60:.1f} min) of "
        f"{len(meta['class_names'])} classes in {len(meta['shards'])} shards: {args.output}"
    )
    listed = Path(args.output) / "skipped.csv"
    if meta["skipped"]:
        print(f"{meta['skipped']} skipped: {listed}")
    if meta["cut_short"]:
        print(f"{meta['cut_short']} cut short, and stored as far as they go: {listed}")
    return 0


if __name__ == "__main__":
    errors.run(main)
