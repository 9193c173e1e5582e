"""`sacjax convert` on random models of transformers: nothing is downloaded."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile as sf

from sacjax import errors, inference
from sacjax.commands import convert, predict
from sacjax.errors import UserError
from sacjax.train.checkpoint_files import write_temperature

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else a local folder is looked up in the hub as well
torch = pytest.importorskip("torch", reason="needs the extra `parity`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")

SMALL = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=(16,) * 7,
    num_conv_pos_embedding_groups=4,
    classifier_proj_size=24,
)


def make(**options):
    """Returns a random classifier of transformers."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(**SMALL, **options)
    return transformers.Wav2Vec2ForSequenceClassification(config).eval()


def test_several_labels_a_clip_stay_several(tmp_path):
    source, workdir, back = tmp_path / "hf", tmp_path / "workdir", tmp_path / "back"
    model = make(num_labels=2)
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(source)
    convert.main(["--from_huggingface", str(source), "--workdir", str(workdir)])
    trained = inference.load_trained(workdir)
    assert trained.multi_label
    np.testing.assert_allclose(
        trained.objective.probabilities(np.array([[0.0, 2.0]])), [[0.5, 1 / (1 + np.exp(-2.0))]]
    )
    convert.main(["--checkpoint", str(workdir), "--to_huggingface", str(back)])
    config = transformers.AutoConfig.from_pretrained(back)
    assert config.problem_type == "multi_label_classification"


def test_sigmoids_of_clips_with_one_label_stay_sigmoids(tmp_path):
    make(num_labels=2).save_pretrained(tmp_path / "hf")
    workdir, back = tmp_path / "run", tmp_path / "back"
    convert.main(["--from_huggingface", str(tmp_path / "hf"), "--workdir", str(workdir)])
    config = json.loads((workdir / "config.json").read_text())
    config["finetune"]["objective"]["options"] = {"loss": "sigmoid"}
    (workdir / "config.json").write_text(json.dumps(config))
    assert not inference.load(workdir).multi_label
    convert.main(["--checkpoint", str(workdir), "--to_huggingface", str(back)])
    wanted = 1 / (1 + np.exp([[0.0, -2.0]]))
    for where in (workdir, f"hf:{back}"):
        found = inference.load(where).objective.probabilities(np.array([[0.0, 2.0]]))
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_silence_that_is_cut_of_waves_has_no_counterpart(tmp_path):
    make(num_labels=2).save_pretrained(tmp_path / "hf")
    workdir, back = tmp_path / "run", tmp_path / "back"
    convert.main(["--from_huggingface", str(tmp_path / "hf"), "--workdir", str(workdir)])
    config = json.loads((workdir / "config.json").read_text())
    config["finetune"]["frontend"]["trim_db"] = 20.0
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no counterpart.*frontend.trim_db=0.0$"):
        convert.main(["--checkpoint", str(workdir), "--to_huggingface", str(back)])
    assert not back.exists()


def test_a_temperature_goes_into_the_head(tmp_path):
    source, workdir, back = tmp_path / "hf", tmp_path / "workdir", tmp_path / "back"
    model = make(num_labels=2)
    model.save_pretrained(source)
    convert.main(["--from_huggingface", str(source), "--workdir", str(workdir)])
    write_temperature(workdir, "finetune", 2.0, 0)
    convert.main(["--checkpoint", str(workdir), "--to_huggingface", str(back)])
    halved = transformers.AutoModelForAudioClassification.from_pretrained(back).state_dict()
    for key, value in model.state_dict().items():
        wanted = value / 2 if key.startswith("classifier.") else value
        torch.testing.assert_close(halved[key], wanted)


def test_convert_from_the_shell_and_back_keeps_every_prediction(tmp_path, capsys):
    model = make(id2label={0: "a", 1: "b", 2: "c"}, use_weighted_layer_sum=True)
    source, workdir, back = tmp_path / "hf", tmp_path / "workdir", tmp_path / "back"
    model.save_pretrained(source)
    (source / "preprocessor_config.json").write_text(
        json.dumps(dict(do_normalize=True, sampling_rate=8000))
    )
    assert convert.main(["--from_huggingface", str(source), "--workdir", str(workdir)]) == 0
    trained = inference.load_trained(workdir)
    assert trained.labels == ("a", "b", "c") and trained.sample_rate == 8000
    x = 0.3 * np.random.default_rng(0).normal(size=(1, 6000)).astype(np.float32)
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(source)
    inputs = extractor(x[0], sampling_rate=8000, return_tensors="pt")["input_values"]
    with torch.no_grad():
        wanted = model(inputs).logits.numpy()
    logits = trained.logits(jnp.asarray(x), jnp.asarray([6000]))
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    assert convert.main(["--checkpoint", str(workdir), "--to_huggingface", str(back)]) == 0
    again = transformers.AutoModelForAudioClassification.from_pretrained(back)
    kept = again.state_dict()
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    with pytest.raises(UserError, match="not an empty folder"):
        convert.main(["--checkpoint", str(workdir), "--to_huggingface", str(back)])
    with pytest.raises(UserError, match="give --from_huggingface"):
        convert.main(["--checkpoint", str(workdir)])


def test_a_temperature_is_in_the_logits_that_are_written(tmp_path):
    make(num_labels=3).save_pretrained(tmp_path / "hf")
    flags = ["--from_huggingface", str(tmp_path / "hf"), "--workdir", str(tmp_path / "run")]
    convert.main(flags)
    write_temperature(tmp_path / "run", "finetune", 0.02, 0)
    wanted = inference.load(tmp_path / "run").predict(np.sin(np.arange(6000.0))).probabilities
    flags = ["--checkpoint", str(tmp_path / "run"), "--to_huggingface", str(tmp_path / "back")]
    convert.main(flags)
    found = inference.load(f"hf:{tmp_path / 'back'}").predict(np.sin(np.arange(6000.0)))
    assert np.abs(wanted - 1 / 3).max() > 0.01  # they are not all alike
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-4)


def test_two_classes_without_names_predict_as_transformers_does(tmp_path, capsys):
    """transformers does not write the names of two classes: they are its default."""
    model = make()
    source, workdir, sound = tmp_path / "hf", tmp_path / "workdir", tmp_path / "sound.wav"
    model.save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    assert "id2label" not in config and "num_labels" not in config
    samples = 0.3 * np.random.default_rng(0).normal(size=16000)
    sf.write(sound, samples, 16000, subtype="FLOAT")
    convert.main(["--from_huggingface", str(source), "--workdir", str(workdir)])
    assert inference.load_trained(workdir).labels == ("LABEL_0", "LABEL_1")
    capsys.readouterr()
    arguments = ["--checkpoint", str(workdir), "--format", "json", str(sound)]
    assert predict.main(arguments) == 0
    told = json.loads(capsys.readouterr().out)[0]["labels"]
    with torch.no_grad():
        logits = model(torch.tensor(samples[None], dtype=torch.float32)).logits[0]
    wanted = dict(zip(("LABEL_0", "LABEL_1"), torch.softmax(logits, 0).tolist(), strict=True))
    assert {one["label"]: one["probability"] for one in told} == pytest.approx(wanted, abs=1e-4)


def test_errors_end_without_a_traceback(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        errors.run(
            lambda: convert.main(
                ["--from_huggingface", str(tmp_path), "--workdir", str(tmp_path / "w")]
            )
        )
    assert stopped.value.code != 0
