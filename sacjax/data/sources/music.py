"""Pieces of music made by rule, of three genres, for trying a recipe without a download.

Tempo, key, timbre, noise and levels are drawn alike for all genres, which differ in rhythm, chords
and instruments: broken triads without drums; swung cymbals over a walking bass; a drum on each beat
with the bass in octaves.
"""

from collections.abc import Callable

import numpy as np

from sacjax.data.sources.synthetic import Rng, noise, voice

TEMPO = (96.0, 132.0)  # beats a minute
MAJOR = np.array([0, 2, 4, 5, 7, 9, 11])  # semitones of the scale
DEGREES = (0, 5, 3, 4)  # of the chords, a bar each


def frequency(key: float, step: int) -> float:
    """Returns Hz of the `step`-th tone of the major scale above `key` Hz."""
    octave, degree = divmod(step, len(MAJOR))
    return key * 2 ** (octave + MAJOR[degree] / 12)


class Score:
    """A piece in the making: sounds are added at times in beats."""

    def __init__(self, rng: Rng, samples: int, rate: float):
        """Draws tempo and key of a piece of so many samples at a rate in Hz."""
        self.rng, self.rate = rng, rate
        self.sound = np.zeros(samples, np.float32)
        self.beat = 60 / rng.uniform(*TEMPO)  # seconds
        self.key = 110 * 2 ** (rng.integers(0, 12) / 12)
        self.partials = int(rng.integers(3, 7))
        self.drums = 10 ** (-rng.uniform(0, 18) / 20)  # their level in the mix
        self.beats = int(np.ceil(samples / rate / self.beat))

    def add(self, beat: float, sound: np.ndarray, level: float) -> None:
        """Adds a sound at a beat, as far as the piece goes."""
        start = max(round((beat * self.beat + self.rng.normal(0, 0.004)) * self.rate), 0)
        own = self.sound[start : start + len(sound)]
        own += np.float32(level) * sound[: len(own)]

    def note(self, beat: float, step: int, beats: float, level: float, attack: float) -> None:
        """Adds a tone of the scale; it rises for `attack` seconds and then dies away."""
        t = np.arange(max(round(beats * self.beat * self.rate), 2)) / self.rate
        tone = voice(self.rng, frequency(self.key, step), t, self.rate, self.partials)
        shape = (
            np.minimum(t / attack, 1) * np.exp(-2.5 * t / t[-1]) * np.minimum((t[-1] - t) / 0.01, 1)
        )
        self.add(beat, (tone * shape).astype(np.float32), level)

    def hiss(self, beat: float, seconds: float, level: float) -> None:
        """Adds a cymbal: blue noise that dies away."""
        n = max(round(seconds * self.rate), 8)
        shape = np.exp(-4 * np.arange(n) / n).astype(np.float32)
        self.add(beat, noise(self.rng, n, self.rate, -1.0) * shape, self.drums * level)

    def kick(self, beat: float, level: float) -> None:
        """Adds a bass drum: a sine that falls from 120 to 45 Hz."""
        t = np.arange(round(0.18 * self.rate)) / self.rate
        phase = np.cumsum(45 + 75 * np.exp(-t / 0.03)) / self.rate
        sound = (np.sin(2 * np.pi * phase) * np.exp(-t / 0.06)).astype(np.float32)
        self.add(beat, sound, self.drums * level)


def _classical(score: Score) -> None:
    for half in range(2 * score.beats):
        root = DEGREES[half // 8 % 4] + 7
        score.note(half / 2, root + (0, 2, 4, 7)[half % 4], 1.5, score.rng.uniform(0.3, 0.6), 0.05)
        if half % 8 == 0:
            score.note(half / 2, root - 7, 4.0, 0.6, 0.1)


def _jazz(score: Score) -> None:
    for beat in range(score.beats):
        root = DEGREES[beat // 4 % 4]
        score.note(beat, root + int(score.rng.choice([0, 2, 4, 6])), 0.9, 0.8, 0.01)
        score.hiss(beat, 0.12, 0.6)
        if beat % 2:
            score.hiss(beat + 2 / 3, 0.08, 0.5)
        if score.rng.random() < 0.5:  # a seventh chord between the beats
            for step in (2, 4, 6):
                score.note(beat + 2 / 3, root + 7 + step, 0.4, 0.25, 0.01)


def _disco(score: Score) -> None:
    for beat in range(score.beats):
        root = DEGREES[beat // 4 % 4]
        score.kick(beat, 1.0)
        score.hiss(beat + 0.5, 0.12, 0.7)
        for k in range(2):
            score.note(beat + k / 2, root + 7 * k, 0.45, 0.6, 0.005)
        if beat % 2:
            for step in (0, 2, 4):
                score.note(beat, root + 14 + step, 0.5, 0.2, 0.005)


MAKERS: dict[str, Callable[[Score], None]] = {
    "classical": _classical,
    "disco": _disco,
    "jazz": _jazz,
}
GENRES = tuple(MAKERS)


def make_piece(seed: int, index: int, samples: int, rate: float) -> np.ndarray:
    """Returns float32 [samples] in (-1, 1): piece `index`, of genre `GENRES[index % 3]`.

    There is no state but the arguments. Peak -1 to -12 dB.
    """
    rng = np.random.default_rng([seed, index, 3])
    score = Score(rng, samples, rate)
    MAKERS[GENRES[index % len(GENRES)]](score)
    hum = noise(rng, samples, rate, rng.uniform(0, 2)) * np.float32(
        10 ** (-rng.uniform(15, 40) / 20)
    )
    sound = score.sound / (np.abs(score.sound).max() + 1e-9) + hum
    return sound * np.float32(10 ** (-rng.uniform(1, 12) / 20) / np.abs(sound).max())
