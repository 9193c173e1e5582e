"""`python -m sacjax.main --config FILE[:ARG] --workdir DIR [--config.key=value …]`: trains and evaluates a config's stages.

`--mode=eval --workdir DIR [--workdir DIR2 …] [--config.supervised.data.path=…]` evaluates trained workdirs instead, several
of them as an ensemble, on a split of their own data set or of another one with the same labels.
"""

import argparse
import sys

from sacjax import config as config_lib
from sacjax import distributed, errors


def main(argv: list[str] | None = None) -> int:
    """Parses flags and runs; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sacjax.main", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--config", metavar="FILE[:ARG]", help="the experiment; --config.key=value overrides a key"
    )
    parser.add_argument(
        "--workdir", action="append", required=True, help="where everything is written"
    )
    parser.add_argument("--mode", choices=("train", "eval"), default="train")
    parser.add_argument("--split", default="test", help="eval: train, validation, test, or all")
    parser.add_argument(
        "--which", choices=("best", "last"), default="best", help="eval: which checkpoint"
    )
    parser.add_argument(
        "--output",
        help="eval: folder for scores and predictions, replaced (default: <first workdir>/eval/<split>)",
    )
    distributed.add_flags(parser)
    args, unknown = parser.parse_known_args(argv)
    if args.mode == "eval" and args.config:
        raise errors.UserError(
            "--mode=eval takes its config from the workdir; override keys of it instead of --config"
        )
    if args.mode == "train" and (args.config is None or len(args.workdir) != 1):
        raise errors.UserError("training needs one --config and one --workdir")
    overrides = config_lib.overrides_from(unknown)
    distributed.start(args)
    config = config_lib.load(args.config, overrides) if args.mode == "train" else None
    from sacjax import compilation
    from sacjax import stages as experiment

    compilation.start()
    if config is None:
        experiment.evaluate_workdirs(args.workdir, overrides, args.split, args.which, args.output)
        return 0
    experiment.run(config, args.workdir[0])
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
