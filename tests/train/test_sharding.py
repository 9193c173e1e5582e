"""Meshes: where each array goes, and that no layout changes what is learned."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from processes import ROOT, run_python

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.train import sharding
from sacjax.train.optimizer import make_optimizer, name_of

SIZES = {"data": 2, "fsdp": 4, "tensor": 2}
TRAIN = """
import collections, json, sys
import jax, numpy as np
import workdirs
from sacjax import config as config_lib, objectives
from sacjax.plan import hlo
from sacjax.train import sharding
from sacjax.data import pipeline, sources
from sacjax.train.loop import make_program

name, layouts = sys.argv[1], json.loads(sys.argv[2])
config = workdirs.config_of(name, "contrastive" if name == "wav2vec2" else "classification")
s = config.supervised
s.train.batch_size, s.train.steps, s.train.log_every, s.optimizer.learning_rate = 16, 20, 1, 1e-3
s.augment.waveform = (dict(name="gain"), dict(name="shift"))
if name == "wav2vec2":
    with s.model.unlocked(), s.objective.unlocked():
        s.model.encoder = workdirs.ENCODERS[name] | dict(width=64, mlp_width=128, layer_drop=0.2)
        s.objective.options = dict(codebook_entries=8, codebook_dim=16, projection_dim=16, negatives=5, mask_span=4, mask_probability=0.1)
else:
    s.augment.spectrogram = (dict(name="mixup"), dict(name="frequency_mask", width=4))
    s.model.dropout = 0.2
config_lib.check(config)
recordings = sources.load(s.data)
objective = objectives.build(s, recordings.class_names, np.ones(len(recordings.class_names)))
for layout in layouts:
    sizes = layout["mesh"]
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), devices=devices, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    program = make_program(objective, s, mesh, 20, 0)
    state, losses = program.init(), []
    batches = iter(pipeline.train_batches(recordings, np.arange(len(recordings)), s.data, 16, 0, labels=objective.needs_labels))
    compiled = None
    for _ in range(20):
        batch = next(batches)
        batch.pop("error")
        batch = sharding.put_batch(batch, mesh)
        compiled = compiled or program.step.lower(state, batch).compile({"xla_backend_optimization_level": "0"})
        state = compiled(state, batch)
        losses.append(objective.summarize(state.sums)["loss"])
        state = state._replace(sums=jax.tree.map(lambda x: x * 0, state.sums))
    sent = collections.Counter()
    for one in hlo.collectives(compiled.as_text()):
        sent[one.kind] += one.bytes * one.times
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    print("RESULT", json.dumps(dict(losses=losses, sent=sent, size=size)))
"""


@pytest.mark.parametrize(
    ("name", "shape", "axes"),
    [
        ("encoder/layers/attention/query/kernel", (12, 64, 64), (None, "fsdp", "tensor")),
        (
            "opt_state/1/mu/encoder/layers/attention/out/kernel",
            (12, 64, 64),
            (None, "tensor", "fsdp"),
        ),
        ("encoder/layers/mlp_in/bias", (12, 128), (None, "tensor")),
        (
            "encoder/layers/mlp_out/kernel",
            (3, 30, 63),
            (None, "tensor", None),
        ),  # 63 does not divide by 4
        ("encoder/conv/3/conv/kernel", (3, 512, 512), (None, None, "fsdp")),
        ("encoder/stem/kernel", (7, 7, 1, 64), ()),  # small
        ("encoder/table", (101, 4096), (None, "fsdp")),
        ("encoder/odd", (101, 103), ()),
        ("step", (), ()),
    ],
)
def test_where_an_array_goes(name, shape, axes):
    wanted = PartitionSpec(*axes) if axes else PartitionSpec(*[None] * len(shape))
    assert sharding.spec(name, shape, SIZES) == wanted
    assert sharding.spec(name, shape, {"data": 8, "fsdp": 1, "tensor": 1}) == PartitionSpec(
        *[None] * len(shape)
    )


@pytest.mark.parametrize(
    ("name", "meshes"),
    [
        ("wav2vec2", [(8, 1, 1), (1, 8, 1), (2, 2, 2)]),
        ("small_cnn", [(1, 1, 1), (8, 1, 1), (2, 4, 1)]),
    ],
)
def test_every_layout_learns_the_same(name, meshes):
    """20 steps with dropout and augmentation on. (wav2vec2 on one device: tests/objectives/test_contrastive.py.)"""
    layouts = [
        {"mesh": dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))} for mesh in meshes
    ]
    done = run_python("-c", TRAIN, name, json.dumps(layouts), devices=8, path="tests")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    alone, *others = [json.loads(line.removeprefix("RESULT")) for line in lines]
    assert len(others) == len(meshes) - 1 and alone["losses"][-1] != alone["losses"][0]
    for mesh, result in zip(meshes, [alone, *others], strict=True):
        np.testing.assert_allclose(result["losses"], alone["losses"], rtol=1e-5)
        if name == "wav2vec2":
            check_what_is_sent(mesh, result["sent"], result["size"])


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"data": 2, "fsdp": 4}, {"fsdp": 64}])
def test_under_fsdp_a_device_keeps_its_share(sizes, monkeypatch):
    """Parameters and optimizer state of the published base pretraining, by their shapes."""
    monkeypatch.chdir(ROOT)
    stage = config_lib.load("configs/wav2vec2/base_pretrain.py").pretrain
    model = nnx.eval_shape(lambda: objectives.build(stage, (), np.ones(0)).build(nnx.Rngs(0)))
    params = nnx.as_pure(nnx.split(model, nnx.Param, ...)[1])
    state = {
        "params": params,
        "opt_state": jax.eval_shape(make_optimizer(stage.optimizer, 100, params).init, params),
    }
    whole = here = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        spec = sharding.spec(name_of(path), leaf.shape, sizes)
        whole += leaf.size
        here += leaf.size / np.prod([sizes.get(axis, 1) for axis in spec if axis], initial=1)
    assert whole > 3 * 95e6 and here / whole == pytest.approx(1 / sizes["fsdp"], rel=0.1)


def check_what_is_sent(mesh, sent, size):
    """Compares the bytes that a device receives in a step with what they must be, so that a stray all-gather is seen.

    Gradients are added up once; under fsdp, parameters are gathered once (XLA:CPU adds up whole gradients and keeps a part, where others
    reduce-scatter). Under tensor, each layer adds up activations of a device's rows twice on the way there and twice on the way back.
    """
    data, fsdp, tensor = mesh
    frames, width, depth = 49, 64, 2
    activations = 4 * depth * (16 // (data * fsdp)) * frames * width * 4 if tensor > 1 else 0
    assert sent.get("all-gather", 0) <= (size if fsdp > 1 else 0)
    most = 1.15 * (size + activations) if tensor > 1 else 1.01 * size
    assert 0.98 * size / tensor <= sent["all-reduce"] <= most
    assert (
        sum(sent.values()) - sent["all-reduce"] - sent.get("all-gather", 0)
        <= (0.3 if tensor > 1 else 0.05) * size
    )
