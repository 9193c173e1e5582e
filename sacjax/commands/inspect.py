"""Shows the shape of a data set before anything is trained on it.

    sacjax inspect --config FILE[:ARG] [--config.STAGE.data.key=value] [--output DIR] [--augment]
    sacjax inspect --folder DIR | --manifest FILE [--output DIR]

Prints class counts by split, durations, sample rates, channels, clipping, silence, unreadable files
and those cut short, duplicates (equal decoded PCM) within and across splits, and groups that leak
across splits. With `--output` it draws them (PNG) and lists each problem's files in `problems.csv`;
with `--augment` it also draws each augmentation of the config before and after.
"""

import argparse
import os
from pathlib import Path

from ml_collections import ConfigDict

from sacjax import augment, errors, io
from sacjax.commands.prepare import add_source_flags, stage_from_flags
from sacjax.data import inspect, sources
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.report import dataset


def main(argv: list[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        "sacjax inspect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_source_flags(parser)
    parser.add_argument(
        "--output", default="", metavar="DIR", help="folder for pictures and problems.csv"
    )
    parser.add_argument(
        "--augment",
        action="store_true",
        help="draw each augmentation of the config before and after",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="threads that read"
    )
    args, unknown = parser.parse_known_args(argv)
    stage = stage_from_flags(args, unknown)
    _check(args, stage)
    recordings = sources.load(stage.data)
    summary = inspect.summarize(recordings, stage.data, max(args.workers, 1))
    print(inspect.report(recordings, summary))
    if args.output:
        _write(io.on_disk(args.output, "--output"), recordings, summary, stage, args.augment)
    return 0


def _check(args: argparse.Namespace, stage: ConfigDict) -> None:
    """Raises UserError before anything is read; makes the folder."""
    if args.augment and not args.output:
        raise UserError("--augment draws pictures: name a folder by --output")
    names = [spec["name"] for spec in (*stage.augment.waveform, *stage.augment.spectrogram)]
    if args.augment and not names:
        raise UserError(
            "--augment: the config's augment.waveform and augment.spectrogram are both empty"
        )
    attacks = [name for name in names if name in augment.ATTACKS]
    if args.augment and attacks:
        print(f"--augment: {', '.join(attacks)} is not drawn: what it does is up to the network")
    if args.output:
        try:
            io.on_disk(args.output, "--output").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {args.output} cannot be written: {error}") from error


def _write(
    folder: Path,
    recordings: Recordings,
    summary: inspect.Summary,
    stage: ConfigDict,
    augment: bool,
) -> None:
    inspect.write_problems(folder / "problems.csv", recordings, summary)
    saved = dataset.draw(folder, recordings, summary)
    if augment:
        train = [i for i, part in enumerate(summary.parts) if part == "train"]
        saved += dataset.draw_augmentations(
            folder, recordings, train or list(range(len(recordings))), stage
        )
    print(f"\npictures and problems.csv: {folder}: {', '.join(path.name for path in saved)}")


if __name__ == "__main__":
    errors.run(main)
