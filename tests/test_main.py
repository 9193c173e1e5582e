"""`python -m sacjax.main` and `python -m sacjax`: the same as `sacjax train` and `sacjax`."""

import runpy

import pytest


@pytest.mark.parametrize("argv", [["sacjax.main"], ["sacjax", "train"]])
@pytest.mark.filterwarnings("ignore:'sacjax.main' found in sys.modules")
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, argv):
    flags = ["--config", "configs/folder.py", "--config.supervised.data.path=/nowhere/at/all"]
    monkeypatch.setattr("sys.argv", [*argv, *flags, "--workdir", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(argv[0], run_name="__main__")
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.count("\n") == 1
    assert err.startswith("error: ") and "there is no folder '/nowhere/at/all'" in err
    assert not (tmp_path / "run").exists()
