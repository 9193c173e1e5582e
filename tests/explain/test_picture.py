"""The picture: each map over the spectrogram, where the sound is."""

import numpy as np

from sacjax.explain.maps import Grid, Map, Transform
from sacjax.explain.picture import draw, log_mel

RATE = 8000


def test_the_spectrogram_shows_a_tone_at_its_band():
    transform, time = Transform.at(RATE), np.arange(RATE) / RATE
    level = log_mel(np.float32(np.sin(2 * np.pi * 1500 * time)), transform)
    grid = transform.grid(RATE)
    assert level.shape == grid.shape and level.max() == 0
    assert abs(grid.hertz[level[10].argmax()] - 1500) < 60


def test_red_is_for_and_blue_against():
    transform = Transform.at(RATE)
    grid = Grid(np.array([0.0, 0.25, 0.75, 1.0]), np.zeros(1))
    map_ = Map(np.array([[1.0], [1], [-1], [-1]]), grid)
    nothing = Map(np.zeros([4, 1]), grid)
    samples = np.float32(0.1 * np.random.default_rng(0).standard_normal(RATE))
    above = Map(map_.values + 5, grid)
    maps = {"one": map_, "two": nothing, "three": above}
    figure = draw("a title", samples, transform, maps, start=3.0)
    first, one, two, three = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes[1:]] == list(maps)
    assert len(first.images) == 1 and first.get_xlim()[0] <= 3.0 < 4.0 <= first.get_xlim()[1]
    colours = np.asarray(one.images[1].get_array())
    left, right = colours[:, 1], colours[:, -2]
    assert (left[:, 0] == 1).all() and (left[:, 2] == 0).all() and (left[:, 3] > 0.5).all()
    assert (right[:, 0] == 0).all() and (right[:, 2] == 1).all()
    assert (np.asarray(two.images[1].get_array())[..., 3] == 0).all()
    strength = np.asarray(three.images[1].get_array())[..., 3]
    assert (strength[:, 1] > 0.5).all() and (strength[:, -2] == 0).all()
