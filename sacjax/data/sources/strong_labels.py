"""Strong labels: the events of long recordings, as labelled windows to train on."""

import bisect
import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ml_collections import ConfigDict

from sacjax.data import decode, retry
from sacjax.data.recordings import Recordings
from sacjax.data.sources.files import OpenFiles, open_file
from sacjax.errors import UserError

ROUNDING = 1e-6  # seconds
THREADS = 16  # files whose length is read at a time


class Span(NamedTuple):
    """A stretch of a recording and what is in it."""

    start: float  # seconds
    end: float
    labels: tuple[str, ...]


def windows_of(recordings: Recordings, files: Sequence[str], data: ConfigDict) -> Recordings:
    """Returns the windows of files as recordings, each with the labels of what is in its middle.

    A row with labels is an event, from 0 or to the end of its file where it does not say. A row
    with times and without labels is a stretch that was listened to: of a file that has such rows,
    only windows inside of them are returned. Else the whole file was listened to.

    Args:
      recordings: a manifest's rows, parts of files.
      files: the name of each row's file.
      data: its `data.windows` are the seconds from a window to the next.

    Raises:
      UserError: rows of one file of different folds, splits or groups, or a file system that
        fails.
    """
    opened = recordings.open
    assert isinstance(opened, OpenFiles) and recordings.paths is not None
    rows: dict[str, list[int]] = {}
    for k, path in enumerate(recordings.paths):
        rows.setdefault(path, []).append(k)
    columns: dict[str, Sequence[int | str] | None] = {
        "splits": recordings.splits,
        "folds": recordings.folds,
        "groups": recordings.groups,
    }
    for what, column in columns.items():
        for own in rows.values() if column else ():
            if column and len({column[k] for k in own}) > 1:
                raise UserError(
                    f"{data.path}: '{files[own[0]]}' is in several {what}; with data.windows, "
                    "which may hear several of its events, a file is in one"
                )
    with ThreadPoolExecutor(THREADS, "measure") as pool:
        durations = dict(zip(rows, pool.map(_duration, rows), strict=True))
    found: list[tuple[int, Span]] = []
    for path, own in rows.items():
        spans = [_span(recordings, opened, k, durations[path]) for k in own]
        heard = [s for k, s in zip(own, spans, strict=True) if _is_heard(recordings, opened, k)]
        events = [s for s in spans if s.labels]
        cut = label_windows(
            events,
            durations[path],
            data.seconds,
            data.windows,
            "" if data.multi_label else data.background,
        )
        found += [(own[0], w) for w in (inside(cut, heard) if heard else cut)]
    first = [k for k, _ in found]
    take = lambda column: [column[k] for k in first] if column else None
    labels = [window.labels for _, window in found]
    return Recordings(
        [f"{files[k]}#{round(window.start, 3):.12g}" for k, window in found],
        labels,
        tuple(sorted({label for own in labels for label in own})),
        OpenFiles(
            [recordings.paths[k] for k in first],
            [window.start for _, window in found],
            [window.end for _, window in found],
        ),
        take(recordings.folds),
        take(recordings.splits),
        [(recordings.groups[k] if recordings.groups else "") or files[k] for k in first],
        [recordings.paths[k] for k in first],
    )


def label_windows(
    events: Sequence[Span], duration: float, seconds: float, hop: float, background: str
) -> list[Span]:
    """Returns the windows of a recording, of `seconds` every `hop`, with the labels of each.

    A window is labelled by the stretch in its middle for which `sacjax predict --timeline` takes
    its probabilities: `hop` seconds, of the first and the last window also what is before or after.
    It has the labels of events that fill half of the stretch, or half of which is in it. So each
    event is in at least one window.

    Args:
      events: of the recording.
      duration: of the recording, seconds.
      seconds: of a window.
      hop: from a window to the next, at most `seconds`.
      background: what a window without a label is called; every window then has one label, the one
        that fills most of the stretch. '': windows have as many labels as there are.
    """
    count = max(math.ceil((duration - seconds) / hop - ROUNDING), 0) + 1
    edges = [(seconds - hop) / 2 + k * hop for k in range(count + 1)]
    edges[0], edges[-1] = 0.0, duration
    filled: list[dict[str, float]] = [{} for _ in range(count)]
    for start, end, labels in events:
        first, last = bisect.bisect_right(edges, start) - 1, bisect.bisect_left(edges, end)
        for k in range(max(first, 0), min(last, count)):  # the stretches that it meets
            low, high = edges[k], edges[k + 1]
            overlap = min(end, high) - max(start, low)
            if overlap > 0 and overlap >= min(high - low, end - start) / 2 - ROUNDING:
                for label in labels:
                    filled[k][label] = filled[k].get(label, 0.0) + overlap
    windows = []
    for k, of_labels in enumerate(filled):
        own = tuple(sorted(of_labels))
        if background:
            own = (max(own, key=of_labels.__getitem__, default=background),)
        windows.append(Span(k * hop, min(k * hop + seconds, duration), own))
    return windows


def _duration(path: str) -> float:
    """Returns a file's seconds, 0.0 where it cannot be read: training will say so."""
    try:
        clip = retry.attempt(lambda: open_file(path))
        return retry.attempt(lambda: decode.count_samples(clip)) / max(clip.sample_rate, 1)
    except retry.BadClip:
        return 0.0


def _span(recordings: Recordings, opened: OpenFiles, k: int, duration: float) -> Span:
    start = opened.starts[k] if opened.starts else 0.0
    end = opened.ends[k] if opened.ends else None
    return Span(start, duration if end is None else end, recordings.labels[k] or ())


def _is_heard(recordings: Recordings, opened: OpenFiles, k: int) -> bool:
    """Whether a row has times and no labels."""
    timed = bool(opened.starts and opened.starts[k]) or bool(opened.ends and opened.ends[k])
    return timed and not recordings.labels[k]


def inside(windows: Sequence[Span], heard: Sequence[Span]) -> list[Span]:
    """Returns the windows that lie inside of one of some stretches."""
    heard = sorted(heard, key=lambda span: span.start)
    starts = [span.start for span in heard]
    ends = [-math.inf, *itertools.accumulate((span.end for span in heard), max)]
    return [
        window
        for window in windows  # of the stretches that begin before it, one ends after it
        if window.end <= ends[bisect.bisect_right(starts, window.start + ROUNDING)] + ROUNDING
    ]
