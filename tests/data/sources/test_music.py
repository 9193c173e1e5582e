"""Synthesized pieces are pure functions of (seed, index), of three genres told by their rhythm."""

import numpy as np
import pytest
from sounds import settings

from sacjax.data import splits
from sacjax.data.sources import load, music
from sacjax.errors import UserError

RATE = 8000


def test_a_piece_is_the_same_whenever_it_is_made():
    pieces = [[music.make_piece(2, k, 2 * RATE, RATE) for k in order] for order in ((0, 1), (1, 0))]
    np.testing.assert_array_equal(pieces[0], pieces[1][::-1])
    for index in range(9):
        piece = music.make_piece(0, index, 2 * RATE, RATE)
        assert piece.shape == (2 * RATE,) and piece.dtype == np.float32
        assert np.isfinite(piece).all() and 0.2 < np.abs(piece).max() < 0.9
    assert abs(np.corrcoef(pieces[0][0], music.make_piece(3, 0, 2 * RATE, RATE))[0, 1]) < 0.5


def test_the_scale_is_in_equal_temperament():
    """A fifth is 7 semitones above the key, an octave twice its frequency."""
    assert music.frequency(110.0, 4) == pytest.approx(110 * 2 ** (7 / 12))
    assert music.frequency(110.0, 7) == pytest.approx(220) and music.frequency(220.0, -7) == 110


def test_drums_tell_the_genres():
    """The energy below 80 Hz is of the bass drum, that above 5 kHz of cymbals."""

    def shares(index):
        power = np.abs(np.fft.rfft(music.make_piece(1, index, 64000, 16000))) ** 2
        hertz = np.fft.rfftfreq(64000, 1 / 16000)
        return power[hertz < 80].sum() / power.sum(), power[hertz > 5000].sum() / power.sum()

    low, high = (
        {genre: np.median(values[g::3]) for g, genre in enumerate(music.GENRES)}
        for values in np.transpose([shares(k) for k in range(30)])
    )
    assert low["disco"] > 3 * max(low["classical"], low["jazz"])
    assert min(high["jazz"], high["disco"]) > 2 * high["classical"]


def test_as_a_source():
    data = settings(
        source="synthetic", name="music", examples=30, seconds=0.5, sample_rate=RATE,
        holdout=(0.5, 0.0, 0.5), validation_fraction=0.0,
    )  # fmt: skip
    found = load(data)
    assert found.class_names == ("classical", "disco", "jazz")
    clip = found.open(4)
    assert clip.num_samples == 4000 and found.labels[4] == ("disco",)
    np.testing.assert_array_equal(clip.read(0, 4000)[:, 0], music.make_piece(0, 4, 4000, RATE))
    parts = splits.split(found, data)
    assert len(parts["train"]) == len(parts["test"]) == 15
    with pytest.raises(UserError, match="data.name is 'musik': synthetic sounds are '', or music"):
        load(settings(source="synthetic", name="musik"))
    with pytest.raises(UserError, match="give at least 3, a clip for each"):
        load(settings(source="synthetic", name="music", examples=2))
