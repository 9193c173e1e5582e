"""What is left of a sound: the fewest cells, and how much quieter the rest is."""

import numpy as np
import pytest

from sacjax.explain.maps import Grid, Map, Transform
from sacjax.explain.sound import important, masked

RATE = 8000


def test_the_important_part_is_the_fewest_cells_that_hold_the_share():
    values = np.array([[5.0, 1.0], [2.0, -9.0], [1.0, 1.0]])
    map_ = Map(values, Grid(np.arange(3.0), np.arange(2.0)))
    np.testing.assert_array_equal(important(map_, 0.5).values, [[1, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(important(map_, 0.6).values, [[1, 0], [1, 0], [0, 0]])
    assert not important(Map(-abs(values), map_.grid), 0.5).values.any()


def test_all_but_the_important_tone_is_attenuated():
    transform, time = Transform.at(RATE), np.arange(2 * RATE) / RATE
    tones = [np.sin(2 * np.pi * f * time) for f in (500, 2500)]
    grid = transform.grid(len(time))
    kept = Map(np.tile(grid.hertz < 1000, (len(grid.times), 1)).astype(float), grid)
    for decibels in (20.0, 40.0, np.inf):
        sound = masked(np.float32(sum(tones)), kept, transform, decibels)
        assert sound.shape == time.shape and sound.dtype == np.float32
        low, high = (2 * abs((sound * tone)[RATE // 2 : -RATE // 2].mean()) for tone in tones)
        assert low == pytest.approx(1, abs=0.01)
        assert high == pytest.approx(10 ** (-decibels / 20), rel=0.1, abs=1e-4)
    everything = masked(np.float32(sum(tones)), Map(kept.values * 0 + 1, grid), transform)
    np.testing.assert_allclose(everything, sum(tones), atol=1e-5)
