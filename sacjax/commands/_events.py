"""Events on the command line: what predict and stream share, and what predict makes of files."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

from sacjax.errors import UserError, nearest
from sacjax.io import to_path

if TYPE_CHECKING:
    from sacjax.inference import Model
    from sacjax.inference.events import Event, EventOptions


def add_flags(parser: argparse._ActionsContainer) -> None:
    """Adds the flags that turn probabilities over time into events."""
    parser.add_argument(
        "--hop",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="from a window to the next (default: a quarter of a window)",
    )
    parser.add_argument("--on", type=float, default=0.5, help="an event starts at this probability")
    parser.add_argument("--off", type=float, help="and ends below this one (default: 0.6 of --on)")
    parser.add_argument(
        "--min_duration", type=float, default=0.0, metavar="SECONDS", help="of an event"
    )
    parser.add_argument(
        "--merge_gap",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="events of one label that are no farther apart are one",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="LABEL",
        help="gives no events, such as the background's label; several may be given",
    )
    parser.add_argument(
        "--windows",
        action="store_true",
        help="slide windows also where a causal encoder would carry its state",
    )


def options_of(args: argparse.Namespace) -> "EventOptions":
    """Returns what the flags of `add_flags` say."""
    from sacjax.inference.events import EventOptions

    return EventOptions(args.on, args.off, args.min_duration, args.merge_gap, tuple(args.ignore))


def write_timeline(args: argparse.Namespace, models: "list[Model]", files: list[str]) -> int:
    """Hears long recordings, writes their events and scores them.

    Ctrl-C ends it early: the events of the recordings that were heard whole are written, without
    a score, which would count the others as silent. Where there is none, nothing is written.

    Returns:
      0; 1 if none could be read; 130 after Ctrl-C.
    """
    from sacjax.data.retry import BadClip
    from sacjax.inference import event_files, events, timeline

    path, options = to_path(args.timeline), options_of(args)
    event_files.check_output(path, files)
    options.check(models[0].labels)
    listeners = timeline.listeners_of(models, args.hop, args.windows)
    reference = None
    if args.reference:
        reference = read_reference(args.reference, models[0].labels, options.ignore, files)
    found: dict[str, list[events.Event]] = {}
    highest, interrupted = 0.0, False
    heard = [label not in options.ignore for label in models[0].labels]
    for file in files:
        try:
            segments = timeline.timeline(listeners, file)
        except BadClip as bad:
            print(f"skipped {file}: {bad}", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            if not found:
                raise
            interrupted = True
            break
        found[file] = events.events_of(segments, models[0].labels, options)
        highest = max([highest, *(s.probabilities[heard].max(initial=0) for s in segments)])
    event_files.write_events(path, found)
    print(f"{path}: {sum(map(len, found.values()))} events of {len(found)} recordings")
    if found and not any(found.values()) and highest < options.on:
        print(f"no probability reaches --on {options.on:g}: the highest is {highest:.3f}")
    if interrupted:
        print(f"interrupted at {file}: what was heard before it is written", file=sys.stderr)
        return 130
    if reference is not None:
        print(score_events(reference, found, models[0].labels, args.segment, args.collar))
    return 0 if found else 1


def read_reference(
    path: str, labels: tuple[str, ...], ignore: tuple[str, ...], files: list[str]
) -> "dict[str, list[Event]]":
    """Returns the true events of those files that a table names, without ignored labels.

    Raises:
      UserError: a table that cannot be read, a label that the model does not have, or none of the
        files in it.
    """
    from sacjax.inference.event_files import read_events

    table = read_events(path)
    unknown = sorted({e.label for events in table.values() for e in events} - {*labels, *ignore})
    if unknown:
        raise UserError(
            f"--reference {path}: the model has no label '{unknown[0]}'"
            f"{nearest(unknown[0], labels)}"
        )
    full = {file: os.path.realpath(file) for file in files}
    named = {file: table[path] for file, path in full.items() if path in table}
    if not named:
        raise UserError(
            f"--reference {path}: it names none of the {len(files)} recordings; its file names are "
            "relative to its folder"
        )
    for what, count in (
        (f"recordings are not in {path}, and are not scored", len(files) - len(named)),
        (f"recordings of {path} were not heard", len(set(table) - set(full.values()))),
    ):
        if count:
            print(f"{count} {what}", file=sys.stderr)
    return {file: [e for e in own if e.label not in ignore] for file, own in named.items()}


def score_events(
    reference: "dict[str, list[Event]]",
    found: "dict[str, list[Event]]",
    labels: tuple[str, ...],
    segment: float,
    collar: float,
) -> str:
    """Returns the table of segment-based and event-based scores, in percent.

    A recording that could not be read counts as one in which nothing was found.
    """
    from sacjax.commands.probe import aligned
    from sacjax.inference import event_scores

    pairs = [(own, found.get(file, [])) for file, own in reference.items()]
    of_segments = [event_scores.segment_counts(*pair, labels, segment) for pair in pairs]
    of_events = [event_scores.event_counts(*pair, labels, collar) for pair in pairs]
    metrics = {
        f"segments of {segment:g} s:": event_scores.scores(np.sum(of_segments, 0), labels),
        f"events ±{collar:g} s:": event_scores.scores(np.sum(of_events, 0), labels),
    }
    rows = [["%", *(k for name in metrics for k in (f"{name} F1", "precision", "recall"))]]
    of_labels = {label: None for one in metrics.values() for label in one.labels}
    for title, pick in [
        *((label, lambda one, label=label: one.labels[label]) for label in of_labels),
        ("all together (micro)", lambda one: one.micro),
        ("mean of labels (macro)", lambda one: one.macro),
    ]:
        values = [value for one in metrics.values() for value in pick(one)]
        rows.append([title, *("–" if value != value else f"{100 * value:.1f}" for value in values)])
    return aligned(rows)
