"""What a step needs elsewhere, against what the program on this machine really uses."""

import json

import pytest
from processes import run_python

ON_THIS_MACHINE = """
import json
import jax, numpy as np
import workdirs
from sacjax import config as config_lib, objectives
from sacjax.plan.step import plan_mesh
from sacjax.plan.topology import find_topology
from sacjax.train import sharding
from sacjax.train.trainer import batch_shapes, make_trainer

config = workdirs.config_of("wav2vec2", "wav2vec2")
s = config.supervised
with s.model.unlocked(), s.objective.unlocked():
    s.model.encoder = workdirs.ENCODERS["wav2vec2"] | dict(width=64, mlp_width=256)
    s.objective.options = dict(codebook_entries=8, codebook_dim=16, projection_dim=16, negatives=5)
s.train.batch_size, s.train.steps, s.data.seconds = 64, 10, 1.0
config_lib.check(config)
told = plan_mesh(config, "supervised", find_topology("h100x8"), dict(data=8, fsdp=1, tensor=1), 0)
trainer = make_trainer(objectives.build(s, (), np.ones(0)), s, sharding.make_mesh(told.mesh), 10, 0)
state = jax.eval_shape(trainer.init)
compiled = trainer.step.lower(state, batch_shapes(s, 64, 0)).compile()
batch = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch_shapes(s, 8, 0)))
stats = compiled.memory_analysis()
real = dict(kept=stats.argument_size_in_bytes - batch, temporary=stats.temp_size_in_bytes)
print("RESULT", json.dumps(dict(told=told._asdict(), **real)))
"""


def test_memory_and_what_is_sent_are_those_of_a_real_program():
    done = run_python("-c", ON_THIS_MACHINE, devices=8, path="tests")
    assert done.returncode == 0, done.stderr[-3000:]
    real = json.loads(done.stdout.partition("RESULT")[2])
    memory, sent = real["told"]["memory"], real["told"]["sent"]
    assert real["told"]["fits"]
    assert memory["parameters"] + memory["optimizer"] == pytest.approx(real["kept"], rel=0.01)
    assert 0.4 * real["temporary"] < memory["activations"] < 1.5 * real["temporary"]
    # A grouped convolution's gradient would gather the batch.
    assert set(sent) == {"all-reduce over data"}
    ring = 2 * 7 / 8  # reduce-scatter and all-gather, of each all parts but one
    assert sent["all-reduce over data"] == pytest.approx(ring * memory["parameters"], rel=0.02)
    seconds = real["told"]["flops"] / 989e12 + sent["all-reduce over data"] / 450e9
    assert real["told"]["seconds"] == pytest.approx(seconds)
