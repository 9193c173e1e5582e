"""Stages in turn, and what they hand over."""

from processes import run_python

CONFIG = """
from sacjax import config as config_lib

def get_config():
    c = config_lib.default(first=config_lib.stage(), second=config_lib.stage())
    c.tensorboard = False
    for s in (c.first, c.second):
        s.data.source, s.data.examples, s.data.sample_rate, s.data.seconds = "synthetic", 100, 8000, 0.25
        s.frontend.n_fft, s.frontend.hop_length, s.frontend.n_mels = 256, 128, 16
        s.model.name, s.model.encoder = "small_cnn", dict(channels=(4, 4), hidden=8)
        s.train.batch_size, s.train.steps, s.eval.batch_size = 8, 1, 16
    c.second.init_from, c.second.optimizer.freeze = "first", (("encoder", 0),)
    return c
"""
CHECK = """
import sys, numpy as np
from flax import nnx
from sacjax.checkpoint import load_trained
first, second = (nnx.to_flat_state(nnx.state(load_trained(sys.argv[1], "last", s).model.encoder, nnx.Param)) for s in ("first", "second"))
assert all(np.array_equal(a[1][...], b[1][...]) for a, b in zip(first, second, strict=True))
"""


def test_a_stage_starts_from_an_earlier_ones_encoder_on_two_devices(tmp_path):
    config, workdir = tmp_path / "config.py", tmp_path / "run"
    config.write_text(CONFIG)
    done = run_python("-m", "sacjax.main", "--config", config, "--workdir", workdir, devices=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "second: test accuracy" in done.stdout
    checked = run_python("-c", CHECK, workdir)
    assert checked.returncode == 0, checked.stderr[-2000:]
    evaluated = run_python("-m", "sacjax.main", "--mode=eval", "--workdir", workdir, devices=2)
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    assert "test/accuracy" in evaluated.stdout
