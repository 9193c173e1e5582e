"""Embeddings against the encoders called by hand, NumPy's means and worked times."""

import jax
import librosa
import numpy as np
import pytest
from flax import nnx
from workdirs import config_of, network_of, random_values

from sacjax import inference, models
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.inference.embedder import unlabelled
from sacjax.views import make_views

RNG = np.random.default_rng(0)
WINDOW = 4000
LENGTHS = np.array([4000, 2500, 900], np.int32)
KINDS = {"wav2vec2": "wav2vec2", "small_cnn": "classification"}


def noise(*shape):
    return (0.1 * RNG.standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def embedders(networks):
    return {name: inference.load(workdir).embedder() for name, workdir in networks.items()}


@pytest.fixture(scope="module")
def resnet():
    """An embedder without a workdir."""
    stage = config_of("spectrogram_resnet").supervised
    make = lambda: models.build_encoder(stage.model, num_features=16, rngs=nnx.Rngs(0))
    return inference.Embedder(stage, random_values(make))


@pytest.fixture(scope="module")
def batch():
    """Audio of three lengths in one batch, with what is not silence beyond them."""
    return noise(3, WINDOW)


@pytest.mark.parametrize("name", KINDS)
def test_clips_are_means_of_the_encoders_valid_frames(embedders, batch, name):
    network, stage = network_of(name, KINDS[name]), config_of(name).supervised

    @jax.jit
    def encode(audio, length):  # by the network from before it was saved
        view = make_views(stage, 1)(unlabelled(audio, length))["clean"]
        output = network.encoder(view.inputs, view.lengths, Context())
        return output.frames, output.lengths

    frames, counts = map(np.asarray, encode(batch, LENGTHS))
    assert len(set(counts.tolist())) == 3
    want = [np.mean(frames[k, : counts[k]], 0) for k in range(3)]
    assert np.ptp(want, 0).max() > 0.05
    clips = embedders[name].clips(batch, LENGTHS)
    assert clips.dtype == np.float32 and clips.shape == (3, embedders[name].features)
    np.testing.assert_allclose(clips, want, atol=1e-4)
    own, own_counts = embedders[name].frames(batch, LENGTHS)
    np.testing.assert_array_equal(own_counts, counts)
    np.testing.assert_allclose(own, frames, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_a_clip_is_embedded_alone_as_in_a_batch(embedders, batch, name):
    together, frames = embedders[name].clips(batch, LENGTHS), embedders[name].frames(batch, LENGTHS)
    alone = np.zeros([1, 2600], np.float32)  # another padding
    alone[0, :2500] = batch[1, :2500]
    np.testing.assert_allclose(
        embedders[name].clips(alone, LENGTHS[1:2])[0], together[1], atol=2e-5
    )
    own, count = embedders[name].frames(alone, LENGTHS[1:2])
    assert count[0] == frames[1][1]
    np.testing.assert_allclose(own[0, : count[0]], frames[0][1, : count[0]], atol=1e-4)


def test_int16_is_the_same_sound(embedders, batch):
    ints = np.round(batch * 32768).astype(np.int16)
    got = embedders["wav2vec2"].clips(ints, LENGTHS)
    np.testing.assert_allclose(
        got, embedders["wav2vec2"].clips(ints.astype(np.float32) / 32768, LENGTHS), atol=1e-6
    )


def test_times_of_frames_as_worked_by_hand(embedders, resnet):
    # wav2vec2: strides 5·2·2·2·2 = 80; a frame sees 10 + 2·5 + 2·10 + 2·20 + 1·40 = 120 samples.
    waves = embedders["wav2vec2"]
    assert waves.hop == 80 and waves.frame_seconds == 0.01
    np.testing.assert_allclose(waves.frame_times(4000), (59.5 + 80 * np.arange(49)) / 8000)
    # small_cnn: frames at 0, 128, 256, 384 are pooled to one, whose middle is 192 (but for half a
    # sample); then every 512.
    cnn = embedders["small_cnn"]
    assert cnn.hop == 512
    np.testing.assert_allclose(cnn.frame_times(4000), (191.5 + 512 * np.arange(8)) / 8000)
    # spectrogram_resnet: three strides of 2 of frames 128 apart, the first at 0 (half a sample
    # before it: cut).
    np.testing.assert_allclose(
        resnet.frame_times(4000), [0, *(np.arange(1, 4) * 1024 - 0.5) / 8000]
    )
    np.testing.assert_allclose(cnn.frame_times(100), [100 / 8000])  # within the clip


@pytest.mark.parametrize("name", [*KINDS, "spectrogram_resnet"])
def test_frames_are_counted_as_the_encoder_does(embedders, resnet, batch, name):
    embedder = resnet if name == "spectrogram_resnet" else embedders[name]
    lengths = np.array(
        [1, 119, 120, 199, 200, 384, 896, 1023, 1024, 2047, 2048, 3333, 4000], np.int32
    )
    _, counts = embedder.frames(np.resize(batch, [len(lengths), WINDOW]), lengths)
    assert [embedder.frame_count(int(n)) for n in lengths] == counts.tolist()


def test_layers(networks, batch):
    network, model = network_of("wav2vec2", "wav2vec2"), inference.load(networks["wav2vec2"])
    encode = lambda x, lengths: network.encoder(x, lengths, Context(), hidden_states=True)
    output = jax.jit(encode)(batch, LENGTHS)
    states = np.asarray(output.hidden_states)
    assert len(states) == 3  # the input and two layers
    clip = lambda frames: [
        x[:n].mean(0) for x, n in zip(frames, output.lengths.tolist(), strict=True)
    ]
    for layer, frames in ((0, states[0]), (2, states[2]), ("mean", states.mean(0))):
        got = model.embedder(layer).clips(batch, LENGTHS)
        np.testing.assert_allclose(got, clip(frames), atol=1e-3, err_msg=str(layer))
    assert np.abs(states[2] - states[0]).max() > 0.1  # else the above says little


@pytest.mark.parametrize(
    ("name", "layer"), [("small_cnn", 0), ("small_cnn", "mean"), ("wav2vec2", 3), ("wav2vec2", -2)]
)
def test_layers_that_there_are_not(networks, name, layer):
    message = (
        "no hidden states" if name == "small_cnn" else r"layers 0 \(its Transformer's input\) to 2"
    )
    with pytest.raises(UserError, match=f"--layer is {layer}: {name} has {message}"):
        inference.load(networks[name]).embedder(layer)


def test_parameters_are_arguments(networks, batch):
    embedder = inference.load(networks["small_cnn"]).embedder()
    before = np.asarray(embedder.clips(batch, LENGTHS))
    embedder.variables = jax.tree.map(lambda x: x * 0 + 0.1, embedder.variables)
    after = np.asarray(embedder.clips(batch, LENGTHS))
    assert np.abs(after - before).max() > 1e-3 and embedder._clips._cache_size() == 1


def test_fresh_parameters(networks, embedders, batch):
    model = inference.load(networks["small_cnn"])
    one, same, other = (
        inference.untrained(model, seed).embedder().clips(batch, LENGTHS) for seed in (1, 1, 2)
    )
    trained = np.asarray(embedders["small_cnn"].clips(batch, LENGTHS))
    assert one.shape == trained.shape and np.array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3 and np.abs(one - trained).max() > 1e-3


def test_a_run_of_training(trained, batch):
    """The trained classifier's logits follow from the clip embeddings: its pooling is the mean."""
    model = inference.load(trained.workdir)
    clips = model.embedder().clips(batch, LENGTHS)
    head = model.module.head
    want = np.asarray(clips) @ np.asarray(head.kernel[...]) + np.asarray(head.bias[...])
    np.testing.assert_allclose(model.logits(batch, LENGTHS), want, atol=1e-4)
    with pytest.raises(UserError, match="no checkpoint of stage finetune"):
        inference.load(trained.workdir, stage="finetune")


def test_pieces_stand_where_the_whole_has_them(embedders):
    """small_cnn sees little around a frame.

    Away from the joints its frames are those of the sound in one piece.
    """
    embedder = embedders["small_cnn"]
    stage = embedder.stage.copy_and_resolve_references()
    stage.frontend.normalize, stage.frontend.top_db = "none", None
    make = lambda: models.build_encoder(stage.model, num_features=16, rngs=nnx.Rngs(0))
    embedder = inference.Embedder(stage, random_values(make))
    sound = noise(11000)
    pieces, whole = embedder.embed_frames([sound])[0], embedder.embed_frames([sound], 11000)[0]
    assert (
        len(pieces)
        == len(whole)
        == embedder.frame_count(11000)
        == len(embedder.frame_times(11000))
        == 21
    )
    joints = {6, 7, 13, 14}  # 7 frames of 512 samples a piece of 4000
    inner = [k for k in range(21) if k not in joints]
    np.testing.assert_allclose(pieces[inner], whole[inner], atol=1e-4)
    assert np.abs(np.diff(whole, axis=0)).max() > 0.1
    assert embedder.embed_frames([sound[:3000]])[0].shape == (embedder.frame_count(3000), 8)


def test_many_sounds_are_those_alone(embedders):
    sounds = [
        noise(n) for n in (500, 4000, 9000, 50, 4001)
    ] * 4  # more pieces than a batch has rows
    together = embedders["wav2vec2"].embed_frames(sounds)
    assert [len(x) for x in together] == [max((n - 120) // 80 + 1, 1) for n in map(len, sounds)]
    for k in (0, 2, 4, 17):
        np.testing.assert_allclose(
            together[k], embedders["wav2vec2"].embed_frames([sounds[k]])[0], atol=1e-4
        )


def test_pooling_of_clips(networks, batch):
    model = inference.load(networks["small_cnn"])
    frames, counts = map(np.asarray, model.embedder().frames(batch, LENGTHS))
    mean_max = model.embedder(pooling="mean_max")
    want = [[x[:n].mean(0), x[:n].max(0)] for x, n in zip(frames, counts, strict=True)]
    np.testing.assert_allclose(
        mean_max.clips(batch, LENGTHS), np.reshape(want, [3, mean_max.clip_features]), atol=1e-5
    )
    with pytest.raises(UserError, match="--pooling is 'grit'; did you mean 'grid'"):
        model.embedder(pooling="grit")


def test_trimmed_clips_have_frames_at_their_own_times(resnet):
    """Silence is cut from what makes a clip's vector, and stays where frames have times."""
    stage = config_of("spectrogram_resnet").supervised
    stage.frontend.trim_db = 20.0
    trimmed = inference.Embedder(
        stage,
        random_values(lambda: models.build_encoder(stage.model, num_features=16, rngs=nnx.Rngs(0))),
    )
    silence, word = np.zeros([1, 1600], np.float32), noise(1, WINDOW - 1600)
    late, length = np.concatenate([silence, word], 1), np.array([WINDOW], np.int32)
    np.testing.assert_array_equal(trimmed.frames(late, length)[0], resnet.frames(late, length)[0])
    fft, hop = stage.frontend.n_fft, stage.frontend.hop_length
    cut, _ = librosa.effects.trim(late[0], top_db=20, frame_length=fft, hop_length=hop)
    assert len(cut) < WINDOW - 1000
    alone = np.zeros([1, WINDOW], np.float32)
    alone[0, : len(cut)] = cut
    np.testing.assert_allclose(
        trimmed.clips(late, length), resnet.clips(alone, np.array([len(cut)])), rtol=1e-4
    )
