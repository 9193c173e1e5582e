"""The synthesized home: its labels are where its sounds are."""

import csv

import numpy as np
import pytest
import soundfile as sf
from flax import nnx
from processes import ROOT

import sacjax
from launch.benchmarks import home_sound
from sacjax import config as config_lib
from sacjax.convert import huggingface
from sacjax.data import sources
from sacjax.inference import timeline


def test_ten_labelled_seconds_and_all_of_the_test(tmp_path):
    home_sound.make(tmp_path, minutes=1)
    config = config_lib.load(f"{ROOT}/configs/switch.py:folder={tmp_path}")
    found = sources.load(config.supervised.data)
    # 2.5 s hold 40 windows of 0.5 s every 0.05 s, one more or less as they fall on the grid.
    assert len(found) == pytest.approx(4 * 40, abs=4)
    assert found.class_names == ("background", "switch")
    share = np.mean([own == ("switch",) for own in found.labels])
    assert 0.1 < share < 0.4
    rows = list(csv.DictReader((tmp_path / "test.csv").read_text().splitlines()))
    assert {row["label"] for row in rows} == {"switch"}
    for row in rows:
        x, rate = sf.read(tmp_path / row["filename"])
        start, end = (round(float(row[key]) * rate) for key in ("start", "end"))
        inside, before = x[start:end], x[start - rate : start - 80]
        # High frequencies, by the difference of neighbours: the click, not the rumble.
        assert np.abs(np.diff(inside)).max() > 3 * np.std(np.diff(before))


def test_frozen_features_of_a_checkpoint_find_events_too(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the checkpoint is made by it")
    small = dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(5, 8),
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    config = transformers.Wav2Vec2Config(**small)
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path / "theirs")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "theirs")
    home_sound.make(tmp_path / "home", minutes=0.3)
    config = config_lib.load(
        f"{ROOT}/configs/switch.py:folder={tmp_path}/home,features=hf:{tmp_path}/theirs,rate=16000",
        ["--config.supervised.train.steps=2", "--config.tensorboard=False"],
    )
    sacjax.run(config, tmp_path / "run")
    model = sacjax.load(tmp_path / "run")
    before = dict(
        nnx.to_flat_state(nnx.state(huggingface.load_huggingface(tmp_path / "theirs").model))
    )
    after = dict(nnx.to_flat_state(nnx.state(model.module.encoder)))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path][...], after[path][...]) for path in before)
    found = timeline.timeline(timeline.listeners_of([model]), str(tmp_path / "home/test_1.wav"))
    assert found[0].start == 0 and found[-1].end == pytest.approx(18, abs=0.01)
    assert all(np.isfinite(segment.probabilities).all() for segment in found)
