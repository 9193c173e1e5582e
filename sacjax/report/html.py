"""`report.html`: one page that needs nothing else, with every name escaped."""

import io
from collections.abc import Sequence
from html import escape

import numpy as np
import soundfile as sf

from sacjax.report.plots import data_url

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; }
body { padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; }
td, th { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #eee; }
th + th, td.n { text-align: right; font-variant-numeric: tabular-nums; } img { max-width: 100%; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
.card { border: 1px solid #ddd; border-radius: .4rem; padding: .6rem; overflow-wrap: anywhere; }
.card audio { width: 100%; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 12px; }
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


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """Returns the whole page; sections are (heading, HTML made by the functions above)."""
    body = "".join(f"<h2>{escape(heading)}</h2>{content}" for heading, content in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )
