"""Trains a few steps on each of several meshes, and prints what came of it.

Run in a process of its own that has 8 devices:

python tests/train/layouts.py '{"wav2vec2": [[8, 1, 1], [1, 8, 1]]}'
"""

import collections
import json
import sys

import jax
import numpy as np
import workdirs
from tiny_objectives import TwoViews, bare_stage, batches

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.data import pipeline, sources
from sacjax.plan import hlo
from sacjax.train import sharding
from sacjax.train.optimizer import name_of
from sacjax.train.trainer import make_trainer

AXES = ("data", "fsdp", "tensor")
STEPS = 5
SAMPLES = 128  # large enough that the weights of `TwoViews` are split


def two_views():
    """Returns (objective, stage, batches) of an objective with a teacher."""
    stage = bare_stage(SAMPLES, name="adamw", learning_rate=1e-3, ema_decay=0.9)
    stage.train.log_every = 1
    return TwoViews(stage, ("a", "b")), stage, batches(STEPS, SAMPLES)


def experiment(name):
    """Returns (objective, stage, batches) of a tiny encoder with dropout and augmentation on."""
    config = workdirs.config_of(name, "wav2vec2" if name == "wav2vec2" else "classification")
    s = config.supervised
    s.train.update(batch_size=16, steps=STEPS, log_every=1)
    s.optimizer.learning_rate = 1e-3
    s.augment.waveform = (dict(name="gain"), dict(name="shift"))
    if name == "wav2vec2":
        with s.model.unlocked(), s.objective.unlocked():
            wider = dict(width=64, mlp_width=128, layer_drop=0.2)
            fewer = dict(conv_channels=(16,) * 3, conv_kernels=(10, 8, 4), conv_strides=(5, 4, 4))
            s.model.encoder = workdirs.ENCODERS[name] | wider | fewer
            s.objective.options = dict(
                codebook_entries=8,
                codebook_dim=16,
                projection_dim=16,
                negatives=5,
                mask_span=4,
                mask_probability=0.1,
            )
    else:
        s.augment.spectrogram = (dict(name="mixup"), dict(name="frequency_mask", width=4))
        s.model.dropout = 0.2
    config_lib.check(config)
    recordings = sources.load(s.data)
    classes = recordings.class_names
    objective = objectives.build(s, classes, np.ones(len(classes)))
    everything = np.arange(len(recordings))
    given = pipeline.train_batches(
        recordings, everything, s.data, 16, 0, labels=objective.needs_labels
    )
    return objective, s, iter(given)


def train(name, shape):
    """Returns what JSON can hold of a training on a mesh of this shape."""
    objective, stage, given = two_views() if name == "two_views" else experiment(name)
    devices = jax.devices()[: int(np.prod(shape))]
    mesh = sharding.make_mesh(dict(zip(AXES, shape, strict=True)), devices)
    trainer = make_trainer(objective, stage, mesh, STEPS, 0)
    state, losses, compiled = trainer.init(), [], None
    for _ in range(STEPS):
        batch = next(given)
        batch.pop("error", None)
        batch = sharding.put_batch(batch, mesh)
        if compiled is None:
            lowered = trainer.step.lower(state, batch)
            compiled = lowered.compile({"xla_backend_optimization_level": "0"})
        state = compiled(state, batch)
        losses.append(objective.summarize(state.sums)["loss"])
        state = state._replace(sums=jax.tree.map(lambda x: x * 0, state.sums))
    sent = collections.Counter()
    for one in hlo.collectives(compiled.as_text()):
        sent[one.kind] += one.bytes * one.times
    return dict(
        losses=losses,
        sent=sent,
        size=sum(leaf.nbytes for leaf in jax.tree.leaves(state.params)),
        specs=specs(state),
        buffers=[np.asarray(leaf).ravel().tolist() for leaf in jax.tree.leaves(state.buffers)],
    )


def specs(state):
    """Returns {variable: how it is split} of parameters and buffers."""
    both = {"params": state.params, "buffers": state.buffers}
    leaves = jax.tree_util.tree_flatten_with_path(both)[0]
    return {name_of(path): list(leaf.sharding.spec) for path, leaf in leaves}


if __name__ == "__main__":
    for name, shapes in json.loads(sys.argv[1]).items():
        for shape in shapes:
            print("RESULT", json.dumps([name, shape, train(name, shape)]), flush=True)
