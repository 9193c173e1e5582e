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
from sacjax.models.clap_fusion import four_views
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
FUSED = SMALL | dict(enable_fusion=True, fusion_type="aff_2d", aff_block_r=2)
TEXT = dict(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
)
FRAMES = 101  # of a picture of 128
FAMILY = next(f for f in huggingface.FAMILIES if f.encoder == "hts_at")
TOLD = dict(sampling_rate=48000, hop_length=480, max_length_s=1)


def make(name, audio=SMALL):
    """Returns a random model of transformers whose norms, biases and tables are not trivial."""
    torch.manual_seed(0)
    if name == "ClapModel":
        config = transformers.ClapConfig(text_config=TEXT, audio_config=audio, projection_dim=6)
    else:
        config = transformers.ClapAudioConfig(**audio)
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


KINDS = [
    ("ClapAudioModel", SMALL),
    ("ClapAudioModelWithProjection", SMALL),
    ("ClapModel", SMALL),
    ("ClapAudioModel", FUSED),
    ("ClapModel", FUSED),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}_{len(kind[1])}")
def pair(request, tmp_path_factory):
    """A model of transformers and ours from the folder that it was saved to."""
    model = make(*request.param)
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
    given = torch.tensor(whole)[:, None]
    if loaded.model.fusion:
        given = given.expand(-1, 4, -1, -1)
    with torch.no_grad():
        wanted = tower(model)(given, is_longer=torch.zeros(3, 1))
    ours = quick(loaded.model, lambda model, x, n: model(x, n))(
        jnp.asarray(x), jnp.asarray(lengths)
    )
    reference = wanted.last_hidden_state.mean(2).numpy().transpose(0, 2, 1)
    np.testing.assert_allclose(ours.frames, reference, atol=1e-4)
    np.testing.assert_allclose(ours.frames.mean(1), wanted.pooler_output, atol=1e-4)
    assert ours.lengths.tolist() == [reference.shape[1]] * 3


def test_long_and_short_clips_are_fused_as_theirs(tmp_path):
    model = make("ClapAudioModel", FUSED)
    with torch.no_grad():  # the gates' norms
        for key, value in model.named_parameters():
            if "fusion_model" in key:
                value.add_(0.3 * torch.randn_like(value))
    loaded = huggingface.load_huggingface(save(model, tmp_path))
    lengths = (2 * FRAMES + 51, 40, FRAMES + 1, FRAMES, FRAMES + 2)
    x = np.random.default_rng(0).uniform(-60, 0, [5, lengths[0], 8]).astype(np.float32)
    given, longer = [], []
    for row, count in enumerate(lengths):
        longer.append(count > FRAMES)
        if not longer[-1]:
            mel = np.full([FRAMES, 8], SILENCE, np.float32)
            times = FRAMES // count
            mel[: times * count] = np.tile(x[row, :count], (times, 1))
            given.append(np.stack([mel] * 4))
            continue
        mel = torch.tensor(x[row, :count])[None, None]
        shrunk = torch.nn.functional.interpolate(mel, size=[FRAMES, 8], mode="bilinear")[0, 0]
        thirds = np.array_split(np.arange(count - FRAMES + 1), 3)
        starts = [third[len(third) // 2] if len(third) else 0 for third in thirds]  # no draws
        given.append(np.stack([shrunk, *(x[row, start : start + FRAMES] for start in starts)]))
    with torch.no_grad():
        is_longer = torch.tensor(longer)[:, None]
        wanted = model(torch.tensor(np.stack(given)), is_longer=is_longer)
        unfused = model(torch.tensor(np.stack(given)), is_longer=torch.zeros(5, 1))
    assert (wanted.pooler_output - unfused.pooler_output)[longer].abs().min(1)[0].min() > 1e-4
    run = quick(loaded.model, lambda model, x, n: model(x, n))
    ours = run(jnp.asarray(x), jnp.asarray(lengths))
    reference = wanted.last_hidden_state.mean(2).numpy().transpose(0, 2, 1)
    np.testing.assert_allclose(ours.frames, reference, atol=1e-4)
    np.testing.assert_allclose(ours.frames.mean(1), wanted.pooler_output, atol=1e-4)


def test_a_round_trip_is_bit_exact_and_loads_without_a_missing_or_unexpected_key(pair, tmp_path):
    model, loaded = pair
    huggingface.save_huggingface(loaded.model, tmp_path, sample_rate=48000)
    again, info = transformers.ClapAudioModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    before, after = tower(model).state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    for key in FUSED.keys() - {"projection_dim", "fusion_type"}:
        wanted = getattr(tower(model).config, key)
        assert np.array_equal(getattr(again.config, key), wanted), key
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(extractor, transformers.ClapFeatureExtractor)
    assert (extractor.feature_size, extractor.max_length_s) == (8, 1)
    assert extractor.truncation == ("fusion" if loaded.model.settings.fusion else "rand_trunc")
    back = huggingface.load_huggingface(tmp_path)
    assert back.encoder_options == loaded.encoder_options | dict(dropout=0.1)


def test_the_front_end_is_theirs():
    rng, rate = np.random.default_rng(0), 48000
    audio = 1e-3 * rng.standard_normal(10 * rate).astype(np.float32)
    audio += 0.5 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 9000, 10 * rate)) / rate)
    told = dict(frequency_min=50, truncation="rand_trunc", padding="repeatpad")
    extractor = transformers.ClapFeatureExtractor(**told)
    theirs = extractor(audio, sampling_rate=rate, return_tensors="np")["input_features"][0, 0]
    stage = config_lib.stage()
    stage.frontend.update(FAMILY.front_end(dict(num_mel_bins=64), rate, told))
    ours, count = make_frontend(stage.frontend, rate)(audio[None], jnp.asarray([len(audio)]))
    assert ours.shape[1:] == theirs.shape == (1001, 64) and int(count[0]) == 1001
    np.testing.assert_allclose(ours[0], theirs, atol=1e-2)  # decibels; theirs are in float64


@pytest.mark.parametrize("truncation", ["fusion", "rand_trunc"])
def test_features_of_long_and_short_clips_are_theirs(truncation, monkeypatch):
    rng, rate, size, draws = np.random.default_rng(0), 48000, 101, []
    counts = (150000, 48000, 48100, 49000, 20000, 96001)
    audios = [0.1 * rng.standard_normal(n).astype(np.float32) for n in counts]
    for name in ("choice", "randint"):
        theirs = getattr(np.random, name)
        noted = lambda *given, theirs=theirs: draws.append(theirs(*given)) or draws[-1]
        monkeypatch.setattr(np.random, name, noted)
    plain = torch.nn.functional.interpolate
    exact = lambda mel, **options: plain(mel.double(), **options)  # theirs is off by 3e-4 dB
    monkeypatch.setattr(torch.nn.functional, "interpolate", exact)
    told = dict(frequency_min=50, truncation=truncation, padding="repeatpad", max_length_s=1)
    found = transformers.ClapFeatureExtractor(**told)(audios, sampling_rate=rate)
    longer = np.ravel(found["is_longer"])
    fusion = truncation == "fusion"
    front_end = FAMILY.front_end(dict(num_mel_bins=64, enable_fusion=fusion), rate, told)
    stage, taken = config_lib.stage(), iter(draws)
    stage.frontend.update(front_end)
    if not fusion:
        starts = [next(taken) if n > rate else 0 for n in counts]
        audios = [x[start : start + rate] for x, start in zip(audios, starts, strict=True)]
    lengths = np.asarray([len(x) for x in audios])
    batch = np.stack([np.pad(x, (0, lengths.max() - len(x))) for x in audios])
    mel, frames = make_frontend(stage.frontend, rate)(batch, jnp.asarray(lengths))
    if fusion:
        starts = [[next(taken) if is_longer else 0 for _ in range(3)] for is_longer in longer]
        four = four_views(mel, frames, jnp.asarray(starts), size)
        assert (np.asarray(frames) > size).tolist() == longer.tolist()
        mel = np.where(longer[:, None, None, None], four, mel[:, None, :size])
    else:
        mel = np.asarray(mel)[:, None]
    for ours, reference in zip(mel, found["input_features"], strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-4)  # decibels


def test_keys_that_a_config_does_not_have_are_those_of_transformers(tmp_path):
    config = transformers.ClapAudioConfig()
    (tmp_path / "config.json").write_text(json.dumps(dict(model_type="clap_audio_model")))
    bare = huggingface.read_config(tmp_path)
    assert {key: getattr(config, key) for key in bare} == bare


@pytest.mark.parametrize(("audio", "seconds"), [(SMALL, 1.0), (FUSED, 3.0)])
def test_embeddings_come_straight_from_a_folder(audio, seconds, tmp_path):
    source = save(make("ClapModel", audio), tmp_path)
    model = inference.load(f"hf:{source}")
    assert model.sample_rate == 48000 and model.stage_config.data.seconds == seconds
    found = model.embed(np.random.default_rng(0).normal(size=20000), sample_rate=48000)
    assert found.shape == (1, 16) and np.isfinite(found).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            dict(enable_fusion=True, fusion_type="channel_map"),
            "fusion_type is 'channel_map'; only 'aff_2d'",
        ),
        (dict(enable_fusion=True), "missing: audio_encoder.patch_embed.mel_conv2d.weight"),
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
