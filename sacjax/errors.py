"""Mistakes of the user, told in one line."""

import errno
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}  # of a disk that takes no more
BROKEN = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}  # of a file system that does not answer


class UserError(Exception):
    """A mistake that its user can mend; the message is one line that names the key or file and what to do."""


class Terminated(Exception):
    """The scheduler asked the run to end, and its checkpoint is saved."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the closest of `known`, else the list of them; for the end of a message."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """Returns what a library's error says first, for a message of ours; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def run(main: Callable[[], int | None]) -> None:
    """Runs a command's `main` and exits: 0 or what it returns, 2 with one line on stderr for a
    `UserError` or a full disk, 130 for Ctrl-C, 75 (EX_TEMPFAIL: to be started again) for a SIGTERM
    during training."""
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
        os._exit(130)  # threads that read or save would each end with a traceback
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
    """Exits; one host of several at once, for it would wait for the others, which wait for it."""
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
