"""A spectrogram as its own encoder, against the front end pooled by NumPy."""

import json

import numpy as np
import soundfile
from workdirs import config_of

from launch.benchmarks import ssl_features
from sacjax.frontend import make_frontend
from sacjax.inference.embedder import Embedder

RATE = 8000


def test_a_clips_vector_is_its_pooled_spectrogram():
    stage = config_of("spectrogram_resnet").supervised
    x = np.random.default_rng(0).normal(0, 0.1, (2, 4000)).astype(np.float32)
    lengths = np.array([4000, 3000], np.int32)
    x[1, 3000:] = 0
    encoder = ssl_features.Spectrogram(stage.frontend.n_mels)
    vectors = Embedder(stage, encoder, pooling="statistics").clips(x, lengths)
    features, frames = make_frontend(stage.frontend, stage.data.sample_rate)(x, lengths)
    want = [
        np.concatenate([row[:n].mean(0), row[:n].std(0)])
        for row, n in zip(np.asarray(features), np.asarray(frames), strict=True)
    ]
    np.testing.assert_allclose(vectors, want, atol=1e-4)


def test_tones_of_two_pitches_are_told_apart(tmp_path):
    rng, time = np.random.default_rng(0), np.arange(RATE // 4) / RATE
    for label, pitch in (("low", 300), ("high", 1500)):
        (tmp_path / label).mkdir()
        for k in range(20):
            sound = 0.3 * np.sin(2 * np.pi * pitch * time) + rng.normal(0, 0.01, len(time))
            soundfile.write(tmp_path / label / f"{k}.wav", sound, RATE)
    config = tmp_path / "config.py"
    config.write_text(
        "from sacjax import config as config_lib\n\n\n"
        "def get_config():\n    c = config_lib.default()\n    s = c.supervised\n"
        f"    s.data.source, s.data.path = 'folder', {str(tmp_path)!r}\n"
        "    s.data.sample_rate, s.data.seconds = 8000, 0.25\n"
        "    s.frontend.n_fft, s.frontend.hop_length, s.frontend.n_mels = 256, 80, 16\n"
        "    return c\n"
    )
    output = tmp_path / "scores.json"
    flags = ["--config", str(config), "--shots", "5", "--draws", "2", "--output", str(output)]
    assert ssl_features.main(flags) == 0
    scores = json.loads(output.read_text())["trained"]
    assert scores["linear_accuracy"] == scores["knn_accuracy"] == 1
    assert min(scores["few_shot_accuracy"]["5"]) > 0.9
