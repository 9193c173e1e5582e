"""Joins the hosts of a pod, a Slurm job or a cluster into one run; on one host there is nothing to join."""

import argparse
import os

from sacjax.errors import UserError, first_line

HEARTBEAT_SECONDS = 45  # a host that is silent for so long is dead, and the others end


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `start` reads."""
    group = parser.add_argument_group("several hosts (each runs the same command)")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="find the other hosts: TPU pod, Slurm, Open MPI, Kubernetes",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="host 0, where nothing finds them"
    )
    group.add_argument("--process_count", type=int, help="with --coordinator: how many hosts")
    group.add_argument(
        "--process_id", type=int, help="with --coordinator: which of them this is, from 0"
    )


def expected() -> bool:
    """Returns whether the environment is that of one task of several: Slurm's step, Open MPI's, or a TPU slice on GKE."""
    sizes = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    several = any(
        os.environ.get(name, "1").isdecimal() and int(os.environ.get(name, "1")) > 1
        for name in sizes
    )
    return several or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def start(args: argparse.Namespace) -> None:
    """Joins the other hosts, if there are any; before JAX is used.

    Raises:
      UserError: flags that do not go together, or hosts that do not find each other within five minutes.
    """
    explicit = (args.coordinator, args.process_count, args.process_id)
    given = [value is not None for value in explicit]
    if any(given) and not all(given):
        raise UserError(
            "--coordinator, --process_count and --process_id are given together or not at all"
        )
    if all(given) and not 0 <= args.process_id < args.process_count:
        raise UserError(
            f"--process_id is {args.process_id}: it must lie between 0 and --process_count - 1"
        )
    if not (any(given) or args.distributed or expected()):
        return
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(*explicit, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the hosts cannot be joined: {first_line(error)}; see --coordinator, --process_count and --process_id"
        ) from error
