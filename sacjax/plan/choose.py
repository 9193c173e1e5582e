"""Which mesh a stage should be trained on: the first or the fastest that fits."""

from ml_collections import ConfigDict

from sacjax.errors import UserError
from sacjax.plan.step import Plan, plan_mesh
from sacjax.plan.topology import Topology


def candidates(config: ConfigDict, count: int) -> list[dict[str, int]]:
    """Returns meshes over `count` devices to try in turn: the config's, then the least parted."""
    found: list[dict[str, int]] = [dict(config.mesh)]
    for fsdp, tensor in ((1, 1), (8, 1), (64, 1), (count, 1), (8, 2), (8, 4)):
        mesh = dict(data=-1, fsdp=fsdp, tensor=tensor)
        if fsdp * tensor <= count and count % (fsdp * tensor) == 0 and mesh not in found:
            found.append(mesh)
    return found


def choose(
    config: ConfigDict, name: str, topology: Topology, meshes: list[dict[str, int]], classes: int
) -> tuple[list[Plan], str]:
    """Returns (the plans that were compiled, the chosen one last; why it was chosen).

    Meshes that are given are all compiled and the fastest that fits is chosen; without any, the
    candidates are compiled in turn until one fits.

    Raises:
      UserError: a given mesh, or every candidate, cannot be laid out over the devices.
    """
    plans: list[Plan] = []
    refused = ""
    for mesh in meshes or candidates(config, len(topology.devices)):
        try:
            plans.append(plan_mesh(config, name, topology, mesh, classes))
        except UserError as error:
            if meshes:
                raise
            refused = refused or str(error)
            continue
        if plans[-1].fits and not meshes:
            break
    if not plans:
        raise UserError(refused)
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        advice = "give fewer clips a batch, optimizer.accumulation, or model.encoder.remat"
        return plans, f"none fits: {advice}"
    best = min(fitting, key=lambda plan: plan.seconds)
    why = _reason(len(plans), len(fitting), bool(meshes), refused)
    return sorted(plans, key=lambda plan: plan is best), why


def _reason(compiled: int, fitting: int, given: bool, refused: str) -> str:
    """Returns why a plan was chosen, of so many that were compiled and that fit."""
    if fitting > 1:
        return "the fastest that fits"
    if compiled > 1 and given:
        return "the only one of these that fits"
    if compiled > 1:
        return "the first that fits; those before it part less, and do not"
    return f"the first that fits ({refused})" if refused else "the config's own, and it fits"
