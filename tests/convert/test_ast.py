"""AST against transformers' own models, randomly initialized: nothing is downloaded."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from networks import quick

from sacjax import config as config_lib
from sacjax import inference
from sacjax.convert import ast, huggingface, workdir
from sacjax.errors import UserError
from sacjax.frontend import make_frontend

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else a local folder is looked up in the hub as well
torch = pytest.importorskip("torch", reason="needs the extra `parity`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")

SMALL = dict(
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=24,
    patch_size=4,
    frequency_stride=3,
    time_stride=2,
    max_length=20,
    num_mel_bins=14,
)
NAMES = dict(num_labels=3, id2label={0: "a", 1: "b", 2: "c"}, label2id=dict(a=0, b=1, c=2))
CASES = {
    "bare": ("ASTModel", SMALL | dict(qkv_bias=False, frequency_stride=4, time_stride=4)),
    "classifier": ("ASTForAudioClassification", SMALL | NAMES),
}
FRAMES = (20, 20)


def make(name, **options):
    """Returns a random model of transformers whose parameters all count."""
    kind, own = CASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.ASTConfig(**(own | options))).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


def sound(frames=FRAMES, bands=14):
    x = np.random.default_rng(0).standard_normal([len(frames), max(frames), bands])
    return x.astype(np.float32)


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory):
    """A model of transformers, the folder that it was saved to, and ours from there."""
    model, path = make(request.param), tmp_path_factory.mktemp("ast")
    model.save_pretrained(path)
    return model, path, huggingface.load_huggingface(path)


def test_hidden_states_and_logits_agree(pair):
    model, _, loaded = pair
    x, lengths = sound(), jnp.asarray(FRAMES)
    with torch.no_grad():
        wanted = model(torch.tensor(x), output_hidden_states=True)
    encoder = loaded.model if loaded.kind == "bare" else loaded.model.encoder
    tokens = encoder.tokens(jnp.asarray(x), lengths)

    def run(model, tokens):
        encoder = model if loaded.kind == "bare" else model.encoder
        encoded = encoder.encode(tokens)
        logits = None if loaded.kind == "bare" else model(jnp.asarray(x), lengths)
        pooled = encoder(jnp.asarray(x), lengths, hidden_states=True)
        return encoded, pooled, logits

    encoded, pooled, logits = quick(loaded.model, run)(tokens)
    columns, bands = encoder.columns(20), encoder.bands
    order = np.arange(columns * bands).reshape(columns, bands).T.ravel()  # theirs: bands first
    for state, reference in zip(pooled.hidden_states, wanted.hidden_states, strict=True):
        np.testing.assert_allclose(state, reference[:, :2], atol=1e-4)
    if loaded.kind == "bare":
        found = np.concatenate([encoded.classes, encoded.patches.frames[:, order]], 1)
        np.testing.assert_allclose(found, wanted.last_hidden_state, atol=1e-4)
        np.testing.assert_allclose(pooled.frames.mean(1), wanted.pooler_output, atol=1e-4)
    else:
        np.testing.assert_allclose(logits, wanted.logits, atol=1e-4)
        assert loaded.class_names == ("a", "b", "c")


def test_a_round_trip_is_bit_exact_and_loads_without_a_missing_or_unexpected_key(pair, tmp_path):
    model, _, loaded = pair
    frontend = config_lib.stage().frontend
    frontend.update(ast.front_end(14, 16000, dict(mean=-3.0, std=2.5)))
    huggingface.save_huggingface(
        loaded.model, tmp_path, class_names=loaded.class_names, frontend=frontend
    )
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    for (key, before), after in zip(
        model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(before, after), key
    for key in SMALL:
        assert getattr(again.config, key) == getattr(model.config, key), key
    if loaded.kind == "classification":
        assert again.config.id2label == model.config.id2label
    features = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(features, transformers.ASTFeatureExtractor)
    told = features.mean, features.std, features.num_mel_bins, features.max_length
    assert told == (-3.0, 2.5, 14, 20) and features.do_normalize
    frontend.log = "db"
    with pytest.raises(UserError, match="front end has no counterpart.*frontend.log=natural$"):
        huggingface.save_huggingface(loaded.model, tmp_path / "no", frontend=frontend)
    huggingface.save_huggingface(loaded.model, tmp_path)  # of a front end that is not known
    assert not json.loads((tmp_path / "preprocessor_config.json").read_text())["do_normalize"]


def test_positions_of_another_length_are_cut_or_interpolated(pair):
    model, path, loaded = pair
    encoder = loaded.model if loaded.kind == "bare" else loaded.model.encoder
    grid = np.asarray(encoder.positions[...][2:]).reshape(-1, encoder.bands, 16)
    for frames in (12, 30):
        other = huggingface.load_huggingface(path, max_frames=frames).model
        other = other if loaded.kind == "bare" else other.encoder
        found = np.asarray(other.positions[...][2:]).reshape(-1, encoder.bands, 16)
        assert len(found) == other.columns(frames)
        wanted = grid[: len(found)]
        if frames > 20:
            wanted = (
                torch.nn.functional.interpolate(
                    torch.tensor(grid.transpose(2, 1, 0)[None]),
                    size=(encoder.bands, len(found)),
                    mode="bilinear",
                    align_corners=False,
                )[0]
                .numpy()
                .transpose(2, 1, 0)
            )
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        np.testing.assert_array_equal(other.positions[...][:2], encoder.positions[...][:2])


def test_the_front_end_that_is_taken_comes_near_to_theirs():
    """It is Kaldi's but for the window's place, the mean of a frame and mels as straight lines."""
    rng, rate = np.random.default_rng(0), 16000
    audio = 0.1 * rng.standard_normal(rate).astype(np.float32)
    audio += 0.3 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 3000, rate)) / rate)
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=64, max_length=98)
    theirs = extractor(audio, sampling_rate=rate, return_tensors="np")["input_values"][0]
    told = dict(mean=extractor.mean, std=extractor.std)
    stage = config_lib.stage()
    stage.frontend.update(ast.front_end(64, rate, told))
    ours, count = make_frontend(stage.frontend, rate)(audio[None], jnp.asarray([rate]))
    ours = np.asarray(ours[0, : int(count[0])])
    # Their first whole window starts with the clip, ours 3.5 ms into it.
    difference = np.abs(ours - theirs[: len(ours)])
    assert np.corrcoef(ours.ravel(), theirs[: len(ours)].ravel())[0, 1] > 0.9
    assert np.median(difference) < 0.1
    np.testing.assert_allclose(ours.mean(), theirs.mean(), atol=0.05)


def test_a_classifier_becomes_a_workdir_and_comes_back(tmp_path):
    model = make("classifier")
    model.save_pretrained(tmp_path / "source")
    transformers.ASTFeatureExtractor(
        num_mel_bins=14, max_length=20, mean=-3.0, std=2.5
    ).save_pretrained(tmp_path / "source")
    assert workdir.to_workdir(str(tmp_path / "source"), str(tmp_path / "run")) == "finetune"
    trained = inference.load_trained(tmp_path / "run")
    frontend = trained.stage_config.frontend
    assert (frontend.mean, frontend.std, frontend.n_mels) == (-3.0, 5.0, 14)
    workdir.to_huggingface(str(tmp_path / "run"), str(tmp_path / "back"))
    again = type(model).from_pretrained(tmp_path / "back")
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "back")
    assert (extractor.mean, extractor.std) == (-3.0, 2.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(hidden_act="relu"), "hidden_act is 'relu'; only 'gelu'"),
        (dict(architectures=["ASTForX"]), "architecture is ASTForX; known are ASTModel"),
        (dict(num_hidden_layers=4), "missing: encoder.layer.3"),
        (dict(intermediate_size=20), "another shape than config.json says: .*intermediate"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(pair, tmp_path, changes, words):
    if pair[2].kind != "bare":
        pytest.skip("the bare one is enough")
    for file in pair[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        huggingface.load_huggingface(tmp_path)


def test_what_transformers_has_no_counterpart_of_is_one_line(tmp_path):
    from flax import nnx

    from sacjax.models import Classifier, SpectrogramTransformer, front_end

    small = dict(width=16, depth=1, heads=2, mlp_width=16, num_features=14, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="model.encoder.positions=sincos has no counterpart"):
        huggingface.save_huggingface(SpectrogramTransformer(**small, class_tokens=2), tmp_path)
    fixed = dict(patch_frames=4, patch_bands=4, class_tokens=2, positions="learned")
    encoder = SpectrogramTransformer(**small, **fixed, output="class")
    with pytest.raises(UserError, match="model.head_norm=False has no counterpart"):
        huggingface.save_huggingface(Classifier(encoder, num_classes=2, rngs=nnx.Rngs(0)), tmp_path)
    stage = config_lib.stage()
    stage.model.update(name="spectrogram_transformer", frontend="pcen")
    hearing = front_end.build(SpectrogramTransformer, stage, **small, **fixed, output="class")
    with pytest.raises(UserError, match="front end that learns, has no counterpart"):
        huggingface.save_huggingface(hearing, tmp_path)
