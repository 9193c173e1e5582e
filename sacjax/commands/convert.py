"""Weights between sacjax's workdirs and folders of transformers' checkpoints.

    sacjax convert --from_huggingface PATH --workdir DIR        # predict, embed, probe read DIR
    sacjax convert --checkpoint WORKDIR --to_huggingface PATH   # from_pretrained reads PATH

To fine-tune a checkpoint nothing needs converting: --config.finetune.init_from=hf:PATH reads it.
Where there is no folder PATH, ORG/NAME or ORG/NAME@REVISION is downloaded from a hub.
"""

import argparse
import sys

from sacjax import errors, io
from sacjax.errors import UserError


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's flags."""
    parser = argparse.ArgumentParser(
        prog="sacjax convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--from_huggingface", metavar="PATH", help="folder that save_pretrained wrote")
    add("--workdir", help="of the result; it must not exist yet")
    add("--checkpoint", metavar="WORKDIR", help="trained workdir to write for transformers")
    add("--which", choices=("best", "last"), help="default: what its config says")
    add("--to_huggingface", metavar="PATH", help="folder of the result; it must not exist yet")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parses flags and converts; returns 0."""
    args = make_parser().parse_args(argv)
    into = bool(args.from_huggingface and args.workdir)
    out = bool(args.checkpoint and args.to_huggingface)
    if into == out:
        raise UserError(
            "give --from_huggingface with --workdir, or --checkpoint with --to_huggingface"
        )
    if into:
        target = io.to_path(args.workdir)
    else:
        target = io.on_disk(args.to_huggingface, "--to_huggingface")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} is there already and not an empty folder: choose another one")
    from sacjax import compilation
    from sacjax.convert.workdir import to_huggingface, to_workdir

    compilation.start()
    if into:
        stage = to_workdir(args.from_huggingface, args.workdir)
        print(f"{args.from_huggingface} → {args.workdir}, stage {stage}")
    else:
        to_huggingface(args.checkpoint, args.to_huggingface, args.which)
        print(f"{args.checkpoint} → {args.to_huggingface}")
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
