"""The benchmark's table, by hand."""

import types

from sacjax.report import benchmark as report


def split(linear, neighbours, few):
    return dict(linear_accuracy=linear, knn_accuracy=neighbours, few_shot_accuracy=few)


def prepared(metric, splits):
    return types.SimpleNamespace(task=types.SimpleNamespace(metric=metric), splits=[None] * splits)


RESULTS = {
    "one": {
        "a": [split(0.5, 0.4, {"10": [0.1, 0.3]}), split(0.7, 0.4, {"10": [0.5, 0.7]})],
        "b|c": [split(0.9, 0.8, {}), split(0.9, 0.8, {})],  # too few clips of it could be read
    },
    "two": {
        "a": [split(0.2, 0.3, {"10": [0.4]})],
        "b|c": [split(0.1, 0.6, {"10": [0.8]})],
    },
}
TASKS = {"one": prepared("balanced_accuracy", 2), "two": prepared("accuracy", 1)}


def test_means_and_deviations_over_splits_and_tasks():
    """The deviations are those of (0.5, 0.7) and of the splits' means (0.2, 0.6)."""
    lines = report.lines_of(report.summaries(RESULTS, 3), TASKS)
    assert lines == [
        ["probe", "task", "measure", "a", "b|c"],
        ["linear probe", "one", "balanced accuracy, 2 splits", "60.0 ± 14.1", "90.0 ± 0.0"],
        ["linear probe", "two", "accuracy", "20.0", "10.0"],
        ["linear probe", "mean of 2 tasks", "", "40.0", "50.0"],
        ["3 nearest neighbours", "one", "balanced accuracy, 2 splits", "40.0 ± 0.0", "80.0 ± 0.0"],
        ["3 nearest neighbours", "two", "accuracy", "30.0", "60.0"],
        ["3 nearest neighbours", "mean of 2 tasks", "", "35.0", "70.0"],
        ["10 labels a class", "one", "balanced accuracy, 2 splits", "40.0 ± 28.3", ""],
        ["10 labels a class", "two", "accuracy", "40.0", "80.0"],
        ["10 labels a class", "mean of 2 tasks", "", "40.0", ""],
    ]
    head, rule, *_ = report.as_markdown(lines, []).splitlines()
    assert head == r"| probe | task | measure | a | b\|c |" and rule.endswith("| ---: | ---: |")


def test_shares_as_csv():
    rows = report.as_csv(report.summaries(RESULTS, 3), TASKS).splitlines()
    assert rows[0] == 'probe,task,measure,splits,a,"a, deviation",b|c,"b|c, deviation"'
    assert rows[1] == "linear probe,one,balanced_accuracy,2,0.600000,0.141421,0.900000,0.000000"
    assert rows[5] == "10 labels a class,one,balanced_accuracy,2,0.400000,0.282843,,"
    assert rows[6] == "10 labels a class,two,accuracy,1,0.400000,,0.800000,"
