"""The docs' table of what a run survives: killed runs, broken files, failing disks, memory.

    python launch/benchmarks/faults.py --output runs/faults                # everything; an hour
    python launch/benchmarks/faults.py --output runs/faults --only killed --count 2  # some of it

Each part trains a small network on tones that it writes itself, by the same command as a user's,
and prints a line of the table: what was done how often, what must hold, and what was seen.
`faults.json` keeps them. Tests hold the rest of what a run survives: updates that are not finite,
dead hosts, other numbers of devices (tests/train/test_faults.py, tests/test_distributed.py).
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launch.benchmarks.fault_cases import PARTS
from launch.benchmarks.jobs import keep
from sacjax import errors


def table(found: dict[str, dict]) -> str:
    """Returns the lines in Markdown."""
    lines = [
        "| what was done | what must hold | what was seen | |",
        "| --- | --- | --- | --- |",
    ]
    for line in found.values():
        cells = [line["done"], line["wanted"], line["seen"], "yes" if line["holds"] else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs parts and prints the table of all that `faults.json` has; 1 where one does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/faults"),
        help="a folder; what it held of a part is removed",
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--count", type=int, help="how often, or how many, instead of each part's own number"
    )
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "faults.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for name in args.only:
        root, (part, count) = args.output.absolute() / name, PARTS[name]
        shutil.rmtree(root, ignore_errors=True)
        found = keep(path, {name: part(root, args.count or count)._asdict()})
        print(f"{name}: {found[name]['seen']}", flush=True)
    print(f"\n{table(found)}")
    return 0 if all(line["holds"] for line in found.values()) else 1


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
