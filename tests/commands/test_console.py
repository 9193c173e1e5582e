"""The console script: which commands there are, and how they answer mistakes."""

import importlib
import tomllib

import pytest
from processes import ROOT

from sacjax import commands


def run(capsys, *args):
    """Returns (exit code, stdout, stderr) of `sacjax ARGS`."""
    with pytest.raises(SystemExit) as stopped:
        commands.console(list(args))
    return (stopped.value.code, *capsys.readouterr())


def test_every_command_has_a_line_and_tells_its_flags(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and run(capsys)[:2] == (0, out)
    for name in commands.COMMANDS:
        assert f"  {name} " in out
        code, help_text, err = run(capsys, name, "--help")
        assert (code, err) == (0, "") and f"usage: sacjax {name} " in help_text, name
    files = {path.stem for path in (ROOT / "sacjax" / "commands").glob("[a-z]*.py")}
    assert files == {name.replace("-", "_") for name in commands.COMMANDS}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["evaluate"],
            "error: there is no command 'evaluate'; known: benchmark, convert, embed, "
            "explain, export, inspect",
        ),
        (["predcit"], "error: there is no command 'predcit'; did you mean 'predict'?"),
        (["train", "--workdir", "x"], "error: training needs one --config and one --workdir"),
        (
            ["train", "--mode=eval", "--workdir", "x", "--config", "c.py"],
            "error: --mode=eval takes its config from the workdir; override keys of it",
        ),
        (
            ["train", "--config", "nowhere.py", "--workdir", "x"],
            "error: --config: there is no file nowhere.py",
        ),
        (["predict", "--checkpoint", "/nowhere", "/nowhere.wav"], "error: there is no file or"),
        (["probe", "--checkpoint", "/nowhere"], "error: /nowhere: not a workdir of sacjax"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, args, message):
    code, out, err = run(capsys, *args)
    assert code == 2 and out == "" and err.startswith(message) and err.count("\n") == 1


def test_the_version_is_the_packages(capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    try:
        importlib.metadata.version("sacjax")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("sacjax is not installed here")
    assert run(capsys, "--version") == (0, f"{project['version']}\n", "")


def test_the_script_is_installed_under_its_name():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["sacjax"].partition(":")
    assert getattr(importlib.import_module(module), name) is commands.console
