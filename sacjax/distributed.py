"""Joins the hosts of a pod, a Slurm job or a cluster into one run, in which they decide alike."""

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from sacjax.errors import UserError, first_line
from sacjax.io import is_transient

T = TypeVar("T")
RETRY_SECONDS = (0.5, 2.0, 8.0)  # pauses before an action is tried again
MESSAGE_BYTES = 512  # of an error, as the hosts tell it to each other
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
    """Returns whether this is one task of several: of Slurm, Open MPI, or a TPU slice on GKE."""
    sizes = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    several = any(
        os.environ.get(name, "1").isdecimal() and int(os.environ.get(name, "1")) > 1
        for name in sizes
    )
    return several or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def start(args: argparse.Namespace) -> None:
    """Joins the other hosts, if there are any; before JAX is used.

    Raises:
      UserError: flags that do not go together, or hosts that do not find each other within
        five minutes.
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
            f"the hosts cannot be joined: {first_line(error)}; see --coordinator, --process_count "
            "and --process_id"
        ) from error


def on_all_hosts(action: Callable[[], T], what: str) -> T:
    """Does what every host must do, and returns its result; where it fails on one, it fails on all.

    An error that may pass (`sacjax.io.is_transient`) is tried again up to three times, by all hosts
    together.

    Args:
      action: it must not wait for another host.
      what: the file or folder that the other hosts' message names.

    Raises:
      Exception: what `action` raised here.
      UserError: what it raised on another host.
    """
    for pause in (*RETRY_SECONDS, None):
        error: Exception | None = None
        try:
            result = action()
        except Exception as caught:  # the other hosts wait for this one, whatever it is
            error = caught
        messages = _messages(error, what)
        if not any(messages):
            return result
        if pause is None or not all(message[:1] in ("", "T") for message in messages):
            break
        time.sleep(pause)
    if error is not None:
        raise error
    host = next(host for host, message in enumerate(messages) if message)
    raise UserError(f"host {host}: {messages[host][1:]}")


def from_first_host(read: Callable[[], Any], what: str) -> Any:
    """Returns on every host what `read` returns on the first: a value that JSON can hold.

    So the hosts decide alike where files look different from each of them. Errors are told as
    `on_all_hosts` does.
    """
    import jax
    from jax.experimental import multihost_utils

    text = on_all_hosts(lambda: json.dumps(read()) if jax.process_index() == 0 else "", what)
    if jax.process_count() > 1:
        size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text.encode()))))
        data = np.frombuffer(text.encode().ljust(size), np.uint8)
        text = bytes(np.asarray(multihost_utils.broadcast_one_to_all(data), np.uint8)).decode()
    return json.loads(text)


def _messages(error: Exception | None, what: str) -> list[str]:
    """Returns each host's error: '' for none, else T for one that may pass or F, and its text."""
    import jax
    from jax.experimental import multihost_utils

    said = ""
    if error is not None:
        where = "" if isinstance(error, UserError) else f"{what}: {type(error).__name__}: "
        said = f"{'T' if is_transient(error) else 'F'}{where}{first_line(error)}"
    if jax.process_count() == 1:
        return [said]
    data = np.frombuffer(said.encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES), np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(data), np.uint8)
    return [bytes(row).decode(errors="ignore").rstrip() for row in everyone]
