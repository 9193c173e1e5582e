"""From probabilities over time to events: thresholds, merged gaps, least durations."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sacjax.errors import UserError, nearest

ROUNDING = 1e-6  # seconds; times are sums of floats


class Segment(NamedTuple):
    """A stretch of sound and what it is."""

    start: float  # seconds
    end: float
    probabilities: np.ndarray  # [C]


class Event(NamedTuple):
    """A stretch of sound with one label."""

    start: float  # seconds
    end: float
    label: str
    probability: float = 1.0  # the highest in it


@dataclasses.dataclass(frozen=True)
class EventOptions:
    """How probabilities become events."""

    on: float = 0.5
    """An event starts where its probability reaches this."""

    off: float | None = None
    """It ends where its probability falls below this; None: 0.6 of `on`."""

    min_duration: float = 0.0
    """Seconds; a shorter event is left out."""

    merge_gap: float = 0.0
    """Seconds; events of one label that are no farther apart are one. Merged before the others."""

    ignore: tuple[str, ...] = ()
    """Labels that give no events, such as that of the background."""

    @property
    def release(self) -> float:
        """`off`, or what it is by default."""
        return 0.6 * self.on if self.off is None else self.off

    def check(self, labels: Sequence[str]) -> None:
        """Raises UserError for values out of range, or an ignored label that there is not."""
        if not 0 < self.on <= 1:
            raise UserError(f"--on is {self.on:g}: it must be more than 0, and at most 1")
        if not 0 < self.release <= self.on:
            raise UserError(
                f"--off is {self.release:g}: it must be more than 0, and at most --on {self.on:g}"
            )
        for name in ("min_duration", "merge_gap"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"--{name} is {getattr(self, name):g}: it must be 0 or more")
        for label in self.ignore:
            if label not in labels:
                raise UserError(
                    f"--ignore is '{label}': the model has no such label{nearest(label, labels)}"
                )


class EventTracker:
    """Turns segments into events as they come: each event is told once, when it is over.

    Every label is followed by itself, by two thresholds (hysteresis).
    """

    def __init__(self, labels: Sequence[str], options: EventOptions = EventOptions()):
        """Takes the C label names. Raises UserError for options that do not fit."""
        options.check(labels)
        self.labels, self.options = tuple(labels), options
        self.active = np.zeros(len(labels), bool)
        self.used = np.array([label not in options.ignore for label in labels], bool)
        self.last: dict[int, Event] = {}  # of each label, which may still grow

    def push(self, segments: Iterable[Segment]) -> list[Event]:
        """Returns the events that are over, by these segments, which follow those before."""
        return [event for segment in segments for event in self._push(*segment)]

    def finish(self) -> list[Event]:
        """Returns the events that the end of the sound ends."""
        over = [event for k in sorted(self.last) for event in self._end(k)]
        self.active[:] = False
        return over

    def _push(self, start: float, end: float, probabilities: np.ndarray) -> list[Event]:
        o, p = self.options, np.asarray(probabilities)
        self.active = self.used & ((p >= o.on) | (self.active & (p >= o.release)))
        over = []
        for k in [k for k in self.last if not self.active[k]]:
            if end - self.last[k].end > o.merge_gap + ROUNDING:  # too late for another to join it
                over += self._end(k)
        for k in map(int, np.flatnonzero(self.active)):
            before = self.last.get(k)
            if before and start - before.end > o.merge_gap + ROUNDING:
                over += self._end(k)
                before = None
            first, highest = (before.start, before.probability) if before else (start, 0.0)
            self.last[k] = Event(first, end, self.labels[k], max(highest, float(p[k])))
        return over

    def _end(self, k: int) -> list[Event]:
        event = self.last.pop(k)
        long_enough = event.end - event.start >= self.options.min_duration - ROUNDING
        return [event] if long_enough else []


def events_of(
    segments: Iterable[Segment], labels: Sequence[str], options: EventOptions = EventOptions()
) -> list[Event]:
    """Returns the events of a whole sound, by their start.

    Raises:
      UserError: options that do not fit.
    """
    tracker = EventTracker(labels, options)
    return sorted(tracker.push(segments) + tracker.finish())
