"""The steps by which CONTRIBUTING.md adds an objective, done in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from processes import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
NEW_FILE = re.compile(r"^New file `([^`]+)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINES = re.compile(
    r"^In `([^`]+)`, after `([^`]+)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
SHORT = [
    "--config.pretrain.train.steps=2",
    "--config.pretrain.data.examples=400",
    "--config.stages=('pretrain',)",
]


@pytest.fixture
def copy(tmp_path):
    """A copy of the project with the objective that the page adds."""
    for folder in ("sacjax", "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path, text in NEW_FILE.findall(TEXT):
        assert not (tmp_path / path).exists()
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    for path, start, lines in LINES.findall(TEXT):
        before = (tmp_path / path).read_text()
        (line,) = re.findall(rf"^{re.escape(start)}.*\n", before, re.MULTILINE)
        (tmp_path / path).write_text(before.replace(line, line + lines))
    return tmp_path


def run(folder, command):
    """Runs a command of the page in a folder, where sacjax is imported from; it must succeed."""
    env = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_objective_of_the_page_is_tested_and_trains(copy):
    assert len(NEW_FILE.findall(TEXT)) == 3 and len(LINES.findall(TEXT)) == 3
    lines = TEXT[TEXT.index("**5. Run it.**") :].splitlines()
    commands = [[sys.executable, *x.split()[1:]] for x in lines if x.startswith("python -m")]
    own, family, train = commands
    # Both commands of tests in one process, and of the family's the quickest.
    run(copy, [*own, family[3], "-k", "test_barlow_twins or (barlow_twins and bfloat16)"])
    run(copy, [*train, *SHORT])
    assert "loss" in (copy / "runs" / "barlow_twins" / "results.json").read_text()
