"""Small classifiers that tell noise from noise with a short tone in it, trained in seconds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.context import Context
from sacjax.inference import Model
from sacjax.inference.embedder import unlabelled
from sacjax.views import make_views

RATE, SECONDS = 4000, 0.64
TONE = 1000.0  # Hz
LENGTH = 0.08  # seconds of the tone
LABELS = ("noise", "tone")
ENCODERS = {
    "small_cnn": dict(channels=(8, 8), hidden=16),
    "audionet": dict(variant="audionet", width=0.0625, first_kernel=16, first_stride=2),
    "spectrogram_transformer": dict(
        width=32, depth=1, heads=2, mlp_width=32, patch_frames=4, patch_bands=4, output="class"
    ),
    "spectrogram_resnet": dict(width=4, stem="small"),
    "autoencoder": dict(kind="conv", channels=(4, 4), bottleneck=8),
    "gru": dict(width=8, layers=2),
    "causal_transformer": dict(width=8, depth=2, heads=2, mlp_width=8, pre_norm=True, stack=2),
    "whisper": dict(width=16, depth=2, heads=2, mlp_width=16, max_frames=60, padding="silence"),
    "wav2vec2": dict(
        size="tiny",
        normalize_input=True,
        conv_channels=(8, 8),
        conv_kernels=(10, 8),
        conv_strides=(8, 8),
        width=16,
        depth=2,
        heads=2,
        mlp_width=16,
        positional_kernel=4,
        positional_groups=2,
    ),
}


def sounds(count, seed=0, begin=None):
    """Returns (float32 [count, T], labels [count]); the tone begins at random or at `begin` s."""
    rng = np.random.default_rng(seed)
    size, length = round(RATE * SECONDS), round(RATE * LENGTH)
    x = 0.05 * rng.standard_normal([count, size])
    labels = np.arange(count) % 2
    for row in np.flatnonzero(labels):
        start = round(RATE * begin) if begin is not None else rng.integers(0, size - length)
        t = np.arange(length) / RATE
        x[row, start : start + length] += 0.5 * np.sin(2 * np.pi * TONE * t) * np.hanning(length)
    return x.astype(np.float32), labels


def config_of(name, **frontend):
    """Returns a config of one of `ENCODERS`."""
    c = config_lib.default()
    s = c.supervised
    s.data.update(source="synthetic", sample_rate=RATE, seconds=SECONDS)
    s.frontend.update(n_fft=128, hop_length=64, n_mels=16, **frontend)
    with s.model.unlocked():
        s.model.name, s.model.encoder = name, ENCODERS[name]
    return c


def untrained(name, seed=0, change=None, **frontend):
    """Returns a model with fresh parameters; `change` is called with its config."""
    config = config_of(name, **frontend)
    if change is not None:
        change(config.supervised)
    objective = objectives.build(config_lib.check(config).supervised, LABELS, np.ones(2))
    return Model(config, "supervised", LABELS, objective, objective.build(nnx.Rngs(seed)))


@functools.cache
def trained(name, steps=80, rate=1e-2):
    """Returns a model that tells the two apart."""
    model = untrained(name)
    views = make_views(model.stage_config, 2)
    graphdef, params, rest = nnx.split(model.module, nnx.Param, ...)
    optimizer = optax.adam(rate)

    def loss(params, rest, audio, labels):
        batch = views(unlabelled(audio, jnp.full([len(audio)], audio.shape[1])))
        module = nnx.merge(graphdef, params, rest, copy=True)
        logits = model.objective.predict(module, batch, Context(jax.random.key(0)))
        value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return value, nnx.split(module, nnx.Param, ...)[2]

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
    def step(params, rest, state, audio, labels):
        grads, rest = jax.grad(loss, has_aux=True)(params, rest, audio, labels)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), rest, state

    state, (audio, labels) = optimizer.init(params), sounds(32 * 8)
    for k in range(steps):
        rows = slice(32 * (k % 8), 32 * (k % 8) + 32)
        params, rest, state = step(params, rest, state, audio[rows], labels[rows])
    nnx.update(model.module, params, rest)
    audio, labels = sounds(32, seed=9)
    logits = model.logits(audio, np.full(32, audio.shape[1], np.int32))
    assert (np.argmax(logits, 1) == labels).mean() > 0.9, name
    return model
