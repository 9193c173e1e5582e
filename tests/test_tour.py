"""The cells of docs/tour.ipynb, in order, with shorter stages."""

import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from processes import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "tour.ipynb").read_text())
ENCODER = {"conv_channels": (8,) * 3, "width": 16, "mlp_width": 32, "depth": 1, "heads": 2}
STAGES = ("pretrain", "scratch", "finetune")
SHORT = [
    *(f"--config.{stage}.data.examples=200" for stage in STAGES),
    *(f"--config.{stage}.train.steps=2" for stage in STAGES),
    *(f"--config.{stage}.train.batch_size=8" for stage in STAGES),
    *(f"--config.{stage}.model.encoder.{k}={v}" for stage in STAGES for k, v in ENCODER.items()),
    *(f"--config.{stage}.data.labels_per_class=2" for stage in STAGES[1:]),
]


def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as the notebook does; it is gone after the test
    names: dict = {}
    with matplotlib.rc_context():
        matplotlib.use("agg")
        for number, cell in enumerate(NOTEBOOK["cells"]):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names["overrides"] += SHORT
    assert (tmp_path / "runs" / "tour" / "report.html").is_file()
    assert set(names["results"]) == set(STAGES)
    assert names["vectors"].shape[0] == len(names["test"]) and np.isfinite(names["vectors"]).all()
    assert "finetune: test accuracy" in capsys.readouterr().out
    plt.close("all")


def test_what_it_shows_is_of_a_whole_run():
    outputs = [output for cell in NOTEBOOK["cells"] for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    assert not any(output["output_type"] == "error" for output in outputs)
