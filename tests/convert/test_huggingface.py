"""Against transformers' own models, randomly initialized: nothing is downloaded."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from quick_stages import share_trainers

from sacjax import config as config_lib
from sacjax import inference, init_from
from sacjax import stages as experiment
from sacjax.convert import huggingface
from sacjax.convert.wav2vec2 import objective_options
from sacjax.errors import UserError
from sacjax.objectives.wav2vec2 import HUGGINGFACE_OPTIONS

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else a local folder is looked up in the hub as well
torch = pytest.importorskip("torch", reason="needs the extra `parity`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")

SMALL = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=(16,) * 7,
    num_conv_pos_embedding_groups=4,
)
LARGE = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
HEADS = dict(
    num_codevectors_per_group=20, codevector_dim=16, proj_codevector_dim=12, num_negatives=7
)
CASES = {  # name: (class, config class, options)
    "post-norm": ("Wav2Vec2Model", "Wav2Vec2Config", SMALL | dict(num_conv_pos_embeddings=16)),
    "pre-norm": (
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        SMALL | LARGE | dict(num_conv_pos_embeddings=15),
    ),
    "pretraining": ("Wav2Vec2ForPreTraining", "Wav2Vec2Config", SMALL | HEADS),
    "classifier": (
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        SMALL
        | dict(
            classifier_proj_size=24,
            num_labels=3,
            id2label={0: "a", 1: "b", 2: "c"},
            use_weighted_layer_sum=True,
        ),
    ),
    "hubert": ("HubertModel", "HubertConfig", SMALL | dict(feat_proj_layer_norm=False)),
    "hubert classifier": (
        "HubertForSequenceClassification",
        "HubertConfig",
        SMALL | LARGE | dict(num_labels=4),
    ),
    "data2vec": ("Data2VecAudioModel", "Data2VecAudioConfig", SMALL),
    "data2vec classifier": (
        "Data2VecAudioForSequenceClassification",
        "Data2VecAudioConfig",
        SMALL | dict(num_labels=4),
    ),
    # As published but for the depth: the layers are one stack.
    "base": ("Wav2Vec2ForPreTraining", "Wav2Vec2Config", dict(num_hidden_layers=2)),
    "large": (
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        LARGE
        | dict(
            hidden_size=1024, num_hidden_layers=2, num_attention_heads=16, intermediate_size=4096
        ),
    ),
}
BIG = ("base", "large")


def make(name, cases=CASES):
    """Returns a random model of transformers whose norms and biases are not trivial."""
    kind, config, options = cases[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key or key.endswith("bias") or "layer_weights" in key:
                value.add_(0.1 * torch.randn_like(value))
    return model


def audio(lengths):
    """Returns a padded batch, float32 [B, T]."""
    x = 0.3 * np.random.default_rng(0).normal(size=(len(lengths), max(lengths))).astype(np.float32)
    return x * (np.arange(max(lengths)) < np.asarray(lengths)[:, None])


def theirs(model, x, lengths):
    """Returns what transformers makes of a batch."""
    mask = torch.tensor((np.arange(x.shape[1]) < np.asarray(lengths)[:, None]).astype(int))
    with torch.no_grad():
        return model(torch.tensor(x), attention_mask=mask, output_hidden_states=True)


def run(model, x, lengths):
    """Returns what a model of ours makes of a batch, compiled."""
    return nnx.jit(lambda model, *batch: model(*batch))(model, jnp.asarray(x), jnp.asarray(lengths))


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory):
    """A model of transformers, the folder that it was saved to, and ours from there."""
    model = make(request.param)
    path = tmp_path_factory.mktemp("hf")
    model.save_pretrained(path, max_shard_size="40MB" if request.param == "base" else "5GB")
    # Their group norm and data2vec's positions let padding in.
    return (
        request.param,
        model,
        path,
        huggingface.load_huggingface(path, norm_padding="reference", normalize_input=False),
    )


def test_every_hidden_state_agrees_in_a_padded_batch(pair):
    name, model, _, loaded = pair
    lengths = (8000, 5000) if name in BIG else (9000, 6000, 3000)
    x = audio(lengths)
    wanted = theirs(model, x, lengths)
    encoder = loaded.model if loaded.kind == "bare" else loaded.model.encoder
    ours = nnx.jit(lambda model, x, n: model(x, n, hidden_states=True))(
        encoder, jnp.asarray(x), jnp.asarray(lengths)
    )
    assert (
        len(ours.hidden_states) == len(wanted.hidden_states) == model.config.num_hidden_layers + 1
    )
    for state, reference in zip(ours.hidden_states, wanted.hidden_states, strict=True):
        for row, count in enumerate(np.asarray(ours.lengths)):
            np.testing.assert_allclose(
                state[row, :count], reference[row, :count].numpy(), atol=1e-4
            )
    if loaded.kind == "classification":
        logits = run(loaded.model, x, lengths)
        np.testing.assert_allclose(logits, wanted.logits.numpy(), atol=1e-4)


def test_a_round_trip_is_bit_exact_and_loads_without_a_missing_or_unexpected_key(pair, tmp_path):
    name, model, _, loaded = pair
    huggingface.save_huggingface(
        loaded.model,
        tmp_path,
        class_names=loaded.class_names,
        model_type=loaded.config["model_type"],
    )
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    if loaded.kind == "classification":
        assert again.config.id2label == model.config.id2label
    features = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert not features.do_normalize and features.sampling_rate == 16000
    assert list(again.config.conv_kernel) == list(model.config.conv_kernel)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a tiny post-norm encoder."""
    path = tmp_path_factory.mktemp("saved")
    make("post-norm").save_pretrained(path)
    return path


def copy(saved, folder, **changes):
    """Copies a folder, with keys of its config changed."""
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_older_spelling_of_weight_norm_gives_the_same_model(saved, tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(saved / "model.safetensors")
    new_prefix = "parametrizations.weight.original"
    old = {
        key.replace(f"{new_prefix}0", "weight_g").replace(f"{new_prefix}1", "weight_v"): value
        for key, value in tensors.items()
    }
    assert set(old) != set(tensors)
    copy(saved, tmp_path)
    save_file(old, tmp_path / "model.safetensors")
    a, b = (huggingface.load_huggingface(path).model.positional[0] for path in (saved, tmp_path))
    assert np.array_equal(a.kernel[...], b.kernel[...]) and np.array_equal(
        a.scale[...], b.scale[...]
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(model_type="bert"), "model_type is 'bert'"),
        (dict(architectures=["Wav2Vec2ForCTC"]), "architecture is Wav2Vec2ForCTC"),
        (dict(add_adapter=True), "add_adapter is True"),
        (dict(hidden_act="relu"), "hidden_act is 'relu'"),
        (dict(num_hidden_layers=4), "missing: encoder.layers.3"),
        (dict(num_hidden_layers=2), "unknown: encoder.layers.2"),
        (
            dict(intermediate_size=40),
            "another shape than config.json says: encoder.layers.0.feed_forward",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line_that_lists_what(
    saved, tmp_path, changes, words
):
    with pytest.raises(UserError, match=words):
        huggingface.load_huggingface(copy(saved, tmp_path, **changes))


def test_a_codebook_of_another_size_is_one_line(tmp_path):
    source = make_folder(tmp_path / "source")
    make("pretraining").save_pretrained(source)
    with pytest.raises(
        UserError,
        match=r"another shape than config.json says: .*quantizer.codevectors \(1, 40, 8\)",
    ):
        huggingface.load_huggingface(
            copy(source, make_folder(tmp_path / "copy"), num_codevectors_per_group=30)
        )


def weighted(tmp_path, pre_norm):
    """Returns a random classifier with weights over layers, and the folder that it was saved to."""
    name = "weighted"
    shape = SMALL | (LARGE if pre_norm else {}) | dict(num_conv_pos_embeddings=15)
    options = shape | dict(classifier_proj_size=24, num_labels=3, use_weighted_layer_sum=True)
    model = make(name, {name: ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", options)})
    with torch.no_grad():  # the last state and its norm count
        model.layer_weights[-1] += 3
        model.wav2vec2.encoder.layer_norm.weight.mul_(3)
    model.save_pretrained(make_folder(tmp_path / "source"))
    return model, tmp_path / "source"


def with_version(source, folder, version):
    """Copies a folder as another version of transformers would have written it."""
    copied = copy(source, make_folder(folder), transformers_version=version)
    if version is None:
        config = json.loads((copied / "config.json").read_text())
        del config["transformers_version"]
        (copied / "config.json").write_text(json.dumps(config))
    return copied


def weighted_logits(model, states):
    """Returns theirs of hidden states, as ForSequenceClassification has always weighted them."""
    with torch.no_grad():
        weights = torch.softmax(model.layer_weights, 0).view(-1, 1, 1, 1)
        frames = model.projector((torch.stack(states) * weights).sum(0))
        return model.classifier(frames.mean(1)).numpy()


def test_weights_over_layers_mean_what_their_version_of_transformers_meant(tmp_path):
    """Up to 5.15 the last hidden state of a pre-norm encoder was after its final norm.

    So say the sources of 4.57.6, 5.0.0, 5.10.1, 5.13.1, 5.14.1, 5.15.0, 5.15.1; 5.16.0 is new.
    """
    model, source = weighted(tmp_path, pre_norm=True)
    x = audio((6000,))
    found = theirs(model, x, (6000,))
    new = weighted_logits(model, found.hidden_states)
    np.testing.assert_allclose(new, found.logits.numpy(), atol=1e-6)
    with torch.no_grad():
        normed = model.wav2vec2.encoder.layer_norm(found.hidden_states[-1])
    old = weighted_logits(model, (*found.hidden_states[:-1], normed))
    assert np.abs(new - old).max() > 0.01
    versions = {"4.57.6": old, "5.15.1": old, "5.16.0": new, "5.23.0": new, None: old}
    kinds = {}
    for k, (version, wanted) in enumerate(versions.items()):
        folder = with_version(source, tmp_path / str(k), version)
        loaded = huggingface.load_huggingface(folder, normalize_input=False)
        normed = loaded.model.encoder.normed_last_state
        assert normed == (wanted is old) and loaded.class_names == ("LABEL_0", "LABEL_1", "LABEL_2")
        again = tmp_path / f"again{k}"
        huggingface.save_huggingface(loaded.model, again)
        assert huggingface.encoder_options(again).get("normed_last_state", False) == normed
        if normed not in kinds:  # one compilation of each
            kinds[normed] = run(loaded.model, x, (6000,))
        np.testing.assert_allclose(kinds[normed], wanted, atol=1e-5)


def test_the_version_matters_to_weights_over_layers_of_the_pre_norm_order_alone(tmp_path, saved):
    _, post_norm = weighted(tmp_path, pre_norm=False)
    bare = copy(saved, make_folder(tmp_path / "bare"), do_stable_layer_norm=True)
    for k, source in enumerate((post_norm, bare)):
        folder = with_version(source, tmp_path / f"old{k}", "4.30.0.dev0")
        assert "normed_last_state" not in huggingface.encoder_options(folder)


@pytest.mark.parametrize(
    ("labels", "changes", "names"),
    [
        (2, {}, ("LABEL_0", "LABEL_1")),
        (2, {"num_labels": 2}, ("LABEL_0", "LABEL_1")),
        (3, {}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        (3, {"id2label": None, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        (2, {"id2label": {"0": "no", "1": "yes"}}, ("no", "yes")),
    ],
)
def test_labels_without_names_are_called_as_transformers_does(tmp_path, labels, changes, names):
    kind, config, options = CASES["hubert classifier"]
    case = {"": (kind, config, options | dict(num_labels=labels, num_hidden_layers=1))}
    make("", case).save_pretrained(make_folder(tmp_path / "source"))
    folder = copy(tmp_path / "source", make_folder(tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    for key in ("id2label", "label2id", "num_labels"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config | changes))
    loaded = huggingface.load_huggingface(folder)
    assert loaded.class_names == names and loaded.model.head.out_features == labels
    if "id2label" not in changes:
        config = transformers.AutoConfig.from_pretrained(folder, num_labels=labels)
        assert loaded.class_names == tuple(config.id2label.values())


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "Data2VecAudio"])
def test_keys_that_a_config_does_not_have_are_those_of_transformers(kind, tmp_path):
    config, path = getattr(transformers, f"{kind}Config")(), tmp_path / "config.json"
    path.write_text(json.dumps(dict(model_type=config.model_type)))
    bare, bare_options = huggingface.read_config(tmp_path), huggingface.encoder_options(tmp_path)
    config.save_pretrained(tmp_path)
    whole, options = huggingface.read_config(tmp_path), huggingface.encoder_options(tmp_path)
    known = bare.keys() & config.to_dict().keys()
    assert len(known) > 3
    assert {key: bare[key] for key in known} == {key: whole[key] for key in known}
    assert bare_options == {key: options[key] for key in bare_options}
    assert objective_options(bare) == objective_options(whole)
    if kind == "Wav2Vec2":
        assert set(HUGGINGFACE_OPTIONS.values()) <= whole.keys()


def test_truncated_missing_and_pickled_weights_are_refused(saved, tmp_path):
    copy(saved, tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        huggingface.load_huggingface(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="pickled weights are not read"):
        huggingface.load_huggingface(tmp_path)
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside its folder"):
        huggingface.load_huggingface(tmp_path)
    with pytest.raises(UserError, match="no config.json"):
        huggingface.load_huggingface(tmp_path / "nowhere")


def finetuning(saved, **encoder):
    """A config that fine-tunes the head alone, on a few synthesized clips."""
    c = config_lib.default(finetune=config_lib.stage())
    f = c.finetune
    f.data.source, f.data.examples, f.data.seconds, f.data.sample_rate = (
        "synthetic",
        100,
        0.25,
        16000,
    )
    f.model.name, f.model.encoder, f.init_from = "wav2vec2", ConfigDict(encoder), f"hf:{saved}"
    f.optimizer.freeze, f.train.batch_size, f.train.steps, f.eval.batch_size = (
        (("encoder", 0),),
        8,
        1,
        16,
    )
    f.eval.splits, c.tensorboard = ("test",), False
    return c


def test_fine_tuning_starts_from_a_folder_and_the_workdir_stands_on_its_own(
    saved, tmp_path, capsys, monkeypatch
):
    share_trainers(monkeypatch)
    source = copy(saved, make_folder(tmp_path / "hf"))
    (source / "preprocessor_config.json").write_text(
        json.dumps(dict(do_normalize=True, sampling_rate=16000))
    )
    results = experiment.run(finetuning(source, dropout=0.0), tmp_path / "run")
    assert "test/accuracy" in results["finetune"] and "warning" not in capsys.readouterr().out
    for file in source.iterdir():
        file.unlink()
    assert (
        experiment.run(finetuning(source, dropout=0.0), tmp_path / "run") == results
    )  # it is finished
    trained = inference.load_trained(tmp_path / "run")
    wanted = huggingface.load_huggingface(saved).model
    for name, value in nnx.to_flat_state(nnx.state(trained.module.encoder, nnx.Param)):
        assert np.array_equal(value[...], dict(nnx.to_flat_state(nnx.state(wanted)))[name][...]), (
            name
        )
    assert trained.module.encoder.normalize_input and trained.stage_config.model.encoder.width == 32
    assert trained.stage_config.model.encoder.dropout == 0.0


def make_folder(path):
    path.mkdir()
    return path


def test_a_rate_or_normalization_that_contradicts_the_checkpoint_is_told(saved, tmp_path, capsys):
    source = copy(saved, make_folder(tmp_path / "hf"))
    preprocessor = source / "preprocessor_config.json"
    preprocessor.write_text(json.dumps(dict(do_normalize=True, sampling_rate=8000)))
    with pytest.raises(UserError, match="data.sample_rate is 16000.*trained at 8000 Hz"):
        init_from.resolve(finetuning(source))
    preprocessor.write_text(json.dumps(dict(do_normalize=True, sampling_rate=16000)))
    init_from.resolve(finetuning(source, normalize_input=False))
    assert "normalize_input is False, the checkpoint's do_normalize True" in capsys.readouterr().out
    config = finetuning(source)
    config.finetune.model.name = "small_cnn"
    with pytest.raises(UserError, match="needs config.finetune.model.name=wav2vec2"):
        init_from.resolve(config)


def test_embeddings_come_straight_from_a_folder(saved):
    x, lengths = audio((6000,)), jnp.asarray([6000])
    vectors = inference.load(f"hf:{saved}").embedder().clips(x, lengths)
    model = huggingface.load_huggingface(saved).model
    out = model(jnp.asarray(x), lengths)
    np.testing.assert_allclose(vectors[0], np.asarray(out.frames[0]).mean(0), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": 3},
        {"conv_dim": "512"},
        {"num_attention_heads": 0},
        {"hidden_size": None},
    ],
)
def test_values_of_another_kind_are_told_in_one_line(saved, tmp_path, change):
    """Found by launch/benchmarks/fuzz.py: checkpoints, seeds 8, 13, 81 and 122."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as told:
        huggingface.load_huggingface(tmp_path)
    assert "\n" not in str(told.value)


def test_a_quantizer_of_another_kind_is_told_in_one_line(tmp_path):
    """Found by launch/benchmarks/fuzz.py among the damaged checkpoints."""
    original = tmp_path / "original"
    make("pretraining").save_pretrained(original)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    copy(original, damaged, num_codevectors_per_group=[320])
    with pytest.raises(UserError) as told:
        huggingface.load_huggingface(damaged)
    assert "\n" not in str(told.value)
