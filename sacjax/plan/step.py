"""What a train step needs on a mesh of other devices, read from what is compiled for them.

TPU: libtpu compiles the very step ahead of time, for all devices of the slice; bytes, collectives
and cycles are the compiler's. GPU: the step is partitioned over as many simulated devices, which
gives the collectives; memory and time come from shapes and data sheets.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.layers.platform import compiled_for
from sacjax.plan import hlo
from sacjax.plan.flops import PEAKS
from sacjax.plan.topology import Topology
from sacjax.train import sharding
from sacjax.train.trainer import batch_shapes, make_trainer

ROOM = 0.95  # of a device's memory is for the program; the runtime keeps the rest


class Plan(NamedTuple):
    """What a step needs on one mesh; bytes are of one device."""

    mesh: dict[str, int]
    batch_size: int
    # parameters, optimizer, activations: from shapes; peak: as compiled, or on GPUs the sum of
    # these and the gradients
    memory: dict[str, float]
    fits: bool
    sent: dict[str, float]  # {'kind over axes': bytes a step}, by `hlo.Collective.sent`
    flops: float  # of the model, on a device
    seconds: float  # of a step: compute and, not overlapped, collectives
    mfu: float  # model FLOP/s as a share of the device's peak
    parts: dict[str, float]  # {part: seconds}, the costliest first; {} where no cycles are told


def plan_mesh(
    config: ConfigDict, name: str, topology: Topology, mesh_sizes: Mapping[str, int], classes: int
) -> Plan:
    """Compiles a stage's train step for a mesh of a topology and returns what it needs.

    Args:
      config: of a run.
      name: the stage's.
      topology: the devices.
      mesh_sizes: {axis: devices along it} as `config.mesh`; -1: all that are left.
      classes: labels of a classifier, whose data are not read.

    Raises:
      UserError: axes that do not multiply to the devices, or a batch that they cannot share.
    """
    stage, chip, count = config[name], topology.chip, len(topology.devices)
    with compiled_for("tpu" if topology.on_tpu else "gpu"):
        mesh = sharding.make_mesh(mesh_sizes, topology.devices)
        sharding.check_training_batch(name, stage, mesh)
        objective = objectives.build(stage, tuple(map(str, range(classes))), np.ones(classes))
        trainer = make_trainer(objective, stage, mesh, stage.train.steps or 10_000, config.seed)
        state = jax.eval_shape(trainer.init)
        batch = batch_shapes(stage, stage.train.batch_size, objective.num_classes)
        lowered = trainer.step.lower(state, batch)
        memory = {
            "parameters": _bytes_of_a_device((state.params, state.buffers), mesh),
            "optimizer": _bytes_of_a_device((state.opt_state, state.ema), mesh),
            "activations": trainer.activations() / (count // mesh.shape["tensor"]),
        }
    quick = None if topology.on_tpu else {"xla_backend_optimization_level": "0"}
    compiled = lowered.compile(quick)
    text = compiled.as_text()
    sent = _sent(text, mesh)
    flops = trainer.flops() / count
    if topology.on_tpu:
        memory["peak"] = _peak(compiled.memory_analysis())
    else:
        memory["peak"] = sum(memory.values()) + memory["parameters"]  # gradients beside them
    counted = topology.counts_cycles
    cycles = hlo.cycles(text) if counted else {}
    parts = {part or "the rest": count / chip.hertz for part, count in cycles.items()}
    busy = sum(parts.values()) if counted else flops / PEAKS[chip.kind]
    seconds = busy + sum(sent.values()) / chip.link
    return Plan(
        mesh=dict(mesh.shape),
        batch_size=stage.train.batch_size,
        memory=memory,
        fits=memory["peak"] < ROOM * chip.memory,
        sent=sent,
        flops=flops,
        seconds=seconds,
        mfu=flops / seconds / PEAKS[chip.kind],
        parts=parts,
    )


def _sent(text: str, mesh: Mesh) -> dict[str, float]:
    """Returns {'kind over axes': bytes that a device sends} of a compiled module's text."""
    sent: dict[str, float] = {}
    for collective in hlo.collectives(text):
        axes = hlo.axes(collective.groups, dict(mesh.shape))
        key = f"{collective.kind} over {'×'.join(axes) or 'all'}"
        sent[key] = sent.get(key, 0.0) + collective.sent(mesh.size)
    return sent


def _peak(stats: Any) -> float:
    """Returns the bytes that a compiled program holds at most, of XLA's memory analysis."""
    kept = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    return float(kept + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes)


def _bytes_of_a_device(tree: Any, mesh: Mesh) -> float:
    """Returns the bytes of a tree of shapes that one device keeps."""
    leaves = jax.tree.leaves(tree)
    shardings = jax.tree.leaves(sharding.of_state(tree, mesh))
    shapes = [s.shard_shape(leaf.shape) for leaf, s in zip(leaves, shardings, strict=True)]
    return float(
        sum(np.prod(s) * leaf.dtype.itemsize for s, leaf in zip(shapes, leaves, strict=True))
    )


def largest_batch(
    config: ConfigDict, name: str, topology: Topology, plan: Plan, classes: int
) -> int:
    """Returns the largest batch, in clips, that fits a plan's mesh.

    Memory is taken to grow along the line through the plan's peak and that of twice its batch.
    """
    rows = len(topology.devices) // plan.mesh["tensor"] * config[name].optimizer.accumulation
    twice = config_lib.from_json(config_lib.to_json(config))
    twice[name].train.batch_size = 2 * plan.batch_size
    doubled = plan_mesh(twice, name, topology, plan.mesh, classes)
    slope = doubled.memory["peak"] - plan.memory["peak"]
    free = ROOM * topology.chip.memory - plan.memory["peak"]
    return int((plan.batch_size + free / max(slope, 1.0) * plan.batch_size) // rows * rows)
