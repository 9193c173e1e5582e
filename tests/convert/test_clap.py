"""CLAP's audio tower against transformers' own, randomly initialized: nothing is downloaded."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from networks import quick

from sacjax import config as config_lib
from sacjax import inference
from sacjax.convert import huggingface
from sacjax.errors import UserError
from sacjax.frontend import make_frontend
from sacjax.models.hts_at import SILENCE

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else a local folder is looked up in the hub as well
torch = pytest.importorskip("torch", reason="needs the extra `parity`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")

SMALL = dict(
    patch_embeds_hidden_size=8,
    depths=[2, 2],
    num_attention_heads=[2, 4],
    num_hidden_layers=2,
    hidden_size=16,
    window_size=4,
    patch_size=4,
    patch_stride=[4, 4],
    spec_size=32,
    num_mel_bins=8,
    projection_dim=6,
)
TEXT = dict(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
)
FRAMES = 101  # of a picture of 128
TOLD = dict(sampling_rate=48000, hop_length=480, max_length_s=1)


def make(name):
    """Returns a random model of transformers whose norms, biases and tables are not trivial."""
    torch.manual_seed(0)
    if name == "ClapModel":
        config = transformers.ClapConfig(text_config=TEXT, audio_config=SMALL, projection_dim=6)
    else:
        config = transformers.ClapAudioConfig(**SMALL)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.ndim < 2 or "table" in key:
                value.add_(0.3 * torch.randn_like(value))
        for key, value in model.named_buffers():
            if "running" in key:
                value.add_(0.5 * torch.rand_like(value))
    return model


def save(model, path):
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(TOLD))
    return path


NAMES = ["ClapAudioModel", "ClapAudioModelWithProjection", "ClapModel"]


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory):
    """A model of transformers and ours from the folder that it was saved to."""
    model = make(request.param)
    path = save(model, tmp_path_factory.mktemp("clap"))
    return model, huggingface.load_huggingface(path)


def tower(model):
    return getattr(model, "audio_model", model)


def log_mel(lengths):
    """Returns a batch with noise beyond the ends, and the same as CLAP is given it."""
    x = np.random.default_rng(0).uniform(-60, 0, [len(lengths), FRAMES, 8]).astype(np.float32)
    whole = np.full_like(x, SILENCE)
    for row, count in enumerate(lengths):
        times = FRAMES // count
        whole[row, : times * count] = np.tile(x[row, :count], (times, 1))
    return x, whole


def test_features_agree_in_a_padded_batch(pair):
    model, loaded = pair
    lengths = (FRAMES, 40, 7)
    x, whole = log_mel(lengths)
    with torch.no_grad():
        wanted = tower(model)(torch.tensor(whole)[:, None])
    ours = quick(loaded.model, lambda model, x, n: model(x, n))(
        jnp.asarray(x), jnp.asarray(lengths)
    )
    reference = wanted.last_hidden_state.mean(2).numpy().transpose(0, 2, 1)
    np.testing.assert_allclose(ours.frames, reference, atol=1e-4)
    np.testing.assert_allclose(ours.frames.mean(1), wanted.pooler_output, atol=1e-4)
    assert ours.lengths.tolist() == [reference.shape[1]] * 3


def test_a_round_trip_is_bit_exact_and_loads_without_a_missing_or_unexpected_key(pair, tmp_path):
    model, loaded = pair
    huggingface.save_huggingface(loaded.model, tmp_path, sample_rate=48000)
    again, info = transformers.ClapAudioModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    before, after = tower(model).state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    for key in SMALL.keys() - {"projection_dim"}:
        wanted = getattr(tower(model).config, key)
        assert np.array_equal(getattr(again.config, key), wanted), key
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(extractor, transformers.ClapFeatureExtractor)
    assert (extractor.feature_size, extractor.max_length_s) == (8, 1)
    back = huggingface.load_huggingface(tmp_path)
    assert back.encoder_options == loaded.encoder_options | dict(dropout=0.1)


def test_the_front_end_is_theirs():
    rng, rate = np.random.default_rng(0), 48000
    audio = 1e-3 * rng.standard_normal(10 * rate).astype(np.float32)
    audio += 0.5 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 9000, 10 * rate)) / rate)
    told = dict(frequency_min=50, truncation="rand_trunc", padding="repeatpad")
    extractor = transformers.ClapFeatureExtractor(**told)
    theirs = extractor(audio, sampling_rate=rate, return_tensors="np")["input_features"][0, 0]
    family = next(f for f in huggingface.FAMILIES if f.encoder == "hts_at")
    stage = config_lib.stage()
    stage.frontend.update(family.front_end(dict(num_mel_bins=64), rate, told))
    ours, count = make_frontend(stage.frontend, rate)(audio[None], jnp.asarray([len(audio)]))
    assert ours.shape[1:] == theirs.shape == (1001, 64) and int(count[0]) == 1001
    np.testing.assert_allclose(ours[0], theirs, atol=1e-2)  # decibels; theirs are in float64


def test_keys_that_a_config_does_not_have_are_those_of_transformers(tmp_path):
    config = transformers.ClapAudioConfig()
    (tmp_path / "config.json").write_text(json.dumps(dict(model_type="clap_audio_model")))
    bare = huggingface.read_config(tmp_path)
    assert {key: getattr(config, key) for key in bare} == bare


def test_embeddings_come_straight_from_a_folder(tmp_path):
    source = save(make("ClapModel"), tmp_path)
    model = inference.load(f"hf:{source}")
    assert model.sample_rate == 48000 and model.stage_config.data.seconds == 1.0
    found = model.embed(np.random.default_rng(0).normal(size=20000), sample_rate=48000)
    assert found.shape == (1, 16) and np.isfinite(found).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(enable_fusion=True), "enable_fusion is True; only False"),
        (dict(patch_stride=[2, 2]), "patch_stride is .*; only that of patch_size"),
        (dict(depths=[2, 4]), "missing: audio_encoder.layers.1.blocks.2"),
        (dict(architectures=["ClapTextModel"]), "architecture is ClapTextModel"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path, changes, words):
    save(make("ClapAudioModel"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        huggingface.load_huggingface(tmp_path)
