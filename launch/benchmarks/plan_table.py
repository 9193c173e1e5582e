"""The table of what a training step costs on a TPU, by its compiler: docs/pods.md.

    python launch/benchmarks/plan_table.py                      # each row that is missing
    python launch/benchmarks/plan_table.py --only base --again  # a row anew

Each row is `sacjax plan` of an objective's config at its base size, as published, on a slice of
TPU v5e. libtpu compiles it ahead of time on two cores in minutes (`pip install -e '.[tpu]'`); no
TPU is needed. `results/plan.json` keeps the answers, so that a table that was stopped goes on.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launch.benchmarks.jobs import keep
from sacjax import errors

RESULTS = Path(__file__).with_name("results") / "plan.json"
HEADER = (
    "| config | slice | clips a chip | step, ms | MFU, % | peak, GiB of 16 | sent by a chip, MB "
    "| the costliest parts |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


class Row(NamedTuple):
    """A config, and the slice that its published batch is planned for."""

    config: str
    topology: str


ROWS = {
    "base": Row("configs/wav2vec2/base_pretrain.py", "v5e:8x8"),  # 8 clips of 11 s a chip
    "large": Row("configs/wav2vec2/large_pretrain.py", "v5e:8x16"),  # 4 of 20 s
    "apc": Row("configs/apc/pretrain.py", "v5e:4x4"),
    "autoencoder": Row("configs/autoencoder/pretrain.py", "v5e:8x8"),
    "best_rq": Row("configs/best_rq/pretrain.py", "v5e:8x8"),
    "byol_a": Row("configs/byol_a/pretrain.py", "v5e:4x4"),
    "cola": Row("configs/cola/pretrain.py", "v5e:8x8"),
    "data2vec": Row("configs/data2vec/pretrain.py", "v5e:8x8"),
    "eat": Row("configs/eat/pretrain.py", "v5e:4x4"),
    "hubert": Row("configs/hubert/pretrain.py", "v5e:8x8"),
    "inversion": Row("configs/inversion/pretrain.py", "v5e:8x8"),
    "masked_autoencoder": Row("configs/masked_autoencoder/pretrain.py", "v5e:8x8"),
    "masked_prediction": Row("configs/masked_prediction/pretrain.py", "v5e:4x4"),
    "simclr": Row("configs/simclr/pretrain.py", "v5e:8x8"),
}


def plan(row: Row) -> dict:
    """Returns the answer of `sacjax plan` to a row, of the mesh of data alone."""
    command = [sys.executable, "-m", "sacjax.commands.plan", "--config", row.config]
    command += ["--topology", row.topology, "--mesh", "data=-1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode < 0:
        where = f"{row.config} on {row.topology}"
        raise errors.UserError(f"{where}: the compiler crashed by signal {-done.returncode}")
    if not done.stdout.strip().startswith("{"):
        raise errors.UserError(f"{row.config}: {(done.stderr.splitlines() or [''])[-1]}")
    return json.loads(done.stdout)


def table(found: dict[str, dict]) -> str:
    """Returns the rows that are known in Markdown, in the order of `ROWS`."""
    return "\n".join([HEADER, *(_line(name, found[name]) for name in ROWS if name in found)])


def _line(name: str, answer: dict) -> str:
    """Returns the line of one answer."""
    best, devices = answer["plans"][-1], answer["devices"]
    parts = list(best["parts"].items())[:3]
    told = [f"{part} {100 * cost / best['seconds']:.0f} %" for part, cost in parts]
    cells = [
        f"`{name}`",
        answer["topology"],
        f"{best['batch_size'] / devices:g}",
        f"{1e3 * best['seconds']:.3g}",
        f"{100 * best['mfu']:.1f}",
        f"{best['memory']['peak'] / 2**30:.2f}",
        f"{sum(best['sent'].values()) / 1e6:.0f}",
        ", ".join(told),
    ]
    return f"| {' | '.join(cells)} |"


def main(argv: list[str] | None = None) -> int:
    """Plans the rows that are missing, keeps each answer when it comes, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of answers")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--again", action="store_true", help="plan anew what is there already")
    args = parser.parse_args(argv)
    found = json.loads(args.results.read_text()) if args.results.is_file() else {}
    for name in args.only:
        if args.again or name not in found:
            found = keep(args.results, {name: plan(ROWS[name])})
            print(_line(name, found[name]), file=sys.stderr, flush=True)
    print(table(found))
    missing = [name for name in ROWS if name not in found]
    if missing:
        print(f"\nmissing: {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
