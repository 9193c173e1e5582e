"""Pictures of a run: an objective's panels, and any number of classes and samples."""

import io
import json

import matplotlib
import numpy as np
import pytest
from family import FAMILY, stage_of
from workdirs import config_of

from sacjax import objectives
from sacjax.objectives import Display
from sacjax.report import plots

PNG = b"\x89PNG"


def curves_of(figure):
    """Returns {title of a panel: {label of a curve: (steps, values)}}."""
    return {
        axes.get_title(): {
            line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
            for line in axes.lines
        }
        for axes in figure.axes
    }


def test_metrics_are_read_by_stage(tmp_path):
    lines = [
        {"stage": "a", "step": 1, "train/loss": 2.0, "validation/loss": None},
        {"stage": "b", "step": 1, "train/loss": 9.0},
        {"stage": "a", "step": 3, "train/loss": 1.0, "validation/loss": 1.5},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    want = {"train/loss": ([1, 3], [2.0, 1.0]), "validation/loss": ([3], [1.5])}
    assert plots.read_metrics(tmp_path, "a") == want
    assert plots.read_metrics(tmp_path, "c") == plots.read_metrics(tmp_path / "new", "a") == {}


def test_the_panels_are_those_of_the_display(tmp_path):
    """Each with its curves by their labels and scales, and a healthy run stretched behind them."""
    reference = tmp_path / "healthy.csv"
    reference.write_text("share_of_run,train/x\n0.5,4\n1,3\n")
    panels = {"one": {"train/x": "learned", "validation/x": "held out"}, "two": {"train/y": "y"}}
    display = Display(panels=panels, scales={"train/y": 100.0}, reference=reference)
    curves = {"train/x": ([1, 20], [6.0, 2.0]), "train/y": ([20], [0.5]), "other": ([1], [1.0])}
    figure = plots.training_curves(curves, display)
    found = curves_of(figure)
    assert list(found) == ["one", "two"]
    assert found["one"].pop("learned") == ([1, 20], [6.0, 2.0])
    assert list(found["one"].values()) == [([10.0, 20.0], [4.0, 3.0])]  # the healthy run
    assert found["two"] == {"y": ([20], [50.0])}
    assert "gray: a run of ours" in figure.get_suptitle()
    without = plots.training_curves({}, Display(panels=panels))
    assert [axes.texts[0].get_text() for axes in without.axes] == ["not measured"] * 2
    assert list(curves_of(plots.training_curves({}, Display()))) == ["loss"]


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_every_objective_says_what_its_report_draws(name):
    stage = stage_of(name) if name in FAMILY else config_of("small_cnn").supervised
    stage.objective.name = name
    if name == "distillation":
        stage.objective.options = dict(teacher="teacher")
    display = objectives.build(stage).display
    assert "loss" in display.panels and display.bar["loss"] == "train/loss"
    metrics = [metric for panel in display.panels.values() for metric in panel]
    assert set(display.scales) <= set(metrics)
    healthy = plots.read_reference(display.reference)
    assert not healthy or set(healthy) & set(metrics)
    figure = plots.training_curves({metric: ([1, 2], [1.0, 2.0]) for metric in metrics}, display)
    found = curves_of(figure)
    assert list(found) == list(display.panels)
    for title, panel in display.panels.items():
        for metric, label in panel.items():
            scale = display.scales.get(metric, 1.0)
            assert found[title][label] == ([1, 2], [scale, 2 * scale])


def test_no_pyplot_state_is_touched():
    from matplotlib import pyplot

    before, backend = pyplot.get_fignums(), matplotlib.get_backend()
    matrix = plots.confusion_matrix(np.eye(3, dtype=int), ("a", "b", "c"))
    assert plots.png(matrix).startswith(PNG)
    assert plots.png(plots.training_curves({}, Display())).startswith(PNG)
    assert pyplot.get_fignums() == before and matplotlib.get_backend() == backend


@pytest.mark.parametrize("size", [0, 1, 100, 4000, 12345])
def test_spectrogram_of_any_length(size):
    picture = plots.spectrogram(np.full(size, 0.1, np.float32), 8000)
    assert plots.png(picture).startswith(PNG)


def test_confusion_matrix_of_many_classes_without_examples():
    names = [f"class_{k}" for k in range(50)]
    assert plots.png(plots.confusion_matrix(np.zeros([50, 50], int), names)).startswith(PNG)


def test_names_with_dollars_are_no_formulas():
    matrix = plots.confusion_matrix(np.eye(2, dtype=int), ("$\\frac$", "a_b$c"))
    assert matplotlib.image.imread(io.BytesIO(plots.png(matrix))).std() > 0
