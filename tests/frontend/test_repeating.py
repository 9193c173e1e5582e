"""Clips repeated whole, as worked by hand; tests/convert/test_clap.py has transformers'."""

import jax.numpy as jnp
import numpy as np

from sacjax import config as config_lib
from sacjax.frontend import make_frontend, repeat_whole


def test_as_worked_by_hand():
    x = jnp.asarray([[1.0, 2, 3, 9], [4, 5, 9, 9], [1, 2, 3, 4], [9, 9, 9, 9]])
    found, lengths = repeat_whole(x, jnp.asarray([3, 2, 4, 0]), 7)
    np.testing.assert_array_equal(
        found[:3], [[1, 2, 3, 1, 2, 3, 0], [4, 5, 4, 5, 4, 5, 0], [1, 2, 3, 4, 0, 0, 0]]
    )
    assert lengths.tolist() == [7, 7, 7, 0]


def test_longer_clips_stay():
    x = jnp.asarray([[1.0, 2, 3, 4, 5], [6, 7, 9, 9, 9]])
    found, lengths = repeat_whole(x, jnp.asarray([5, 2]), 3)
    np.testing.assert_array_equal(found[0], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(found[1, :3], [6, 7, 0])
    assert lengths.tolist() == [5, 3]


def test_a_front_end_hears_the_repeated_clip():
    stage = config_lib.stage()
    stage.frontend.update(n_fft=64, hop_length=16, n_mels=8)
    audio = np.random.default_rng(0).standard_normal([2, 200]).astype(np.float32)
    by_hand = np.stack(
        [
            np.r_[np.tile(audio[0, :90], 4), np.zeros(40)].astype(np.float32),
            np.r_[audio[1], audio[1]],
        ]
    )
    wanted, count = make_frontend(stage.frontend, 1000)(by_hand, jnp.asarray([400, 400]))
    stage.frontend.repeat_seconds = 0.4
    found, frames = make_frontend(stage.frontend, 1000)(audio, jnp.asarray([90, 200]))
    np.testing.assert_array_equal(frames, count)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
