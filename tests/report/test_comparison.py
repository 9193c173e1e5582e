"""The page of `sacjax probe`: what it answers, from scores that are written out here."""

import numpy as np
import pytest
from report.test_embeddings import recordings

from sacjax.inference.comparison import Clips, Probed
from sacjax.report import comparison, plots


def scores(linear, **few):
    few = {name[1:]: values for name, values in few.items()}
    return {"knn_accuracy": 0.5, "linear_accuracy": linear, "few_shot_accuracy": few}


A = scores(0.8, _1=[0.2, 0.4], _10=[0.5, 0.7])
B = scores(0.9, _1=[0.4, 0.6], _10=[0.6, 0.5])
UNTRAINED = scores(0.3, _1=[0.1, 0.1], _10=[0.2, 0.2])


def test_the_best_at_each_number_of_labels():
    one, ten, every = comparison.best({"A": A, "B": B})
    assert (one.labels, one.name, one.second) == ("1", "B", "A")
    np.testing.assert_allclose(one.lead, [0.2, 0.2])
    assert one.is_clear(100)
    assert (ten.labels, ten.name) == ("10", "A")
    np.testing.assert_allclose(ten.lead, [-0.1, 0.2])
    assert not ten.is_clear(100)  # 5 ± 15 points
    assert (every.labels, every.name) == ("all", "B")
    # 10 points, and a standard error of sqrt(0.9 * 0.1 / n)
    assert every.is_clear(16) and not every.is_clear(4)
    (alone, *_) = comparison.best({"A": A})
    assert (alone.name, alone.second) == ("A", "")


def page_of(tmp_path, results, count=6):
    clips = recordings(count)
    clips = Clips(clips, np.arange(count) % 2, np.arange(0), np.arange(count))
    about = {"neighbours": 10, "seed": 0, "test_clips": count}
    paths = {name: f"/runs/{name}" for name in results}
    comparison.write(tmp_path / "p.html", about, results, paths, clips, 8000)
    return (tmp_path / "p.html").read_text()


def test_the_page_leads_with_the_answer(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((6, 3))
    results = {
        "A": Probed({"trained": A, "random": UNTRAINED}, vectors),
        "<B>": Probed({"trained": B}, vectors[:, :2]),
    }
    text = page_of(tmp_path, results)
    lines = [
        "1 label a class: <b>&lt;B&gt;</b>, 50.0 ± 10.0 % (A: 30.0 ± 10.0 %, 20.0 ± 0.0 points "
        "behind)",
        "10 labels a class: <b>A</b>, 60.0 ± 10.0 % (&lt;B&gt;: 55.0 ± 5.0 %, 5.0 ± 15.0 points "
        "behind, too close to tell; untrained: 20.0 ± 0.0 %)",
        "all labels: <b>&lt;B&gt;</b>, 90.0 % (A: 80.0 %, 10.0 points behind, too close to tell; "
        "standard error of the test part: 12.2 points)",
    ]
    for line in lines:
        assert f"<li>{line}</li>" in text
    assert text.index(lines[0]) < text.index("<img") < text.index("<svg")
    assert "All 6 test clips are drawn" in text and "<B>" not in text
    assert "http" not in text  # nothing is fetched
    same = page_of(tmp_path, {name: Probed({"trained": A}, vectors[:3]) for name in "AB"}, 3)
    assert "(B is as good)" in same and "No t-SNE of A: it needs 5 clips" in same


def test_the_picture_has_a_line_for_each_encoder():
    vectors = np.zeros([2, 3])
    both = {"trained": A, "random": UNTRAINED}
    figure = comparison.accuracies(
        {"A": Probed(both, vectors), "B": Probed({"trained": B}, vectors)}
    )
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["A", "A, untrained", "B"]
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "10", "all"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [30, 60, 80])
    assert axes.lines[0].get_xdata().argmax() == 2
    low, high = np.sort(axes.collections[0].get_paths()[0].vertices[:, 1])[[0, -1]]
    assert low == pytest.approx(20) and high == pytest.approx(80)
    same = comparison.accuracies({name: Probed(both, vectors) for name in "AB"})
    assert [line.get_label() for line in same.axes[0].lines] == ["A", "B", "untrained"]
    only_all = comparison.accuracies({"A": Probed({"trained": scores(0.5)}, vectors)})
    assert plots.png(only_all).startswith(b"\x89PNG")
