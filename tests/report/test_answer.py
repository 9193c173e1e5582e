"""What leads a report: its figures are those of the table of predictions, counted here."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from sacjax import config as config_lib
from sacjax import report
from sacjax.data.recordings import Recordings
from sacjax.evaluators.predictions import write_predictions
from sacjax.evaluators.scores import scores
from sacjax.report.answer import Score, comparable

NAMES = ("cat", "dog", "<b>rain", "sea|wind")
SIZE = 240


class Page(HTMLParser):
    """The lead, the notes, and the folded sections: {id: (summary, text)}."""

    def __init__(self, text):
        super().__init__()
        self.lead, self.notes, self.folds, self.order = "", [], {}, []
        self.inside, self.images, self.summary, self.fold, self.open = [], 0, "", "", 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "img" and not self.open:
            self.images += 1
        if tag not in ("img", "meta", "br"):
            self.inside.append(tag)
        if tag == "li":
            self.notes.append("")
        if tag == "details":
            assert "open" not in attributes
            self.open, self.summary = self.open + 1, ""
        if tag == "div" and self.open and "id" in attributes:
            self.fold = attributes["id"]
            self.order.append(self.fold)
            self.folds[self.fold] = (self.summary, "")

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag
        self.open -= tag == "details"

    def handle_data(self, data):
        if "summary" in self.inside:
            self.summary += data
        elif self.open:
            summary, text = self.folds[self.fold]
            self.folds[self.fold] = (summary, text + data)
        elif self.inside[-1:] == ["p"]:
            self.lead += data
        elif self.inside[-1:] == ["li"]:
            self.notes[-1] += data


def open_clip(index):
    raise OSError("no sound here")


def clips(labels):
    return Recordings([f"{k}.wav" for k in range(len(labels))], labels, NAMES, open_clip)


def labels_of(size=SIZE):
    """Single labels, the first class twice as often; the last clip has none."""
    return [((NAMES[k % 5 % 4],) if k < size - 1 else None) for k in range(size)]


def config_of(**starts):
    """Stages that start from what is told; a name with 'pretrain' learns without labels."""
    stages = {name: config_lib.stage() for name in starts}
    config = config_lib.default(**stages)
    for name, start in starts.items():
        config[name].init_from, config[name].eval.mistakes = start, 2
        config[name].eval.splits = ("validation", "test")
        if "pretrain" in name:
            config[name].objective.name = "simclr"
    return config


def predicted(recordings, wrong, several=False, seed=0):
    """Rows of predictions: the clips of `wrong` are taken for the next class."""
    rng = np.random.default_rng(seed)
    rows = []
    for k, labels in enumerate(recordings.labels):
        if several:
            truth = np.array([name in (labels or ()) for name in NAMES], float)
            p = np.clip(truth * 0.5 + rng.normal(0.3, 0.1 + 0.3 * (k in wrong), 4), 0.01, 0.99)
        else:
            p = (
                0.1
                + 0.6 * np.eye(4)[(NAMES.index(labels[0] if labels else "cat") + (k in wrong)) % 4]
            )
        row = dict(file=recordings.names[k], split="test", label="|".join(labels or ()))
        rows.append(row | dict(probabilities=p, index=k))
    return rows


def results_of(rows, recordings, several=False):
    known = [row for row in rows if recordings.labels[row["index"]] is not None]
    p = np.stack([row["probabilities"] for row in known])
    labels = [recordings.labels[row["index"]] for row in known]
    truth = np.array([[name in own for name in NAMES] for own in labels], int)
    found = scores(p, truth if several else truth.argmax(1), NAMES, bootstrap=200)
    return {f"test/{name}": value for name, value in found.items()}


def write(workdir, config, stage, results, rows, recordings, several=False):
    """Writes a report as `stages` does; returns it as a page."""
    workdir.mkdir(exist_ok=True)
    if rows:
        own = report.predictions_path(workdir, stage)
        own.parent.mkdir(exist_ok=True)
        for path in (own, workdir / "predictions.csv"):
            write_predictions(path, rows, NAMES, multi_label=several)
    report.write(workdir, stage, config, results, rows, recordings)
    return Page((workdir / "report.html").read_text(encoding="utf-8"))


def counted(path):
    """Returns (right [clips], n) of a table of predictions, counted by its columns alone."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"]]
    return np.array([row["label"] == row["prediction"] for row in rows]), len(rows)


def two_stages(tmp_path, wrong_scratch, wrong_finetune):
    recordings = clips(labels_of())
    config = config_of(pretrain="", scratch="", finetune="pretrain")
    made = {
        "scratch": predicted(recordings, wrong_scratch),
        "finetune": predicted(recordings, wrong_finetune),
    }
    results = {"pretrain": {"test/loss": 1.5, "test/view_accuracy": 0.61, "test/knn_accuracy": 0.4}}
    for name, rows in made.items():
        results[name] = results_of(rows, recordings)
        page = write(tmp_path / "run", config, name, results, rows, recordings)
    return page, results, tmp_path / "run" / "predictions"


def test_the_lead_says_what_pretraining_gained_and_how_sure_that_is(tmp_path):
    page, results, folder = two_stages(tmp_path, set(range(0, 90)), set(range(50, 105)))
    (a, n), (b, _) = counted(folder / "finetune.csv"), counted(folder / "scratch.csv")
    assert n == SIZE - 1  # one label is not known
    ends = [100 * results[s][f"test/accuracy_{e}"] for s in results if s != "pretrain"
            for e in ("low", "high")]  # fmt: skip
    assert page.lead.startswith(
        f"With pretraining {100 * a.mean():.1f} % of {n} test clips are right (95 % interval "
        f"{ends[2]:.1f} to {ends[3]:.1f}), from scratch {100 * b.mean():.1f} % ({ends[0]:.1f} to "
        f"{ends[1]:.1f}): +{100 * (a.mean() - b.mean()):.1f} points (95 % interval "
    )
    assert page.lead.endswith(", more than chance would give.")
    # The paired interval, against the normal one of a mean difference.
    low, high = map(
        float, re.search(r"points \(95 % interval \+(\S+) to \+(\S+)\)", page.lead).groups()
    )
    half = 196 * (a.astype(int) - b).std() / n**0.5
    middle = 100 * (a.mean() - b.mean())
    assert [low, high] == pytest.approx([middle - half, middle + half], abs=0.7)
    assert stats.binomtest(50, 65).pvalue < 0.001
    alone = "50 of 239 clips are right in finetune alone, 15 in scratch alone"
    chance = "Chance: 25.0 % (one of 4 classes); always naming the commonest, cat, 39.7 %."
    assert f"{alone} (McNemar's exact test: p < 0.001)." in page.notes and chance in page.notes
    healthy = "pretrain (simclr) looks healthy; test clips: loss 1.500"
    assert any(note.startswith(healthy) for note in page.notes)
    assert page.images == 1 and (tmp_path / "run" / "plots" / "answer.png").stat().st_size > 1000


def test_a_gain_that_chance_could_give_is_not_called_more(tmp_path):
    page, *_ = two_stages(tmp_path, set(range(0, 40)), set(range(2, 40)) | {100})
    assert "+0.4 points" in page.lead and page.lead.endswith(", which chance could give too.")


def test_a_loss_is_told_as_one(tmp_path):
    page, *_ = two_stages(tmp_path, set(), set(range(60)))
    assert ": −25.1 points (95 % interval −" in page.lead
    assert page.lead.endswith(", a loss beyond what chance gives.")


def test_three_alike_clips_prove_nothing_whatever_the_bootstrap_says(tmp_path):
    """Four clips of one kind: their interval leaves 0 out, the exact test does not (p = 0.125)."""
    page, *_ = two_stages(tmp_path, set(range(4)), set())
    low = float(re.search(r"points \(95 % interval \+(\S+) to", page.lead)[1])
    assert low > 0 and page.lead.endswith(", which chance could give too.")


def test_sections_are_folded_in_order_and_nothing_is_lost(tmp_path):
    recordings = clips(labels_of())
    config = config_of(pretrain="", scratch="", finetune="pretrain")
    rows = predicted(recordings, set(range(50)))
    workdir = tmp_path / "run"
    workdir.mkdir()
    log = [dict(stage=s, step=k, **{"train/loss": 3 / k}) for s in ("pretrain", "finetune")
           for k in (1, 2)]  # fmt: skip
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    results = {"scratch": {}, "finetune": results_of(rows, recordings)}
    page = write(workdir, config, "finetune", results, rows, recordings)
    assert page.order == [
        "results-finetune", "classes-finetune", "confusion", "calibration", "pairs", "mistakes",
        "training-pretrain", "training-finetune", "data", "config",
    ]  # fmt: skip
    right, n = counted(workdir / "predictions.csv")
    told = {anchor: summary for anchor, (summary, _) in page.folds.items()}
    assert (
        f"Results of finetune: test accuracy {100 * right.mean():.1f} %" in told["results-finetune"]
    )
    assert "Each class of finetune (test): F1 from" in told["classes-finetune"]
    assert "most often " in told["confusion"]
    assert f"{n - right.sum()} of {n} clips are wrong; the 2 surest" in told["mistakes"]
    assert told["training-pretrain"] == "Training of pretrain: simclr, loss 3 at step 1, 1.5 at 2"
    assert told["data"].startswith("Data of finetune: 240 clips, 4 classes, 1 without a label")
    assert '"seed": 0' in page.folds["config"][1] and "cat9595" in page.folds["data"][1]
    assert "accuracy_low" in page.folds["results-finetune"][1]
    assert "Still to come: pretrain." in page.notes
    text = (workdir / "report.html").read_text()
    assert "prefers-color-scheme: dark" in text and "@media print" in text


@pytest.mark.parametrize("stage", ["supervised", "pretrain"])
def test_a_stage_that_failed_says_so(tmp_path, stage):
    log = dict(stage=stage, step=1, **{"train/loss": 2.0})
    (tmp_path / "metrics.jsonl").write_text(json.dumps(log) + "\n")
    page = write(tmp_path, config_of(**{stage: ""}), stage, {}, [], clips(labels_of()))
    assert page.lead == f"{stage} stopped before it was evaluated."
    assert page.images == 1 and f"training-{stage}" in page.order


def test_a_pretraining_alone_leads_with_what_its_objective_says(tmp_path):
    recordings, config = clips(labels_of()), config_of(pretrain="")
    log = {"stage": "pretrain", "step": 9, "train/loss": 2.0, "train/spread": 0.9}
    path, values = tmp_path / "metrics.jsonl", {"test/loss": 1.5, "test/view_accuracy": 0.61}
    path.write_text(json.dumps(log) + "\n")
    results = {"pretrain": values | {"test/knn_accuracy": 0.4}}
    page = write(tmp_path, config, "pretrain", results, [], recordings)
    assert page.lead == (
        "pretrain (simclr) looks healthy; test clips: loss 1.500, views found 61.0 %, nearest "
        "neighbours name 40.0 % of the labels right (one of 4 classes by chance: 25.0 %)."
    )
    assert page.images == 1 and page.order == [
        "results-pretrain",
        "training-pretrain",
        "data",
        "config",
    ]
    path.write_text(json.dumps(log | {"train/spread": 0.0}) + "\n")
    page = write(tmp_path, config, "pretrain", results, [], recordings)
    assert page.lead.startswith("pretrain (simclr) looks collapsed (spread 0 of 1: all clips ")


def test_one_stage_has_its_figure_alone(tmp_path):
    recordings, config = clips(labels_of()), config_of(supervised="")
    rows = predicted(recordings, set(range(30)))
    values = results_of(rows, recordings)
    page = write(tmp_path, config, "supervised", {"supervised": values}, rows, recordings)
    right, n = counted(tmp_path / "predictions.csv")
    low, high = (100 * values[f"test/accuracy_{end}"] for end in ("low", "high"))
    assert page.lead == (
        f"{100 * right.mean():.1f} % of {n} test clips are right (95 % interval {low:.1f} to "
        f"{high:.1f})."
    )
    bare = {"supervised": {"test/accuracy": 0.5}}
    page = write(tmp_path, config, "supervised", bare, [], recordings)
    assert page.lead == "50.0 % of the test clips are right."


def test_several_stages_are_named_each_with_its_gain(tmp_path):
    recordings = clips(labels_of())
    config = config_of(scratch="", frozen="elsewhere", finetune="elsewhere", again="finetune")
    results = {}
    for name, wrong in (("scratch", 90), ("frozen", 60), ("finetune", 30), ("again", 20)):
        rows = predicted(recordings, set(range(wrong)))
        results[name] = results_of(rows, recordings)
        page = write(tmp_path, config, name, results, rows, recordings)
    assert page.lead.startswith("scratch: 62.3 % of 239 test clips are right (95 % interval ")
    for name, gained in (("frozen", "12.6"), ("finetune", "25.1")):
        assert f"{name} against scratch: +{gained} points (95 % interval +" in page.lead
    assert "; again: 91.6 % (" in page.lead and "again against" not in page.lead


def test_several_labels_lead_with_the_mean_average_precision(tmp_path):
    rng = np.random.default_rng(5)
    labels = [tuple(np.array(NAMES)[rng.random(4) < 0.4]) if k else None for k in range(120)]
    assert () in labels  # a clip that is known to have none
    recordings, config = clips(labels), config_of(scratch="", finetune="elsewhere")
    results, made, truth = {}, {}, None
    for name, wrong in (("scratch", range(120)), ("finetune", range(30))):
        config[name].data.multi_label, config[name].objective.options = True, dict(loss="sigmoid")
        made[name] = predicted(recordings, set(wrong), several=True)
        results[name] = results_of(made[name], recordings, several=True)
        page = write(tmp_path, config, name, results, made[name], recordings, several=True)
    truth = np.array([[name in own for name in NAMES] for own in labels[1:]], int)
    a, b = (
        average_precision_score(truth, np.stack([row["probabilities"] for row in made[s][1:]]))
        for s in ("finetune", "scratch")
    )
    assert page.lead.startswith(
        f"With pretraining the mean average precision on 119 test clips is {100 * a:.1f} % (95 % "
    )
    assert (
        f"from scratch {100 * b:.1f} % (" in page.lead
        and f": +{100 * (a - b):.1f} points" in page.lead
    )
    assert page.lead.endswith(", more than chance would give.")
    share = 100 * truth.mean()
    assert f"Chance: a random order of the clips has about {share:.1f} %." in page.notes
    told = {anchor: summary for anchor, (summary, _) in page.folds.items()}
    kinds = {"calibration", "slices", "false-positives", "false-negatives"}
    assert kinds - told.keys() == {"slices"}  # the clips have no sound
    assert not told.keys() & {"confusion", "pairs", "mistakes"}
    areas = [
        average_precision_score(
            truth[:, k], [row["probabilities"][k] for row in made["finetune"][1:]]
        )
        for k in range(4)
    ]
    heard = f"average precision from {min(areas):.2f} ({NAMES[np.argmin(areas)]}) to"
    assert heard in told["classes-finetune"]
    assert f"{truth[:, 0].sum()}" in page.folds["classes-finetune"][1]


def test_stages_of_other_clips_are_not_compared(tmp_path):
    config = config_of(scratch="", finetune="elsewhere")
    results = {}
    for name, size in (("scratch", 100), ("finetune", 51)):
        recordings = clips(labels_of(size))
        rows = predicted(recordings, set(range(20)))
        results[name] = results_of(rows, recordings)
        page = write(tmp_path, config, name, results, rows, recordings)
    assert "points" not in page.lead
    assert "of 99 test clips" in page.lead and "finetune: 60.0 % of 50 test clips" in page.lead
    a = Score("a", "test", "accuracy", 0.5, None)
    assert comparable(a, a) and not comparable(a, Score("b", "validation", "accuracy", 0.5, None))
