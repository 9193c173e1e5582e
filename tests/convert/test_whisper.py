"""Whisper against transformers' own models, randomly initialized: nothing is downloaded."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import quick

from sacjax import config as config_lib
from sacjax import inference, init_from
from sacjax import stages as experiment
from sacjax.convert import huggingface, workdir
from sacjax.errors import UserError
from sacjax.frontend import make_frontend

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else a local folder is looked up in the hub as well
torch = pytest.importorskip("torch", reason="needs the extra `parity`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")

SMALL = dict(
    d_model=16,
    encoder_layers=3,
    encoder_attention_heads=2,
    encoder_ffn_dim=24,
    num_mel_bins=10,
    max_source_positions=20,
    decoder_layers=1,
    decoder_attention_heads=2,
    decoder_ffn_dim=8,
    vocab_size=11,
    max_target_positions=4,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=3,
    suppress_tokens=None,
    begin_suppress_tokens=None,
)
NAMES = dict(num_labels=3, id2label={0: "a", 1: "b", 2: "c"}, label2id=dict(a=0, b=1, c=2))
CASES = {
    "bare": ("WhisperModel", {}),
    "with a decoder": ("WhisperForConditionalGeneration", {}),
    "classifier": ("WhisperForAudioClassification", NAMES | dict(classifier_proj_size=12)),
    "weighted": ("WhisperForAudioClassification", NAMES | dict(use_weighted_layer_sum=True)),
}
LENGTHS = (40, 23, 1)


def make(name, **options):
    """Returns a random model of transformers whose parameters all count."""
    kind, own = CASES[name]
    torch.manual_seed(0)
    config = transformers.WhisperConfig(**(SMALL | own | options))
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


def encoder_of(model):
    return model.encoder if hasattr(model, "encoder") else model.get_encoder()


def features(lengths=LENGTHS):
    """Returns a padded batch of ours, noise beyond the ends, and the same as Whisper hears it."""
    x = np.random.default_rng(0).uniform(-1, 1, [len(lengths), 40, 10]).astype(np.float32)
    heard = x.copy()
    for row, count in enumerate(lengths):
        x[row, 0, 0] = 0.2 + 0.3 * row  # the loudest
        x[row] = np.minimum(x[row], x[row, 0, 0])
        heard[row] = x[row]
        heard[row, count:] = max(x[row, :count].max() - 2.0, -1.5)
    return x, heard


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory):
    """A model of transformers, the folder that it was saved to, and ours from there."""
    model, path = make(request.param), tmp_path_factory.mktemp("whisper")
    model.save_pretrained(path)
    return model, path, huggingface.load_huggingface(path)


def test_hidden_states_and_logits_agree_in_a_padded_batch(pair):
    model, _, loaded = pair
    x, heard = features()
    inputs = torch.tensor(heard.transpose(0, 2, 1))
    with torch.no_grad():
        wanted = encoder_of(model)(inputs, output_hidden_states=True)
        logits = model(inputs).logits if loaded.kind == "classification" else None

    def run(model, x, lengths):
        encoder = model if loaded.kind == "bare" else model.encoder
        return encoder(x, lengths, hidden_states=True), (
            None if loaded.kind == "bare" else model(x, lengths)
        )

    ours, found = quick(loaded.model, run)(jnp.asarray(x), jnp.asarray(LENGTHS))
    assert ours.lengths.tolist() == [20] * 3 and len(wanted.hidden_states) == 4
    np.testing.assert_allclose(ours.frames, wanted.last_hidden_state, atol=1e-4)
    for state, reference in zip(ours.hidden_states, wanted.hidden_states, strict=True):
        np.testing.assert_allclose(state, reference, atol=1e-4)
    if logits is not None:
        np.testing.assert_allclose(found, logits, atol=1e-4)
        assert loaded.class_names == ("a", "b", "c")


def test_a_round_trip_is_bit_exact_and_loads_without_a_missing_or_unexpected_key(pair, tmp_path):
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    model, _, loaded = pair
    huggingface.save_huggingface(loaded.model, tmp_path, class_names=loaded.class_names)
    bare = loaded.kind == "bare"
    kind, before = (WhisperEncoder, encoder_of(model)) if bare else (type(model), model)
    again, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    for (key, value), after in zip(
        before.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(value, after), key
    for key in ("d_model", "encoder_layers", "num_mel_bins", "max_source_positions"):
        assert getattr(again.config, key) == getattr(model.config, key), key
    if not bare:
        assert again.config.id2label == model.config.id2label
        assert again.config.use_weighted_layer_sum == model.config.use_weighted_layer_sum
    back = huggingface.load_huggingface(tmp_path)
    for (_, value), (_, after) in zip(
        nnx.to_flat_state(nnx.state(loaded.model)),
        nnx.to_flat_state(nnx.state(back.model)),
        strict=True,
    ):
        assert np.array_equal(value[...], after[...])


@pytest.mark.parametrize("seconds", [30.0, 7.3])
@pytest.mark.parametrize("bands", [80, 128])
def test_the_front_end_is_theirs(bands, seconds):
    """All of 30 s; of a shorter clip all but the frames that see its end, which they zero-pad.

    To 2e-4: beside a loud tone a quiet band is a small difference of large float32 numbers, and one
    cell in 240,000 is off by 1.05e-4 on some CPUs.
    """
    rng, rate = np.random.default_rng(0), 16000
    size = int(seconds * rate)
    audio = 1e-3 * rng.standard_normal(size).astype(np.float32)
    audio += 0.5 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 3000, size)) / rate)
    extractor = transformers.WhisperFeatureExtractor(feature_size=bands)
    theirs = extractor(audio, sampling_rate=rate, return_tensors="np")["input_features"][0].T
    family = next(f for f in huggingface.FAMILIES if f.encoder == "whisper")
    stage = config_lib.stage()
    stage.frontend.update(family.front_end(dict(num_mel_bins=bands), rate, {}))
    ours, count = make_frontend(stage.frontend, rate)(audio[None], jnp.asarray([size]))
    whole = 3000 if seconds == 30 else (size - 200) // 160
    np.testing.assert_allclose(ours[0, :whole], theirs[:whole], atol=2e-4)
    from sacjax.models.whisper import with_silence

    heard = with_silence(ours[:, :3000], count, 3000)[0]
    assert heard.shape == theirs.shape
    np.testing.assert_allclose(heard[size // 160 + 3 :], theirs[size // 160 + 3 :], atol=2e-4)


def classifier(tmp_path, seconds=0.4):
    """Saves a random classifier with its preprocessor; returns the model and the folder."""
    model = make("classifier", num_mel_bins=20)
    model.save_pretrained(tmp_path)
    transformers.WhisperFeatureExtractor(feature_size=20).save_pretrained(tmp_path)
    return model, tmp_path


def test_a_classifier_becomes_a_workdir_and_comes_back(tmp_path):
    model, source = classifier(tmp_path / "source")
    assert workdir.to_workdir(str(source), str(tmp_path / "run")) == "finetune"
    trained = inference.load_trained(tmp_path / "run")
    assert trained.stage_config.data.seconds == 0.4
    workdir.to_huggingface(str(tmp_path / "run"), str(tmp_path / "back"))
    again = type(model).from_pretrained(tmp_path / "back")
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "back")
    assert isinstance(extractor, transformers.WhisperFeatureExtractor)
    assert (extractor.feature_size, extractor.n_fft, extractor.hop_length) == (20, 400, 160)
    told = json.loads((tmp_path / "back" / "config.json").read_text())
    assert told["id2label"] == {"0": "a", "1": "b", "2": "c"}
    frontend = trained.stage_config.frontend
    frontend.top_db, frontend.hop_length = 60.0, 200
    with pytest.raises(UserError, match="front end has no counterpart.*frontend.top_db=80.0$"):
        huggingface.save_huggingface(trained.module, tmp_path / "no", frontend=frontend)


def test_fine_tuning_starts_from_a_folder_and_a_front_end_that_differs_is_told(tmp_path, capsys):
    model, source = classifier(tmp_path / "source")
    c = config_lib.default(finetune=config_lib.stage())
    f = c.finetune
    f.data.source, f.data.examples, f.data.seconds, f.data.sample_rate = (
        "synthetic",
        100,
        0.25,
        16000,
    )
    f.model.name, f.init_from, f.optimizer.freeze = "whisper", f"hf:{source}", (("encoder", 0),)
    f.train.batch_size, f.train.steps, f.eval.batch_size, f.eval.splits = 8, 1, 16, ("test",)
    f.frontend.n_mels, c.tensorboard = 20, False
    init_from.resolve(c)
    said = capsys.readouterr().out
    assert "config.finetune.frontend is another one" in said and "n_fft=400" in said
    f.frontend.update(huggingface.front_end(source, 16000))
    results = experiment.run(c, tmp_path / "run")
    assert "test/accuracy" in results["finetune"] and "warning" not in capsys.readouterr().out
    trained = inference.load_trained(tmp_path / "run").module.encoder
    wanted = huggingface.load_huggingface(source).model.encoder
    for (name, value), (_, after) in zip(
        nnx.to_flat_state(nnx.state(trained)), nnx.to_flat_state(nnx.state(wanted)), strict=True
    ):
        assert np.array_equal(value[...], after[...]), name


def test_embeddings_come_straight_from_a_bare_encoder(tmp_path):
    make("bare", num_mel_bins=20).save_pretrained(tmp_path)
    model = inference.load(f"hf:{tmp_path}")
    sound = 0.1 * np.random.default_rng(0).standard_normal(4800).astype(np.float32)
    frontend = model.stage_config.frontend
    assert (frontend.n_fft, frontend.n_mels, model.stage_config.data.seconds) == (400, 20, 0.4)
    x, lengths = make_frontend(frontend, 16000)(sound[None], jnp.asarray([4800]))
    wanted = quick(model.module.encoder, lambda m, x, n: m(x, n).frames)(x, lengths)
    found = model.embed(sound, sample_rate=16000, seconds=0.3)
    np.testing.assert_allclose(found[0], wanted[0].mean(0), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(activation_function="relu"), "activation_function is 'relu'; only 'gelu'"),
        (dict(architectures=["WhisperForCausalLM"]), "architecture is WhisperForCausalLM"),
        (dict(encoder_layers=4), "missing: encoder.layers.3"),
        (dict(num_mel_bins=12), "another shape than config.json says: encoder.conv1.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path, changes, words):
    make("bare").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        huggingface.load_huggingface(tmp_path)


def test_keys_that_a_config_does_not_have_are_those_of_transformers(tmp_path):
    config, path = transformers.WhisperConfig(), tmp_path / "config.json"
    path.write_text(json.dumps(dict(model_type="whisper")))
    bare = huggingface.read_config(tmp_path)
    assert {key: getattr(config, key) for key in bare} == bare
