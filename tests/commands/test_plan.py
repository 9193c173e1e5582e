"""Plans for machines that are not here, against what programs on this one really use, and by the real compiler of TPUs."""

import importlib.util
import json

import pytest
from processes import run_python

from sacjax.commands import plan
from sacjax.errors import UserError

ON_THIS_MACHINE = """
import json, sys
import jax, numpy as np
import workdirs
from sacjax import config as config_lib, objectives
from sacjax.commands import plan
from sacjax.train import sharding
from sacjax.train.loop import batch_shapes, make_program

config = workdirs.config_of("wav2vec2", "contrastive")
s = config.supervised
with s.model.unlocked(), s.objective.unlocked():
    s.model.encoder = workdirs.ENCODERS["wav2vec2"] | dict(width=64, mlp_width=256)
    s.objective.options = dict(codebook_entries=8, codebook_dim=16, projection_dim=16, negatives=5)
s.train.batch_size, s.train.steps, s.data.seconds = 64, 10, 1.0
config_lib.check(config)
where = plan.topology("h100x8")
told = plan.of_mesh(config, "supervised", where, dict(data=8, fsdp=1, tensor=1), 0)
program = make_program(objectives.build(s, (), np.ones(0)), s, sharding.make_mesh(told.mesh), 10, 0)
state = jax.eval_shape(program.init)
compiled = program.step.lower(state, batch_shapes(s, 64, 0)).compile()
batch = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch_shapes(s, 8, 0)))
stats = compiled.memory_analysis()
print("RESULT", json.dumps(dict(told=told._asdict(), kept=stats.argument_size_in_bytes - batch, temporary=stats.temp_size_in_bytes)))
"""


def test_memory_and_what_is_sent_are_those_of_a_real_program():
    done = run_python("-c", ON_THIS_MACHINE, devices=8, path="tests")
    assert done.returncode == 0, done.stderr[-3000:]
    real = json.loads(done.stdout.partition("RESULT")[2])
    memory, sent = real["told"]["memory"], real["told"]["sent"]
    assert real["told"]["fits"] and memory["parameters"] + memory["optimizer"] == pytest.approx(
        real["kept"], rel=0.01
    )
    assert 0.4 * real["temporary"] < memory["activations"] < 1.5 * real["temporary"]
    assert set(sent) == {
        "all-reduce over data"
    }  # a grouped convolution's gradient would gather the batch
    assert sent["all-reduce over data"] == pytest.approx(memory["parameters"], rel=0.02)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: the extra `tpu`"
)
def test_published_pretraining_fits_a_slice_of_256():
    """Large's, by the real compiler, for all 256 devices; float32 parameters and Adam's two moments are whole on each."""
    millions = 317.39
    done = run_python(
        "-m", "sacjax.commands.plan", "--config", "configs/wav2vec2/large_pretrain.py", "--topology", "v5e:16x16", "--quick", "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["devices"] == 256 and told["chosen"] == dict(data=256, fsdp=1, tensor=1)
    memory = told["plans"][0]["memory"]
    assert memory["parameters"] == pytest.approx(4e6 * millions, rel=1e-3)
    assert memory["optimizer"] == pytest.approx(8e6 * millions, rel=1e-3)
    assert memory["parameters"] + memory["optimizer"] < memory["peak"] < 16 * 2**30
    sent = told["plans"][0]["sent"]
    assert set(sent) == {"all-reduce over data"}  # gradients, as bfloat16 or float32, once
    assert 2e6 * millions < sent["all-reduce over data"] < 4.1e6 * millions


@pytest.mark.parametrize("name", ["v5e", "v9z:4x4", "h100:2x2", "v5ex8", "8x8"])
def test_a_topology_that_is_not_known(name):
    with pytest.raises(UserError, match="--topology is"):
        plan.topology(name)


def test_an_axis_that_is_not_known(monkeypatch):
    with pytest.raises(UserError, match="--mesh is 'model=2'"):
        plan._mesh("model=2")
    assert plan._mesh("data=-1,tensor=2") == dict(data=-1, tensor=2)


def test_candidates_begin_with_the_configs_own():
    from sacjax import config as config_lib

    config = config_lib.default()
    config.mesh.tensor = 2
    found = plan.candidates(config, 16)
    assert found[0] == dict(data=-1, fsdp=1, tensor=2) and dict(data=-1, fsdp=16, tensor=1) in found
    assert all(mesh["fsdp"] * mesh["tensor"] <= 16 for mesh in found)
