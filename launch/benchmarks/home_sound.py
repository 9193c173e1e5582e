"""Synthesizes a home's sound in which a water heater is switched, with its events as manifests.

    python -m launch.benchmarks.home_sound FOLDER [--minutes 30]

`train.wav`, ten minutes; `train.csv` with labels of ten seconds of it, four events and what is
around them; `train_all.csv` with all of its events. `test_1.wav`, `test_2.wav` and `test.csv` with
all of theirs. 8 kHz. Sound and times are made by rule from a seed. See docs/live.md.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.signal import lfilter

from sacjax import io

RATE = 8000
LABEL = "switch"
AROUND = 2.5  # seconds that are labelled around an event of train.wav
LABELLED = 4  # events of train.wav whose surroundings are labelled
Rng = np.random.Generator


def times(seconds: float) -> np.ndarray:
    """Returns the times [n] of samples."""
    return np.arange(round(seconds * RATE)) / RATE


def click(rng: Rng) -> np.ndarray:
    """Returns a relay's click: 30 ms of two damped resonances."""
    t = times(0.03)
    tones = [np.sin(2 * np.pi * f * rng.uniform(0.97, 1.03) * t) for f in (2100, 3300)]
    return (tones[0] + 0.7 * tones[1]) * np.exp(-t / 0.006)


def switch(rng: Rng) -> np.ndarray:
    """Returns a water heater's switch: a click, a buzz of 100 Hz that fades, another click."""
    t = times(rng.uniform(0.3, 0.8))
    buzz = sum(np.sin(2 * np.pi * 100 * k * t) / k for k in range(1, 20, 2))
    x = 0.3 * buzz * np.exp(-t / 0.5)
    for at in (0, len(x) - round(0.03 * RATE)):
        one = click(rng)
        x[at : at + len(one)] += one
    return x


def dishes(rng: Rng) -> np.ndarray:
    """Returns a clink of dishes: high tones that fade."""
    t = times(rng.uniform(0.1, 0.5))
    tones = [np.sin(2 * np.pi * rng.uniform(1500, 3800) * t) for _ in range(3)]
    return np.sum(tones, 0) * np.exp(-t / rng.uniform(0.02, 0.1))


def thump(rng: Rng) -> np.ndarray:
    """Returns a door: a low thump."""
    t = times(0.4)
    return 2 * np.sin(2 * np.pi * rng.uniform(50, 120) * t) * np.exp(-t / 0.08)


def voice(rng: Rng) -> np.ndarray:
    """Returns something like a voice: harmonics of a pitch that glides."""
    t = times(rng.uniform(0.3, 1.2))
    pitch = rng.uniform(100, 250) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.5, 3) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    return sum(np.sin(k * phase) / k for k in range(1, 10)) * np.hanning(len(t))


def water(rng: Rng) -> np.ndarray:
    """Returns running water: a burst of noise."""
    t = times(rng.uniform(0.5, 3.0))
    return lfilter([1, -0.7], [1], rng.standard_normal(len(t))) * np.hanning(len(t))


def tick(rng: Rng) -> np.ndarray:
    """Returns a click that is none of the switch: a lamp's."""
    return click(rng)


OTHERS: tuple[Callable[[Rng], np.ndarray], ...] = (dishes, thump, voice, water, tick)


def recording(rng: Rng, seconds: float) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Returns (samples float64 [n]; start and end of each switch, seconds).

    About twice a minute the heater is switched, and each five seconds something else is heard.
    """
    count = round(seconds * RATE)
    noise = lfilter([1], [1, -0.95], rng.standard_normal(count))
    level = 10 ** (-2.5 + 0.3 * np.sin(2 * np.pi * np.arange(count) / RATE / rng.uniform(60, 200)))
    x = noise * level + 0.003 * np.sin(2 * np.pi * 50 * np.arange(count) / RATE)
    events = []
    at = rng.uniform(3, 6)
    while at < seconds - 8:
        if rng.uniform() < 1 / 6:
            sound = switch(rng)
            events.append((at, at + len(sound) / RATE))
        else:
            sound = OTHERS[rng.integers(len(OTHERS))](rng)
        begin = round(at * RATE)
        gain = 10 ** rng.uniform(-1.5, -0.7)
        x[begin : begin + len(sound)] += gain * sound / np.abs(sound).max()
        at += len(sound) / RATE + rng.uniform(2, 7)
    return x, events


def make(folder: Path, minutes: float, seed: int = 0) -> None:
    """Writes the recordings, of so many minutes for the test, and their manifests."""
    header = ("filename", "start", "end", "label", "split")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    x, events = recording(rng, 600)
    sf.write(folder / "train.wav", x, RATE)
    rows: list[tuple[str, str, str, str, str]] = []
    for start, end in events[:LABELLED]:
        before = (AROUND - (end - start)) / 2
        rows.append(("train.wav", f"{start:.3f}", f"{end:.3f}", LABEL, "train"))
        rows.append(("train.wav", f"{start - before:.3f}", f"{end + before:.3f}", "", "train"))
    io.write_csv(folder / "train.csv", header, rows)
    rows = [("train.wav", f"{start:.3f}", f"{end:.3f}", LABEL, "train") for start, end in events]
    io.write_csv(folder / "train_all.csv", header, rows)
    rows = []
    for number in (1, 2):
        x, events = recording(rng, 60 * minutes)
        sf.write(folder / f"test_{number}.wav", x, RATE)
        name = f"test_{number}.wav"
        rows += [(name, f"{start:.3f}", f"{end:.3f}", LABEL, "test") for start, end in events]
    io.write_csv(folder / "test.csv", header, rows)
    print(f"{folder}: {LABELLED * AROUND:g} labelled seconds, {len(rows)} events to find")


def main() -> None:
    """Parses flags and makes the recordings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0, help="of each test recording")
    args = parser.parse_args()
    make(args.folder, args.minutes)


if __name__ == "__main__":
    main()
