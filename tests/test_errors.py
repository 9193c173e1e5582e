"""How commands end."""

import errno
import signal
import subprocess
import sys

import pytest
from processes import ROOT

from sacjax import errors

WAITING = "import signal, time; from sacjax import errors; signal.signal(signal.SIGINT, signal.default_int_handler); errors.run(lambda: print('ready', flush=True) or time.sleep(60))"


def test_a_full_disk_is_one_line_and_2(capsys):
    def write():
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    with pytest.raises(SystemExit) as stopped:
        errors.run(write)
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err
        == "error: metrics.jsonl: cannot be written: No space left on device\n"
    )

    def mistake():
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    with pytest.raises(FileNotFoundError):  # a mistake of ours shows where it is
        errors.run(mistake)


def test_ctrl_c_is_one_line_and_130():
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "interrupted; training goes on from its last checkpoint by the same command\n"
