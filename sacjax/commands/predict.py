"""Labels sound files, or folders of them, of any rate and length.

    sacjax predict --checkpoint WORKDIR [--checkpoint WORKDIR2 …] PATH… [--format table|csv|json]
    sacjax predict --checkpoint WORKDIR --timeline EVENTS.csv PATH… [--reference TRUE.csv]

Label names come from the checkpoint; several checkpoints are an ensemble whose probabilities are
averaged. A checkpoint may also be `hf:FOLDER` of transformers, or `hf:ORG/NAME` of a hub. With
--timeline, long recordings become events: where each label starts and ends, as .csv, .jsonl, .rttm
or Audacity's .txt.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from sacjax.commands import _events
from sacjax.errors import UserError


def rows_of(predictions: Any, top_k: int) -> list[dict[str, Any]]:
    """Returns each file's `top_k` labels, most probable first, of files that could be read."""
    tops = zip(predictions.names, predictions.top(top_k), strict=True)
    return [
        {"file": file, "labels": [{"label": label, "probability": p} for label, p in top]}
        for file, top in tops
        if file not in predictions.bad
    ]


def show(rows: list[dict[str, Any]], form: str, out: TextIO) -> None:
    """Writes the rows as an aligned table, as csv (one line a file and label) or as JSON."""
    if form == "json":
        json.dump(rows, out, indent=1, ensure_ascii=False)
        out.write("\n")
    elif form == "csv":
        writer = csv.writer(out)
        writer.writerow(["file", "rank", "label", "probability"])
        for row in rows:
            for rank, best in enumerate(row["labels"], 1):
                writer.writerow([row["file"], rank, best["label"], f"{best['probability']:.6f}"])
    else:
        width = max((len(row["file"]) for row in rows), default=0)
        for row in rows:
            labels = (
                f"{best['label']} {100 * best['probability']:5.1f} %" for best in row["labels"]
            )
            out.write(f"{row['file']:{width}s}  {'  '.join(labels)}\n")


def escape_bad_names() -> None:
    """Lets the console show file names of bytes that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


OVER_TIME = ("reference", "hop", "on", "off", "min_duration", "merge_gap", "ignore", "windows")


def check_timeline(args: argparse.Namespace, default: Callable[[str], Any]) -> None:
    """Raises UserError for flags that do not go together, or are out of range.

    Args:
      args: all flags.
      default: name of a flag → its default.
    """
    for name in ("segment", "collar"):
        if not 0 < getattr(args, name) < float("inf"):
            raise UserError(f"--{name} is {getattr(args, name):g}: it must be more than 0")
    for names, needed in ((OVER_TIME, "timeline"), (("segment", "collar"), "reference")):
        for name in names:
            if getattr(args, name) != default(name) and not getattr(args, needed):
                raise UserError(f"--{name} needs --{needed} FILE")
    for name in ("format", "top_k") if args.timeline else ():
        if getattr(args, name) != default(name):
            raise UserError(f"--{name} is of whole files' labels: leave it out with --timeline")
    if args.reference and os.path.realpath(args.reference) == os.path.realpath(args.timeline):
        raise UserError(f"--timeline {args.timeline}: it would overwrite --reference")


def main(argv: list[str] | None = None) -> int:
    """Parses flags, predicts and prints; 1 where no file could be read."""
    parser = argparse.ArgumentParser(
        prog="sacjax predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="WORKDIR",
        help="several: an ensemble",
    )
    parser.add_argument(
        "--which", choices=("best", "last"), help="default: what its config's eval.checkpoint says"
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.add_argument("--top_k", type=int, default=3)
    over_time = parser.add_argument_group("long recordings over time")
    over_time.add_argument(
        "--timeline", metavar="FILE", help="write events: .csv, .jsonl, .rttm, .txt (Audacity)"
    )
    _events.add_flags(over_time)
    over_time.add_argument(
        "--reference",
        metavar="FILE.csv",
        help="score the events by these: filename,start,end,label",
    )
    over_time.add_argument(
        "--segment", type=float, default=1.0, metavar="SECONDS", help="of the segment-based scores"
    )
    over_time.add_argument(
        "--collar",
        type=float,
        default=0.2,
        metavar="SECONDS",
        help="by which start and end may be off in the event-based scores",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="sound file or folder")
    args = parser.parse_args(argv)
    if args.top_k < 1:
        raise UserError(f"--top_k is {args.top_k}: it must be 1 or more")
    check_timeline(args, parser.get_default)
    escape_bad_names()
    from sacjax import compilation, inference
    from sacjax.inference.sounds import find_files

    compilation.start()
    files = find_files(args.paths)
    loaded = [inference.load_classifier(workdir, args.which) for workdir in args.checkpoint]
    if args.timeline:
        return _events.write_timeline(args, loaded, files)
    predictions = inference.ensemble(loaded, files)
    for file, reason in predictions.bad.items():
        print(f"skipped {file}: {reason}", file=sys.stderr)
    rows = rows_of(predictions, args.top_k)
    show(rows, args.format, sys.stdout)
    return 0 if rows else 1
