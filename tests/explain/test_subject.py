"""A window's cells: gradients by cell have the sum that they have by sample; cells are silenced."""

import bursts
import jax.numpy as jnp
import numpy as np
import pytest

from sacjax.explain.network import Network
from sacjax.explain.subject import Subject


def subject_of(encoder, length=None, **frontend):
    audio, _ = bursts.sounds(2, seed=3)
    network = Network(bursts.untrained(encoder, **frontend))
    return Subject(network, audio[1], length or audio.shape[1], 1), audio[1]


@pytest.mark.parametrize("length", [None, 2001])
def test_shares_of_a_wave_add_up_to_slope_times_samples(length):
    subject, _ = subject_of("audionet", length)
    slope = np.random.default_rng(0).standard_normal(len(subject.x)).astype(np.float32)
    shares = subject.shares(slope)
    assert shares.shape == subject.grid.shape
    want = float(slope[: subject.length] @ subject.x[: subject.length])
    assert shares.sum() == pytest.approx(want, rel=1e-4)


def test_a_tones_share_lies_in_its_band():
    subject, _ = subject_of("audionet")
    time = np.arange(len(subject.x)) / bursts.RATE
    subject.x = np.sin(2 * np.pi * 700 * time).astype(np.float32)
    bands = subject.shares(subject.x).sum(0)
    near = abs(subject.grid.hertz - 700) < 80
    assert bands[near].sum() > 0.95 * bands.sum()


def test_cells_without_sound():
    subject, audio = subject_of("audionet")
    frames, bands = subject.grid.shape
    cells = np.zeros([3, frames, bands], bool)
    cells[1], cells[2, :, subject.grid.hertz > 900] = True, True
    same, silent, low = subject.without(cells)
    np.testing.assert_allclose(same, audio, atol=1e-6)
    np.testing.assert_allclose(silent, 0, atol=1e-6)
    power = np.abs(np.fft.rfft(low)) ** 2
    hertz = np.fft.rfftfreq(len(low), 1 / bursts.RATE)
    assert power[hertz > 1100].sum() < 1e-2 * power[hertz < 800].sum()


def test_a_spectrogram_without_cells_is_as_quiet_as_its_quietest():
    subject, _ = subject_of("small_cnn", 2001)
    assert subject.length < len(subject.x)  # padding, which stays as it is
    cells = np.zeros([1, *subject.grid.shape], bool)
    cells[0, 2:4] = True
    (hidden,) = subject.without(cells)
    quiet = subject.x[: subject.length].min()
    assert (hidden[2:4] == quiet).all() and (hidden[4:] == subject.x[4:]).all()
    assert (subject.baseline[subject.length :] == 0).all()
    assert (subject.baseline[: subject.length] == quiet).all()


def test_a_model_of_lower_precision_is_explained_in_float32():
    change = lambda s: s.model.update(dtype="bfloat16")
    low, high = (Network(bursts.untrained("small_cnn", change=c)) for c in (change, None))
    audio, _ = bursts.sounds(2)
    logits = [n.logits(n.view(audio[1], len(audio[1]))[0][None], 41, 1)[0] for n in (low, high)]
    assert low.variables["head"]["kernel"][...].dtype == jnp.float32
    assert logits[0] == pytest.approx(logits[1], rel=1e-6)
