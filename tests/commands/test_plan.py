"""Plans for machines that are not here, by the real compiler of TPUs."""

import importlib.util
import json
import os
import sys

import jax
import pytest
from flax import nnx
from processes import run_python

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.commands import plan
from sacjax.errors import UserError


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: the extra `tpu`"
)
def test_a_pretraining_fits_a_slice_of_256():
    """By the real compiler; float32 parameters and Adam's moments are whole on each chip.

    The published recipe with a smaller encoder of fewer convolutions, which compiles sooner.
    """
    encoder = dict(size="mini", conv_channels=(128,) * 3)
    encoder |= dict(conv_kernels=(20, 8, 4), conv_strides=(10, 8, 4))
    smaller = [f"--config.pretrain.model.encoder.{key}={value}" for key, value in encoder.items()]
    stage = config_lib.load("configs/wav2vec2/large_pretrain.py", smaller).pretrain
    model = nnx.eval_shape(lambda: objectives.build(stage).build(nnx.Rngs(0)))
    millions = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) / 1e6
    done = run_python(
        *("-m", "sacjax.commands.plan", "--config", "configs/wav2vec2/large_pretrain.py"),
        *("--topology", "v5e:16x16", "--quick", "--json", *smaller),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["devices"] == 256 and told["chosen"] == dict(data=256, fsdp=1, tensor=1)
    memory = told["plans"][0]["memory"]
    assert memory["parameters"] == pytest.approx(4e6 * millions, rel=1e-3)
    assert memory["optimizer"] == pytest.approx(8e6 * millions, rel=1e-3)
    assert memory["parameters"] + memory["optimizer"] < memory["peak"] < 16 * 2**30
    sent = told["plans"][0]["sent"]
    assert set(sent) == {"all-reduce over data"}  # gradients, as bfloat16 or float32, once
    ring = 2 * 255 / 256
    assert ring * 2e6 * millions < sent["all-reduce over data"] < ring * 4.1e6 * millions


def test_a_network_that_gives_targets_is_planned_for(monkeypatch):
    """HuBERT's second iteration holds the first's encoder; what is compiled is another test's."""
    planned = []
    monkeypatch.setattr(plan, "find_topology", lambda name: None)
    monkeypatch.setattr(plan, "choose", lambda config, *_: planned.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plan.plan(
            [
                "--config",
                "configs/hubert/pretrain.py",
                "--topology",
                "v5e:8x8",
                "--stage",
                "pretrain",
            ]
        )
    (config,) = planned
    network = config.pretrain.objective.options.network
    assert network.name == "wav2vec2" and network.encoder == config.first.model.encoder


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("SEGV", "ended by SIGSEGV, a crash of its own: try"),
        ("KILL", "SIGKILL, as for want of mem"),
    ],
)
def test_a_compiler_that_crashes_is_told_of(tmp_path, monkeypatch, by, message):
    python = tmp_path / "python"
    script = "[ $2 = sacjax.commands.plan ] && [ $6 = ends ] && exit 1"
    python.write_text(f"#!/bin/sh\n{script}\nkill -{by} $$\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    flags = ["--config", "no.py", "--topology"]
    with pytest.raises(UserError, match=message):
        plan.main([*flags, "crashes"])
    assert plan.main([*flags, "ends"]) == 1


def test_who_ends_it_ends_the_compiler_too(tmp_path, monkeypatch):
    python, child = tmp_path / "python", tmp_path / "child"
    lines = ["#!/bin/sh", f"echo $$ > {child}", "sleep 1", "kill -TERM $PPID", "exec sleep 600"]
    python.write_text("\n".join(lines))
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(SystemExit, match="^143$"):
        plan.main(["--config", "no.py", "--topology", "waits"])
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text()), 0)


def test_an_axis_that_is_not_known():
    with pytest.raises(UserError, match="--mesh is 'model=2'"):
        plan.parse_mesh("model=2")
    assert plan.parse_mesh("data=-1,tensor=2") == dict(data=-1, fsdp=1, tensor=2)


def test_an_answer_that_is_none(tmp_path):
    file = tmp_path / "answer.json"
    for text in (None, "{", "[]", '{"plans": []}', '{"plans": [{}]}'):
        if text is not None:
            file.write_text(text)
        with pytest.raises(UserError, match="--against .*not an answer that --output wrote"):
            plan.read_answer(str(file))
    file.write_text('{"plans": [{"parts": {}}]}')
    assert plan.read_answer(str(file)) == dict(plans=[dict(parts={})])
