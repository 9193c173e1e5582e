"""Workdirs of tiny encoders, trained or not, for the tests of what uses them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sacjax import config as config_lib
from sacjax import inference, objectives
from sacjax.data import sources
from sacjax.train import checkpoint
from sacjax.train.checkpoint_files import write_labels
from sacjax.train.state import new_state, split_model

RATE = 8000
ENCODERS = {
    "wav2vec2": dict(
        size="tiny",
        conv_channels=(16,) * 5,
        conv_kernels=(10, 3, 3, 3, 2),
        conv_strides=(5, 2, 2, 2, 2),
        positional_kernel=16,
        positional_groups=4,
    ),
    "small_cnn": dict(channels=(4, 4), hidden=8),
    "spectrogram_resnet": dict(width=4, stem="small"),
}


def config_of(name, objective="classification"):
    """Returns a config of an experiment of seconds: synthetic sounds of half a second at 8 kHz."""
    c = config_lib.default()
    s = c.supervised
    s.data.source, s.data.examples, s.data.sample_rate, s.data.seconds = "synthetic", 80, RATE, 0.5
    s.frontend.n_fft, s.frontend.hop_length, s.frontend.n_mels = 256, 128, 16
    s.model.name, s.objective.name = name, objective
    with s.model.unlocked():
        s.model.encoder = ENCODERS[name]
    s.train.batch_size, s.train.steps, s.eval.batch_size, c.tensorboard = 8, 1, 16, False
    return config_lib.check(c)


def random_values(make, seed=3):
    """Returns the module that `make()` makes, with random values in it; nothing is compiled.

    Scales are about 1, statistics positive, and kernels keep the size of what goes in.
    """
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        normal, name = rng.standard_normal(leaf.shape), jax.tree_util.keystr(path)
        if "scale" in name:
            normal = 1 + 0.2 * normal
        elif "kernel" in name:
            normal *= 2 / np.prod(leaf.shape[:-1]) ** 0.5
        else:
            normal *= 0.2
        return jnp.asarray(normal, leaf.dtype)

    graphdef, params, extra = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    params = jax.tree_util.tree_map_with_path(value, params)
    extra = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype), extra)
    return nnx.merge(graphdef, params, extra)


def objective_of(config):
    """Returns the objective of a config of `config_of`, and its label names."""
    names = sources.load(config.supervised.data).class_names
    return objectives.build(config.supervised, names, np.ones(len(names))), names


def network_of(name, objective="classification"):
    """Returns the network that `write_workdir` writes."""
    made, _ = objective_of(config_of(name, objective))
    return random_values(lambda: made.build(nnx.Rngs(0)))


def untrained_classifier(encoder):
    """Returns a classifier of the synthesized few labels, its head random; from the project."""
    config = config_lib.load(f"configs/synthetic/few_labels.py:encoder={encoder}")
    names = tuple("abcde")
    objective = objectives.build(config.finetune, names, np.ones(len(names)))
    module = objective.build(nnx.Rngs(0))
    module.head.kernel[...] = 0.1 * jax.random.normal(jax.random.key(1), module.head.kernel.shape)
    return inference.Model(config, "finetune", names, objective, module)


def write_workdir(folder, name, objective="classification"):
    """Writes a workdir with a random network, as if it had been trained; returns the network."""
    config = config_of(name, objective)
    model = network_of(name, objective)
    folder.mkdir(parents=True, exist_ok=True)
    write_labels(folder, "supervised", objective_of(config)[1])
    checkpoints = checkpoint.Checkpoints(folder, "supervised", asynchronous=False)
    _, params, buffers = split_model(model)
    checkpoints.save(1, new_state(params, buffers, {}, {}, ema=False, log_every=1), {}, None)
    checkpoints.close()
    (folder / "config.json").write_text(config_lib.to_json(config))
    (folder / "results.json").write_text(json.dumps({"supervised": {}}))
    return model


def write_best_and_last(folder, default):
    """Writes a workdir with two checkpoints of a classifier, which say the same of every sound.

    The best, of step 1, says the first label; the last, of step 2, the second.

    Args:
      folder: of the workdir.
      default: its `eval.checkpoint`.
    """
    config = config_of("small_cnn")
    config.supervised.eval.checkpoint = default
    _, names = objective_of(config)
    write_labels(folder, "supervised", names)
    (folder / "config.json").write_text(config_lib.to_json(config))
    checkpoints = checkpoint.Checkpoints(folder, "supervised", asynchronous=False)
    for step, metric in ((1, 0.9), (2, 0.5)):
        _, params, buffers = split_model(network_of("small_cnn"))
        params["encoder"]["dense"]["kernel"] *= step
        params["head"]["kernel"] *= 0
        params["head"]["bias"] = jnp.eye(len(names))[step - 1]
        state = new_state(params, buffers, {}, {}, ema=False, log_every=1)
        checkpoints.save(step, state, {}, metric)
    checkpoints.close()
