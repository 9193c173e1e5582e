"""Errors that a user can fix, each reported in one line."""

import errno
import gc
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}  # the disk cannot be written
BROKEN = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}  # the file system does not answer
# New objects between two searches for garbage (Python: 700). Imports and traces make millions that
# stay; to search through them took an eighth of the time to a first training step.
OBJECTS = 20_000


class UserError(Exception):
    """A mistake that the user can fix.

    The message is one line that names the key or file and says what to do.
    """


class Terminated(Exception):
    """The scheduler asked the run to end, and its checkpoint is saved."""


def nearest(name: object, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name.

    It is `; did you mean 'x'?` with the closest of `known`, or else a list of all of them.
    """
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """Returns the first line of a library's error, or its type where it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def run(main: Callable[[], int | None]) -> None:
    """Runs a command's `main`, and exits with its return code or 0.

    Other exit codes are 2 for a `UserError` or a disk that is full or fails, with one line on
    stderr; 130 for Ctrl-C; and 75 (EX_TEMPFAIL: start it again) for a SIGTERM during training.
    """
    gc.set_threshold(OBJECTS)
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        print(
            "interrupted; training goes on from its last checkpoint by the same command",
            file=sys.stderr,
        )
        sys.stderr.flush()
        os._exit(130)  # a normal exit prints a traceback of each thread that reads or saves
    except Terminated as error:
        print(f"{error}", file=sys.stderr)
        _leave(os.EX_TEMPFAIL)
    except OSError as error:
        if error.errno not in FULL | BROKEN:
            raise
        what = "cannot be written" if error.errno in FULL else "the file system failed"
        print(f"error: {error.filename or 'a file'}: {what}: {error.strerror}", file=sys.stderr)
        _leave(2)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        _leave(2)
    sys.exit(code or 0)


def _leave(code: int) -> None:
    """Exits; with several hosts, without JAX's shutdown.

    The shutdown would wait for the other hosts, which wait for this one.
    """
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
