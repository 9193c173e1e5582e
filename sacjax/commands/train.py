"""Trains and evaluates a config's stages.

    sacjax train --config FILE[:ARG] --workdir DIR [--config.key=value …]

`--mode=eval --workdir DIR [--workdir DIR2 …] [--config.supervised.data.path=…]` evaluates trained
workdirs instead, several of them as an ensemble, on a split of their own data set or of another one
with the same labels.
"""

import argparse

from sacjax import config as config_lib
from sacjax import distributed, errors


def main(argv: list[str] | None = None) -> int:
    """Parses flags and runs; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="sacjax train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        help="the experiment; --config.key=value overrides a key",
    )
    parser.add_argument(
        "--workdir", action="append", required=True, help="where everything is written"
    )
    parser.add_argument("--mode", choices=("train", "eval"), default="train")
    parser.add_argument("--split", default="test", help="eval: train, validation, test, or all")
    parser.add_argument(
        "--which",
        choices=("best", "last"),
        help="eval: which checkpoint (default: what the config's eval.checkpoint says)",
    )
    parser.add_argument(
        "--output",
        help="eval: folder for scores and predictions (default: <first workdir>/eval/<split>)",
    )
    distributed.add_flags(parser)
    args, unknown = parser.parse_known_args(argv)
    if args.mode == "eval" and args.config:
        raise errors.UserError(
            "--mode=eval takes its config from the workdir; override keys of it instead of --config"
        )
    if args.mode == "train" and (args.config is None or len(args.workdir) != 1):
        raise errors.UserError("training needs one --config and one --workdir")
    for name in ("split", "which", "output") if args.mode == "train" else ():
        if getattr(args, name) != parser.get_default(name):
            raise errors.UserError(f"--{name} is for --mode=eval")
    overrides = config_lib.overrides_from(unknown)
    distributed.start(args)
    config = config_lib.load(args.config, overrides) if args.mode == "train" else None
    # Imported here, so that --help and mistakes are answered at once.
    from sacjax import compilation, stages

    compilation.start()
    if config is None:
        from sacjax.inference.evaluate import evaluate_workdirs

        evaluate_workdirs(args.workdir, overrides, args.split, args.which, args.output)
    else:
        stages.run(config, args.workdir[0])
    return 0
