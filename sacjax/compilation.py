"""Set-up of a process before JAX computes: the compilation cache and the allocator."""

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
from pathlib import Path

import jax
from absl import logging

# Device files under /dev; asking JAX for its devices would initialize it.
ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*", "dxg")
# Options of glibc's malloc.h: (number, value).
MALLOPT = {"arena_max": (-8, 1), "mmap_max": (-4, 0), "trim_threshold": (-1, 2**31 - 1)}


def start() -> None:
    """Sets up a process. Every command calls it first."""
    logging.set_verbosity(logging.ERROR)  # Orbax's and Grain's notes would bury ours
    leave_out_libtpu()
    enable_cache()
    keep_freed_memory()


def leave_out_libtpu() -> bool:
    """Makes JAX compute on the CPU where all that it could try besides is libtpu without a TPU.

    libtpu complains at length where it finds no TPU, such as on a machine that has it for `plan`.
    Nothing changes where the user has chosen a platform, JAX has another plugin, or there is an
    accelerator's device file; libtpu reaches its chips by /dev/accel* or /dev/vfio. Call this
    before JAX looks for its devices.

    Returns:
      Whether it is left out.
    """
    found = importlib.util.find_spec
    if jax.config.values["jax_platforms"] or has_accelerator() or not found("libtpu"):
        return False
    if importlib.metadata.entry_points(group="jax_plugins") or found("jax_plugins"):
        return False
    jax.config.update("jax_platforms", "cpu")
    return True


def has_accelerator() -> bool:
    """Returns whether there is a device file of an accelerator."""
    return any(next(Path("/dev").glob(pattern), None) for pattern in ACCELERATORS)


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next step, where JAX computes on the CPU.

    XLA:CPU allocates its buffers anew in each call. The system zeroes pages that were returned to
    it when they are touched again, which takes half the time of a log-mel spectrogram and an eighth
    of a training step. The price is that the process never shrinks. Call this before JAX starts its
    threads. $SACJAX_KEEP_MEMORY=0 turns it off.

    Returns:
      Whether glibc keeps the memory.
    """
    if os.environ.get("SACJAX_KEEP_MEMORY") == "0" or has_accelerator():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(*option) == 1 for option in MALLOPT.values()])


def enable_cache() -> Path | None:
    """Keeps compiled functions in the user's cache folder.

    $JAX_COMPILATION_CACHE_DIR chooses another folder; JAX_ENABLE_COMPILATION_CACHE=false turns the
    cache off.

    Returns:
      The folder, or None where it cannot be written.
    """
    folder = Path(jax.config.values["jax_compilation_cache_dir"] or _default())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home costs time, not the run
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _default() -> Path:
    """Returns the cache folder of this kind of processor.

    Machines may share a home folder, and what is compiled for one processor may not run on another.
    """
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
