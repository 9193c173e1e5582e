"""From spectrograms back to sound, against librosa, PyTorch and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from sacjax import frontend

RATE, N_FFT, HOP = 8000, 256, 64
SHAPE = dict(n_fft=N_FFT, hop_length=HOP)


def sound(size=2000, clips=2, seed=0):
    """Two tones that fade, and a little noise: float32 [clips, size]."""
    rng = np.random.default_rng(seed)
    time = np.arange(size) / RATE
    tones = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 1500 * time)
    noise = 0.05 * rng.standard_normal((clips, size))
    return (np.exp(-3 * time) * tones + noise).astype(np.float32)


def magnitudes(x):
    return np.abs(np.asarray(frontend.stft(x, pad_mode="constant", **SHAPE)))


def convergence(x, goal):
    """Returns how far the magnitudes of a sound are from the goal, relative to the goal."""
    return np.linalg.norm(magnitudes(x) - goal) / np.linalg.norm(goal)


@functools.partial(jax.jit, static_argnums=(3, 4))
def rebuilt(goal, phase, lengths, rounds, momentum):
    return frontend.griffin_lim(
        goal,
        phase=phase,
        lengths=lengths,
        hop_length=HOP,
        rounds=rounds,
        momentum=momentum,
        length=2000,
    )


@pytest.mark.parametrize("momentum, rounds", [(0.0, 3), (0.99, 3), (0.99, 32)])
def test_griffin_lim_is_librosas(momentum, rounds):
    """Of the same phases: equal after a few rounds, before rounding grows, as near after many."""
    librosa = pytest.importorskip("librosa")
    goal = magnitudes(sound())
    phase = np.stack([np.random.RandomState(7).random((129, 32)).T for _ in goal]) * 2 * np.pi
    whole = jnp.full([2], 2000)
    ours = np.asarray(rebuilt(goal, np.float32(phase), whole, rounds, momentum))
    options = dict(n_iter=rounds, momentum=momentum, random_state=7, length=2000, **SHAPE)
    for k in range(2):
        theirs = librosa.griffinlim(goal[k].T, **options)
        there, here = convergence(theirs, goal[k]), convergence(ours[k], goal[k])
        assert here == pytest.approx(there, rel=0.02) and (rounds == 3 or here < 0.3)
        if rounds == 3:
            np.testing.assert_allclose(ours[k], theirs, atol=2e-5)


def test_a_clip_in_a_padded_batch_is_rebuilt_as_alone():
    librosa = pytest.importorskip("librosa")
    x = sound(1500, 1)
    goal = np.pad(magnitudes(x)[0], ((0, 8), (0, 0)), constant_values=5.0)[None]
    phase = np.random.RandomState(7).random((129, 24)).T * 2 * np.pi
    phase = np.float32(np.pad(phase, ((0, 8), (0, 0))))[None]
    both = [np.tile(a, (2, 1, 1)) for a in (goal, phase)]
    ours = np.asarray(rebuilt(*both, jnp.array([1500, 2000]), 3, 0.99))[0]
    theirs = librosa.griffinlim(goal[0, :24].T, n_iter=3, random_state=7, length=1500, **SHAPE)
    np.testing.assert_allclose(ours[:1500], theirs, atol=1e-4)
    assert not ours[1500:].any()


def test_same_padding_is_pytorchs_fold():
    """Vocos's inverse STFT: overlap-add by fold, (window - hop) / 2 trimmed, one hop a frame."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    spectrum = rng.standard_normal((2, 9, 129)) + 1j * rng.standard_normal((2, 9, 129))
    spectrum[..., 0], spectrum[..., -1] = spectrum[..., 0].real, spectrum[..., -1].real
    window = torch.hann_window(N_FFT)
    parts = torch.fft.irfft(torch.tensor(spectrum).mT, N_FFT, dim=1) * window[:, None]
    fold = lambda x: torch.nn.functional.fold(
        x, output_size=(1, 8 * HOP + N_FFT), kernel_size=(1, N_FFT), stride=(1, HOP)
    )[:, 0, 0, 96:-96]
    weight = fold((window**2)[None, :, None].expand(1, -1, 9).double())
    want = (fold(parts) / weight).numpy()
    options = dict(hop_length=HOP, length=9 * HOP, padding="same")
    ours = frontend.istft(jnp.asarray(spectrum, jnp.complex64), **options)
    np.testing.assert_allclose(ours, want, atol=1e-5)


def test_mel_to_linear_as_near_as_non_negative_least_squares():
    filters = frontend.mel_filterbank(RATE, n_fft=N_FFT, n_mels=20)
    power = magnitudes(sound(600, 1))[0] ** 2
    mel = power @ filters
    linear = np.asarray(jax.jit(lambda x: frontend.linear_of_mel(x, filters))(mel))
    assert linear.min() >= 0 and linear.shape == power.shape
    for found, goal in zip(linear, mel, strict=True):
        _, best = scipy.optimize.nnls(filters.T.astype(np.float64), goal.astype(np.float64))
        assert np.linalg.norm(found @ filters - goal) <= best + 0.03 * np.linalg.norm(goal)


@pytest.mark.parametrize(
    "log, power, ref", [("natural", 1.0, 1.0), ("log10", 2.0, 1.0), ("db", 2.0, 0.5)]
)
def test_unlog_undoes_the_logarithm(log, power, ref):
    values = np.random.default_rng(0).uniform(0.1, 2, [3, 4]).astype(np.float32)
    scaled = frontend.log_scale(values, log=log, power=power, ref=ref)
    back = frontend.unlog(scaled, log=log, power=power, ref=ref)
    np.testing.assert_allclose(back, values, rtol=1e-5)
