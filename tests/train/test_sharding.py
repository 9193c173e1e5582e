"""Meshes: where each array goes, and that no layout changes what is learned."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from processes import ROOT, run_python
from workdirs import config_of

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.objectives.base import teacher_of
from sacjax.train import sharding
from sacjax.train.optimizer import make_optimizer, name_of

SIZES = {"data": 2, "fsdp": 4, "tensor": 2}


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
        # 63 does not divide by 4.
        ("encoder/layers/mlp_out/kernel", (3, 30, 63), (None, "tensor", None)),
        ("encoder/conv/3/conv/kernel", (3, 512, 512), (None, None, "fsdp")),
        ("encoder/stem/kernel", (7, 7, 1, 64), ()),  # small
        ("encoder/table", (101, 4096), (None, "fsdp")),
        ("encoder/odd", (101, 103), ()),
        ("step", (), ()),
    ],
)
def test_where_an_array_goes(name, shape, axes):
    whole = PartitionSpec(*[None] * len(shape))
    wanted = PartitionSpec(*axes) if axes else whole
    assert sharding.spec(name, shape, SIZES) == wanted
    assert sharding.spec(name, shape, {"data": 8, "fsdp": 1, "tensor": 1}) == whole


def test_a_teacher_is_split_as_its_student():
    """A whole encoder's, by the names of its variables."""
    objective = objectives.build(config_of("wav2vec2", "wav2vec2").supervised)
    build = lambda: objective.build(nnx.Rngs(0)).encoder
    student, teacher = nnx.eval_shape(lambda: (build(), teacher_of(build())))
    split = []
    for model, where, kind in ((student, "params/encoder", nnx.Param), (teacher, "buffers/x", ...)):
        tree = nnx.as_pure(nnx.state(model, kind))
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        split.append({
            name_of(path): sharding.spec(f"{where}/{name_of(path)}", leaf.shape, SIZES)
            for path, leaf in leaves
        })  # fmt: skip
    assert split[0] == split[1] and len(split[0]) > 20
    assert sum("tensor" in spec and "fsdp" in spec for spec in split[0].values()) >= 6


@pytest.mark.parametrize(
    "layouts",
    [
        # On one device: tests/objectives/test_wav2vec2.py.
        {"wav2vec2": [(8, 1, 1), (1, 8, 1), (2, 2, 2)]},
        {
            "small_cnn": [(1, 1, 1), (8, 1, 1), (2, 4, 1)],
            "two_views": [(1, 1, 1), (8, 1, 1), (1, 8, 1)],
        },
    ],
    ids="+".join,
)
def test_every_layout_learns_the_same(layouts):
    """5 steps with dropout and augmentation on, in one process."""
    done = run_python("tests/train/layouts.py", json.dumps(layouts), devices=8, path="tests")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    found = [json.loads(line.removeprefix("RESULT")) for line in lines]
    assert [(name, tuple(mesh)) for name, mesh, _ in found] == [
        (name, mesh) for name, meshes in layouts.items() for mesh in meshes
    ]
    for name in layouts:
        results = [(mesh, result) for other, mesh, result in found if other == name]
        first = results[0][1]
        assert first["losses"][-1] != first["losses"][0]
        for mesh, result in results:
            np.testing.assert_allclose(result["losses"], first["losses"], rtol=1e-5)
            if name == "wav2vec2":
                check_what_is_sent(mesh, result["sent"], result["size"])
            if name == "two_views":
                check_teacher(mesh, result, first)


def check_teacher(mesh, result, first):
    """A teacher's numbers are those of one device, and it lies where its student does."""
    for got, want in zip(result["buffers"], first["buffers"], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    split = ["fsdp", None] if mesh[1] > 1 else [None, None]
    assert result["specs"]["params/encoder/kernel"] == split
    for name in ("kernel", "bias"):
        student = result["specs"][f"params/encoder/{name}"]
        assert result["specs"][f"buffers/teacher/{name}"] == student


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"data": 2, "fsdp": 4}, {"fsdp": 64}])
def test_under_fsdp_a_device_keeps_its_share(sizes):
    """Parameters and optimizer state of the published base pretraining, by their shapes."""
    stage = config_lib.load(str(ROOT / "configs/wav2vec2/base_pretrain.py")).pretrain
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
    """Compares the bytes that a device receives in a step with what they must be.

    So a stray all-gather is seen. Gradients are added up once; under fsdp, parameters are gathered
    once (XLA:CPU adds up whole gradients and keeps a part, where others reduce-scatter). Under
    tensor, each layer adds up activations of a device's rows twice on the way there and twice on
    the way back.
    """
    data, fsdp, tensor = mesh
    frames, width, depth = 49, 64, 2
    activations = 4 * depth * (16 // (data * fsdp)) * frames * width * 4 if tensor > 1 else 0
    assert sent.get("all-gather", 0) <= (size if fsdp > 1 else 0)
    most = 1.15 * (size + activations) if tensor > 1 else 1.01 * size
    assert 0.98 * size / tensor <= sent["all-reduce"] <= most
    others = sum(sent.values()) - sent["all-reduce"] - sent.get("all-gather", 0)
    assert others <= (0.3 if tensor > 1 else 0.05) * size
