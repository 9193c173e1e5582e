"""`report.html`: one page that needs nothing else, with every name escaped."""

import io
from collections.abc import Sequence
from html import escape

import numpy as np
import soundfile as sf

from sacjax.report.plots import data_url

STYLE = """
:root { color-scheme: light dark; --text: #222; --quiet: #666; --page: #fff; --line: #ddd; }
:root { --faint: #eee; --box: #f6f6f6; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --quiet: #999; --page: #16181c; --line: #444; }
  :root { --faint: #2b2e34; --box: #202329; }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; }
body { padding: 0 1rem; color: var(--text); background: var(--page); }
h1 { font-size: 1rem; font-weight: normal; color: var(--quiet); }
h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
.lead { font-size: 1.4rem; line-height: 1.4; margin: .6rem 0 1rem; overflow-wrap: anywhere; }
.notes { color: var(--quiet); padding-left: 1.2rem; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .5rem 0; }
details > div { padding: 0 0 1rem; overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid var(--faint); }
th + th, td.n { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; background: #fff; border-radius: .4rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
.cards { margin-bottom: 1rem; }
.pairs { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.card { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; }
.card { overflow-wrap: anywhere; }
.card audio { width: 100%; }
pre { background: var(--box); padding: .8rem; overflow-x: auto; font-size: 12px; }
@media print {
  :root { color-scheme: light; --text: #000; --quiet: #444; --page: #fff; --line: #bbb; }
  :root { --faint: #ddd; --box: #fff; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .card, img, tr { break-inside: avoid; }
  audio { display: none; }
  pre { white-space: pre-wrap; }
}
"""


def wav(samples: np.ndarray, sample_rate: int) -> bytes:
    """Returns mono samples float32 [n] as a PCM16 wav file."""
    buffer = io.BytesIO()
    sf.write(buffer, np.clip(samples, -1, 1), sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def picture(content: bytes, text: str) -> str:
    """Returns an embedded PNG."""
    return f'<img alt="{escape(text)}" src="{data_url(content, "image/png")}">'


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a table; numbers are aligned to the right."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return f'<td class="n">{value:.4f}</td>'
        return f"<td>{escape(str(value))}</td>"

    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def subtitle(text: str) -> str:
    """Returns a heading within a section."""
    return f"<p><b>{escape(text)}</b></p>"


def player(sound: bytes) -> str:
    """Returns an embedded wav file with its controls."""
    return f'<audio controls preload="metadata" src="{data_url(sound, "audio/wav")}"></audio>'


def players(title: str, sounds: dict[str, bytes]) -> str:
    """Returns several sounds of one clip, each with its name."""
    shown = "".join(f"{escape(name)}{player(sound)}" for name, sound in sounds.items())
    return f'<div class="card"><b>{escape(title)}</b><br>{shown}</div>'


def card(
    title: str, lines: Sequence[str], image: bytes | None = None, sound: bytes | None = None
) -> str:
    """Returns a clip: lines of text about it, its picture and its player."""
    text = "<br>".join(map(escape, lines))
    shown = "" if image is None else picture(image, title)
    if sound is not None:
        shown += player(sound)
    return f'<div class="card"><b>{escape(title)}</b><br>{text}{shown}</div>'


def fold(anchor: str, heading: str, told: str, content: str) -> str:
    """Returns a folded section.

    Args:
      anchor: its id; a link to it unfolds it.
      heading: what it is.
      told: its main figure, shown while it is folded; '' = none.
      content: HTML made by the functions above.
    """
    shown = f"<b>{escape(heading)}</b>" + (f": {escape(told)}" if told else "")
    inside = f'<div id="{escape(anchor)}">{content}</div>'
    return f"<details><summary>{shown}</summary>{inside}</details>"


def lead(sentence: str, notes: Sequence[str], shown: str = "") -> str:
    """Returns what a page answers: one sentence, a picture (HTML) and short notes."""
    text = f'<p class="lead" id="answer">{escape(sentence)}</p>{shown}'
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return text + (f'<ul class="notes">{listed}</ul>' if listed else "")


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """Returns the whole page; sections are (heading, HTML made by the functions above)."""
    body = "".join(f"<h2>{escape(heading)}</h2>{content}" for heading, content in sections)
    return document(title, body)


def document(title: str, body: str) -> str:
    """Returns the whole page; its body is HTML made by the functions above."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )
