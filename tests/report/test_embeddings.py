"""Maps of embeddings, and their points' sounds, as a parser of HTML finds them."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile as sf

from sacjax.data import decode
from sacjax.data.recordings import MemoryClip, Recordings
from sacjax.report import embeddings

RATE = 8000
LABELS = ('<i>cat</i> & "dog"', "sea")


class Tags(HTMLParser):
    """All start tags: (name, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def of(self, tag, **wanted):
        return [a for name, a in self.tags if name == tag and wanted.items() <= a.items()]


def recordings(count=12, seconds=0.2, rate=RATE, broken=()):
    rng = np.random.default_rng(0)
    sizes = [0 if k in broken else round(seconds * rate) + k for k in range(count)]
    clips = [MemoryClip(rng.uniform(-1, 1, n).astype(np.float32), rate) for n in sizes]
    names = [f"<b>{k}.wav" for k in range(count)]
    return Recordings(names, [(LABELS[k % 2],) for k in range(count)], LABELS, clips.__getitem__)


def test_pca_is_the_singular_value_decomposition():
    vectors = np.random.default_rng(0).standard_normal((30, 6)) * np.arange(1, 7) + 5
    points, share = embeddings.pca(vectors)
    left, values, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    want = left[:, :2] * values[:2]
    want *= np.sign((want * points).sum(0))
    np.testing.assert_allclose(points, want, atol=1e-9)
    assert share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (7, 1), (6, 4)])
def test_maps_of_few_or_equal_vectors(shape):
    for vectors in (np.ones(shape), np.random.default_rng(0).standard_normal(shape)):
        points, _ = embeddings.pca(vectors)
        assert points.shape == (shape[0], 2) and np.isfinite(points).all()
        neighbours = embeddings.tsne(vectors)
        assert (neighbours is None) == (shape[0] < 5)
        for found in (points, points if neighbours is None else neighbours):
            places = embeddings.fitted(found)
            assert np.isfinite(places).all() and 0 <= places.min() and places.max() <= 240


def test_tsne_keeps_groups_apart_and_repeats():
    """Also where its perplexity would be more than there are clips."""
    rng = np.random.default_rng(0)
    centres = np.repeat(5 * np.eye(3, 8), 6, axis=0)
    vectors = (centres + 0.1 * rng.standard_normal((18, 8))).astype(np.float32)
    points = embeddings.tsne(vectors)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    nearest = (distance + 1e9 * np.eye(18)).argmin(1)
    assert (nearest // 6 == np.arange(18) // 6).all()
    np.testing.assert_array_equal(points, embeddings.tsne(vectors))
    assert embeddings.perplexity_of(5) < 5 and embeddings.perplexity_of(1000) == 30


def test_every_class_takes_its_turn():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 2)
    order = embeddings.in_turn(labels, 1)
    assert sorted(order) == list(range(55))
    assert sorted(labels[order[:6]]) == [0, 0, 1, 1, 2, 2] and (labels[order[8:]] == 0).all()
    assert (order != embeddings.in_turn(labels, 2)).any()


def test_every_point_plays_its_clip():
    """The test part is a choice of the clips in another order; one has become unreadable."""
    clips, indices = recordings(broken=(4,)), np.array([3, 2, 11, 4, 7, 0, 9])
    labels = indices % 2
    drawn = embeddings.drawn(clips, indices, labels, RATE)
    assert sorted(clip.row for clip in drawn) == [0, 1, 2, 4, 5, 6]
    vectors = np.random.default_rng(0).standard_normal((7, 3))
    page = Tags(embeddings.maps("<one>", vectors, drawn) + embeddings.sounds(drawn))
    points = page.of("path", **{"class": "point"})
    assert len(points) == 2 * 6 and len(page.of("svg")) == 2
    fills = set()
    for point in points:
        assert point["tabindex"] == "0" and point["role"] == "button"
        (audio,) = page.of("audio", id=f"clip-{point['data-clip']}")
        kind, _, content = audio["src"].partition(";base64,")
        assert kind == "data:audio/flac"
        name, label = point["aria-label"].split(": ")
        index = clips.names.index(name)
        assert label == LABELS[index % 2]
        samples, rate = sf.read(io.BytesIO(base64.b64decode(content)))
        assert rate == RATE
        np.testing.assert_allclose(samples, clips.open(index).samples, atol=1e-4)
        fills.add((label, point["fill"]))
    assert len(fills) == 2 and len({fill for _, fill in fills}) == 2


def test_points_lie_where_their_vectors_do():
    drawn = [embeddings.Clip(row, str(row), "x", b"") for row in (2, 0, 1)]
    vectors = np.array([[0.0, 0.0], [4.0, 1.0], [8.0, 0.0]])
    page = Tags(embeddings.maps("m", vectors, drawn))
    x = {
        int(p["aria-label"].split(":")[0]): float(p["transform"][10:].split()[0])
        for p in page.of("path")
    }
    assert x[1] == pytest.approx(120, abs=0.1) and {x[0], x[2]} == {8.0, 232.0}
    assert len(page.of("svg")) == 1  # too few for t-SNE


def test_long_clips_are_cut_and_resampled(monkeypatch):
    clips = recordings(2, seconds=4, rate=22050)
    (one, _) = sorted(embeddings.drawn(clips, np.arange(2), np.arange(2), 44100))
    samples, rate = sf.read(io.BytesIO(one.sound))
    assert rate == 16000 and len(samples) == 48000
    want = np.clip(decode.read(clips.open(0), 16000, 0, 3), -1, 1)
    np.testing.assert_allclose(samples, want, atol=1e-4)
    monkeypatch.setattr(embeddings, "BYTES", len(one.sound) + 1000)
    assert len(embeddings.drawn(clips, np.arange(2), np.arange(2), 16000)) == 1
    monkeypatch.setattr(embeddings, "MOST", 0)
    assert embeddings.drawn(clips, np.arange(2), np.arange(2), 16000) == []


def test_fifty_labels_look_different():
    looks = embeddings.marks([str(k) for k in range(50)])
    assert len(set(looks.values())) == 50
