"""Cross-validation over made-up workdirs: what is run, what comes of it, what is refused."""

import csv
import json
import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from processes import HANG
from scipy import stats

from launch.benchmarks import jobs, kfold
from sacjax import config as config_lib
from sacjax import stages
from sacjax.errors import UserError
from sacjax.evaluators.predictions import write_predictions
from sacjax.evaluators.scores import scores as score
from sacjax.evaluators.statistics import paired_test

NAMES = ("cat", "dog", "sea")
TRUTH = np.tile([0, 1, 2], 4)


def config_of(fold, seed, **changes):
    """The config.json of a run; `changes` are keys of its stage's `train`."""
    config = config_lib.default()
    config.seed, config.supervised.data.fold = seed, fold
    config.supervised.train.update(changes)
    return config_lib.to_json(config)


def workdir(folder, fold, seed, wrong, stage="supervised", sure=0.8, **changes):
    """A finished run with 12 test clips; those at `wrong` are taken for the next class."""
    path = folder / f"fold{fold}_seed{seed}"
    path.mkdir(parents=True)
    guess = np.where(np.isin(np.arange(12), wrong), (TRUTH + 1) % 3, TRUTH)
    p = (1 - sure) / 2 + (sure - (1 - sure) / 2) * np.eye(3)[guess]
    rows = [
        dict(file=f"{fold}-{k}.wav", split="test", label=NAMES[TRUTH[k]], probabilities=p[k])
        for k in range(12)
    ]
    rows += [dict(file="seen.wav", split="validation", label="cat", probabilities=p[0])]
    write_predictions(path / "predictions.csv", rows, NAMES)
    scores = score(p, TRUTH, NAMES, bootstrap=0)
    results = {stage: {f"test/{name}": value for name, value in scores.items()}}
    (path / "results.json").write_text(json.dumps(results))
    (path / "config.json").write_text(config_of(fold, seed, **changes))
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


def test_paired_tests_count_folds_and_clips(runs_of, capsys):
    a = runs_of("a", {(1, 0): [0], (2, 0): [], (1, 1): [0, 1], (2, 1): [3]})
    b = runs_of(
        "b",
        {(1, 0): [0, 4, 5], (2, 0): [3, 4], (1, 1): [4, 5], (2, 1): [3, 5, 6], (3, 0): []},
    )
    got = kfold.compare(kfold.read_runs(a), kfold.read_runs(b))
    x, y = np.array([[11, 10], [12, 11]]) / 12, np.array([[9, 10], [10, 9]]) / 12
    assert got["folds"] == [1, 2] and got["seeds"] == [0, 1]
    assert got["test_share"] == pytest.approx(1 / 3)  # of the clips of three folds
    assert got["difference"] == pytest.approx((x - y).mean())
    assert got["p_t"] == pytest.approx(paired_test(x, y, 1 / 3).p) and got["note_t"] == ""
    # Right with both seeds counts. Fold 1: a misses {0, 1}, b {0, 4, 5}; fold 2: a {3}, b {3 to 6}.
    assert (got["only_a"], got["only_b"]) == (5, 1)
    assert got["p_mcnemar"] == pytest.approx(2 * stats.binom.cdf(1, 6, 0.5))
    back = kfold.compare(kfold.read_runs(b), kfold.read_runs(a))
    assert back["p_t"] == pytest.approx(got["p_t"]) and back["difference"] == -got["difference"]
    kfold.main(["--output", str(a), "--compare", str(b)])
    out = capsys.readouterr().out
    assert f"against {b}: +12.50 points over folds 1, 2, seeds 0, 1; paired t-test" in out
    assert f"p = {got['p_t']:.3g}" in out and "here alone 5 clips, there alone 1; McNemar" in out
    assert json.loads((a / "summary.json").read_text())["compare"][str(b)] == got


def test_paired_tests_without_spread_give_no_p_but_a_sentence(runs_of, capsys):
    a = runs_of("a", {(1, 0): [], (2, 0): []})
    b = kfold.read_runs(runs_of("b", {(1, 0): [3], (2, 0): [4]}))
    kfold.main(["--output", str(a), "--compare", str(a)])
    out = capsys.readouterr().out
    assert "no p, for the difference is the same in every fold" in out
    assert "McNemar: no p, for no clip tells the two apart" in out
    a = kfold.read_runs(a)
    got = kfold.compare(a, b)
    assert got["p_t"] is None and "no spread" in got["note_t"] and got["p_mcnemar"] == 0.5
    one = kfold.compare(a, {(1, 0): b[1, 0]})
    assert one["p_t"] is None and "one fold" in one["note_t"]


def test_a_comparison_needs_a_seed_in_all_shared_folds(runs_of):
    a = kfold.read_runs(runs_of("a", {(1, 0): [], (2, 1): []}))
    b = kfold.read_runs(runs_of("b", {(1, 0): [], (2, 0): []}))
    with pytest.raises(UserError, match=r"no seed is there of both in all .* folds \[1, 2\]"):
        kfold.compare(a, b)
    with pytest.raises(UserError, match="no seed"):
        kfold.compare(a, {})


def test_runs_of_different_experiments_are_not_pooled(runs_of):
    folder = runs_of("a", {(1, 0): [0], (2, 0): []}, epochs=10.0)
    runs_of("a", {(3, 0): [0]}, epochs=100.0)
    told = r"fold3_seed0: .* than fold1_seed0: config.supervised.train.epochs is 10.0 there and 100"
    with pytest.raises(UserError, match=told):
        kfold.main(["--output", str(folder)])
    assert not (folder / "summary.json").exists()


def test_a_run_is_of_the_fold_and_seed_that_its_folder_says(runs_of):
    path = runs_of("a", {(1, 0): [0], (2, 0): []}) / "fold2_seed0" / "config.json"
    for wrong, told in ((config_of(1, 0), "fold 1, seed 0"), (config_of(2, 5), "fold 2, seed 5")):
        path.write_text(wrong)
        with pytest.raises(UserError, match=f"fold2_seed0: its config is of {told}"):
            kfold.read_runs(path.parents[1])
    path.unlink()
    with pytest.raises(UserError, match="fold2_seed0: there is no config.json"):
        kfold.read_runs(path.parents[1])


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
    two = config_lib.default(pretrain=config_lib.stage(), finetune=config_lib.stage())
    two.pretrain.data.fold = two.finetune.data.fold = 1
    (path / "config.json").write_text(config_lib.to_json(two))
    results = {
        "finetune": {"test/accuracy": 0.9, "test/macro_f1": 0.8},
        "pretrain": {"test/accuracy": 0.1, "test/macro_f1": 0.1},
    }
    (path / "results.json").write_text(json.dumps(results))
    assert kfold.read_run(path, 1, 0)["accuracy"] == 0.9
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


def test_rows_that_others_keep_in_the_same_file_stay(tmp_path):
    path = tmp_path / "found.json"
    jobs.keep(path, {"fold1": 1, "fold2": 0})
    assert jobs.keep(path, {"fold2": 2}) == {"fold1": 1, "fold2": 2}
    assert json.loads(path.read_text()) == {"fold1": 1, "fold2": 2}


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
    """Stands in for the processes: notes their commands, and leaves a finished workdir or fails."""
    commands, failing, together = [], set(), []

    def run(command, **how):
        commands.append(command)
        if together:
            together[0].wait(timeout=HANG)  # until as many run as were asked for
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

    nothing = jobs.Usage(0.0, 0.0, 0.0)
    monkeypatch.setattr(jobs.subprocess, "run", run)
    monkeypatch.setattr(jobs, "measured", lambda command, file: (run(command).returncode, nothing))
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
        "    c.supervised.model.name = 'small_cnn'  # quick to check\n"
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
    told = "fold1_seed0 holds .* config.supervised.train.batch_size is 8 there and 16 here"
    with pytest.raises(UserError, match=told):
        kfold.main([*args, "--config.supervised.train.batch_size=16"])
    assert len(started.commands) == 1
    assert kfold.main(["--output", str(started.path)]) == 0


def test_resuming_accepts_what_training_accepts(tmp_path):
    path = workdir(tmp_path, 1, 0, [])
    config = config_lib.from_json((path / "config.json").read_text())
    assert jobs.finished(path, config)
    config.supervised.data.workers, config.checkpoint.every = 3, 7  # how, not what
    stages._check_workdir(config, path)
    assert jobs.finished(path, config)
    config.supervised.train.epochs = 11.0
    for check in (stages._check_workdir, lambda c, w: jobs.finished(w, c)):
        with pytest.raises(UserError, match="config.supervised.train.epochs is 10.0 there and 11"):
            check(config, path)
    (path / "results.json").write_text("{}")  # begun, and of another experiment
    with pytest.raises(UserError, match="epochs"):
        jobs.finished(path, config)
    (path / "results.json").unlink()
    assert not jobs.finished(path, config)


def test_resuming_knows_the_options_that_a_run_has_inherited(tmp_path):
    path = workdir(tmp_path, 1, 0, [])
    config = config_lib.from_json((path / "config.json").read_text())
    config.supervised.init_from = str(tmp_path / "pretrained_and_gone")
    inherited = config_lib.from_json(config_lib.to_json(config))
    with inherited.supervised.model.unlocked():
        inherited.supervised.model.encoder.width = 48
    (path / "config.json").write_text(config_lib.to_json(inherited))
    assert jobs.finished(path, config)


def test_every_stage_whose_data_has_the_fold_holds_it_out(tmp_path, started):
    data = manifest(tmp_path, ["x", "x", "y", "y"], [1, 1, 2, 2])
    config = tmp_path / "config.py"
    config.write_text(
        "from sacjax import config as config_lib\n"
        "def get_config():\n"
        "    names = ('elsewhere', 'pretrain', 'supervised')\n"
        "    c = config_lib.default(**{name: config_lib.stage() for name in names})\n"
        "    for s in (c.pretrain, c.supervised):\n"
        f"        s.data.source, s.data.path = 'manifest', {data.path!r}\n"
        "    for name in names:\n"
        "        c[name].model.name = 'small_cnn'  # quick to check\n"
        "    return c\n"
    )
    kfold.run_all(str(config), [], started.path, None, [0])
    held = [[word for word in command if ".fold=" in word] for command in started.commands]
    assert held == [
        [f"--config.pretrain.data.fold={k}", f"--config.supervised.data.fold={k}"] for k in (1, 2)
    ]


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


def test_what_a_job_used_is_its_own_and_adds_up_over_attempts(tmp_path):
    """Two jobs at once, of which the resumed one adds to what its first attempt used."""
    code = (
        "import resource, time\n"
        "while time.process_time() < 0.3: pass\n"
        "own = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print([own.ru_utime + own.ru_stime, own.ru_maxrss / 2**10])"
    )
    todo = [
        jobs.Job(name, [sys.executable, "-c", code], tmp_path / name, tmp_path / f"{name}_0.5m.log")
        for name in ("resumed", "fresh")
    ]
    todo[0].result.mkdir()  # there is something to resume
    for job in todo:
        before = dict(cpu_seconds=100.0, peak_mib=1.0, wall_seconds=200.0)
        jobs.usage_path(job.log).write_text(json.dumps(before))
    jobs.run(todo, 2)
    for job, earlier in zip(todo, (100, 0), strict=True):
        used = json.loads((tmp_path / f"{job.name}_0.5m.usage.json").read_text())
        seconds, mib = json.loads(job.log.read_text())
        assert used["cpu_seconds"] == pytest.approx(earlier + seconds, abs=0.1)
        assert used["peak_mib"] == pytest.approx(mib, rel=0.05)
        assert used["wall_seconds"] >= 2 * earlier + 0.3


def test_jobs_run_together(tmp_path, started):
    data = manifest(tmp_path, ["x", "x", "y", "y"], [1, 1, 2, 2])
    overrides = [
        "--config.supervised.data.source=manifest",
        f"--config.supervised.data.path={data.path}",
        "--config.supervised.model.name=small_cnn",  # quick to check
        "--config.supervised.model.encoder={}",
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
