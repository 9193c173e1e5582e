"""Stages of seconds, for the tests of objectives over masked tokens."""

import jax.numpy as jnp
import numpy as np

from sacjax import config as config_lib
from sacjax.views import View

RATE = 4000
SAMPLES = 1600
WAVE = dict(  # a token every 64 samples
    size="tiny",
    conv_channels=(8, 8),
    conv_kernels=(10, 8),
    conv_strides=(8, 8),
    width=16,
    depth=2,
    heads=2,
    mlp_width=16,
    positional_kernel=4,
    positional_groups=2,
    dropout=0.0,
    attention_dropout=0.0,
    projection_dropout=0.0,
)
ENCODERS = {"wav2vec2": WAVE, "toy": dict()}


def stage_of(objective, encoder="wav2vec2", options=None, **encoder_options):
    """Returns a stage of clips of 0.4 s at 4 kHz; `toy` is of `toy_tokens`."""
    stage = config_lib.stage()
    stage.data.update(source="synthetic", examples=60, sample_rate=RATE, seconds=SAMPLES / RATE)
    stage.frontend.update(n_fft=128, hop_length=32, n_mels=8, normalize="band")
    stage.model.update(name=encoder, encoder=ENCODERS[encoder] | encoder_options)
    stage.objective.update(name=objective, options=options or {})
    stage.optimizer.update(schedule="constant", warmup_fraction=0.0)
    stage.train.update(batch_size=8, steps=20)
    return stage


def waves(lengths, seed=0):
    """Returns noise of these lengths as a view, and noise beyond them too."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.1, [len(lengths), SAMPLES]).astype(np.float32)
    return View(jnp.asarray(x), jnp.asarray(lengths))


def batch_of(view, mask=None):
    """Returns a batch of one view, which is its source too."""
    rows = jnp.arange(len(view.lengths))
    mask = np.ones(len(rows), np.float32) if mask is None else np.asarray(mask, np.float32)
    return dict(views=(view,), source=view, clean=view, mask=jnp.asarray(mask), index=rows)
