"""An exported model, called where sacjax cannot be imported, against the model itself."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
from scipy.special import softmax
from workdirs import RATE, untrained_classifier, write_workdir

from sacjax import inference
from sacjax.commands import export as command
from sacjax.errors import UserError
from sacjax.inference import export
from sacjax.models import ENCODERS

pytest.importorskip("flatbuffers", reason="needs the extra `export`")


@pytest.fixture(autouse=True)
def _lengths_are_symbols(monkeypatch):
    """The run-time check of shapes, which only tests have, takes numbers alone."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


CALLER = """
import sys
sys.modules["sacjax"] = None
import numpy as np
from jax import export
program = export.deserialize(bytearray(open(sys.argv[1] + "/model.stablehlo", "rb").read()))
given = np.load(sys.argv[2])
np.save(sys.argv[3], program.call(given["audio"], given["length"]))
"""


def called(folder, audio, length, tmp_path):
    """Returns what the file gives in a process of its own, without sacjax."""
    given, found = tmp_path / "given.npz", tmp_path / "found.npy"
    np.savez(given, audio=audio, length=length)
    subprocess.run([sys.executable, "-c", CALLER, folder, given, found], check=True)
    return np.load(found)


def sounds(samples, seed=0):
    """Returns three clips of random sound, the second shorter."""
    rng = np.random.default_rng(seed)
    audio = rng.normal(0, 0.1, [3, samples]).astype(np.float32)
    return audio, np.array([samples, samples * 2 // 3, samples], np.int32)


# Untrained they give all clips the same; their layers are those of others, and take long to trace.
LONG = ("convnext_tiny", "efficientnet_b0", "inception_v3", "vgg11")


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name not in LONG])
def test_any_clips_of_any_length_have_the_probabilities_of_the_model(encoder, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    model = untrained_classifier(encoder)
    program, multiple = export.to_stablehlo(model)
    # A table of positions of patches, and a limit of frames, are of one number of frames.
    assert (multiple == 0) == (encoder in ("spectrogram_transformer", "whisper", "hts_at"))
    for samples in (8000,) if not multiple else (multiple * 40, multiple * 70):
        audio, length = sounds(samples)
        found = jax.export.deserialize(bytearray(program)).call(audio, length)
        expected = softmax(np.asarray(model.logits(audio, length)), -1)
        assert expected.std(0).max() > 1e-4  # the clips differ
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("objective", ["classification", "simclr"])
def test_the_file_runs_without_sacjax(objective, tmp_path, capsys):
    write_workdir(tmp_path / "run", "small_cnn", objective)
    folder = tmp_path / "out"
    flags = ["--checkpoint", str(tmp_path / "run"), "--output", str(folder)]
    assert command.main(flags) == 0
    about = json.loads((folder / "model.json").read_text())
    said = capsys.readouterr().out
    assert "any multiple of 128 samples at 8000 Hz" in said and about["sample_rate"] == RATE
    model = inference.load(tmp_path / "run")
    audio, length = sounds(128 * 31)
    found = called(folder, audio, length, tmp_path)
    if objective == "classification":
        assert about["labels"] == list(model.labels) and "20 probabilities" in said
        whole = model.predict([clip[:n] for clip, n in zip(audio, length, strict=True)])
        # Arrays and files reach a model as int16 samples.
        np.testing.assert_allclose(found, whole.probabilities, atol=1e-4)
    else:
        assert about["output"] == "embeddings" and not about["labels"]
        np.testing.assert_allclose(found, model.embeddings(audio, length), atol=1e-5)
    assert (about["channel"], about["pad"]) == ("mix", "zero")
    model.stage_config.data.update(channel=1, pad="repeat")
    about = export.describe(model, 128)
    assert (about["channel"], about["pad"]) == (1, "repeat")
    with pytest.raises(UserError, match="not an empty folder"):
        command.main(flags)


@pytest.mark.parametrize("several", [True, False])
def test_probabilities_are_by_the_loss_and_the_temperature(several, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    model = untrained_classifier("small_cnn")
    model.stage_config.data.multi_label = several
    options = model.objective.options
    model.objective.options = dataclasses.replace(options, loss="sigmoid")  # also of one label
    model.objective.temperature = 2.0
    audio, length = sounds(8000)
    logits = np.asarray(model.logits(audio, length))
    found = export.function_of(model)(audio, length)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits / 2)), atol=1e-5)


def test_a_model_too_large_for_a_file_is_told_before_it_is_traced(tmp_path, monkeypatch):
    write_workdir(tmp_path / "run", "small_cnn")
    monkeypatch.setattr(export, "LARGEST", 100)
    with pytest.raises(UserError, match="GB of parameters, and an exported file holds 2 GB"):
        export.write(inference.load(tmp_path / "run"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
