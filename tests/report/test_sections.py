"""The report's folded sections: which scores stand in which table."""

from sacjax import config as config_lib
from sacjax.report import sections


def test_areas_of_machines_are_figures_and_no_classes():
    config = config_lib.default(detect=config_lib.stage())
    scores = {"test/loss": 0.5, "test/anomaly_auc": 0.75, "test/anomaly_auc/fan/id_00": 0.8125}
    text = sections.results_of(config, {"detect": scores})
    assert "Each class" not in text
    assert "<td>anomaly_auc/fan/id_00</td>" in text and "0.8125" in text
    scores |= {f"test/{kind}/a/b": 0.625 for kind in ("precision", "recall", "f1")}
    text = sections.results_of(config, {"detect": scores})
    assert "Each class of detect (test)" in text and "<td>a/b</td>" in text
    assert "<td>f1/a/b</td>" not in text
