"""Trimming against librosa.effects.trim."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from sacjax.frontend import trim

LENGTHS = (4000, 3001, 700, 4000, 0)


def clips():
    """[5, 4000]: words between silences, one silent all through, one of padding alone."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1e-3, (5, 4000)).astype(np.float32)
    x[0, 1000:2500] += rng.normal(0, 0.3, 1500)
    x[1, :900] += rng.normal(0, 0.1, 900)  # loud from its first sample on
    x[2, 400:] += rng.normal(0, 0.1, 3600)  # to its last
    x[3] = 0
    for row, n in zip(x, LENGTHS, strict=True):
        row[n:] = 0
    return x


@pytest.mark.parametrize("frame_length,hop_length", [(256, 80), (255, 64)])
def test_as_librosa(frame_length, hop_length):
    options = dict(top_db=20.0, frame_length=frame_length, hop_length=hop_length)
    ours, lengths = jax.jit(lambda x, n: trim(x, n, **options))(clips(), jnp.asarray(LENGTHS))
    assert lengths[4] == 0
    for row, valid, x, n in zip(ours[:4], lengths, clips(), LENGTHS, strict=False):
        theirs, _ = librosa.effects.trim(x[:n], **options)
        assert valid == len(theirs)
        np.testing.assert_array_equal(row[:valid], theirs)
        assert not row[valid:].any()
    assert lengths[3] == 4000 and lengths[0] < 2000
