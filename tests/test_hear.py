"""The HEAR API as its validator checks it, and against the encoder's own embeddings."""

import numpy as np
import pytest
from flax import nnx
from workdirs import RATE

from sacjax import config as config_lib
from sacjax import hear
from sacjax.errors import UserError
from sacjax.inference import Embedder
from sacjax.objectives.base import build_encoder


@pytest.fixture(scope="module", params=["wav2vec2", "small_cnn"])
def model(request, networks):
    return hear.load_model(str(networks[request.param]))


def noise(sounds, seconds, seed=0):
    return (
        np.random.default_rng(seed).uniform(-1, 1, [sounds, int(seconds * RATE)]).astype(np.float32)
    )


def test_attributes(model):
    assert type(model.sample_rate) is int and model.sample_rate == RATE
    assert type(model.scene_embedding_size) is int and type(model.timestamp_embedding_size) is int


@pytest.mark.parametrize(
    "seconds", [0.01, 1.07, 1.98]
)  # all but the first longer than the training's half second
def test_timestamps_as_the_validator_checks_them(model, seconds):
    embeddings, timestamps = hear.get_timestamp_embeddings(noise(2, seconds), model)
    assert embeddings.dtype == timestamps.dtype == np.float32 and np.isfinite(embeddings).all()
    assert (
        embeddings.shape == (2, timestamps.shape[1], model.timestamp_embedding_size)
        and timestamps.shape[0] == 2
    )
    assert (
        timestamps.shape[1] >= 1
        and (timestamps >= 0).all()
        and (timestamps <= 1000 * seconds).all()
    )
    np.testing.assert_array_equal(timestamps[0], timestamps[1])
    if seconds > 1:
        steps = np.diff(timestamps)
        np.testing.assert_allclose(
            steps, 1000 * model.embedder.frame_seconds, atol=1e-2
        )  # rising and regular
        assert (
            timestamps[0, 0] < steps.mean()
            and timestamps[0, -1] > 1000 * seconds - 2 * steps.mean()
        )
        assert np.abs(embeddings[0] - embeddings[1]).max() > 0.1


def test_embeddings_are_those_of_the_sound_in_one_piece(model):
    audio = noise(3, 1.07)
    lengths = np.full(3, audio.shape[1])
    frames, counts = model.embedder.frames(audio, lengths)  # not padded
    embeddings, _ = hear.get_timestamp_embeddings(audio, model)
    assert embeddings.shape[1] == counts[0]
    np.testing.assert_allclose(embeddings, frames[:, : counts[0]], atol=2e-4)
    scenes = hear.get_scene_embeddings(audio, model)
    assert scenes.dtype == np.float32 and scenes.shape == (3, model.scene_embedding_size)
    np.testing.assert_allclose(scenes, embeddings.mean(1), atol=1e-6)
    np.testing.assert_allclose(scenes, model.embedder.clips(audio, lengths), atol=2e-4)


def test_very_long_sounds_are_encoded_in_pieces(model, monkeypatch):
    audio = noise(2, 1.98)
    whole, times = hear.get_timestamp_embeddings(audio, model)
    monkeypatch.setattr(hear, "ONE_PIECE", 1.0)
    pieces, same = hear.get_timestamp_embeddings(audio, model)
    assert pieces.shape == whole.shape and np.array_equal(times, same)
    first = model.embedder.frames(audio[:, :RATE], np.full(2, RATE))[0]
    np.testing.assert_allclose(pieces[:, :14], first[:, :14], atol=2e-4)
    assert np.abs(pieces - whole).max() > 0.1


def test_an_encoder_that_hears_no_more_than_its_positions_hears_long_sounds_in_pieces():
    stage = config_lib.stage()
    stage.data.update(sample_rate=RATE, seconds=1.0)
    stage.frontend.update(n_fft=256, hop_length=128, n_mels=8)
    stage.model.name = "whisper"
    sizes = dict(width=8, depth=1, heads=2, mlp_width=16, max_frames=64)
    stage.model.encoder = sizes | dict(padding="mask")
    model = hear.Model(Embedder(stage, build_encoder(stage, nnx.Rngs(0))))
    audio = noise(2, 2.6)
    found, times = hear.get_timestamp_embeddings(audio, model)
    assert found.shape[:2] == times.shape and times[0, -1] > 2500
    first, _ = model.embedder.frames(audio[:, :RATE], np.full(2, RATE, np.int32))
    np.testing.assert_allclose(found[:, :30], first[:, :30], atol=1e-5)


def test_a_sound_does_not_depend_on_the_others(model):
    audio = noise(3, 1.07)
    alone = hear.get_timestamp_embeddings(audio[1:2], model)[0]
    np.testing.assert_allclose(
        hear.get_timestamp_embeddings(audio, model)[0][1], alone[0], atol=2e-4
    )


def test_torch_goes_in(model):
    torch = pytest.importorskip("torch", reason="HEAR hands torch tensors to models")
    audio = noise(2, 1.07)
    tensor = torch.tensor(audio, requires_grad=True)
    np.testing.assert_array_equal(
        hear.get_scene_embeddings(tensor, model), hear.get_scene_embeddings(audio, model)
    )


def test_sizes_are_few_and_at_most_a_quarter_too_long():
    sizes = [hear.padded_size(n) for n in range(1, 5000)]
    assert all(
        n <= size <= max(1.25 * n, n + 1) for n, size in zip(range(1, 5000), sizes, strict=True)
    )
    assert len({size for size in sizes if 1024 < size <= 2048}) == 4


def test_mistakes_of_the_user(networks, tmp_path):
    with pytest.raises(UserError, match="needs a workdir"):
        hear.load_model()
    with pytest.raises(UserError, match="not a workdir"):
        hear.load_model(str(tmp_path))
    model = hear.load_model(str(networks["small_cnn"]))
    for shape in ((4000,), (0, 4000), (2, 0)):
        with pytest.raises(UserError, match="audio has shape"):
            hear.get_scene_embeddings(np.zeros(shape), model)
