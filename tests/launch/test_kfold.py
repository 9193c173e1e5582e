"""Cross-validation over made-up workdirs: what is run, what comes of it, what is refused."""

import csv
import json
import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from launch.benchmarks import kfold
from sacjax import config as config_lib
from sacjax import jobs
from sacjax.errors import UserError
from sacjax.evaluators import evaluate

NAMES = ("cat", "dog", "sea")
TRUTH = np.tile([0, 1, 2], 4)


def workdir(folder, fold, seed, wrong, stage="supervised", sure=0.8):
    """A finished run with 12 test clips; those whose places are in `wrong` are labelled one class too far."""
    path = folder / f"fold{fold}_seed{seed}"
    path.mkdir(parents=True)
    guess = np.where(np.isin(np.arange(12), wrong), (TRUTH + 1) % 3, TRUTH)
    p = (1 - sure) / 2 + (sure - (1 - sure) / 2) * np.eye(3)[guess]
    rows = [
        dict(file=f"{fold}-{k}.wav", split="test", label=NAMES[TRUTH[k]], probabilities=p[k])
        for k in range(12)
    ]
    rows += [dict(file="seen.wav", split="validation", label="cat", probabilities=p[0])]
    evaluate.write_predictions(path / "predictions.csv", rows, NAMES)
    scores = evaluate.scores(p, TRUTH, NAMES, bootstrap=0)
    results = {stage: {f"test/{name}": value for name, value in scores.items()}}
    (path / "results.json").write_text(json.dumps(results))
    return path


@pytest.fixture
def runs_of(tmp_path):
    """Makes an output folder from {(fold, seed): wrong places}."""

    def make(name, wrong, **kwargs):
        for (fold, seed), places in wrong.items():
            workdir(tmp_path / name, fold, seed, places, **kwargs)
        return tmp_path / name

    return make


def test_mean_and_deviation_over_seeds_of_the_mean_over_folds(runs_of):
    folder = runs_of(
        "a", {(1, 0): [], (2, 0): [0, 1, 2], (1, 1): [0], (2, 1): [0, 1, 2, 3, 4], (1, 2): [5]}
    )
    summary = kfold.summarize(kfold.read_runs(folder))
    by_seed = [(1 + 9 / 12) / 2, (11 / 12 + 7 / 12) / 2]  # seed 2 lacks a fold
    accuracy = summary["accuracy"]
    assert summary["folds"] == [1, 2] and summary["seeds"] == [0, 1] and summary["runs"] == 5
    assert accuracy["by_seed"] == pytest.approx(by_seed)
    assert accuracy["mean"] == pytest.approx(np.mean(by_seed))
    assert accuracy["std"] == pytest.approx(np.std(by_seed, ddof=1))
    assert accuracy["by_fold"] == pytest.approx(
        {"1": (1 + 11 / 12 + 11 / 12) / 3, "2": (9 / 12 + 7 / 12) / 2}
    )
    assert 0 < summary["macro_f1"]["mean"] < 1
    one = kfold.summarize({(1, 0): kfold.read_runs(folder)[1, 0]})
    assert one["accuracy"]["mean"] == 1.0 and one["accuracy"]["std"] is None


def test_what_is_written(runs_of, capsys):
    folder = runs_of("a", {(1, 0): [0], (2, 0): [], (1, 1): [0, 1], (2, 1): []})
    assert kfold.main(["--output", str(folder)]) == 0
    out = capsys.readouterr().out
    assert (
        "fold 1: 87.50 %" in out and "mean accuracy over 2 folds 93.75 % ± 2.95 over 2 seeds" in out
    )
    with open(folder / "confusion_matrix.csv", newline="") as file:
        head, *table = csv.reader(file)
    assert head[1:] == list(NAMES)  # four runs of four clips a class, three of them wrong
    assert [list(map(int, row[1:])) for row in table] == [[14, 2, 0], [0, 15, 1], [0, 0, 16]]
    assert (folder / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    with open(folder / "folds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["seed"]) for row in rows] == [
        ("1", "0"),
        ("1", "1"),
        ("2", "0"),
        ("2", "1"),
    ]
    assert float(rows[1]["accuracy"]) == pytest.approx(10 / 12)
    assert json.loads((folder / "summary.json").read_text())["accuracy"]["mean"] == pytest.approx(
        0.9375
    )


def test_paired_tests_agree_with_scipy(runs_of, capsys):
    a = runs_of("a", {(1, 0): [0], (2, 0): [], (1, 1): [0, 1], (2, 1): [3]})
    b = runs_of(
        "b", {(1, 0): [0, 4, 5], (2, 0): [3, 4], (1, 1): [4, 5], (2, 1): [3, 5], (3, 0): []}
    )
    got = kfold.compare(kfold.read_runs(a), kfold.read_runs(b))
    x, y = np.array([11, 10, 12, 11]) / 12, np.array([9, 10, 10, 10]) / 12
    assert got["pairs"] == 4 and got["difference"] == pytest.approx((x - y).mean())
    assert got["p_t"] == pytest.approx(stats.ttest_rel(x, y).pvalue)
    # Right with both seeds counts. Fold 1: a misses {0, 1}, b {0, 4, 5}; fold 2: a misses {3}, b {3, 4, 5}.
    assert (got["only_a"], got["only_b"]) == (4, 1)
    assert got["p_mcnemar"] == pytest.approx(2 * stats.binom.cdf(1, 5, 0.5))
    back = kfold.compare(kfold.read_runs(b), kfold.read_runs(a))
    assert back["p_t"] == pytest.approx(got["p_t"]) and back["difference"] == -got["difference"]
    kfold.main(["--output", str(a), "--compare", str(b)])
    assert (
        "+10.42 points (paired t, p = 0.0796); right in most seeds here alone 4 clips, there alone 1"
        in capsys.readouterr().out
    )
    assert json.loads((a / "summary.json").read_text())["compare"][str(b)] == got


def test_paired_tests_without_spread(runs_of):
    a = kfold.read_runs(runs_of("a", {(1, 0): [], (2, 0): []}))
    b = kfold.read_runs(runs_of("b", {(1, 0): [3], (2, 0): [4]}))
    assert kfold.compare(a, a)["p_t"] == kfold.compare(a, a)["p_mcnemar"] == 1.0
    assert kfold.compare(a, b)["p_t"] == 0.0 and kfold.compare(a, b)["p_mcnemar"] == 0.5
    with pytest.raises(UserError, match="fewer than two runs"):
        kfold.compare(a, {(1, 0): b[1, 0]})


def test_ensembles_average_the_probabilities_of_matching_runs(runs_of, tmp_path, capsys):
    a = runs_of("a", {(1, 0): [0, 1], (2, 0): [2]}, sure=0.5)
    b = runs_of("b", {(1, 0): [1, 5], (2, 0): []}, sure=0.9)
    c = runs_of("c", {(1, 0): [5], (9, 0): []}, sure=0.6)
    runs = kfold.ensemble([kfold.read_runs(folder) for folder in (a, b, c)])
    assert list(runs) == [(1, 0)]
    # The surest model decides: place 1 is wrong in a and b; 5 in b and c; 0 only in a.
    assert runs[1, 0]["accuracy"] == pytest.approx(10 / 12)
    np.testing.assert_allclose(
        runs[1, 0]["probabilities"][2], [(0.25 + 0.05 + 0.2) / 3] * 2 + [(0.5 + 0.9 + 0.6) / 3]
    )
    assert (
        kfold.main(
            ["--output", str(tmp_path / "both"), "--ensemble", str(a), str(b), "--compare", str(a)]
        )
        == 0
    )
    summary = json.loads((tmp_path / "both" / "summary.json").read_text())
    assert summary["accuracy"]["by_fold"] == pytest.approx({"1": 10 / 12, "2": 1.0})
    assert "against" in capsys.readouterr().out


def test_ensembles_of_other_clips_are_refused(runs_of, tmp_path):
    a, b = runs_of("a", {(1, 0): []}), runs_of("b", {(1, 0): []})
    text = (b / "fold1_seed0" / "predictions.csv").read_text()
    (b / "fold1_seed0" / "predictions.csv").write_text(text.replace("1-3.wav", "1-99.wav"))
    with pytest.raises(UserError, match="test clips or labels of fold 1, seed 0 differ"):
        kfold.ensemble([kfold.read_runs(a), kfold.read_runs(b)])
    with pytest.raises(UserError, match="no finished run of the same fold and seed"):
        kfold.main(["--output", str(tmp_path / "c"), "--ensemble", str(a), str(tmp_path / "none")])
    assert not (tmp_path / "c").exists()


def test_reading_runs(runs_of, tmp_path):
    folder = runs_of("a", {(1, 0): [0], (2, 0): []})
    (folder / "fold3_seed0").mkdir()  # not finished
    workdir(folder / "x", 1, 0, []).rename(folder / "fold1_seed0_old")
    assert set(kfold.read_runs(folder)) == {(1, 0), (2, 0)}
    # The last stage in the config's order, not in the file's, which is sorted by name.
    path = folder / "fold1_seed0"
    (path / "config.json").write_text(json.dumps({"stages": ["pretrain", "finetune"]}))
    results = {
        "finetune": {"test/accuracy": 0.9, "test/macro_f1": 0.8},
        "pretrain": {"test/accuracy": 0.1, "test/macro_f1": 0.1},
    }
    (path / "results.json").write_text(json.dumps(results))
    assert kfold.read_runs(folder)[1, 0]["accuracy"] == 0.9
    (path / "results.json").write_text(json.dumps({"finetune": {}}))
    with pytest.raises(UserError, match="fold1_seed0: there are no results"):
        kfold.read_runs(folder)
    with pytest.raises(UserError, match="no finished run"):
        kfold.main(["--output", str(tmp_path / "nothing")])


def manifest(tmp_path, groups, folds):
    rows = [
        f"{k}.wav,{'ab'[k % 2]},{fold},{group}"
        for k, (group, fold) in enumerate(zip(groups, folds, strict=True))
    ]
    for k in range(len(folds)):
        (tmp_path / f"{k}.wav").touch()
    path = tmp_path / "clips.csv"
    path.write_text("\n".join(["filename,label,fold,group", *rows]))
    data = config_lib.default().supervised.data
    data.source, data.path = "manifest", str(path)
    return data


def test_groups_that_cross_folds_are_an_error(tmp_path):
    data = manifest(tmp_path, ["x", "x", "y", "z"], [1, 1, 2, 3])
    assert kfold.check_folds(data) == [1, 2, 3]
    assert kfold.check_folds(data, [3, 1]) == [1, 3]
    with pytest.raises(UserError, match="no fold 4; the data set has"):
        kfold.check_folds(data, [1, 4])
    with pytest.raises(UserError, match="1 groups are in more than one fold, such as 'x'"):
        kfold.check_folds(manifest(tmp_path, ["x", "x", "y", "z"], [1, 2, 2, 3]), [3])
    data.multi_label = True
    with pytest.raises(UserError, match="multi_label"):
        kfold.check_folds(data)
    with pytest.raises(UserError, match="has no folds"):
        kfold.check_folds(config_lib.default().supervised.data)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Stands in for the processes: notes their commands, and leaves a finished workdir unless told to fail."""
    commands, failing, together = [], set(), []

    def run(command, **how):
        commands.append(command)
        if together:
            together[0].wait(timeout=20)  # until as many run as were asked for
        path = tmp_path / "out" / command[command.index("--workdir") + 1].rsplit("/", 1)[1]
        fold, seed = (int(part.lstrip("foldse")) for part in path.name.split("_"))
        if (fold, seed) in failing:
            return SimpleNamespace(returncode=3)
        workdir(tmp_path / "out", fold, seed, [fold])
        at = command.index("--config")
        config = config_lib.load(
            command[at + 1], [word for word in command if word.startswith("--config.")]
        )
        assert config.supervised.data.fold == fold and config.seed == seed
        (path / "config.json").write_text(config_lib.to_json(config))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(jobs.subprocess, "run", run)
    return SimpleNamespace(
        commands=commands, failing=failing, together=together, path=tmp_path / "out"
    )


def test_runs_are_resumed_and_never_mixed_with_another_config(tmp_path, started):
    data = manifest(tmp_path, ["x", "x", "y", "y"], [1, 1, 2, 2])
    config = tmp_path / "config.py"
    config.write_text(
        "from sacjax import config as config_lib\n"
        "def get_config():\n"
        "    c = config_lib.default()\n"
        f"    c.supervised.data.source, c.supervised.data.path = 'manifest', {data.path!r}\n"
        "    return c\n"
    )
    args = ["--config", str(config), "--seeds", "0", "7", "--output", str(started.path)]
    override = "--config.supervised.train.batch_size=8"
    started.failing.add((2, 7))
    with pytest.raises(UserError, match="fold 2, seed 7 ended with exit code 3"):
        kfold.main([*args, override])
    names = [
        command[command.index("--workdir") + 1].rsplit("/", 1)[1] for command in started.commands
    ]
    assert names == ["fold1_seed0", "fold2_seed0", "fold1_seed7", "fold2_seed7"]
    assert all(
        override in command and command[1:3] == ["-m", "sacjax.main"]
        for command in started.commands
    )
    started.failing.clear()
    started.commands.clear()
    assert kfold.main([*args, override]) == 0
    assert [command[-2:] for command in started.commands] == [
        ["--config.supervised.data.fold=2", "--config.seed=7"]
    ]
    assert kfold.main([*args, override]) == 0 and len(started.commands) == 1
    with pytest.raises(UserError, match="fold1_seed0 holds results of a different config"):
        kfold.main([*args, "--config.supervised.train.batch_size=16"])
    assert len(started.commands) == 1
    assert kfold.main(["--output", str(started.path)]) == 0


def test_jobs_get_cores_of_their_own(tmp_path):
    cores, code = (
        sorted(os.sched_getaffinity(0)),
        "import os; print(sorted(os.sched_getaffinity(0)))",
    )
    todo = [
        jobs.Job(str(k), [sys.executable, "-c", code], tmp_path, tmp_path / f"{k}.log")
        for k in range(2)
    ]
    jobs.run(todo, 2)
    found = sorted(json.loads(job.log.read_text()) for job in todo)
    assert (
        found == sorted([cores[0::2], cores[1::2] or cores])
        and sorted(os.sched_getaffinity(0)) == cores
    )


def test_jobs_run_together(tmp_path, started):
    data = manifest(tmp_path, ["x", "x", "y", "y"], [1, 1, 2, 2])
    overrides = [
        "--config.supervised.data.source=manifest",
        f"--config.supervised.data.path={data.path}",
    ]
    args = [
        "--config",
        "configs/folder.py",
        "--seeds",
        "0",
        "1",
        "--output",
        str(started.path),
        *overrides,
    ]
    started.together.append(threading.Barrier(2))
    assert kfold.main([*args, "--jobs", "2"]) == 0
    assert len(started.commands) == 4
    assert (started.path / "fold1_seed0.log").is_file()
    with pytest.raises(UserError, match="--jobs is 0"):
        kfold.main([*args, "--jobs", "0"])


def test_a_leak_is_told_before_anything_runs(tmp_path, started):
    data = manifest(tmp_path, ["x", "x", "y", "y"], [1, 2, 2, 1])
    overrides = [
        "--config.supervised.data.source=manifest",
        f"--config.supervised.data.path={data.path}",
    ]
    with pytest.raises(UserError, match="folds leak"):
        kfold.main(["--config", "configs/folder.py", "--output", str(started.path), *overrides])
    assert not started.commands and not started.path.exists()


def test_folds_of_real_recordings_do_not_leak(real_data):
    data = config_lib.default().supervised.data
    data.source, data.name, data.path = "tfds", "esc50/esc10", str(real_data / "esc10")
    assert kfold.check_folds(data) == [1, 2, 3, 4, 5]
