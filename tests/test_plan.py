"""Plans for machines that are not here, against what programs on this one really use, and by the real compiler of TPUs."""

import importlib.util
import json

import pytest
from processes import run_python

from sacjax import plan
from sacjax.errors import UserError

ON_THIS_MACHINE = """
import json, sys
import jax, numpy as np
import workdirs
from sacjax import config as config_lib, objectives, plan, sharding
from sacjax.train import batch_shapes, make_program

config = workdirs.config_of("wav2vec2", "contrastive")
s = config.supervised
with s.model.unlocked(), s.objective.unlocked():
    s.model.encoder = workdirs.ENCODERS["wav2vec2"] | dict(width=64, mlp_width=256)
    s.objective.options = dict(codebook_entries=8, codebook_dim=16, projection_dim=16, negatives=5)
s.train.batch_size, s.train.steps, s.data.seconds = 64, 10, 1.0
config_lib.check(config)
where = plan.topology("h100x8")
kept = lambda tree: sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
for mesh in json.loads(sys.argv[1]):
    told = plan.of_mesh(config, "supervised", where, mesh, 0)
    program = make_program(objectives.build(s, (), np.ones(0)), s, sharding.make_mesh(mesh), 10, 0)
    real = dict(told=told._asdict())
    if mesh["fsdp"] > 1:
        state = program.init()
        real |= dict(parameters=kept(state.params), optimizer=kept(state.opt_state))
    else:
        lowered = program.step.lower(jax.eval_shape(program.init), batch_shapes(s, 64, 0))
        real["temporary"] = lowered.compile({"xla_backend_optimization_level": "0"}).memory_analysis().temp_size_in_bytes
    print("RESULT", json.dumps(real))
"""


def test_memory_and_what_is_sent_are_those_of_real_programs():
    meshes = [dict(data=8, fsdp=1, tensor=1), dict(data=1, fsdp=8, tensor=1)]
    done = run_python("-c", ON_THIS_MACHINE, json.dumps(meshes), devices=8, path="tests")
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line.removeprefix("RESULT")) for line in done.stdout.splitlines() if line.startswith("RESULT")]
    whole, parted = found
    memory, size = parted["told"]["memory"], whole["told"]["memory"]["parameters"]
    assert memory["parameters"] == parted["parameters"] < size / 5 and memory["optimizer"] == parted["optimizer"]
    assert 0.4 * whole["temporary"] < whole["told"]["memory"]["activations"] < 1.5 * whole["temporary"]
    assert set(whole["told"]["sent"]) == {
        "all-reduce over data"
    }  # a grouped convolution's gradient would gather the batch
    for real, axis in ((whole, "data"), (parted, "fsdp")):
        assert real["told"]["fits"] and real["told"]["sent"][f"all-reduce over {axis}"] == pytest.approx(size, rel=0.02)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: the extra `tpu`")
@pytest.mark.parametrize(("name", "millions"), [("base", 95.05), ("large", 317.39)])
def test_published_pretraining_fits_a_slice_of_256(name, millions):
    """By the real compiler, for all 256 devices; float32 parameters and Adam's two moments are whole on each."""
    done = run_python(
        "-m", "sacjax.plan", "--config", f"configs/wav2vec2/{name}_pretrain.py", "--topology", "v5e:16x16", "--quick", "--json"
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
