"""A model as an ONNX file, run by onnxruntime, against the model itself."""

import dataclasses
import http.server
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
import soundfile
from flax import nnx
from networks import fewer_blocks
from scipy.special import softmax
from workdirs import RATE, untrained_classifier, write_workdir

from sacjax import inference
from sacjax.commands import export as command
from sacjax.data import sources, splits
from sacjax.errors import UserError
from sacjax.inference import export
from sacjax.models import ENCODERS
from sacjax.onnx.quantize import quantize

onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _lengths_are_symbols(monkeypatch):
    """The run-time check of shapes, which only tests have, takes numbers alone."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.chdir(ROOT)


def clips(number, samples, seed=0):
    """Returns clips of noise, tones and silence, of any length up to `samples`, as an input."""
    rng = np.random.default_rng(seed)
    length = rng.integers(samples // 4, samples + 1, number).astype(np.int32)
    time = np.arange(samples) / RATE
    audio = rng.normal(0, 1, [number, samples]) * rng.choice([0, 0.001, 0.2], [number, 1])
    tones = np.sin(2 * np.pi * rng.uniform(50, 3900, [number, 1]) * time)
    audio += tones * rng.choice([0, 0.3], [number, 1])
    audio *= np.arange(samples) < length[:, None]
    return {"audio": audio.astype(np.float32), "length": length}


def run(model, given):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, given)[0]


# A table of positions of patches, and a limit of frames, are of one number of frames; of the fewest
# frames that an export takes, networks of pictures that do not pad leave none.
FIXED = ("spectrogram_transformer", "whisper", "hts_at", "convnext_tiny", "inception_v3", "vgg11")


def shorter(given, number, samples, like):
    """Returns the first clips, cut to so many samples, and the same among zeros as `like`."""
    length = np.minimum(given["length"], samples)
    whole = given["audio"] * (np.arange(like) < samples)
    cut = {"audio": given["audio"][:number, :samples], "length": length[:number]}
    return cut, {"audio": whole, "length": length}


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_50_clips_have_the_probabilities_of_the_model(encoder, monkeypatch):
    fewer_blocks(monkeypatch)
    model = untrained_classifier(encoder)
    fixed = encoder in FIXED
    samples = 8000 if fixed else 64 * int(model.stage_config.frontend.hop_length)
    given = clips(50, samples)
    logits = lambda given: np.asarray(model.logits(given["audio"], given["length"]))
    scale = logits(given).std(0).max()
    model.module.head.kernel[...] /= scale  # so that probabilities differ by clip
    program, multiple = export.to_onnx(model)
    assert (multiple == 0) == fixed
    session = onnxruntime.InferenceSession(program.SerializeToString())
    expected = softmax(logits(given), -1)
    np.testing.assert_allclose(session.run(None, given)[0], expected, atol=1e-4)
    if multiple:  # of another length; compiling the model for it too would take longest
        cut, whole = shorter(given, 3, multiple * 40, samples)
        expected = softmax(logits(whole)[:3], -1)
        np.testing.assert_allclose(session.run(None, cut)[0], expected, atol=1e-4)


@pytest.mark.parametrize("encoder", ["small_cnn", "spectrogram_resnet", "gru", "wav2vec2"])
def test_int8_is_within_a_hundredth_and_its_weights_are_of_8_bits(encoder):
    model = untrained_classifier(encoder)
    program, multiple = export.to_onnx(model)
    seen = [clips(10, multiple * 40, seed) for seed in range(1, 6)]
    small = quantize(program, seen)
    given = clips(50, multiple * 40)
    np.testing.assert_allclose(run(small, given), run(program, given), atol=1e-2)

    def weights(of, kind):
        return sum(int(np.prod(x.dims)) for x in of.graph.initializer if x.data_type == kind)

    options = model.stage_config.frontend
    front_end = (options.n_fft // 2 + 1) * (2 * options.n_fft + options.n_mels)
    loops = 3 * 3 * 128 * 128 if encoder == "gru" else 0  # three layers' states
    stem = 0
    if encoder == "wav2vec2":  # hears the waveform
        stem = sum(x.size for x in jax.tree.leaves(nnx.state(model.module.encoder.conv)))
        front_end = 0
    learned = weights(program, onnx.TensorProto.FLOAT) - front_end - loops - stem
    assert weights(small, onnx.TensorProto.INT8) > 0.8 * learned
    assert weights(small, onnx.TensorProto.FLOAT) > front_end + stem  # stay as they are


def test_int8_hears_training_clips_from_the_first_to_the_last(workdir, monkeypatch):
    seen = []
    monkeypatch.setattr(export, "CALIBRATION", 30)
    monkeypatch.setattr(export, "file_batches", lambda r, some, stage: seen.append(some) or [])
    model = inference.load(workdir)
    assert not list(export.training_clips(model, 128))
    data = model.stage_config.data
    train = splits.split(sources.load(data), data)["train"]
    assert 30 < len(train) < 60 and len(set(seen[0])) == 30
    assert (seen[0][0], seen[0][-1]) == (train[0], train[-1])


def flags(workdir, folder, *more):
    return ["--checkpoint", str(workdir), "--output", str(folder), "--format", "onnx", *more]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    write_workdir(folder, "small_cnn")
    return folder


def test_the_command_calibrates_on_training_clips(workdir, tmp_path, capsys):
    assert command.main(flags(workdir, tmp_path / "whole")) == 0
    assert command.main(flags(workdir, tmp_path / "small", "--int8")) == 0
    said = capsys.readouterr().out
    assert "any multiple of 128 samples at 8000 Hz; out: 20 probabilities" in said
    kinds = {node.op_type for node in onnx.load(tmp_path / "small" / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} < kinds
    given = clips(20, 128 * 32)
    found = [
        onnxruntime.InferenceSession(tmp_path / name / "model.onnx").run(None, given)[0]
        for name in ("whole", "small")
    ]
    np.testing.assert_allclose(*found, atol=0.05)  # weights are random and large


def test_an_encoder_without_labels_gives_embeddings(tmp_path):
    write_workdir(tmp_path / "run", "small_cnn", "simclr")
    assert command.main(flags(tmp_path / "run", tmp_path / "out")) == 0
    given = clips(4, 128 * 32)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    (found,) = session.run(["embeddings"], given)
    expected = inference.load(tmp_path / "run").embeddings(given["audio"], given["length"])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(UserError, match="without any"):
        command.main(flags(tmp_path / "run", tmp_path / "page", "--page", str(tmp_path)))


def test_int8_of_a_converted_model_is_refused(workdir, tmp_path):
    """Its config says nothing of data, so that the default ones, synthesized, would be taken."""
    model = inference.load(workdir)
    for step in (None, 0):
        converted = dataclasses.replace(model, step=step)
        with pytest.raises(UserError, match="--int8 .* was converted and has none here"):
            export.write(converted, tmp_path / "out", "onnx", int8=True)
    assert not (tmp_path / "out").exists()


def test_training_clips_that_are_gone_are_told_before_the_translation(
    workdir, tmp_path, monkeypatch
):
    monkeypatch.setattr(export, "to_onnx", lambda *_: pytest.fail("it has begun"))
    model = inference.load(workdir)
    model.config.supervised.data.update(source="folder", path=str(tmp_path / "gone"))
    with pytest.raises(UserError, match="there is no folder '.*gone'"):
        export.write(model, tmp_path / "out", "onnx", int8=True)
    monkeypatch.setattr(export, "training_clips", lambda *_: iter(()))
    with pytest.raises(UserError, match="--int8: none of the clips .* can be read"):
        export.write(inference.load(workdir), tmp_path / "out", "onnx", int8=True)


def test_flags_that_do_not_go_together(workdir, tmp_path):
    for flag in (["--int8"], ["--page", str(tmp_path)]):
        with pytest.raises(UserError, match=f"{flag[0]} is for --format=onnx"):
            command.main([*flags(workdir, tmp_path / "out"), "--format", "stablehlo", *flag])
    with pytest.raises(UserError, match="npm install onnxruntime-web"):
        command.main(flags(workdir, tmp_path / "out", "--page", str(tmp_path)))


def test_the_documented_example_runs_without_jax(workdir, tmp_path):
    text = (ROOT / "docs" / "deploy.md").read_text()
    (example,) = (
        code
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "import onnxruntime" in code
    )
    assert len([line for line in example.splitlines() if line]) <= 20
    command.main(flags(workdir, tmp_path / "out"))
    size = 128 * 32  # of a window of half a second
    audio = np.random.default_rng(0).normal(0, 0.1, size + 2000)
    soundfile.write(tmp_path / "bark.wav", audio, RATE, "FLOAT")
    blocked = "import sys\nsys.modules['jax'] = sys.modules['sacjax'] = None\n"
    command_line = [sys.executable, "-c", blocked + example]
    said = subprocess.run(command_line, cwd=tmp_path, capture_output=True, text=True, check=True)
    windows = np.pad(audio, (0, size - 2000)).reshape(2, size).astype(np.float32)
    model = inference.load(workdir)
    logits = np.asarray(model.logits(windows, np.array([size, 2000], np.int32)))
    expected = softmax(logits, -1).mean(0)
    found = dict(line.rsplit(": ", 1) for line in said.stdout.splitlines())
    assert list(found) == list(model.labels)
    np.testing.assert_allclose([float(p) for p in found.values()], expected, atol=1e-4)


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
RUNTIME = os.environ.get("ONNXRUNTIME_WEB", "")  # node_modules/onnxruntime-web
# What the page says of what it hears is sent to the server that gave it.
PROBE = """<script>
addEventListener('labelled', event =>
  fetch('heard', {method: 'POST', body: JSON.stringify(event.detail)}));
new MutationObserver(() => {
  const start = document.getElementById('start');
  if (!start.disabled) start.click();
}).observe(document.body, {subtree: true, attributes: true});
new MutationObserver(changes => fetch('heard', {method: 'POST', body: JSON.stringify(
  {error: changes[0].target.textContent})})
).observe(document.getElementById('message'), {childList: true});
</script></html>"""


def heard_by_page(folder, sound, tmp_path):
    """Returns what the page says of a wav file, played again and again, once a window is full."""
    answers = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_POST(self):
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    arguments = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={sound}",
        "--autoplay-policy=no-user-gesture-required",
        f"--user-data-dir={tmp_path / 'profile'}", f"http://localhost:{server.server_port}/",
    ]  # fmt: skip
    with open(tmp_path / "browser.log", "w") as log:
        browser = subprocess.Popen(arguments, stdout=log, stderr=log)
    try:
        for _ in range(6):  # the sound begins within the first windows
            answer = answers.get(timeout=300)
            assert "error" not in answer, answer
        return answer
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.skipif(
    not RUNTIME,
    reason="needs `npm install onnxruntime-web` and ONNXRUNTIME_WEB=node_modules/onnxruntime-web",
)
def test_the_page_labels_a_microphone(workdir, tmp_path):
    folder = tmp_path / "out"
    assert command.main(flags(workdir, folder, "--page", RUNTIME)) == 0
    page = folder / "index.html"
    page.write_text(page.read_text(encoding="utf-8").replace("</html>", PROBE), encoding="utf-8")
    model = inference.load(workdir)
    tones = {}  # a tone of each of two labels
    time = np.arange(48000 * 2) / 48000
    for hertz in range(200, 3800, 200):
        audio = 0.3 * np.sin(2 * np.pi * hertz * time)
        probabilities = model.predict(audio[:24000], 48000).probabilities[0]
        if probabilities.max() > 0.6:
            tones.setdefault(model.labels[int(probabilities.argmax())], (audio, probabilities))
    assert len(tones) > 1
    for label, (audio, probabilities) in list(tones.items())[:2]:
        sound = tmp_path / "sound.wav"
        soundfile.write(sound, audio, 48000, "PCM_16")
        answer = heard_by_page(folder, sound, tmp_path)
        assert answer["label"] == label
        np.testing.assert_allclose(answer["probabilities"], probabilities, atol=0.1)
