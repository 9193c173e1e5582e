"""How commands end."""

import errno
import signal
import subprocess
import sys

import pytest
from processes import HANG, ROOT

from sacjax import errors

WAITING = """
import signal, time
from sacjax import errors

signal.signal(signal.SIGINT, signal.default_int_handler)
errors.run(lambda: print("ready", flush=True) or time.sleep(3600))
"""


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


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EDQUOT, "cannot be written"),
        (errno.EROFS, "cannot be written"),
        (errno.EIO, "the file system failed"),
        (errno.ESTALE, "the file system failed"),
        (errno.EACCES, ""),
    ],
)
def test_what_else_a_file_system_says(capsys, number, told):
    def write():
        raise OSError(number, "said so", "x")

    with pytest.raises(SystemExit if told else OSError):
        errors.run(write)
    said = capsys.readouterr().err
    assert said == (f"error: x: {told}: said so\n" if told else "")


def test_a_mistake_is_one_line_whatever_it_was_made_of(capsys):
    def mistake():
        raise errors.UserError("data.path is 'x':\n  there is no folder\n")

    with pytest.raises(SystemExit) as stopped:
        errors.run(mistake)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: data.path is 'x': there is no folder\n"


def test_a_scheduler_is_told_to_start_it_again(capsys):
    def terminated():
        raise errors.Terminated("saved step 5")

    with pytest.raises(SystemExit) as stopped:
        errors.run(terminated)
    assert stopped.value.code == 75 and capsys.readouterr().err == "saved step 5\n"


@pytest.mark.parametrize(("given", "code"), [(None, 0), (0, 0), (1, 1)])
def test_what_a_command_returns_is_its_exit_code(given, code):
    with pytest.raises(SystemExit) as stopped:
        errors.run(lambda: given)
    assert stopped.value.code == code


def test_the_nearest_name_or_all_of_them():
    known = ("seed", "stages", "mesh")
    assert errors.nearest("sed", known) == "; did you mean 'seed'?"
    assert errors.nearest("profile", known) == "; known: mesh, seed, stages"


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
    _, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert stderr == "interrupted; training goes on from its last checkpoint by the same command\n"
