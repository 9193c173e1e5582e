"""Commands in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HANG = 1800  # seconds after which a process hangs; a busy machine is slow, not broken


def simulated(devices):
    """Returns XLA_FLAGS that also simulate so many devices."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"


def run_python(*args, devices=1, path="", **kwargs):
    """Runs python in a process of its own, with so many simulated devices.

    `path` is one more folder to import from.
    """
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": simulated(devices)}
    env["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), str(ROOT / path), os.environ.get("PYTHONPATH", "")]
    )
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=HANG,
        **kwargs,
    )
