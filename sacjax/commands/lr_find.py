"""Sweeps the learning rate and suggests one.

sacjax lr-find --config FILE[:ARG] [--output DIR] [--config.key=value …]
"""

import argparse
import csv

from sacjax import config as config_lib
from sacjax import errors, io


def main(argv: list[str] | None = None) -> int:
    """Parses flags, sweeps, writes `lr_find.csv` and `lr_find.png` and prints the suggestion."""
    parser = argparse.ArgumentParser(
        prog="sacjax lr-find",
        description="Sweeps the learning rate and suggests one.",
        allow_abbrev=False,
    )
    config_lib.add_flags(parser)
    parser.add_argument("--stage", help="which stage of the config (default: the first)")
    parser.add_argument("--start", type=float, default=1e-6, help="lowest learning rate")
    parser.add_argument("--end", type=float, default=1.0, help="highest learning rate")
    parser.add_argument("--steps", type=int, default=150, help="updates, 10 or more")
    parser.add_argument("--output", default=".", help="folder for lr_find.csv and lr_find.png")
    args, unknown = parser.parse_known_args(argv)
    if not 0 < args.start < args.end or args.steps < 10:
        raise errors.UserError(
            "--start must lie above 0 and below --end, and --steps be 10 or more"
        )
    from sacjax import compilation
    from sacjax.train import lr_find

    compilation.start()
    folder = io.on_disk(args.output, "--output")
    config = config_lib.from_flags(args, unknown)
    stage = config_lib.stage_name(config, args.stage)
    io.check_folder(folder, "--output")
    best, rates, losses = lr_find.find(config, stage, args.start, args.end, args.steps)
    with open(folder / "lr_find.csv", "w", newline="") as file:
        csv.writer(file).writerows([("learning_rate", "loss"), *zip(rates, losses, strict=True)])
    lr_find.plot(rates, losses, best, folder / "lr_find.png")
    print(
        f"suggested learning rate: {best:.2g} (steepest descent; curve in {folder / 'lr_find.png'})"
    )
    return 0
