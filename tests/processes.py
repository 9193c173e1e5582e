"""Commands in processes of their own.

They are forked from a server that has imported sacjax and started nothing, since importing takes
longer than most of them compute.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HANG = 1800  # seconds after which a process hangs; a busy machine is slow, not broken

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["sacjax.commands.train", "sacjax.stages", "pytest"])


def simulated(devices):
    """Returns XLA_FLAGS that also simulate so many devices."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"


class Python:
    """`python *args`, started as a process with so many simulated devices, as Popen.

    `path` is one more folder to import from.
    """

    def __init__(self, *args, devices=1, path=""):
        self.args = [str(arg) for arg in args]
        self._said = [tempfile.NamedTemporaryFile(mode="r") for _ in range(2)]
        names = [file.name for file in self._said]
        env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": simulated(devices)}
        given = self.args, [str(ROOT), str(ROOT / path)], env, names
        self._process = _server.Process(target=_run, args=given)
        self._process.start()

    def poll(self):
        """Returns the exit code, or None of a process that runs."""
        return self._process.exitcode

    returncode = property(poll)

    def kill(self):
        self._process.kill()

    def communicate(self, timeout=HANG):
        """Waits till it ends; returns what it wrote to (stdout, stderr)."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.args, timeout)
        return tuple(file.read() for file in self._said)


def run_python(*args, devices=1, path=""):
    """Runs `Python` to its end, and returns what `subprocess.run` would."""
    process = Python(*args, devices=devices, path=path)
    said = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, *said)


def _run(args, folders, env, names):
    """Does what `python *args` does, in a process that has imported modules, and nothing else."""
    for number, name in enumerate(names, start=1):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", 1, closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    import jax

    jax.config.update("jax_platforms", env["JAX_PLATFORMS"])  # read when JAX was imported
    sys.path[:0] = folders
    try:
        _run_main(args)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # a child of multiprocessing leaves them out
        sys.stdout.flush()


def _run_main(args):
    if args[0] == "-c":
        sys.argv = ["-c", *args[2:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(args[1], "<string>", "exec"), main.__dict__)
    elif args[0] == "-m":
        sys.argv = args[1:]
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = args
        sys.path.insert(0, os.path.dirname(args[0]))
        runpy.run_path(args[0], run_name="__main__")
