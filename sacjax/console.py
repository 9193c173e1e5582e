"""What a run says of its results on the console."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sacjax.data.bad_files import read_table


def print_summary(config: ConfigDict, workdir: Path, results: dict[str, dict[str, float]]) -> None:
    """Prints what came of all stages, and where it is."""
    judged = [name for name in config.stages if "test/accuracy" in results[name]]
    if len(judged) > 1:
        figures = (f"{name} {100 * results[name]['test/accuracy']:.1f} %" for name in judged)
        print(f"test accuracy: {', '.join(figures)}")
    bad = read_table(workdir / "bad_files.csv")
    skipped = f"; {len(bad)} files were skipped, see bad_files.csv" if bad else ""
    names = ("results.json", "predictions.csv", "report.html")
    written = [name for name in names if (workdir / name).is_file()]
    print(f"{workdir}: {', '.join(written)}, plots/{skipped}")


def why_nothing(stage: ConfigDict) -> str:
    """Returns why a stage has no results."""
    parts = " or ".join(stage.eval.splits)
    return f"no clip is in {parts}" if parts else "eval.splits is empty: name test, to evaluate it"


def print_scores(name: str, scores: dict[str, float], stage: ConfigDict, objective: Any) -> None:
    """Prints a stage's main figures, and what its objective warns of."""
    for part in stage.eval.splits:
        prefix = f"{part}/"
        value = {k.removeprefix(prefix): v for k, v in scores.items() if k.startswith(prefix)}
        if not value:
            continue
        figures = [f"macro F1 {100 * value['macro_f1']:.2f} %"] if "macro_f1" in value else []
        if stage.data.multi_label and "mean_average_precision" in value:
            precision = 100 * value["mean_average_precision"]
            figures.insert(0, f"mean average precision {precision:.2f} %")
        elif "accuracy" in value:
            shown = f"accuracy {100 * value['accuracy']:.2f} %{_interval(value, 'accuracy')}"
            figures.insert(0, shown)
        elif not objective.needs_labels and "loss" in value:
            figures.append(objective.describe(value))
        for key, label in (
            ("knn_accuracy", "k-nearest neighbours"),
            ("linear_accuracy", "linear probe"),
            ("sensitivity", "sensitivity"),
            ("specificity", "specificity"),
            ("anomaly_auc", "area under the ROC curve of anomalies"),
            ("anomaly_partial_auc", "at few false alarms"),
        ):
            if key in value:
                figures.append(f"{label} {100 * value[key]:.1f} %{_interval(value, key)}")
        print(f"{name}: {part} {', '.join(figures)}")
        warning = "" if objective.needs_labels or "loss" not in value else objective.verdict(value)
        if warning:
            print(f"warning: {name} {warning}")


def _interval(value: dict[str, float], key: str) -> str:
    """Returns a score's interval as text, '' where it has none."""
    if f"{key}_low" not in value:
        return ""
    low, high = (100 * value[f"{key}_{end}"] for end in ("low", "high"))
    return f" (95 % interval {low:.1f} to {high:.1f})"
