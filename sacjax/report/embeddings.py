"""Maps of embeddings in two dimensions, whose points play their clips.

They are plain SVG in the page, beside each clip's sound as FLAC and a few lines of JavaScript.
"""

import functools
import io
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import soundfile as sf

from sacjax.data import decode, retry
from sacjax.data.recordings import Recordings
from sacjax.report.plots import data_url

MOST = 200  # clips drawn
SECONDS = 3.0  # of each clip to listen to
RATE = 16000  # Hz, at most
BYTES = 6_500_000  # of all sounds; base64 makes a third more of them
PERPLEXITY = 30.0
FEWEST = 5  # clips that t-SNE needs
SIZE, MARGIN = 240.0, 8.0  # of a map, in its own units

COLOURS = (
    "#4c78c8", "#e07b28", "#3d9e4f", "#d0454c", "#9467bd",
    "#a06a50", "#d765b0", "#808080", "#a8a22a", "#22a5b5",
)  # fmt: skip
MARKERS = (
    "M3 0A3 3 0 1 1-3 0 3 3 0 1 1 3 0Z",  # a disc
    "M-2.7-2.7H2.7V2.7H-2.7Z",  # a square
    "M0-3.6L3.4 2.5H-3.4Z",  # a triangle
    "M0-3.8L3.8 0 0 3.8-3.8 0Z",  # a diamond
    "M-1.2-3.4H1.2V-1.2H3.4V1.2H1.2V3.4H-1.2V1.2H-3.4V-1.2H-1.2Z",  # a cross
)

STYLE = """
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
.map { margin: 0; } .map svg { width: 100%; border: 1px solid #8886; border-radius: .4rem; }
.map figcaption { font-size: .9em; }
.point { stroke: Canvas; stroke-width: .4; cursor: pointer; }
.point:focus { outline: none; stroke: CanvasText; stroke-width: 1.2; }
.point.on { stroke: CanvasText; stroke-width: 1.2; }
.key { columns: 10rem; list-style: none; padding: 0; } .key svg { width: 1em; height: 1em; }
.clips audio { height: 2rem; vertical-align: middle; }
#now { position: sticky; bottom: 0; padding: .4rem .8rem; background: Canvas; color: CanvasText;
  border: 1px solid #8886; border-radius: .4rem; overflow-wrap: anywhere; }
"""

PLAY_ON_HOVER = (
    '<p><label><input type="checkbox" id="hover"> play a clip when the pointer is over it'
    "</label></p>"
)
SCRIPT = """
(() => {
  const now = document.getElementById('now'), hover = document.getElementById('hover');
  const points = [...document.querySelectorAll('.point')];
  let sound = null;
  const show = point => {
    now.textContent = point.getAttribute('aria-label');
    for (const p of points) p.classList.toggle('on', p.dataset.clip === point.dataset.clip);
  };
  const play = point => {
    show(point);
    if (sound) sound.pause();
    sound = document.getElementById('clip-' + point.dataset.clip);
    sound.currentTime = 0;
    sound.play().catch(() => { now.textContent += ' (click once to allow sound)'; });
  };
  for (const map of document.querySelectorAll('.map svg')) {
    const own = [...map.querySelectorAll('.point')];
    const go = k => {  // one stop of the Tab key a map; arrows go on from there
      for (const p of own) p.setAttribute('tabindex', '-1');
      own[k].setAttribute('tabindex', '0');
    };
    go(0);
    own.forEach((point, k) => {
      point.addEventListener('focus', () => { go(k); show(point); });
      point.addEventListener('mouseenter', () => (hover.checked ? play : show)(point));
      point.addEventListener('click', () => play(point));
      point.addEventListener('keydown', event => {
        const last = own.length - 1;
        const to = {ArrowRight: k + 1, ArrowDown: k + 1, ArrowLeft: k - 1, ArrowUp: k - 1,
          Home: 0, End: last}[event.key];
        if (event.key === 'Enter' || event.key === ' ') play(point);
        else if (to !== undefined) own[Math.min(Math.max(to, 0), last)].focus();
        else return;
        event.preventDefault();
      });
    });
  }
})();
"""


class Clip(NamedTuple):
    """A clip that is drawn."""

    row: int  # of the vectors
    name: str
    label: str
    sound: bytes  # its first seconds, as a FLAC file

    @property
    def title(self) -> str:
        """What is shown of it."""
        return f"{self.name}: {self.label}"


def drawn(
    recordings: Recordings, indices: np.ndarray, labels: np.ndarray, sample_rate: int, seed: int = 0
) -> list[Clip]:
    """Returns the clips to draw: as many of each class as there are, in a random order.

    They are 200 at most, and fewer where their sounds would make the page large. One clip's
    samples are in memory at a time.

    Args:
      recordings: the source.
      indices: [M], the clips to choose from; `row` is a place in it.
      labels: int [M], their classes.
      sample_rate: Hz; sounds have 16 kHz at most.
      seed: of the order.
    """
    clips: list[Clip] = []
    rate, size = min(sample_rate, RATE), 0
    for row in in_turn(labels, seed).tolist():
        index = int(indices[row])
        try:
            sound = retry.attempt(functools.partial(first_seconds, recordings, index, rate))
        except retry.BadClip:  # it could be read a moment ago
            continue
        size += len(sound)
        if len(clips) == MOST or size > BYTES:
            break
        name = recordings.class_names[int(labels[row])]
        clips.append(Clip(row, recordings.names[index], name, sound))
    return clips


def in_turn(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns a random order of rows in which each class takes its turn, until it has no more."""
    rng = np.random.default_rng(seed)
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        turn[own] = np.arange(len(own))
    return np.lexsort((rng.permutation(len(labels)), turn))


def first_seconds(recordings: Recordings, index: int, sample_rate: int) -> bytes:
    """Returns the first 3 s of a recording as a FLAC file. Raises anything for a broken one."""
    samples = decode.read(recordings.open(index), sample_rate, 0.0, SECONDS)
    buffer = io.BytesIO()
    sf.write(buffer, np.clip(samples, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def pca(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns (the first two principal components [N, 2], their share of the variance).

    Args:
      vectors: [N, D]; components that there are not are zeros.
    """
    from sklearn.decomposition import PCA

    points = np.zeros([len(vectors), 2])
    if min(vectors.shape) < 1 or not np.ptp(vectors, 0).any():
        return points, 0.0
    model = PCA(min(2, *vectors.shape), svd_solver="full")
    found = model.fit_transform(vectors.astype(np.float64))
    points[:, : found.shape[1]] = found
    return points, float(model.explained_variance_ratio_.sum())


def perplexity_of(count: int) -> float | None:
    """Returns the perplexity of t-SNE of so many clips; None where they are too few for it."""
    return min(PERPLEXITY, (count - 1) / 3) if count >= FEWEST else None


def tsne(vectors: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """Returns the t-SNE [N, 2] of vectors [N, D] by cosine distance; None of fewer than five.

    It starts from the principal components, so that the same vectors give the same map.
    """
    from sklearn.manifold import TSNE

    perplexity = perplexity_of(len(vectors))
    if perplexity is None:
        return None
    start = pca(vectors)[0]
    start = (1e-4 * start / max(float(start[:, 0].std()), 1e-12)).astype(np.float32)
    # So few points are done faster by the exact method, which keeps no threads waiting.
    model = TSNE(
        perplexity=perplexity, init=start, metric="cosine", method="exact", random_state=seed
    )
    return np.asarray(model.fit_transform(vectors.astype(np.float64)), float)


def maps(name: str, vectors: np.ndarray, clips: Sequence[Clip], seed: int = 0) -> str:
    """Returns the maps of an encoder, by PCA and by t-SNE, as HTML.

    Args:
      name: of the encoder.
      vectors: [M, D], of which the clips' rows are drawn.
      clips: of `drawn`.
      seed: of t-SNE.
    """
    own = vectors[[clip.row for clip in clips]]
    points, share = pca(own)
    text = f"PCA of {name}: {100 * share:.0f} % of the variance"
    shown = figure(text, points, clips)
    neighbours = tsne(own, seed)
    if neighbours is None:
        text = f"No t-SNE of {name}: it needs {FEWEST} clips, and there are {len(clips)}."
        return f'<div class="maps">{shown}<p>{escape(text)}</p></div>'
    text = f"t-SNE of {name}: cosine distance, perplexity {perplexity_of(len(own)):.3g}"
    return f'<div class="maps">{shown}{figure(text, neighbours, clips)}</div>'


def figure(title: str, points: np.ndarray, clips: Sequence[Clip]) -> str:
    """Returns a map of points [N, 2], a clip each, as SVG; both axes have one scale."""
    places = fitted(points)
    order = np.argsort(places[:, 0], kind="stable")  # in which arrow keys walk: from left to right
    looks = marks([clip.label for clip in clips])
    body = "".join(
        f'<path class="point" tabindex="0" role="button" data-clip="{k}" '
        f'aria-label="{escape(clips[k].title)}" {looks[clips[k].label]} '
        f'transform="translate({places[k, 0]:.1f} {places[k, 1]:.1f})">'
        f"<title>{escape(clips[k].title)}</title></path>"
        for k in order.tolist()
    )
    return (
        f'<figure class="map"><svg viewBox="0 0 {SIZE:g} {SIZE:g}" role="group" '
        f'aria-label="{escape(title)}">{body}</svg>'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )


def fitted(points: np.ndarray) -> np.ndarray:
    """Returns points [N, 2] moved and scaled, by one number, to fill a map."""
    low, high = points.min(0), points.max(0)
    span = max(float((high - low).max()), 1e-12)
    return SIZE / 2 + (points - (low + high) / 2) * (SIZE - 2 * MARGIN) / span * [1, -1]


def marks(labels: Sequence[str]) -> dict[str, str]:
    """Returns {label: its colour and marker} as attributes of an SVG path: 50 that differ."""
    return {
        label: f'fill="{COLOURS[k % len(COLOURS)]}" d="{MARKERS[k // len(COLOURS) % len(MARKERS)]}"'
        for k, label in enumerate(sorted(set(labels)))
    }


def key(clips: Sequence[Clip]) -> str:
    """Returns the list of labels with their colours and markers."""
    items = "".join(
        f'<li><svg viewBox="-4 -4 8 8" aria-hidden="true"><path {look}/></svg> {escape(label)}</li>'
        for label, look in marks([clip.label for clip in clips]).items()
    )
    return f'<ul class="key">{items}</ul>'


def sounds(clips: Sequence[Clip]) -> str:
    """Returns the clips' sounds, once for all maps, as a folded list to listen to."""
    items = "".join(
        f'<li><audio id="clip-{k}" controls preload="none" '
        f'src="{data_url(clip.sound, "audio/flac")}"></audio> {escape(clip.title)}</li>'
        for k, clip in enumerate(clips)
    )
    return (
        f'<details class="clips"><summary>The {len(clips)} clips as a list</summary>'
        f"<ul>{items}</ul></details>"
    )


def player() -> str:
    """Returns the line that says which clip plays, and the script of all maps of the page."""
    return (
        '<p id="now" role="status">A click or Enter plays a point; arrow keys go from one to the '
        f"next.</p><script>{SCRIPT}</script>"
    )
