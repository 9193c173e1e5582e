"""What a process does before JAX computes: it finds what was compiled before, and on a CPU it keeps the memory that it frees."""

import ctypes
import hashlib
import os
from pathlib import Path

import jax
from absl import logging

ACCELERATORS = (
    "nvidia[0-9]*",
    "kfd",
    "accel*",
    "vfio/[0-9]*",
)  # under /dev; to ask JAX would start it
MALLOPT = {
    "arena_max": (-8, 1),
    "mmap_max": (-4, 0),
    "trim_threshold": (-1, 2**31 - 1),
}  # glibc's malloc.h


def start() -> None:
    """What every command does first."""
    logging.set_verbosity(logging.ERROR)  # Orbax's and Grain's notes would bury ours
    enable_cache()
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Lets glibc keep the memory that a step frees for the next one, where JAX computes on the CPU;
    returns whether it does.

    XLA:CPU allocates what it needs anew in each call. Pages that go back to the system in between
    are zeroed again when they are first
    touched: half the time of a log-mel spectrogram, an eighth of a training step. The process stays
    as large as it once was. To be called before JAX starts its threads; $SACJAX_KEEP_MEMORY=0
    leaves all as it is.
    """
    if os.environ.get("SACJAX_KEEP_MEMORY") == "0" or any(
        next(Path("/dev").glob(p), None) for p in ACCELERATORS
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(*option) == 1 for option in MALLOPT.values()])


def enable_cache() -> Path | None:
    """Keeps compiled programs in the user's cache folder, and returns it;
    $JAX_COMPILATION_CACHE_DIR chooses another one.

    JAX_ENABLE_COMPILATION_CACHE=false switches it off. Returns None where nothing can be written.
    """
    folder = Path(jax.config.values["jax_compilation_cache_dir"] or _default())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home costs time, not the run
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _default() -> Path:
    """A folder for each kind of processor: programs compiled for one may not run on another that shares the home folder."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        kind = "".join(
            sorted(
                {
                    line
                    for line in text.splitlines()
                    if line.startswith(("model name", "flags", "Features"))
                }
            )
        )
    except OSError:
        kind = ""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "sacjax" / f"jax-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
