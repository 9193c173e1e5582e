"""The fair table's script: what it runs, what it reads, and what it makes of it."""

import csv
import itertools
import json
import re

import matplotlib.image
import numpy as np
import pytest
from family import config_of

from launch.benchmarks import ssl, ssl_halving, ssl_plot, ssl_pretraining, ssl_runs, ssl_table
from launch.benchmarks.ssl_table import Cell, Mean
from sacjax import config as config_lib
from sacjax.errors import UserError

SIMCLR = ssl_runs.Pretraining("fsdd", "simclr", "resnet", "speech", 5.0)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path):
    """A folder of results: an encoder fine-tuned and probed, the same from scratch."""
    encoder = SIMCLR.workdir(tmp_path)
    for fold, draw, accuracy in ((4, 0, 0.7), (4, 1, 0.8), (5, 0, 0.6), (5, 1, 0.5), (1, 0, 0.1)):
        write(
            encoder / "fsdd_finetune_10" / f"fold{fold}_draw{draw}" / "results.json",
            {"finetune": {"test/accuracy": accuracy}},
        )
        write(
            tmp_path / "fsdd_scratch_gru_10" / f"fold{fold}_draw{draw}" / "results.json",
            {"scratch": {"test/accuracy": accuracy - 0.1}},
        )
    table = {"knn_accuracy": 0.5, "linear_accuracy": 0.6, "few_shot_accuracy": {"10": [0.3, 0.5]}}
    probe = {"trained": table, "random": table | {"knn_accuracy": 0.2}}
    for fold, accuracy in ((4, 0.25), (5, 0.35)):
        path = tmp_path / "none" / "logmel_none_0min" / f"fsdd_probe_fold{fold}.json"
        write(path, {"trained": table | {"knn_accuracy": accuracy}})
    for fold in (1, 4, 5):
        write(encoder / f"fsdd_probe_fold{fold}.json", probe)
    return tmp_path


def means_of(runs):
    return ssl_table.summarize(ssl_table.read_results(runs))


def test_the_table_has_means_over_the_folds_that_were_not_chosen_on(runs):
    (runs / "speech" / "simclr_resnet_5min" / "fsdd_probe_fold4.usage.json").write_text("{}")
    means = means_of(runs)
    cells = {(cell.method, cell.protocol, cell.labels): m for cell, m in means.items()}
    tuned = cells["simclr", "finetune", "10"]
    expected = np.array([70, 80, 60, 50])  # fold 1 is a development fold
    assert tuned.mean == pytest.approx(expected.mean())
    assert tuned.std == pytest.approx(expected.std(ddof=1))
    assert (tuned.folds, tuned.draws, tuned.runs) == (2, 2, 4)
    assert Cell("fsdd", "finetune", "10", "simclr", "resnet", "speech", "5") in means
    for method in ("scratch", "supervised"):
        assert cells[method, "finetune", "10"].mean == pytest.approx(55)
    assert cells["simclr", "knn", "all"].mean == 50
    assert cells["untrained", "knn", "all"].mean == 20
    assert means[Cell("fsdd", "knn", "all", "logmel", "none", "none", "0")].mean == 30
    assert cells["simclr", "linear", "10"].mean == pytest.approx(40)


def test_untrained_encoders_are_of_several_seeds(runs):
    encoder = SIMCLR.workdir(runs)
    for seed, accuracy in ((1, 0.3), (2, 0.4)):
        table = {"knn_accuracy": accuracy, "linear_accuracy": 0.6}
        table["few_shot_accuracy"] = {"10": [0.1, 0.2]}
        probe = {"trained": table | {"knn_accuracy": 0.9}, "random": table}
        write(encoder / f"fsdd_probe_fold4_seed{seed}.json", probe)
    cells = {(cell.method, cell.protocol, cell.labels): m for cell, m in means_of(runs).items()}
    knn = cells["untrained", "knn", "all"]
    assert knn.mean == pytest.approx(np.mean([20, 20, 30, 40]))  # fold 5, and fold 4 three times
    assert (knn.folds, knn.draws) == (2, 3)
    assert cells["untrained", "linear", "10"].draws == 6
    assert cells["simclr", "knn", "all"].mean == 50
    kinds = [SIMCLR, SIMCLR._replace(method="cola"), SIMCLR._replace(method="apc", encoder="gru")]
    todo = ssl_runs.untrained_jobs("fsdd", kinds, (4, 5), 2, 3, runs, {})
    found = {(job.result.parent.name, job.result.stem) for job in todo}
    folds = {("simclr_resnet_5min", f"fsdd_probe_fold5_seed{k}") for k in (1, 2)}
    assert found == folds | {
        ("apc_gru_5min", f"fsdd_probe_fold{f}_seed{k}") for f in (4, 5) for k in (1, 2)
    }
    assert todo[0].command[-2:] == ["--seed", "1"] and "--random" in todo[0].command


def cell(method, encoder="resnet", protocol="finetune", labels="10", budget="5", dataset="fsdd"):
    corpus = "none" if method in ssl_table.BASELINES else "speech"
    return Cell(dataset, protocol, labels, method, encoder, corpus, budget)


def mean(value, runs=9):
    return Mean(value, 1.0, 3, runs // 3, runs)


def test_the_best_is_bold_and_what_misses_runs_is_partial():
    means = {
        cell("apc", "gru"): mean(70.0),
        cell("apc", "gru", "linear", "all"): Mean(55.0, None, 3, 1, 3),
        cell("simclr"): mean(72.0),
        cell("simclr", protocol="linear", labels="all"): Mean(60.0, None, 2, 1, 2),
        cell("cola"): mean(90.0, 6),
        cell("eat", "patches", "linear", "all"): Mean(50.0, None, 3, 1, 3),
        cell("untrained", protocol="linear", labels="all", budget="0"): Mean(9.0, None, 3, 1, 3),
        cell("scratch", budget="0"): mean(66.0),
        cell("supervised", budget="0"): mean(66.0),
    }
    rows = [line.strip("| ").split(" | ") for line in ssl_table.show(means, "fsdd").splitlines()]
    assert rows[0][4:] == ["fine-tuned, 10 labels", "linear probe, all labels"]
    names = [row[0] for row in rows[2:]]
    assert names == ["supervised", "scratch", "untrained", "cola", "simclr", "apc", "eat"]
    cells = dict(zip(names, (row[4:] for row in rows[2:]), strict=True))
    assert cells["cola"][0] == "90.0 ± 1.0 (partial: 6 of 9)"
    assert cells["simclr"] == ["**72.0** ± 1.0", "60.0 (partial: 2 of 3)"]
    assert cells["apc"] == ["70.0 ± 1.0", "**55.0**"]


def test_minutes_are_read_between_budgets_on_a_logarithmic_axis():
    reach = ssl_table.minutes_to_reach
    assert reach({5: 40, 20: 60}, 50) == "10"  # halfway: the geometric mean of 5 and 20
    assert reach({20: 60, 60: 90, 5: 40}, 70) == f"{20 * 3 ** (1 / 3):.3g}"
    assert reach({5: 40, 20: 60}, 40) == "≤ 5"
    assert reach({5: 40, 20: 60, 60: 59}, 61) == "> 60"
    assert reach({5: 40, 20: 60, 60: 59}, 59.9) == "19.9"  # by its first crossing
    means = {}
    for method, budget, accuracy in (
        ("wav2vec2", 5, 30.0),
        ("wav2vec2", 60, 50.0),
        ("simclr", 5, 40.0),
        ("simclr", 20, 60.0),
        ("cola", 5, 40.0),
    ):
        probe = cell(method, protocol="linear", labels="all", budget=str(budget))
        means[probe] = Mean(accuracy, None, 3, 1, 3)
    lines = ssl_table.show_minutes(means).splitlines()
    assert "FSDD, a speaker left out (50.0 % after 60)" in lines[0]
    assert [line.strip("| ").split(" | ")[2] for line in lines[2:]] == ["> 5", "10", "60"]


def pretrained(workdir, updates, cpu_seconds, peak):
    """Leaves what a pretraining of two tensors does."""
    import orbax.checkpoint as ocp

    stage = {"train": {"batch_size": 36}, "data": {"seconds": 2.0}}
    write(workdir / "config.json", {"pretrain": stage})
    write(workdir / "results.json", {"pretrain": {}})
    lines = [{"stage": "pretrain", "step": step} for step in (updates // 2, updates)]
    (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    usage = dict(cpu_seconds=cpu_seconds, peak_mib=peak, wall_seconds=2 * cpu_seconds)
    write(workdir.with_name(workdir.name + ".usage.json"), usage)
    tree = {"params.encoder.w": np.zeros([3, 4]), "params.head.w": np.zeros(9)}
    tree["buffers.encoder.mean"] = np.zeros(5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(workdir / "checkpoints" / "pretrain" / str(updates) / "model", tree)


def test_what_a_pretraining_heard_and_cost_is_a_row(runs):
    pretrained(SIMCLR.workdir(runs), 500, 7200.0, 900.0)
    for fold, peak in ((1, 700.0), (2, 800.0)):
        workdir = runs / f"esc10_train_fold{fold}" / "apc_gru_20min"
        pretrained(workdir, 100 * fold, 3600.0, peak)
    rows = ssl_pretraining.rows_of(runs, means_of(runs))
    apc, simclr = (dict(zip(ssl_pretraining.COLUMNS, row, strict=True)) for row in rows)
    # 500 updates of 36 clips of 2 s are 10 hours, in 2 hours of CPU time and 4 of the clock.
    assert simclr == dict(
        method="simclr", encoder="resnet", corpus="speech", budget_minutes="5",
        updates="500", clips_seen="18000", audio_hours_seen="10", cpu_minutes="120",
        audio_hours_per_cpu_hour="5", parameters="12", peak_mib="900", wall_minutes="240",
        fsdd_linear="60.00", ravdess_linear="", esc10_linear="",
    )  # fmt: skip
    assert apc["corpus"] == "esc10" and apc["updates"] == "150" and apc["peak_mib"] == "800"


def test_all_tables_and_the_picture_are_written(runs, capsys):
    pretrained(SIMCLR.workdir(runs), 20, 60.0, 900.0)
    output = runs / "out" / "ssl.csv"
    assert ssl.main(["--only", "--runs", str(runs), "--output", str(output)]) == 0
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == tuple(ssl_table.COLUMNS) and len(rows) == len(means_of(runs))
    row = next(r for r in rows if (r["method"], r["protocol"]) == ("simclr", "finetune"))
    assert (row["mean"], row["std"], row["folds"], row["draws"]) == ("65.00", "12.91", "2", "2")
    table = output.with_suffix(".md").read_text()
    line = "| simclr | resnet | speech | 5 | **65.0** ± 12.9 (partial: 4 of 9) |"
    assert line in table and table in capsys.readouterr().out
    with open(output.with_name("ssl_pretraining.csv"), newline="") as file:
        assert [r["parameters"] for r in csv.DictReader(file)] == ["12"]
    assert matplotlib.image.imread(output.with_suffix(".png")).std() > 0
    lines = output.with_name("ssl_runs.csv").read_text().splitlines()
    assert "fsdd,finetune,10,simclr,resnet,speech,5,5,1,50.00" in lines
    nothing = ["--only", "--runs", str(runs / "nothing")]
    assert ssl.main([*nothing, "--output", str(runs / "none" / "ssl.csv")]) == 0


def test_names_in_the_picture_are_apart():
    np.testing.assert_allclose(ssl_plot.spread([10, 50, 51], 5), [10, 48, 53])
    np.testing.assert_allclose(ssl_plot.spread([1, 1, 1], 1), [0, 1, 2])
    assert len(ssl_plot.spread([], 1)) == 0


def test_the_better_go_on():
    scores = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 2.0, "e": 0.0}
    assert ssl_halving.halve(scores, 2) == ["b", "c"]  # c and d are equal: by name
    first, second, last = ssl_halving.SCHEDULE
    assert [rung.budget for rung in ssl_halving.SCHEDULE] == [5, 20, 60]
    assert list(ssl_halving.choose(first, scores, list(scores))) == ["b", "c", "d"]  # 3 of 5
    assert list(ssl_halving.choose(second, scores, list(scores))) == ["b", "c", "d"]
    assert list(ssl_halving.choose(second, scores, [*scores, "wav2vec2"]))[3:] == ["wav2vec2"]
    assert not ssl_halving.choose(last, scores, list(scores))


def test_halving_asks_development_folds_alone_and_resumes(tmp_path, monkeypatch, capsys):
    scores = dict(apc=0.9, simclr=0.8, cola=0.7, byol_a=0.6, wav2vec2=0.5, eat=0.4)
    started, asked = [], []

    def run(todo, count):
        for job in todo:
            started.append(str(job.result.relative_to(tmp_path)))
            method = re.search(r"speech/([a-z0-9_]+?)_[a-z]+_\d+min", started[-1])[1]
            if job.result.suffix:
                asked.append(" ".join(job.command))
                write(job.result, {"accuracy": [[scores[method] - 0.1], [scores[method] + 0.1]]})
            else:
                write(job.result / "results.json", {})

    monkeypatch.setattr(ssl.jobs, "run", run)
    monkeypatch.setattr(ssl_runs, "steps_of", lambda pretraining, runs: 20)
    monkeypatch.setattr(ssl.ssl_table, "write", lambda runs, output: None)
    output = tmp_path / "ssl.csv"
    args = ["--halving", "--methods", *scores, "--runs", str(tmp_path), "--output", str(output)]
    assert ssl.main([*args, "--only"]) == 0
    assert {fold for text in asked for fold in re.findall(r"fold=(\d)", text)} == {"1", "2", "3"}
    told = capsys.readouterr().out
    assert "apc: 90.0 %; goes on: among the best 3 of 6" in told
    assert "wav2vec2: left at an earlier budget; goes on: which the others" in told
    with open(tmp_path / "ssl_halving.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    at = {k: [r["method"] for r in rows if r["budget_minutes"] == k] for k in ("5", "20", "60")}
    best = ["apc", "simclr", "cola"]
    assert at == {"5": list(scores), "20": best, "60": [*best, "wav2vec2"]}
    assert rows[1]["development_score"] == "80.00" and rows[1]["goes_on"] == "yes"
    started.clear()
    assert ssl.main([*args, "--only"]) == 0 and not started
    ran = []
    monkeypatch.setattr(ssl, "run_task", lambda task, methods, budget, shots, args: ran.append(
        (task, len(methods), budget, list(shots))
    ))  # fmt: skip
    assert ssl.main([*args, "--only", "fsdd", "esc10"]) == 0
    assert ran == [
        ("fsdd", 6, 5, [10]), ("esc10", 6, 5, [4, 0]), ("fsdd", 3, 20, [10]),
        ("esc10", 3, 20, [4, 0]), ("fsdd", 4, 60, [10, 5, 1]),
    ]  # fmt: skip


def test_several_budgets_run_in_one_call(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(ssl, "run_task", lambda *args: ran.append(args[:3]))
    monkeypatch.setattr(ssl.ssl_table, "write", lambda runs, output: None)
    args = ["--only", "fsdd", "--methods", "apc", "--budget", "5", "20", "--runs", str(tmp_path)]
    assert ssl.main(args) == 0
    assert ran == [
        ("fsdd", ["apc"], 5),
        ("fsdd", ["apc"], 20),
    ]


def test_what_is_there_is_not_run_again(runs):
    jobs = ssl_runs.finetuning_jobs("fsdd", SIMCLR, (4, 5, 6), 10, 2, runs, {})
    missing = [job.result.name for job in jobs]
    assert missing == ["fold6_draw0", "fold6_draw1"]
    assert not ssl_runs.scratch_jobs("fsdd", "gru", (4, 5), 10, 2, runs, {})
    assert not ssl_runs.probing_jobs("fsdd", SIMCLR, (4, 5), 2, runs, {})


def test_what_the_table_keeps_is_not_run_again_and_stays(runs, tmp_path_factory, capsys):
    output = tmp_path_factory.mktemp("tables") / "ssl.csv"
    ssl_table.write(runs, output)
    kept = ssl_table.read_kept(ssl_table.runs_path(output))
    elsewhere = output.parent / "another machine"
    assert not ssl_runs.finetuning_jobs("fsdd", SIMCLR, (4, 5), 10, 2, elsewhere, kept)
    assert not ssl_runs.scratch_jobs("fsdd", "gru", (4, 5), 10, 2, elsewhere, kept)
    assert not ssl_runs.probing_jobs("fsdd", SIMCLR, (4, 5), 2, elsewhere, kept)
    assert len(ssl_runs.probing_jobs("fsdd", SIMCLR, (4, 6), 2, elsewhere, kept)) == 1
    assert len(ssl_runs.finetuning_jobs("fsdd", SIMCLR, (4, 5), 5, 2, elsewhere, kept)) == 4
    before = output.read_text()
    ssl_table.write(elsewhere, output)
    assert output.read_text() == before
    again = elsewhere / "fsdd_scratch_gru_10" / "fold4_draw0" / "results.json"
    write(again, {"scratch": {"test/accuracy": 1.0}})
    ssl_table.write(elsewhere, output)
    cells = ssl_table.read_kept(ssl_table.runs_path(output))
    scratch = cells[Cell("fsdd", "finetune", "10", "scratch", "gru", "none", "0")]
    assert scratch[4, 0] == 1.0 and scratch[4, 1] == pytest.approx(0.7)


def test_a_task_runs_all_that_the_table_lacks(tmp_path, monkeypatch):
    monkeypatch.chdir(ssl.Path(ssl.__file__).parents[2])
    waves = []
    monkeypatch.setattr(ssl.jobs, "run", lambda todo, count: waves.append(list(todo)))
    monkeypatch.setattr(ssl_runs, "steps_of", lambda pretraining, runs: 20)
    monkeypatch.setattr(ssl.ssl_table, "write", lambda runs, output: None)
    output = ["--runs", str(tmp_path), "--output", str(tmp_path / "ssl.csv")]
    args = ["--only", "ravdess", "--methods", "apc", "--draws", "1", "--seeds", "2", *output]
    assert ssl.main(args) == 0
    for job in itertools.chain(*waves):
        config_lib.load(job.command[job.command.index("--config") + 1])
    # Five folds: log-mel, and two encoders with 10 and all labels from scratch; one pretraining of
    # speech for all folds; a probe of it and of a second untrained network; 10 and all labels.
    assert [len(wave) for wave in waves] == [5 + 2 * 2 * 5, 1, 5 + 5, 2 * 5]
    runs = list(ssl_table.RUN_COLUMNS)
    rows = [
        ["ravdess", "knn", "all", method, encoder, corpus, budget, fold, seed, 50.0]
        for method, encoder, corpus, budget in (
            ("apc", "gru", "speech", "5"), ("untrained", "gru", "none", "0")
        )
        for fold in range(1, 6)
        for seed in range(2)
    ]  # fmt: skip
    for labels in ("10", "all"):
        named = ["ravdess", "finetune", labels, "apc", "gru", "speech", "5"]
        rows += [[*named, fold, 0, 50.0] for fold in range(1, 6)]
    ssl_table.write_csv(tmp_path / "ssl_runs.csv", runs, rows)
    waves.clear()
    assert ssl.main(args) == 0  # nothing starts from the encoder any more
    assert [len(wave) for wave in waves] == [25, 0, 0, 0]


def test_a_table_that_is_none_is_refused(tmp_path):
    (tmp_path / "ssl_runs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="is no table of runs"):
        ssl_table.read_kept(tmp_path / "ssl_runs.csv")


def test_a_budget_is_updates_by_their_cost(runs):
    write(runs / "costs.json", {"simclr_resnet_speech": 0.5})
    assert ssl_runs.steps_of(SIMCLR, runs) == 600
    (job,) = ssl_runs.pretraining_job(SIMCLR, runs)
    assert "steps=600" in " ".join(job.command)


@pytest.mark.parametrize("task", list(ssl.TASKS))
def test_every_run_is_a_config(task, monkeypatch, runs):
    monkeypatch.chdir(ssl.Path(ssl.__file__).parents[2])
    nobody = ssl_runs.Pretraining(task, "simclr", "resnet", "train", 5.0, fold=2)
    config = config_lib.load(nobody.spec(30, runs))
    assert config.stages == ("pretrain",) and config.pretrain.train.steps == 30
    spec = ssl_runs.labelled("scratch", task, nobody, 2, 4, 1)
    config = config_lib.load(spec)
    assert config.scratch.data.labels_per_class == 4 and config.scratch.data.fold == 2
    assert config.seed == 1 and config.scratch.data.split_seed == 1


def test_an_unknown_method_is_refused():
    with pytest.raises(UserError, match="simclear is none of .*simclr"):
        ssl.natural_encoder("simclear")


def test_speech_and_training_speakers_are_listed_without_the_test_speaker(real_data, tmp_path):
    path = ssl_runs.manifest("fsdd", 4, tmp_path)
    names = path.read_text().splitlines()[1:]
    digits = [name for name in names if "/fsdd/" in name]
    speakers = {name.rpartition("/")[2].split("_")[1] for name in digits}
    assert len(digits) == 2500 and len(speakers) == 5 and "nicolas" not in speakers
    assert len(names) - len(digits) == 8170


def test_the_cost_of_an_update_is_measured_on_real_batches(monkeypatch):
    config = config_of("simclr")
    monkeypatch.setattr(config_lib, "load", lambda spec: config)
    monkeypatch.setattr(ssl_runs, "WARM", 1)
    assert 0 < ssl_runs.measure("configs/any.py", updates=1) < 600
