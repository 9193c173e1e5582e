"""Hears sound as it comes, and says what happens in it: each event as soon as it is over.

    arecord -f S16_LE -r 16000 | sacjax stream --checkpoint WORKDIR
    sacjax stream --checkpoint WORKDIR FILE            # as if it were heard now; --fast: at once
    sacjax stream --checkpoint WORKDIR --microphone    # Ctrl-C ends it

Standard input is a WAV file, or raw samples: 16 bits, one channel, the model's rate, or as
--encoding, --channels and --rate say. Ctrl-C or SIGTERM ends it as if the sound ended there. At the
end it tells on stderr how late and how fast it was.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sacjax.commands import _events
from sacjax.errors import UserError

if TYPE_CHECKING:
    from sacjax.inference.events import Event, EventTracker
    from sacjax.inference.listening import Listener
    from sacjax.inference.live import Source


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's flags."""
    parser = argparse.ArgumentParser(
        prog="sacjax stream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="WORKDIR")
    parser.add_argument(
        "--which", choices=("best", "last"), help="default: what its config's eval.checkpoint says"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    _events.add_flags(parser)
    parser.add_argument("--fast", action="store_true", help="read a file as fast as can be")
    parser.add_argument(
        "--microphone",
        nargs="?",
        const="",
        metavar="DEVICE",
        help="hear it: its number, or a part of its name (default: the system's)",
    )
    parser.add_argument(
        "--rate", type=int, metavar="HZ", help="of raw samples (default: the model's)"
    )
    parser.add_argument("--encoding", choices=("s16le", "f32le"), help="of raw samples")
    parser.add_argument("--channels", type=int, help="of raw samples (default: 1)")
    parser.add_argument("file", nargs="?", metavar="FILE", help="default: standard input")
    return parser


def check(args: argparse.Namespace) -> None:
    """Raises UserError for flags that do not go together, or are out of range."""
    if args.file == "-":
        args.file = None
    if args.file and args.microphone is not None:
        raise UserError(f"--microphone and {args.file}: give one of them")
    if args.file and not os.path.isfile(args.file):
        raise UserError(f"there is no file '{args.file}'")
    if args.fast and not args.file:
        raise UserError("--fast is for a FILE: other sound comes when it does")
    for name in ("rate", "channels", "encoding"):
        value = getattr(args, name)
        if value is not None and (args.file or args.microphone is not None):
            raise UserError(f"--{name} is for raw samples on standard input")
        if isinstance(value, int) and not 0 < value <= (32 if name == "channels" else 768_000):
            raise UserError(f"--{name} is {value}: that is none of sound")


def source_of(args: argparse.Namespace, sample_rate: int, channel: int | str) -> "Source":
    """Returns where the flags say that sound comes from, at the model's rate where it can be.

    A microphone has one channel, which is heard whatever `channel` the model heard in training.
    """
    from sacjax.inference import live

    if args.file:
        return live.File(args.file, sample_rate, args.fast, channel)
    if args.microphone is not None:
        return live.Microphone(args.microphone or None, sample_rate)
    if sys.stdin.isatty():
        raise UserError("no sound: pipe it to standard input, name a FILE, or give --microphone")
    encoding, channels = args.encoding or "s16le", args.channels or 1
    return live.Pipe(sys.stdin.buffer, args.rate, sample_rate, encoding, channels, channel)


def show(events: "list[Event]", form: str) -> None:
    """Prints events at once, a line each."""
    from sacjax.inference.event_files import as_dict

    for event in events:
        if form == "json":
            print(json.dumps(as_dict(event), ensure_ascii=False), flush=True)
        else:
            print(
                f"{event.start:9.2f} {event.end:9.2f}  {event.label}  "
                f"{100 * event.probability:.1f} %",
                flush=True,
            )


class Clock:
    """How long each chunk took to hear, beside how long it sounds."""

    def __init__(self) -> None:
        self.busy: list[float] = []  # seconds, of chunks that gave probabilities
        self.total = 0.0

    @contextlib.contextmanager
    def measure(self, made: list[Any]) -> Iterator[None]:
        """Measures what is done inside; it counts as a window if `made` is not empty then."""
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        self.total += took
        if made:
            self.busy.append(took)

    def summary(self, listener: "Listener", heard: float) -> str:
        """Returns the lines to end with, of so many seconds heard."""
        how = "the encoder's state is carried" if listener.carries else "sliding windows"
        text = f"heard {heard:.2f} s ({how}, {listener.window:g} s, every {listener.hop:g} s)"
        if self.busy:
            middle, late = 1000 * np.percentile(self.busy, (50, 95))
            delay = listener.delay + middle / 1000
            text += (
                f"\nlatency {delay:.3f} s: half a window and half a hop {listener.delay:.3f} s, "
                f"computing {middle:.1f} ms (95 %: {late:.1f} ms)"
                f"\nreal-time factor {self.total / heard:.4f}"
            )
            if self.total > heard:
                text += ": this machine is too slow for it; take a longer --hop"
        return text


class Stop:
    """What Ctrl-C and SIGTERM do: they end the wait for sound, but not what is done with it."""

    def __init__(self) -> None:
        self.waiting = self.asked = False

    def __call__(self, *_: Any) -> None:
        """Is the handler; the second signal ends whatever is done."""
        again, self.asked = self.asked, True
        if self.waiting or again:
            raise KeyboardInterrupt

    def until(self, chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields chunks until the signal."""
        waited, end = iter(chunks), np.zeros(0)
        while True:
            self.waiting = True
            chunk = end if self.asked else next(waited, end)
            self.waiting = False
            if chunk is end:
                return
            yield chunk


@contextlib.contextmanager
def until_stopped() -> Iterator[Stop]:
    """Ends what is inside at Ctrl-C or SIGTERM, as if the sound ended there."""
    stop = Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def hear(source: "Source", listener: "Listener", tracker: "EventTracker", form: str) -> float:
    """Hears a source to its end or until stopped, prints events and the summary.

    Returns:
      how many seconds were heard.

    Raises:
      UserError: what the source raises, when the events up to there are printed.
    """
    from sacjax.inference import live

    clock, heard, failed = Clock(), 0, None
    with until_stopped() as stop:
        try:
            for samples in stop.until(live.listen(source, listener.sample_rate, listener.hop)):
                heard += len(samples)
                segments: list[Any] = []
                with clock.measure(segments):
                    segments += listener.push(samples)
                show(tracker.push(segments), form)
        except UserError as error:
            failed = error
    seconds = heard / listener.sample_rate
    show(tracker.push(listener.finish()) + tracker.finish(), form)
    if overflows := getattr(source, "overflows", 0):
        print(f"the microphone lost sound {overflows} times", file=sys.stderr)
    if seconds:
        print(clock.summary(listener, seconds), file=sys.stderr)
    if failed is not None:
        raise failed
    return seconds


def main(argv: list[str] | None = None) -> int:
    """Parses flags and listens; 1 where nothing was heard."""
    args = make_parser().parse_args(argv)
    check(args)
    from sacjax import compilation, inference
    from sacjax.inference.events import EventTracker
    from sacjax.inference.listening import Listener

    compilation.start()
    model = inference.load_classifier(args.checkpoint, args.which)
    tracker = EventTracker(model.labels, _events.options_of(args))
    listener = Listener(model, args.hop, args.windows)
    listener.warm_up()
    source = None
    with until_stopped() as stop:
        stop.waiting = True
        source = source_of(args, listener.sample_rate, listener.channel)
    if source is None or not hear(source, listener, tracker, args.format):
        print("no sound was heard", file=sys.stderr)
        return 1
    return 0
