"""The report: what is on the page, that nothing is missing, and how a real browser sees it."""

import base64
import io
import json
import re
import shutil
import subprocess
import warnings
from html import escape
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import soundfile as sf
from processes import HANG

from sacjax import config as config_lib
from sacjax import report
from sacjax.data.recordings import Recordings
from sacjax.data.sources import OpenFiles
from sacjax.evaluators.scores import scores
from sacjax.report import html

RATE = 8000
NAMES = (
    "<script>document.title='pwned'</script>",
    "dog & cat",
    "$\\frac$",
    "rain|wind",
    "sea waves",
)
BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


def recordings(folder, size=40):
    """Noisy sweeps whose files have nasty names; one is very short, one long."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = []
    for k in range(size):
        seconds = {0: 0.01, 1: 12.0}.get(k, rng.uniform(0.5, 2.0))
        time = np.arange(round(seconds * RATE)) / RATE
        sweep = 0.4 * np.sin(
            2 * np.pi * (200 + 40 * k) * time * (1 + time)
        ) + 0.02 * rng.standard_normal(len(time))
        paths.append(str(folder / f'<b>{k:02d} & "clip" \'n.wav'))
        sf.write(paths[-1], sweep, RATE)
    names = [path.rsplit("/", 1)[1] for path in paths]
    return Recordings(
        names, [(NAMES[k % 5],) for k in range(size)], NAMES, OpenFiles(paths), paths=paths
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A made-up workdir whose report is written; a third of the predictions are wrong."""
    root = tmp_path_factory.mktemp("report")
    workdir = root / "run <1>"
    workdir.mkdir()
    clips = recordings(root / "clips")
    config = config_lib.default().unlock()
    config.supervised.data.sample_rate, config.supervised.eval.mistakes = RATE, 6
    rng = np.random.default_rng(1)
    truth = np.arange(40) % 5
    guess = np.where(np.arange(40) % 3 == 0, (truth + 1) % 5, truth)
    p = rng.dirichlet(np.ones(5), 40) * 0.4 + 0.6 * np.eye(5)[guess]
    p[:2] = (
        0.01 + 0.95 * np.eye(5)[(truth[:2] + 1) % 5]
    )  # the very short and the long clip are the surest mistakes
    rows = [
        dict(file=name, split="test", label=labels[0], probabilities=p[k], index=k)
        for k, (name, labels) in enumerate(zip(clips.names, clips.labels, strict=True))
    ]
    (workdir / "metrics.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "stage": "supervised",
                    "step": s,
                    "train/loss": 2 / s,
                    "train/accuracy": 1 - 0.8 / s,
                    "learning_rate": 1e-3 / s,
                }
                | (
                    {"validation/loss": 2.5 / s, "validation/accuracy": 1 - 1 / s}
                    if s % 5 == 0
                    else {}
                )
            )
            + "\n"
            for s in range(1, 31)
        )
    )
    results = {
        f"{part}/{name}": value
        for part, rows_of in (("test", slice(None)), ("validation", slice(20)))
        for name, value in scores(p[rows_of], truth[rows_of], NAMES).items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.write(workdir, "supervised", config, {"supervised": results}, rows, clips)
    return workdir


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def sources(self, tag):
        return [attributes["src"] for name, attributes in self.tags if name == tag]


def test_page_is_self_contained_and_every_name_is_escaped(workdir):
    text = (workdir / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "b0"} & {name for name, _ in page.tags}
    assert all(
        source.startswith("data:") for tag in ("img", "audio") for source in page.sources(tag)
    )
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text)
    for name in NAMES:
        assert name in page.text and escape(name) in text
    assert '<b>00 & "clip" \'n.wav' in page.text and "<b>00" not in text
    assert "run <1>" in page.text
    assert '"sample_rate": 8000' in page.text  # the config
    figures = [cell.strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", text)]
    assert "accuracy" in figures and "accuracy_low" in figures and "0.6250" in figures  # 25 of 40


def test_pictures_and_sounds_decode(workdir):
    page = Page((workdir / "report.html").read_text(encoding="utf-8"))
    images = [base64.b64decode(source.split(",")[1]) for source in page.sources("img")]
    sounds = [base64.b64decode(source.split(",")[1]) for source in page.sources("audio")]
    pairs = 3 * (2 + 2)  # confusions to hear
    assert len(images) == 4 + 6 and len(sounds) == pairs + 6
    for image in images:
        assert matplotlib.image.imread(io.BytesIO(image)).std() > 0
    lengths = [len(sf.read(io.BytesIO(sound))[0]) for sound in sounds[pairs:]]
    assert sorted(lengths[:2]) == [80, 5 * RATE]  # the short clip whole, of the long one 5 s
    assert "first 5.0 of 12.0 s" in page.text
    kept = sorted(path.name for path in (workdir / "plots").iterdir())
    assert kept == [
        "answer.png",
        "confusion_matrix.png",
        "curves_supervised.png",
        *(f"mistake_{k:02d}.png" for k in range(1, 7)),
        "reliability.png",
    ]


def test_mistakes_are_the_most_confident_ones():
    def row(file, label, *p):
        return dict(file=file, label=label, probabilities=np.array(p))

    rows = [
        row("right", "a", 0.9, 0.1, 0.0),
        row("sure", "a", 0.0, 0.9, 0.1),
        row("less", "c|d", 0.1, 0.2, 0.7),
        row("unknown", "", 1.0, 0.0, 0.0),
        row("other", "b", 0.3, 0.1, 0.6),
    ]
    found = report.mistakes(rows, ("a", "b", "c|d"), 5)
    assert [(r["file"], r["prediction"], r["confidence"]) for r in found] == [
        ("sure", "b", 0.9),
        ("other", "c|d", 0.6),
    ]
    assert [r["file"] for r in report.mistakes(rows, ("a", "b", "c|d"), 1)] == ["sure"]


def test_a_clip_that_went_bad_does_not_cost_the_report(tmp_path):
    clips = recordings(tmp_path / "clips", 5)
    open(clips.paths[3], "w").close()
    rows = [
        dict(file=name, split="test", label=NAMES[k], probabilities=np.eye(5)[(k + 1) % 5], index=k)
        for k, name in enumerate(clips.names)
    ]
    config = config_lib.default().unlock()
    config.supervised.data.sample_rate = RATE
    report.write(
        tmp_path, "supervised", config, {"supervised": {"test/accuracy": 0.0}}, rows, clips
    )
    page = Page((tmp_path / "report.html").read_text())
    # Four of the five mistakes, and three of the confusions.
    assert page.text.count("cannot be read") == 1 and len(page.sources("audio")) == 4 + 3


def test_unlabelled_and_multi_label_parts(tmp_path):
    clips = recordings(tmp_path / "clips", 5)
    config = config_lib.default().unlock()
    config.supervised.data.sample_rate = RATE
    rows = [
        dict(file=name, split="test", label="", probabilities=np.eye(5)[0], index=k)
        for k, name in enumerate(clips.names)
    ]
    clips.labels[:] = [None] * 5
    report.write(tmp_path, "supervised", config, {"supervised": {}}, rows, clips)
    assert (
        len(Page((tmp_path / "report.html").read_text()).sources("img")) == 0
    )  # and no step is logged
    config.supervised.data.multi_label = True
    clips.labels[:] = [(NAMES[1], NAMES[2])] * 5
    for row in rows:
        row["label"] = f"{NAMES[1]}|{NAMES[2]}"
    report.write(
        tmp_path, "supervised", config, {"supervised": {"test/accuracy": 0.5}}, rows, clips
    )
    page = Page((tmp_path / "report.html").read_text())
    assert "Confusion matrix" not in page.text and "Most confident mistakes" not in page.text
    assert "5 of 5 labels found are not there" in page.text
    assert "10 of 10 labels that are there are missed" in page.text
    assert len(page.sources("audio")) == 5 + 10


def test_table_and_wav():
    assert html.table(["<x>"], [[0.5, "a&b"]]) == (
        "<table><tr><th>&lt;x&gt;</th></tr>"
        '<tr><td class="n">0.5000</td><td>a&amp;b</td></tr></table>'
    )
    samples, rate = sf.read(io.BytesIO(html.wav(np.array([0.0, 0.5, 2.0], np.float32), 22050)))
    assert rate == 22050
    np.testing.assert_allclose(samples, [0, 0.5, 1.0], atol=1e-4)


# Answers in the page's title what the browser made of it: --dump-dom prints it.
PROBE = """<script>
addEventListener('load', async () => {
  const images = [...document.images].map(i => i.complete ? i.naturalWidth : 0);
  const length = audio => new Promise(done => {
    audio.onloadedmetadata = () => done(audio.duration);
    audio.onerror = () => done(-1);
    audio.preload = 'metadata';
    audio.load();
  });
  const sounds = await Promise.all([...document.querySelectorAll('audio')].map(length));
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  document.title = 'PROBE' + JSON.stringify({images, sounds, wide, title: document.title});
});
</script></body>"""


def chromium(*args, folder):
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", *args,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
def test_in_a_real_browser(workdir, tmp_path):
    text = (workdir / "report.html").read_text(encoding="utf-8")
    probe = tmp_path / "probe.html"
    probe.write_text(text.replace("</body>", PROBE), encoding="utf-8")
    result = chromium("--virtual-time-budget=20000", "--dump-dom", probe.as_uri(), folder=tmp_path)
    found = re.search(r"<title>PROBE(\{.*?\})</title>", result.stdout)
    assert found, result.stdout[:500] + result.stderr[-2000:]
    seen = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert len(seen["images"]) == 10 and min(seen["images"]) > 100
    assert (
        len(seen["sounds"]) == 18
        and min(seen["sounds"]) > 0
        and max(seen["sounds"]) == pytest.approx(5, abs=0.01)
    )
    assert seen["title"] == "sacjax: run <1>" and not seen["wide"]

    shot = tmp_path / "shot.png"
    chromium(
        f"--screenshot={shot}",
        "--window-size=1100,2600",
        (workdir / "report.html").as_uri(),
        folder=tmp_path,
    )
    assert matplotlib.image.imread(shot).std() > 0.05
