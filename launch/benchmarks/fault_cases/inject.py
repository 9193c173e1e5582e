"""Runs `sacjax.main` with faults in what it stands on: a file system, a full disk, a library.

    python inject.py '{"reads": {"folder": DIR, "share": 0.01}}' --config … --workdir …

The faults are put into Orbax, soundfile and `os` of this process alone, before sacjax is imported;
sacjax itself knows nothing of them.
"""

import atexit
import builtins
import errno
import json
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


def system_error(number: int, path: Any = None) -> OSError:
    """Returns the error that the operating system would give."""
    return OSError(number, os.strerror(number), path)


def restore(kind: str) -> None:
    """Lets every restore of a checkpoint raise: stale, io, memory, leaf or interrupt."""
    import jax
    import orbax.checkpoint as ocp

    errors: dict[str, BaseException] = dict(
        stale=system_error(errno.ESTALE, "checkpoint"),
        io=system_error(errno.EIO, "checkpoint"),
        memory=jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes"),
        leaf=ValueError("a library has added a leaf that is not in the checkpoint"),
        interrupt=KeyboardInterrupt(),
    )

    def fail(*_: Any, **__: Any) -> Any:
        raise errors[kind]

    for owner in (ocp.CheckpointManager, ocp.StandardCheckpointHandler):
        owner.restore = fail  # type: ignore[method-assign]


def reads(folder: str, share: float, seed: int = 0) -> None:
    """Lets a share of the openings and reads of the files below a folder fail, as a network may.

    libsndfile opens and reads by itself, and tells a system error, or gives less than was asked
    for: so do the patched openings and reads of soundfile. Prints at the end how many failed.
    """
    import soundfile as sf

    root, draw, lock = os.path.abspath(folder) + os.sep, random.Random(seed), threading.Lock()
    descriptors: set[int] = set()
    failed = 0

    def inside(path: Any) -> bool:
        is_path = isinstance(path, str | bytes | os.PathLike)
        return is_path and os.path.abspath(os.fsdecode(path)).startswith(root)

    def fails() -> bool:
        nonlocal failed
        with lock:
            now = draw.random() < share
            failed += now
            return now

    def failing(original: Callable, concerned: Callable[[Any], bool]) -> Callable:
        def wrapped(first: Any, *args: Any, **kwargs: Any) -> Any:
            if concerned(first) and fails():
                raise system_error(draw.choice(TRANSIENT), first if inside(first) else None)
            return original(first, *args, **kwargs)

        return wrapped

    original_open, original_close = os.open, os.close

    def remembering(path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor = original_open(path, *args, **kwargs)
        (descriptors.add if inside(path) else descriptors.discard)(descriptor)
        return descriptor

    def forgetting(descriptor: int) -> None:
        descriptors.discard(descriptor)
        original_close(descriptor)

    os.open = failing(remembering, inside)
    os.close = forgetting  # type: ignore[assignment]
    for name in ("pread", "read", "readv", "preadv"):
        setattr(os, name, failing(getattr(os, name), lambda number: number in descriptors))
    builtins.open = failing(builtins.open, inside)
    original_init, original_read = sf.SoundFile.__init__, sf.SoundFile.read

    def opened(self: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if inside(file) and fails():
            raise sf.LibsndfileError(2, f"Error opening {file!r}: ")
        original_init(self, file, *args, **kwargs)
        self.of_folder = inside(file)

    def read(self: Any, frames: int = -1, *args: Any, **kwargs: Any) -> Any:
        if getattr(self, "of_folder", False) and fails():
            if kwargs.get("out") is None:
                return original_read(self, max(frames, 0) // 2, *args, **kwargs)
            kwargs["out"] = kwargs["out"][: len(kwargs["out"]) // 2]
        return original_read(self, frames, *args, **kwargs)

    sf.SoundFile.__init__, sf.SoundFile.read = opened, read
    atexit.register(lambda: print(f"{failed} reads have failed", file=sys.stderr))


def disk(log: str, step: int, size: int) -> None:
    """Lets no file grow past a size once a log has come to a step: what a full disk does."""

    def come() -> bool:
        lines = Path(log).read_text().split("\n")[:-1] if Path(log).is_file() else []
        return any(json.loads(line)["step"] >= step for line in lines[-3:])

    def fill() -> None:
        while not come():
            time.sleep(0.002)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    threading.Thread(target=fill, daemon=True).start()


FAULTS: dict[str, Callable[..., None]] = dict(restore=restore, reads=reads, disk=disk)


def main(argv: list[str]) -> int:
    """Puts the faults in, and runs."""
    for name, options in json.loads(argv[0]).items():
        FAULTS[name](**options)
    from sacjax import main as sacjax_main

    return sacjax_main.main(argv[1:])


if __name__ == "__main__":
    from sacjax import errors

    errors.run(lambda: main(sys.argv[1:]))
