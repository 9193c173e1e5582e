"""The error analysis: calibration, confusions to hear, accuracy by kind of clip."""

import re

import numpy as np
import pytest
import soundfile as sf
from scipy.special import expit, logit, softmax
from sklearn.metrics import label_ranking_average_precision_score

from sacjax import config as config_lib
from sacjax import report
from sacjax.data.recordings import Recordings
from sacjax.data.sources import OpenFiles
from sacjax.evaluators.scores import scores
from sacjax.evaluators.suspects import Analysis, Suspect
from sacjax.report import errors, sections

RATE = 8000
NAMES = ("a<b", "cat", "dog")


@pytest.fixture
def made(tmp_path):
    """12 clips: later ones are louder and longer, and half of the quiet ones are wrong.

    Of the cats 0 and 2 are taken for dogs, the dog 4 for a cat; the others are right.
    """
    rng = np.random.default_rng(0)
    labels = ["cat", "cat", "cat", "a<b", "dog", "dog", "cat", "dog", "a<b", "cat", "dog", "cat"]
    said = list(labels)
    said[0] = said[2] = "dog"
    said[4] = "cat"
    paths = []
    for k in range(12):
        paths.append(str(tmp_path / f"{k:02d}.wav"))
        noise = rng.standard_normal(round(RATE * (0.2 + 0.05 * k)))
        sf.write(paths[-1], 10 ** (-2 + k / 12) * noise / 3, RATE, subtype="FLOAT")
    groups = ["one", "two"] * 6
    clips = Recordings(
        [f"{k:02d}.wav" for k in range(12)], [(label,) for label in labels], NAMES,
        OpenFiles(paths), groups=groups, paths=paths,
    )  # fmt: skip
    rows = []
    for k, (label, guess) in enumerate(zip(labels, said, strict=True)):
        p = np.full(3, 0.1 - 0.005 * k)
        p[NAMES.index(guess)] = 1 - p[0] * 2
        rows.append(dict(file=f"{k:02d}.wav", split="test", label=label, probabilities=p, index=k))
    stage = config_lib.stage()
    stage.data.update(sample_rate=RATE, seconds=1.0)
    return stage, rows, clips


def test_confusions_are_played_with_clips_of_the_other_class(made):
    stage, rows, clips = made
    text = errors.confused_pairs(stage, rows, clips)
    assert "cat taken for dog 2 of 3 times that a clip is wrong" in text
    first, second = text.split("dog taken for cat, 1 time<")
    order = re.findall(r"<b>(\d\d\.wav)</b><br>(.*?)<br>dog", first)
    # The surest mistakes first, beside the surest dogs.
    assert order == [
        ("02.wav", "cat, taken for dog"), ("10.wav", "dog, known as such"),
        ("00.wav", "cat, taken for dog"), ("07.wav", "dog, known as such"),
    ]  # fmt: skip
    assert first.count("<audio") == 4 and second.count("<audio") == 3
    for row in rows:
        row["probabilities"] = np.eye(3)[NAMES.index(row["label"])]
    assert errors.confused_pairs(stage, rows, clips) == ""


def test_accuracy_by_group_loudness_and_duration(made):
    stage, rows, clips = made
    text = errors.slices(stage, rows, clips)
    assert "by group from 50 % (one) to 100 % (two)" in text  # all three mistakes are of one
    assert "by loudness from 33 to 100 %, by duration from 33 to 100 %" in text
    levels, seconds = errors.measured(stage, rows, clips)
    np.testing.assert_allclose(seconds, 0.2 + 0.05 * np.arange(12), atol=1e-3)
    np.testing.assert_allclose(levels, 20 * (-2 + np.arange(12) / 12) - 9.54, atol=0.3)
    open(clips.paths[5], "w").close()
    levels, seconds = errors.measured(stage, rows, clips)
    assert np.isnan(levels).nonzero()[0].tolist() == [5]
    assert "by duration" in errors.slices(stage, rows, clips)


def test_quarters_and_groups_as_worked_out():
    right = np.array([1, 0, 1, 1, 1, 0, 0, 1], bool)
    found = errors.by_quarter(np.arange(8.0)[::-1], right, "{:.0f}")
    assert found == [
        ("0 to 1", 2, 0.5), ("2 to 3", 2, 0.5), ("4 to 5", 2, 1.0), ("6 to 7", 2, 0.5)
    ]  # fmt: skip
    assert errors.by_quarter(np.full(8, 2.5), right) == [("2.50", 8, 0.625)]
    assert errors.by_quarter(np.zeros(0), np.zeros(0, bool)) == []
    groups = np.array(["b"] * 5 + ["a"] * 5 + ["few"] * 2 + [""] * 6)
    right = np.array([1] * 5 + [1, 0, 0, 0, 0] + [0] * 8, bool)
    assert errors.by_group(groups, right) == [("a", 5, 0.2), ("b", 5, 1.0)]


def test_the_reliability_curve_is_told_with_and_without_temperature(made, tmp_path):
    stage, rows, clips = made
    text = errors.calibration(tmp_path, stage, rows, clips)
    p = np.array([row["probabilities"].max() for row in rows])
    right = np.array([k not in (0, 2, 4) for k in range(12)])
    assert p[:2].max() < 13 / 15 and p[4] > 12 / 15  # bins of a fifteenth
    want = sum(
        inside.mean() * abs(right[inside].mean() - p[inside].mean())
        for low in range(15)
        if (inside := (p >= low / 15) & (p < (low + 1) / 15)).any()
    )
    assert f"expected calibration error {100 * want:.1f} %; eval.temperature=True" in text
    assert (tmp_path / "reliability.png").stat().st_size > 5000
    text = errors.calibration(tmp_path, stage, rows, clips, temperature=2.0)
    assert f"expected calibration error {100 * want:.1f} %, without temperature" in text


def test_unscaled_probabilities_are_those_of_the_logits():
    logits = np.random.default_rng(0).normal(0, 3, [6, 4])
    np.testing.assert_allclose(
        errors.unscaled(softmax(logits / 2.5, -1), 2.5, False), softmax(logits, -1)
    )
    np.testing.assert_allclose(errors.unscaled(expit(logits / 0.7), 0.7, True), expit(logits))


@pytest.mark.parametrize("several", [False, True])
def test_nothing_is_said_of_unknown_labels(made, tmp_path, several):
    stage, rows, clips = made
    stage.data.multi_label = several
    clips.labels[:] = [None] * 12
    for text in (
        sections.wrong_decisions(tmp_path, stage, rows, clips),
        errors.calibration(tmp_path, stage, rows, clips),
        errors.confused_pairs(stage, rows, clips),
        errors.slices(stage, rows, clips),
    ):
        assert text == ""


@pytest.fixture
def several(made):
    """The clips with other labels: 0 with none, 1 with two, the last unknown."""
    stage, rows, clips = made
    stage.data.multi_label, stage.objective.options = True, dict(loss="sigmoid")
    stage.eval.mistakes = 2
    clips.labels[:] = [(), ("cat", "dog"), *[("cat",)] * 4, *[("dog",)] * 5, None]
    for row in rows:
        row["label"] = "|".join(clips.labels[row["index"]] or ())
        row["probabilities"] = np.array([0.1, 0.2, 0.9] if row["index"] > 5 else [0.1, 0.9, 0.2])
    for k, *p in ((0, 0.1, 0.6, 0.7), (2, 0.55, 0.3, 0.2), (3, 0.3, 0.25, 0.95)):
        rows[k]["probabilities"] = np.array(p)
    return stage, rows, clips


def test_false_positives_and_negatives_are_played(several, tmp_path):
    stage, rows, clips = several
    text = sections.wrong_decisions(tmp_path, stage, rows, clips)
    positives, negatives = text.split("<summary>")[1:]
    # By hand: positives 0 cat, 0 dog, 2 a<b, 3 dog; negatives 1 dog, 2 cat, 3 cat.
    assert "Most confident false positives (test)</b>: 4 of 12 labels found are not" in positives
    assert "most often dog (2); the 2 surest" in positives
    assert "3 of 11 labels that are there are missed, most often cat (2)" in negatives
    cards = r"<b>(\d\d)\.wav</b><br>labels: (.*?)<br>false (.*?)<img"
    assert re.findall(cards, positives) == [
        ("03", "cat", "positive: dog (95.0 %)"), ("00", "none", "positive: dog (70.0 %)")
    ]  # fmt: skip
    assert re.findall(cards, negatives) == [
        ("01", "cat|dog", "negative: dog (20.0 %)"), ("03", "cat", "negative: cat (25.0 %)")
    ]  # fmt: skip
    assert text.count("<audio") == len(list(tmp_path.glob("mistake_*.png"))) == 4
    stage.data.multi_label = False
    assert sections.wrong_decisions(tmp_path, stage, rows, clips) == ""


def test_several_labels_are_as_sure_as_their_decisions_are_right(several, tmp_path):
    stage, rows, clips = several
    text = errors.calibration(tmp_path, stage, rows, clips)
    truth = [[name in labels for name in NAMES] for labels in clips.labels[:-1]]
    p = np.stack([row["probabilities"] for row in rows[:-1]])
    error = scores(p, np.array(truth, int), NAMES)["expected_calibration_error"]
    assert f"expected calibration error {100 * error:.1f} %; eval" in text
    text = errors.calibration(tmp_path, stage, rows, clips, temperature=3.0)
    plain = scores(expit(3 * logit(p)), np.array(truth, int), NAMES)["expected_calibration_error"]
    assert f"without temperature {100 * plain:.1f} %" in text


def test_precision_of_several_labels_by_kind_of_clip(several):
    stage, rows, clips = several
    text = errors.slices(stage, rows, clips)
    # Clip 2 has 1 / 2, clip 3 has 1 / 3, the other eight have 1; the even ones are of group one.
    assert "Label-ranking average precision by kind of clip (test)" in text
    assert "by group from 87 % (two) to 90 % (one)" in text
    assert "by loudness from 61 to 100 %" in text and "<th>precision</th>" in text
    rng = np.random.default_rng(0)
    p, truth = rng.integers(0, 4, [30, 6]) / 4, rng.random([30, 6]) < 0.5
    truth[:, 0] |= ~truth.any(1)
    found = errors.ranking_precision(p, truth)
    want = [
        label_ranking_average_precision_score(truth[k : k + 1], p[k : k + 1]) for k in range(30)
    ]
    np.testing.assert_allclose(found, want)


def test_doubtful_labels_and_what_mistakes_resemble(made):
    stage, rows, clips = made
    assert errors.resembling(stage, rows, clips, None) == ""
    assert errors.doubtful_labels(stage, clips, None) == ""
    analysis = Analysis(
        [Suspect(3, 0, 1, 0.125, 0.75)], 40, {0: [(5, 0.91), (6, 0.5)], 4: [(6, 0.8)]}
    )
    wrong = report.mistakes(rows, NAMES, 12)
    text = errors.resembling(stage, wrong, clips, analysis)
    # Mistake 0, a cat taken for a dog, is nearest to a dog; mistake 4 likewise to a cat.
    assert "has the label that was said in 2 of 2 mistakes" in text
    assert re.findall(r"<b>(\d\d)\.wav", text) == ["04", "06", "00", "05", "06"]
    assert "training clip of dog, cosine similarity 0.91" in text and text.count("<audio") == 5
    text = errors.doubtful_labels(stage, clips, analysis)
    assert "Labels to check</b>: 1 of 40 training clips" in text
    assert "labelled a&lt;b (12.5 %)<br>likely cat (75.0 %)" in text and text.count("<audio") == 1
