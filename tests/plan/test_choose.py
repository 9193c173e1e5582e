"""Which mesh is chosen, of plans that are made up."""

import re

import pytest

from sacjax import config as config_lib
from sacjax.errors import UserError
from sacjax.plan import choose as module
from sacjax.plan.choose import candidates, choose
from sacjax.plan.step import Plan
from sacjax.plan.topology import CHIPS, Topology

EIGHT = Topology("h100x8", CHIPS["h100"], [None] * 8)


@pytest.fixture
def plans(monkeypatch):
    """{fsdp: (whether it fits, seconds)} in place of compiling; another mesh is refused."""
    made = {}

    def plan_mesh(config, name, topology, mesh, classes):
        if mesh["fsdp"] not in made:
            raise UserError(f"fsdp {mesh['fsdp']} is refused")
        fits, seconds = made[mesh["fsdp"]]
        return Plan(dict(mesh), 8, {}, fits, {}, 1.0, seconds, 0.5, {})

    monkeypatch.setattr(module, "plan_mesh", plan_mesh)
    return made


def test_candidates_begin_with_the_configs_own():
    config = config_lib.default()
    config.mesh.tensor = 2
    found = candidates(config, 16)
    assert found[0] == dict(data=-1, fsdp=1, tensor=2) and dict(data=-1, fsdp=16, tensor=1) in found
    assert all(mesh["fsdp"] * mesh["tensor"] <= 16 for mesh in found)


@pytest.mark.parametrize(
    ("made", "given", "chosen", "why"),
    [
        ({1: (True, 2.0), 8: (True, 1.0)}, (), 1, "the config's own, and it fits"),
        ({1: (False, 2.0), 8: (True, 3.0)}, (), 8, "the first that fits; those before it"),
        ({8: (True, 3.0)}, (), 8, r"the first that fits \(fsdp 1 is refused\)"),
        ({1: (True, 2.0), 8: (True, 1.0)}, (1, 8), 8, "the fastest that fits"),
        ({1: (True, 2.0), 8: (False, 1.0)}, (1, 8), 1, "the only one of these that fits"),
        ({1: (False, 2.0), 8: (False, 1.0)}, (1, 8), None, "none fits: give fewer clips"),
    ],
)
def test_the_chosen_plan_is_the_last(plans, made, given, chosen, why):
    plans.update(made)
    meshes = [dict(data=-1, fsdp=fsdp, tensor=1) for fsdp in given]
    found, reason = choose(config_lib.default(), "supervised", EIGHT, meshes, 2)
    assert found[-1].fits == (chosen is not None)
    assert chosen in (None, found[-1].mesh["fsdp"])
    assert re.match(why, reason)


def test_a_mesh_that_was_asked_for_and_cannot_be_is_an_error(plans):
    with pytest.raises(UserError, match="fsdp 2 is refused"):
        choose(config_lib.default(), "supervised", EIGHT, [dict(data=-1, fsdp=2, tensor=1)], 2)
    with pytest.raises(UserError, match="fsdp 1 is refused"):
        choose(config_lib.default(), "supervised", EIGHT, [], 2)
