"""Turns sound files, or folders of them, into vectors of a trained encoder.

    sacjax embed --checkpoint WORKDIR PATH… --output FILE.npz|FILE.parquet [--frames]
        [--layer -1|K|mean] [--pooling KIND] [--seconds S]

The files may be of any rate and length, and the encoder may have been trained for anything. There
is one vector a clip, or with `--frames` one a frame. The encoder hears `--seconds` at a time
(default: that of its training): a clip's vector is the mean over overlapping windows, its frames
are those of windows end to end.
"""

import argparse
import sys
from typing import Any

import numpy as np

from sacjax import io
from sacjax.commands.predict import escape_bad_names
from sacjax.errors import UserError


def layer_of(text: str) -> int | str:
    """Returns what a `--layer` flag says. Raises UserError for anything but a number or mean."""
    try:
        return text if text == "mean" else int(text)
    except ValueError:
        raise UserError(
            f"--layer is '{text}': give -1 (the last), a layer's number, or mean"
        ) from None


def add_flags(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the flags that say which encoder it is, or which `several` are."""
    many: dict[str, Any] = {"nargs": "+", "action": "extend"} if several else {}
    parser.add_argument("--checkpoint", required=True, metavar="WORKDIR", **many)
    parser.add_argument(
        "--checkpoint_stage",
        metavar="NAME",
        help="the stage whose checkpoint it is (default: the last)",
    )
    parser.add_argument(
        "--which", choices=("best", "last"), help="default: what its config's eval.checkpoint says"
    )
    parser.add_argument(
        "--layer", default="-1", help="-1: the last (default), a layer's number from 0 on, or mean"
    )
    parser.add_argument(
        "--pooling",
        default="mean",
        help="of frames to a clip's vector: mean (default), max, mean_max, statistics, or grid: "
        "the frames at 8 even positions, for words",
    )


def main(argv: list[str] | None = None) -> int:
    """Parses flags, embeds and writes; 1 where no file could be read."""
    parser = argparse.ArgumentParser(
        prog="sacjax embed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    parser.add_argument(
        "--frames", action="store_true", help="a vector a frame instead of one a clip"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.0,
        help="the window that the encoder hears at a time (default: that of its training)",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="FILE.npz or FILE.parquet")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="sound file or folder")
    args = parser.parse_args(argv)
    if args.frames and args.pooling != "mean":
        raise UserError(f"--pooling is '{args.pooling}', but --frames are not pooled: give one")
    escape_bad_names()
    from sacjax import compilation, inference
    from sacjax.inference.sounds import as_recordings, find_files
    from sacjax.inference.vectors import check_output, write

    compilation.start()
    layer, output = layer_of(args.layer), io.on_disk(args.output, "--output")
    check_output(output)
    files = find_files(args.paths)
    model = inference.load(args.checkpoint, args.which, args.checkpoint_stage)
    embedder = model.embedder(layer, args.seconds, args.pooling)
    recordings = as_recordings(files, model.sample_rate, channel=model.channel)
    bad: dict[int, str] = {}
    make = frame_table if args.frames else clip_table
    good, table, row_files = make(embedder, recordings, bad)
    for k in sorted(bad):
        print(f"skipped {files[k]}: {bad[k]}", file=sys.stderr)
    if not good:
        return 1
    write(output, [files[k] for k in good], table, row_files)
    width = embedder.features if args.frames else embedder.clip_features
    print(f"{output}: {len(good)} files, {len(table['embeddings'])} vectors of {width}")
    return 0


Table = tuple[list[int], dict[str, np.ndarray], np.ndarray | None]


def clip_table(embedder: Any, recordings: Any, bad: dict[int, str]) -> Table:
    """Returns (recordings that could be read, {'embeddings': a vector each}, None)."""
    from sacjax.inference.embedder import embed_recordings

    vectors, seen = embed_recordings(embedder, recordings, np.arange(len(recordings)), bad)
    good = np.flatnonzero(seen)
    return good.tolist(), {"embeddings": vectors[good]}, None


def frame_table(embedder: Any, recordings: Any, bad: dict[int, str]) -> Table:
    """Returns (recordings that could be read, their frames one after the other, whose each is)."""
    from sacjax.inference.embedder import embed_recordings_by_frames

    found = embed_recordings_by_frames(embedder, recordings, bad)
    good = sorted(found)
    if not good:
        return [], {}, None
    counts = [len(found[k][0]) for k in good]
    table = {
        "embeddings": np.concatenate([found[k][0] for k in good]),
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
        "times": np.concatenate([found[k][1] for k in good]),
        "frame_seconds": np.array(embedder.frame_seconds),
    }
    return good, table, np.repeat(np.arange(len(good)), counts)
