"""`sacjax benchmark` on tiny tasks, against `sacjax probe`'s own results of each split."""

import csv
import dataclasses
import json
import re
import types

import numpy as np
import pytest

from sacjax import inference
from sacjax.commands import benchmark as command
from sacjax.errors import UserError
from sacjax.inference import benchmark, comparison, tasks

SOUNDS = dict(
    source="synthetic", examples=80, holdout=(0.5, 0.0, 0.5), sample_rate=8000, seconds=0.5
)
FLAGS = ["--shots", 1, 2, "--draws", 2, "--neighbours", 3]
OPTIONS = dict(shots=(1, 2), draws=2, neighbours=3, seed=0)


@pytest.fixture
def two_tasks(folder_of_sounds, monkeypatch):
    """Tones in a folder, of whose ten folds two are tested, and one draw of synthesized sounds."""
    tones = tasks.Task(
        "tones",
        "ten folds by the last digit",
        dict(source="folder", fold_pattern=r"(\d)\.wav"),
        path=str(folder_of_sounds),
        splits=tasks.folds(2),
        metric="balanced_accuracy",
    )
    both = {"tones": tones, "sounds": tasks.Task("sounds", "one draw", SOUNDS)}
    monkeypatch.setattr(tasks, "TASKS", both)
    return both


def run(capsys, *args):
    assert command.main(list(map(str, args))) == 0
    return capsys.readouterr()


def wanted(checkpoint, task, random=False):
    """Each split's scores by `comparison.probe`, which embeds for each split anew."""
    found = []
    for data in task.configs():
        clips = comparison.clips_of(data)
        models = [("it", inference.load(checkpoint))]
        scores, _, _ = comparison.probe(models, clips, random=random, **OPTIONS)
        found.append(scores["it"].scores["random" if random else "trained"])
    return found


def test_a_row_a_task_and_a_column_an_encoder(networks, two_tasks, tmp_path, capsys, monkeypatch):
    one = networks["small_cnn"]
    output = tmp_path / "deep" / "table.md"
    out, err = run(capsys, "--checkpoint", one, *FLAGS, "--random", "--output", output)
    sounds = wanted(one, two_tasks["sounds"]), wanted(one, two_tasks["sounds"], random=True)
    cells = [f"{100 * scores['linear_accuracy']:.1f}" for (scores,) in sounds]
    text = output.read_text()
    assert f"| linear probe | sounds | accuracy | {' | '.join(cells)} |" in text
    few = [f"{100 * np.mean(scores['few_shot_accuracy']['2']):.1f}" for (scores,) in sounds]
    assert f"| 2 labels a class | sounds | accuracy | {' | '.join(few)} |" in text
    head = re.split(r"  +", out.splitlines()[0])
    assert head == ["probe", "task", "measure", "small_cnn", "small_cnn, untrained"]
    assert "sounds, small_cnn, untrained: linear probe" in err
    # Again, with another encoder: of the first nothing is computed, and both stand in the table.
    asked = []
    real = benchmark.scores_of

    def counted(name, model, prepared, settings, bad):
        asked.append((name, prepared.name))
        return real(name, model, prepared, settings, bad)

    monkeypatch.setattr(benchmark, "scores_of", counted)
    other = networks["wav2vec2"]
    table = output.with_suffix(".csv")
    run(capsys, "--checkpoint", one, other, *FLAGS, "--output", table)
    assert asked == [("wav2vec2", name) for name in two_tasks]
    rows = {(row["probe"], row["task"]): row for row in csv.DictReader(table.open())}
    assert len(rows) == 2 * 4
    for encoder, path in (("small_cnn", one), ("wav2vec2", other)):
        tones = wanted_tones(path, two_tasks["tones"])
        row = rows["linear probe", "tones"]
        assert float(row[encoder]) == pytest.approx(np.mean(tones), abs=1e-6)
        deviation = abs(tones[0] - tones[1]) / np.sqrt(2)
        assert float(row[f"{encoder}, deviation"]) == pytest.approx(deviation, abs=1e-6)
    assert rows["linear probe", "sounds"]["small_cnn, deviation"] == ""
    assert rows["linear probe", "sounds"]["measure"] == "accuracy"
    assert len(json.loads(output.with_suffix(".json").read_text())["benchmark"]) == 3 * 2
    # Other settings are other results.
    asked.clear()
    run(capsys, "--checkpoint", one, *FLAGS[:-1], 1, "--output", table, "--tasks", "sounds")
    assert asked == [("small_cnn", "sounds")]


def wanted_tones(checkpoint, task):
    """The linear probe's balanced accuracy on each fold: both classes are as frequent there."""
    return [scores["linear_accuracy"] for scores in wanted(checkpoint, task)]


def test_a_quick_look_has_few_clips_of_each_class(two_tasks, monkeypatch):
    monkeypatch.setattr(benchmark, "QUICK_TRAIN", 3)
    monkeypatch.setattr(benchmark, "QUICK_TEST", 1)
    monkeypatch.setattr(benchmark, "QUICK_SPLITS", 1)
    whole, few = (
        benchmark.prepare("tones", two_tasks["tones"], benchmark.Settings(quick=quick))
        for quick in (False, True)
    )
    assert len(whole.splits) == 2 and len(few.splits) == 1 and whole.known != few.known
    (clips,) = few.splits
    assert np.bincount(clips.labels[clips.train]).tolist() == [3, 3]
    assert np.bincount(clips.labels[clips.test]).tolist() == [1, 1]
    assert set(clips.train) < set(whole.splits[0].train)
    assert set(clips.test) < set(whole.splits[0].test)


def test_clips_left_out_of_stored_scores_are_told_again(two_tasks, monkeypatch):
    def scores(name, model, prepared, settings, bad):
        bad["4.wav"] = "no samples"
        return [dict(linear_accuracy=0.5)]

    monkeypatch.setattr(benchmark, "scores_of", scores)
    monkeypatch.setattr(benchmark, "fingerprint", lambda model: "f")
    model = types.SimpleNamespace(embedder=lambda *args, **kwargs: None)
    settings, store = benchmark.Settings(), benchmark.Store(None)
    task = benchmark.prepare("tones", two_tasks["tones"], settings)
    told = []
    for _ in range(2):
        benchmark.run({"w": lambda: {"net": model}}, [task], settings, store, told.append)
    skipped = "tones, net: skipped 4.wav: no samples"
    assert [line for line in told if "skipped" in line] == [skipped] * 2
    assert len(told) == 3  # scored once


def test_two_processes_that_write_one_file_keep_each_others_scores(tmp_path):
    path = tmp_path / "table.json"
    one, other = benchmark.Store(path), benchmark.Store(path)
    for store, key in ((one, "a"), (other, "b"), (one, "c")):
        store.put(key, {"task": key})
    assert benchmark.Store(path).entries == {key: {"task": key} for key in "abc"}
    assert set(one.entries) == set("abc")  # and what the other has computed is known


def test_data_that_are_not_whole_leave_the_other_tasks(
    networks, two_tasks, tmp_path, capsys, monkeypatch
):
    (tmp_path / "empty").mkdir()
    broken = dataclasses.replace(two_tasks["tones"], path=str(tmp_path / "empty"))
    found = {"tones": broken, "late": two_tasks["sounds"], "sounds": two_tasks["sounds"]}
    monkeypatch.setattr(tasks, "TASKS", found)
    scores = dict(linear_accuracy=0.5, knn_accuracy=0.25, few_shot_accuracy={})

    def scores_of(name, model, prepared, *_):
        if prepared.name == "late":
            raise UserError("the test part has no labelled clip")
        return [scores]

    monkeypatch.setattr(benchmark, "scores_of", scores_of)
    output = tmp_path / "t.csv"
    _, err = run(capsys, "--checkpoint", networks["small_cnn"], *FLAGS, "--output", output)
    assert "left out, task tones: data.path: no sound files that can be read" in err
    assert "late, small_cnn: left out: the test part has no labelled clip" in err
    assert [row["task"] for row in csv.DictReader(output.open())] == ["sounds"] * 2
    assert len(json.loads(output.with_suffix(".json").read_text())["benchmark"]) == 1
    flags = ["--checkpoint", str(networks["small_cnn"]), *map(str, FLAGS), "--tasks"]
    assert command.main([*flags, "late"]) == 1
    with pytest.raises(UserError, match="none of them has data here that can be probed on"):
        command.main([*flags, "tones"])


def test_scores_belong_to_the_weights(networks):
    model = inference.load(networks["small_cnn"])
    assert benchmark.fingerprint(model) == benchmark.fingerprint(
        inference.load(networks["small_cnn"])
    )
    assert benchmark.fingerprint(model) != benchmark.fingerprint(inference.model.untrained(model))
    longer = inference.load(networks["small_cnn"])
    longer.config.supervised.data.seconds = 1.0
    assert benchmark.fingerprint(model) != benchmark.fingerprint(longer)


def test_mistakes(networks, two_tasks, tmp_path, monkeypatch):
    start = ["--checkpoint", str(networks["small_cnn"])]
    with pytest.raises(UserError, match=r"--output t.txt: give FILE.md or FILE.csv"):
        command.main([*start, "--output", "t.txt"])
    with pytest.raises(UserError, match="must be 1 or more"):
        command.main([*start, "--draws", "0"])
    with pytest.raises(UserError, match="--seed is -1: it must be from 0"):
        command.main([*start, "--seed", "-1"])
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(UserError, match="t.json: holds no scores of a benchmark"):
        command.main([*start, "--output", f"{tmp_path}/t.md"])
    gone = {"gone": tasks.Task("x", "y", dict(source="folder"), path="nowhere")}
    monkeypatch.setattr(tasks, "TASKS", gone)
    with pytest.raises(UserError, match="none of them has data here"):
        command.main(start)
