"""What the hosts of a run tell each other about its data."""

import functools
import sys
from typing import Any

import numpy as np

from sacjax.errors import UserError, first_line

MESSAGE = 400  # bytes of an error that the other hosts get to see


def place() -> tuple[int, int]:
    """Returns (which host this is, how many there are), without starting JAX where it is alone."""
    jax: Any = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return 0, 1
    return jax.process_index(), jax.process_count()


@functools.cache
def tell(message: str) -> None:
    """Prints a message on stderr, once for all stages of a run and on the first host alone."""
    if place()[0] == 0:
        print(message, file=sys.stderr)


def gather(values: np.ndarray, error: Exception | None) -> np.ndarray:
    """Returns float64 [hosts, N] of each host's values [N]; every host calls it, whatever happened.

    Args:
      values: float64, as many on every host.
      error: what went wrong on this host; the others must not wait for it.

    Raises:
      Exception: `error`, on its own host.
      UserError: an error of another host.
    """
    said = f"{first_line(error)}".encode()[:MESSAGE] if error is not None else b""
    message = np.frombuffer(said.ljust(MESSAGE, b"\0"), np.uint8)
    # As bytes: JAX would make float32 of them.
    own = np.concatenate([np.ascontiguousarray(values, np.float64).view(np.uint8), message])
    rows = _gather_bytes(own)
    if error is not None:
        raise error
    for host, row in enumerate(rows):
        if text := row[-MESSAGE:].tobytes().rstrip(b"\0"):
            raise UserError(f"host {host}: {text.decode(errors='replace')}")
    return np.ascontiguousarray(rows[:, :-MESSAGE]).view(np.float64)


def _gather_bytes(own: np.ndarray) -> np.ndarray:
    """Returns uint8 [hosts, N] of each host's bytes [N]."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(own), np.uint8)
