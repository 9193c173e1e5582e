"""Grids and maps: from one grid to another, and the transform's filters."""

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from sacjax import config as config_lib
from sacjax.explain.maps import Grid, Map, Transform, frontend_grid


def test_a_map_on_another_grid_is_interpolated_and_ends_as_its_edge():
    rng = np.random.default_rng(0)
    map_ = Map(rng.normal(size=[4, 3]), Grid(np.array([0, 1, 2, 4.0]), np.array([100, 200, 500.0])))
    times, hertz = np.array([-1, 0.5, 3, 9.0]), np.array([50, 150, 400, 900.0])
    reference = RegularGridInterpolator((map_.grid.times, map_.grid.hertz), map_.values)
    at = np.stack(np.meshgrid(times.clip(0, 4), hertz.clip(100, 500), indexing="ij"), -1)
    np.testing.assert_allclose(map_.on(Grid(times, hertz)), reference(at))
    flat = Map(map_.values[:, :1], Grid(map_.grid.times, np.zeros(1))).on(Grid(times, hertz))
    assert (flat == flat[:, :1]).all() and flat[1, 0] == pytest.approx(map_.values[:2, 0].mean())


def test_smoothing_keeps_the_sum_and_leaves_coarse_maps():
    values = np.zeros([40, 40])
    values[20, 20] = 1
    fine = Map(values, Grid(np.arange(40) * 0.01, np.arange(40.0)))
    smooth = fine.smoothed().values
    assert smooth.sum() == pytest.approx(1, abs=1e-3) and smooth.max() < 0.1
    assert smooth.argmax() == values.argmax()
    coarse = Map(values, Grid(np.arange(40) * 0.3, np.arange(10.0)))
    assert (coarse.smoothed().values == values)[:, :10].all()


@pytest.mark.parametrize("rate", [4000, 8000, 16000, 44100])
def test_every_bin_is_shared_out_whole(rate):
    transform = Transform.at(rate)
    assert 0.03 < transform.n_fft / rate < 0.07
    np.testing.assert_allclose(transform.filters.sum(1), 1)
    assert (transform.filters >= 0).all()
    assert (np.diff(transform.grid(rate).hertz) >= 0).all()


def test_cells_of_a_front_end_are_where_its_frames_and_mels_are():
    import librosa

    f = config_lib.stage().frontend
    f.update(n_fft=1024, hop_length=256, n_mels=40, fmin=50.0, fmax=7000.0, htk=True)
    grid = frontend_grid(f, 16000, 20)
    want = librosa.mel_frequencies(42, fmin=50, fmax=7000, htk=True)[1:-1]
    np.testing.assert_allclose(grid.hertz, want, rtol=0.12)  # of the bins within each filter
    np.testing.assert_allclose(grid.hertz[10:], want[10:], rtol=0.02)
    np.testing.assert_allclose(
        grid.times, librosa.frames_to_time(np.arange(20), sr=16000, hop_length=256)
    )
    f.center = False
    np.testing.assert_allclose(frontend_grid(f, 16000, 20).times, grid.times + 512 / 16000)
    f.n_mfcc = 13
    assert frontend_grid(f, 16000, 20).shape == (20, 1)
