"""Will a config fit, how fast, and on which mesh? Answered without the hardware.

    sacjax plan --config FILE[:ARG] --topology v5e:16x16

For a TPU slice libtpu compiles the very train step ahead of time, for all its devices (`pip install
-e '.[tpu]'`; no TPU is needed), and what is printed is read from the compiled program. For GPUs
(`h100x64`) the step is partitioned over as many simulated devices, which gives the collectives;
memory and time come from shapes and data sheets.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from sacjax import config as config_lib
from sacjax import errors, init_from, io, objectives
from sacjax.errors import UserError, first_line
from sacjax.plan.choose import choose
from sacjax.plan.step import largest_batch
from sacjax.plan.table import compare, describe
from sacjax.plan.topology import find_topology, gpu_count


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's flags; `--config.key=value` are left over."""
    parser = argparse.ArgumentParser(
        prog="sacjax plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    config_lib.add_flags(parser)
    add("--topology", required=True, help="v5e:16x16, v4:4x4x4, v6e:8x8, h100x64, …")
    add("--stage", help="which stage of the config (default: the first)")
    add(
        "--mesh",
        action="append",
        metavar="data=-1,fsdp=8",
        help="may be repeated: all are compiled (default: candidates till one fits)",
    )
    add("--classes", type=int, default=50, help="of a classifier, whose data are not read")
    add(
        "--largest",
        action="store_true",
        help="find the largest batch that fits (compiles once more)",
    )
    add(
        "--quick",
        action="store_true",
        help="TPU: compile in a third of the time to a slower program, for memory alone",
    )
    add("--output", metavar="FILE.json", help="also write the answer to this file")
    add(
        "--against",
        metavar="FILE.json",
        help="print what changed since this answer, of another config or commit",
    )
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Plans in a process of its own, so that a crash of the compiler is told; returns its code.

    Raises:
      UserError: a signal ended it. What else is wrong, the process itself has told.
    """
    argv = sys.argv[1:] if argv is None else argv
    make_parser().parse_known_args(argv)  # --help and a missing flag are answered at once
    # Raised within the call, which then ends its process too: it may hold much memory for long.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    done = subprocess.run([sys.executable, "-m", "sacjax.commands.plan", *argv])
    if done.returncode < 0:
        by = signal.Signals(-done.returncode).name
        why = "as for want of memory" if by == "SIGKILL" else "a crash of its own"
        raise UserError(
            f"the compiler was ended by {by}, {why}: try another --mesh, a smaller batch or model, "
            "or another --topology"
        )
    return done.returncode


def plan(argv: list[str]) -> int:
    """Parses flags, compiles and prints; returns 0 where a mesh fits, 1 where none does."""
    args, unknown = make_parser().parse_known_args(argv)
    jax.config.update("jax_platforms", "cpu")
    if args.quick:
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    if count := gpu_count(args.topology):  # before anything starts JAX
        jax.config.update("jax_num_cpu_devices", count)
    config = config_lib.from_flags(args, unknown)
    name = config_lib.stage_name(config, args.stage)
    if objectives.OBJECTIVES[config[name].objective.name].source(config[name]):
        config = init_from.resolve(config)  # the targets' network is a part of the step
    before = read_answer(args.against) if args.against else None
    if args.output:
        io.check_writable(args.output, "--output")
    meshes = [parse_mesh(text) for text in args.mesh or ()]
    topology = find_topology(args.topology)
    plans, why = choose(config, name, topology, meshes, args.classes)
    best, largest = plans[-1], None
    if args.largest:
        largest = largest_batch(config, name, topology, best, args.classes)
    answer = {
        "topology": args.topology,
        "devices": len(topology.devices),
        "stage": name,
        "chosen": best.mesh if best.fits else None,
        "why": why,
        "largest_batch": largest,
        "plans": [plan._asdict() for plan in plans],
    }
    if args.output:
        io.write_json(args.output, answer, indent=1)
    if args.json:
        print(json.dumps(answer, indent=1))
    else:
        print(describe(config, name, topology, plans, why, largest))
        if before:
            print(f"\nagainst {args.against}:\n{compare(before, answer)}")
    return 0 if best.fits else 1


def read_answer(path: str) -> dict[str, Any]:
    """Returns the answer that `--output` wrote to a file.

    Raises:
      UserError: no such file, or it holds something else.
    """
    try:
        answer = json.loads(Path(path).read_text())
        answer["plans"][-1]["parts"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"--against {path}: not an answer that --output wrote ({first_line(error)})"
        ) from error
    return answer


def parse_mesh(text: str) -> dict[str, int]:
    """Returns the mesh of `data=-1,fsdp=8`, axes that it leaves out as if there were none.

    Raises:
      UserError: an axis that is not known, or a size that is not -1 or a number from 1 on.
    """
    sizes = dict(data=-1, fsdp=1, tensor=1)
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in sizes or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise UserError(f"--mesh is '{text}': give axes such as data=-1,fsdp=8,tensor=1")
        sizes[axis] = int(size)
    return sizes


if __name__ == "__main__":
    errors.run(lambda: plan(sys.argv[1:]))  # a crash of the compiler ends it without a word
