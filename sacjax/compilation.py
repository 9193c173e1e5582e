"""JAX's persistent compilation cache, so that a command that was compiled once starts without compiling again."""

import hashlib
import os
from pathlib import Path

import jax


def enable_cache() -> Path | None:
    """Keeps compiled programs in the user's cache folder, and returns it; $JAX_COMPILATION_CACHE_DIR chooses another one.

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
            sorted({line for line in text.splitlines() if line.startswith(("model name", "flags", "Features"))})
        )
    except OSError:
        kind = ""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "sacjax" / f"jax-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
