"""The sound behind each token: log-mels and MFCC by librosa, where each token begins."""

import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from tiny_stages import RATE, SAMPLES, stage_of, waves
from toy_tokens import registered

from sacjax.errors import UserError
from sacjax.objectives.tokens import Grid, TokenFeatures, check_aligned, token_grid
from sacjax.views import View


@pytest.fixture(scope="module", autouse=True)
def toy():
    with registered():
        yield


def test_the_grid_of_tokens():
    assert token_grid(stage_of("best_rq")) == Grid((SAMPLES - 66) // 64 + 1, 64, 1)
    base = stage_of("best_rq")
    base.model.encoder = dict(size="base")
    base.data.update(sample_rate=16000, seconds=1.0)
    assert token_grid(base) == Grid(49, 320, 1)
    frames = SAMPLES // 32 + 1
    assert token_grid(stage_of("best_rq", "toy")) == Grid(frames // 2, 2, 1)
    assert token_grid(stage_of("best_rq", "toy", hop=5, bands=4)) == Grid(frames // 5 * 4, 5, 4)
    cropped = stage_of("best_rq")
    cropped.augment.crop_seconds = 0.2
    assert token_grid(cropped).number == (SAMPLES // 2 - 66) // 64 + 1


def mel(x, **more):
    options = dict(sr=RATE, n_fft=128, hop_length=32, n_mels=8, center=False) | more
    return librosa.power_to_db(librosa.feature.melspectrogram(y=x, **options), amin=1e-10)


def test_log_mels_of_the_wave_side_by_side():
    """A token every 64 samples has the two frames that begin 0 and 32 samples after it does."""
    stage, lengths = stage_of("best_rq"), [SAMPLES, 900, 450]
    stage.frontend.normalize = "none"
    features, view = TokenFeatures(stage, "log_mel", 2), waves(lengths)
    made = np.asarray(features(view, 24))
    assert made.shape == (3, 24, features.size) and features.size == 16
    for k, n in enumerate(lengths):
        frames = mel(np.asarray(view.inputs[k, :n])).T
        tokens = (n - 66) // 64 + 1
        last = len(frames) - 1
        wanted = [
            np.concatenate(frames[np.minimum([2 * t, 2 * t + 1], last)]) for t in range(tokens)
        ]
        np.testing.assert_allclose(made[k, :tokens], wanted, atol=1e-3)


def test_mfcc_with_their_differences_of_every_second_frame():
    stage, lengths = stage_of("hubert"), [SAMPLES, 700]
    stage.frontend.update(normalize="none", n_mfcc=6)
    features, view = TokenFeatures(stage, "mfcc", 2), waves(lengths)
    made = np.asarray(features(view, 24))
    assert features.size == 18
    for k, n in enumerate(lengths):
        one = librosa.feature.mfcc(S=mel(np.asarray(view.inputs[k, :n])), n_mfcc=6)
        delta = lambda x: librosa.feature.delta(x, width=5, order=1, mode="nearest")
        wanted = np.concatenate([one, delta(one), delta(delta(one))]).T[::2]
        tokens = min((n - 66) // 64 + 1, len(wanted))
        np.testing.assert_allclose(made[k, :tokens], wanted[:tokens], atol=1e-3)


def test_patches_of_the_spectrogram():
    """Token 5 of patches of 3 frames and 4 bands, two of them in frequency: step 2, upper half."""
    stage = stage_of("best_rq", "toy", hop=3, bands=2)
    x = np.random.default_rng(0).normal(size=(2, 51, 8)).astype(np.float32)
    features = TokenFeatures(stage, "log_mel")
    made = np.asarray(features(View(jnp.asarray(x), jnp.asarray([51, 30])), 34))
    assert made.shape == (2, 34, features.size)
    np.testing.assert_array_equal(made[0, 5], x[0, 6:9, 4:].ravel())


def test_mfcc_of_a_spectrogram_are_of_its_log_mels():
    stage = stage_of("hubert", "toy")
    stage.frontend.n_mels = 16
    x = np.random.default_rng(0).normal(size=(1, 51, 16)).astype(np.float32)
    features = TokenFeatures(stage, "mfcc")
    made = np.asarray(features(View(jnp.asarray(x), jnp.asarray([51])), 25))
    wanted = librosa.feature.mfcc(S=x[0].T, n_mfcc=13).T
    np.testing.assert_allclose(made[0, :, :13], wanted[:50:2], atol=1e-4)


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match="stack is 3: it must divide the 64 samples"):
        TokenFeatures(stage_of("best_rq"), "log_mel", 3)
    with pytest.raises(UserError, match="choose log_mel"):
        TokenFeatures(stage_of("hubert", "toy", bands=2), "mfcc")
    with pytest.raises(UserError, match="frontend.n_mels is 8: 13 MFCC need as many"):
        TokenFeatures(stage_of("hubert"), "mfcc")
    stage = stage_of("best_rq")
    stage.augment.waveform = (dict(name="speed"),)
    with pytest.raises(UserError, match="augment.waveform has speed.*targets_from=view"):
        check_aligned(stage)
