"""How commands end."""

import signal
import subprocess
import sys

from processes import ROOT

WAITING = "import time; from sacjax import errors; errors.run(lambda: print('ready', flush=True) or time.sleep(60))"


def test_ctrl_c_is_one_line_and_130():
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "interrupted; training goes on from its last checkpoint by the same command\n"
