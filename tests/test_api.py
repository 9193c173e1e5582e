"""The public API: `sacjax.load`, `sacjax.run`, and the modules that come with the package."""

import subprocess
import sys

import pytest
from processes import ROOT
from workdirs import config_of

import sacjax
from sacjax.errors import UserError


def test_run_trains_and_load_takes_what_it_left(tmp_path, capsys):
    config = config_of("small_cnn")
    config.supervised.train.steps = 2
    results = sacjax.run(config, tmp_path / "run")
    assert 0 <= results["supervised"]["test/accuracy"] <= 1
    assert sacjax.run(config, tmp_path / "run") == results
    assert "already finished" in capsys.readouterr().out
    model = sacjax.load(tmp_path / "run")
    assert model.step == 2 and len(model.labels) == 20
    config.supervised.train.steps = 3
    with pytest.raises(UserError, match="holds a different experiment"):
        sacjax.run(config, tmp_path / "run")


def test_modules_are_imported_at_their_first_use():
    """So that `import sacjax` costs nothing."""
    code = "import sys, sacjax; print({'jax', 'ml_collections', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
    assert sacjax.config.default().stages == ("supervised",)


def test_a_missing_name_and_a_missing_library_are_told_apart(monkeypatch):
    with pytest.raises(AttributeError, match="module 'sacjax' has no attribute 'nothing'"):
        sacjax.nothing  # noqa: B018

    def without_a_library(name):
        raise ModuleNotFoundError("No module named 'soxr'", name="soxr")

    monkeypatch.setattr("importlib.import_module", without_a_library)
    with pytest.raises(ModuleNotFoundError, match="soxr"):
        sacjax.not_yet_imported  # noqa: B018
