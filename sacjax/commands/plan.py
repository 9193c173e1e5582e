"""`python -m sacjax.plan --config FILE[:ARG] --topology v5e:16x16`: will it fit, how fast, on which mesh, without the hardware.

For a TPU slice the very train step is compiled ahead of time, for all its devices, by libtpu (`pip install -e '.[tpu]'`; no TPU is
needed), and what is printed is read from the compiled program: bytes of a device, collectives, and the compiler's own estimate of cycles. For GPUs
(`h100x64`) it is partitioned over as many simulated devices, which gives the collectives; memory and time come from shapes and data sheets.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import errors, objectives
from sacjax.errors import UserError
from sacjax.layers.platform import compiled_for
from sacjax.plan import hlo
from sacjax.plan.flops import PEAKS
from sacjax.train import sharding
from sacjax.train.loop import batch_shapes, make_program

GIB = 2**30
ROOM = 0.95  # of a device's memory is for the program; the runtime keeps the rest


class Chip(NamedTuple):
    """A device as its vendor describes it."""

    kind: str  # start of JAX's device kind, of `flops.PEAKS`
    memory: float  # bytes
    link: float  # bytes/s that it sends to others, one way, over all its links
    hertz: float = 0.0  # TPU: of the clock; the peak over the multiply-adds of a cycle


# Google Cloud's pages of each TPU version (HBM, inter-chip interconnect); NVIDIA's data sheets (memory, NVLink, a half of which is each way).
CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, 300e9, 1.05e9),
    "v5e": Chip("TPU v5 lite", 16 * GIB, 200e9, 1.503e9),
    "v5p": Chip("TPU v5", 95 * GIB, 600e9, 1.75e9),
    "v6e": Chip("TPU v6 lite", 32 * GIB, 448e9, 1.75e9),
    "a100": Chip("NVIDIA A100", 80e9, 300e9),
    "h100": Chip("NVIDIA H100", 80e9, 450e9),
    "h200": Chip("NVIDIA H200", 141e9, 450e9),
    "l4": Chip("NVIDIA L4", 24e9, 32e9),
}


NAME = re.compile(
    r"([a-z]\w*?)(?::(\d+(?:x\d+)+)|x(\d+))"
)  # chip, then a TPU slice or a number of GPUs


class Topology(NamedTuple):
    """A slice or a cluster of one kind of device."""

    name: str
    chip: Chip
    devices: list[Any]

    @property
    def on_tpu(self) -> bool:
        """Whether libtpu compiles for it."""
        return self.chip.hertz > 0

    @property
    def counts_cycles(self) -> bool:
        """Whether the compiler's cycles tell the time: not of a program that was compiled quickly."""
        return self.on_tpu and jax.config.values["jax_exec_time_optimization_effort"] >= 0


class Plan(NamedTuple):
    """What a step needs on one mesh; bytes are of one device."""

    mesh: dict[str, int]
    batch_size: int
    memory: dict[
        str, float
    ]  # parameters, optimizer, activations (from shapes), peak (compiled; GPU: their sum with the gradients)
    fits: bool
    sent: dict[str, float]  # {'kind over axes': bytes a step}
    flops: float  # of the model, on a device
    seconds: float  # of a step: compute and, not overlapped, collectives
    mfu: float  # model FLOP/s as a share of the device's peak


def topology(name: str) -> Topology:
    """Returns a topology by its name: `v5e:16x16`, `v4:4x4x4`, `h100x64`.

    Raises:
      UserError: a chip that is not known, a slice that libtpu does not have, or no libtpu.
    """
    match = NAME.fullmatch(name)
    chip = CHIPS.get(match[1]) if match else None
    if match is None or chip is None or (chip.hertz > 0) != bool(match[2]):
        known = ", ".join(CHIPS)
        raise UserError(
            f"--topology is '{name}': give a TPU slice such as v5e:16x16 or GPUs such as h100x64; known are {known}"
        )
    if not match[2]:
        devices = jax.devices("cpu")
        if len(devices) < int(match[3]):
            raise UserError(
                f"--topology {name}: only {len(devices)} simulated devices; set jax_num_cpu_devices before JAX starts"
            )
        return Topology(name, chip, devices[: int(match[3])])
    from jax.experimental import topologies

    os.environ.setdefault(
        "TPU_SKIP_MDS_QUERY", "1"
    )  # else it asks a metadata server that is not there
    os.environ.setdefault(
        "ALLOW_MULTIPLE_LIBTPU_LOAD", "1"
    )  # it only compiles: no device is taken from another process
    one_device_a_chip = {"chip_config_name": "megacore"} if match[1] in ("v4", "v5p") else {}
    try:
        found = topologies.get_topology_desc(name, platform="tpu", **one_device_a_chip)
    except (
        Exception
    ) as error:  # libtpu is absent, or does not know the shape: each its own exception
        raise UserError(
            f"--topology {name}: {errors.first_line(error)} (TPU slices need libtpu: pip install -e '.[tpu]')"
        ) from error
    return Topology(name, chip, list(found.devices))


def of_mesh(
    config: ConfigDict, name: str, where: Topology, mesh_sizes: Mapping[str, int], classes: int
) -> Plan:
    """Compiles a stage's train step for a mesh of a topology and reads what it needs.

    Raises:
      UserError: axes that do not multiply to the devices, or a batch that does not divide over them.
    """
    stage, chip, count = config[name], where.chip, len(where.devices)
    with compiled_for("tpu" if where.on_tpu else "gpu"):
        mesh = sharding.make_mesh(mesh_sizes, where.devices)
        sharding.check_training_batch(name, stage, mesh)
        names = tuple(map(str, range(classes)))
        objective = objectives.build(stage, names, np.ones(classes))
        program = make_program(objective, stage, mesh, stage.train.steps or 10_000, config.seed)
        state = jax.eval_shape(program.init)
        lowered = program.step.lower(
            state, batch_shapes(stage, stage.train.batch_size, objective.num_classes)
        )
        rows = count // mesh.shape["tensor"]
        memory = dict(
            parameters=_bytes(state.params, mesh), optimizer=_bytes(state.opt_state, mesh) + _bytes(state.ema, mesh),
            activations=program.activations() / rows,
        )  # fmt: skip
    compiled = lowered.compile(None if where.on_tpu else {"xla_backend_optimization_level": "0"})
    text = compiled.as_text()
    sent: dict[str, float] = {}
    for one in hlo.collectives(text):
        key = f"{one.kind} over {'×'.join(hlo.axes(one.groups, dict(mesh.shape))) or 'all'}"
        sent[key] = sent.get(key, 0.0) + one.bytes * one.times
    flops = program.flops / count
    if where.on_tpu:
        stats = compiled.memory_analysis()
        memory["peak"] = float(
            stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
            + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
        )  # fmt: skip
    else:
        memory["peak"] = sum(memory.values()) + memory["parameters"]  # gradients beside them
    busy = hlo.cycles(text) / chip.hertz if where.counts_cycles else flops / PEAKS[chip.kind]
    # A ring sends and receives a gradient twice.
    seconds = busy + sum(
        size * (2 if key.startswith("all-reduce") else 1) / chip.link for key, size in sent.items()
    )
    return Plan(
        dict(mesh.shape), stage.train.batch_size, memory, memory["peak"] < ROOM * chip.memory, sent, flops, seconds,
        flops / seconds / PEAKS[chip.kind],
    )  # fmt: skip


def _bytes(tree: Any, mesh: Any) -> float:
    """Returns the bytes of a tree that one device keeps."""
    shardings = jax.tree.leaves(sharding.of_state(tree, mesh))
    leaves = jax.tree.leaves(tree)
    return float(
        sum(
            np.prod(s.shard_shape(x.shape)) * x.dtype.itemsize
            for x, s in zip(leaves, shardings, strict=True)
        )
    )


def candidates(config: ConfigDict, count: int) -> list[dict[str, int]]:
    """Returns meshes in the order of preference: the config's, then the least parted that might fit."""
    found: list[dict[str, int]] = [dict(config.mesh)]
    for fsdp, tensor in ((1, 1), (8, 1), (64, 1), (count, 1), (8, 2), (8, 4)):
        mesh = dict(data=-1, fsdp=fsdp, tensor=tensor)
        if fsdp * tensor <= count and count % (fsdp * tensor) == 0 and mesh not in found:
            found.append(mesh)
    return found


def choose(
    config: ConfigDict, name: str, where: Topology, meshes: list[dict[str, int]], classes: int
) -> tuple[list[Plan], str]:
    """Returns (the plans that were compiled, why the last or fastest of them is chosen).

    Where meshes are given all are compiled and the fastest that fits is chosen; else the candidates in turn until one fits.

    Raises:
      UserError: none can be laid out over the devices.
    """
    plans: list[Plan] = []
    told = ""
    for mesh in meshes or candidates(config, len(where.devices)):
        try:
            plans.append(of_mesh(config, name, where, mesh, classes))
        except UserError as error:
            if meshes:
                raise
            told = told or str(error)
            continue
        if plans[-1].fits and not meshes:
            break
    if not plans:
        raise UserError(told)
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        return (
            plans,
            "none fits: give fewer clips a batch, optimizer.accumulation, or model.encoder.remat",
        )
    best = min(fitting, key=lambda plan: plan.seconds)
    if len(fitting) > 1:
        why = "the fastest that fits"
    elif len(plans) > 1:
        why = (
            "the only one of these that fits"
            if meshes
            else "the first that fits; those before it part less, and do not"
        )
    else:
        why = "the config's own, and it fits" if not told else f"the first that fits ({told})"
    return sorted(plans, key=lambda plan: plan is best), why


def largest_batch(config: ConfigDict, name: str, where: Topology, plan: Plan, classes: int) -> int:
    """Returns the largest batch that fits a plan's mesh, by the line through its peak and that of twice the batch."""
    rows = len(where.devices) // plan.mesh["tensor"] * config[name].optimizer.accumulation
    twice = config_lib.from_json(config_lib.to_json(config))
    twice[name].train.batch_size = 2 * plan.batch_size
    slope = of_mesh(twice, name, where, plan.mesh, classes).memory["peak"] - plan.memory["peak"]
    more = (ROOM * where.chip.memory - plan.memory["peak"]) / max(slope, 1.0) * plan.batch_size
    return int((plan.batch_size + more) // rows * rows)


def describe(
    config: ConfigDict, name: str, where: Topology, plans: list[Plan], why: str, largest: int | None
) -> str:
    """Returns what is printed of the plans, the chosen one the last."""
    stage, best = config[name], plans[-1]
    count = len(where.devices)
    lines = [
        f"{where.name}: {count} devices ({where.chip.kind}) of {where.chip.memory / GIB:.1f} GiB and {PEAKS[where.chip.kind] / 1e12:.0f} TFLOP/s",
        f"{name}: {best.batch_size} clips of {stage.data.seconds:g} s an update, {best.flops * count / 1e12:.4g} TFLOP",
        "",
        "| mesh | fits | peak, GiB | parameters | optimizer | activations | step, ms | MFU, % | sent by a device, MB a step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for plan in plans:
        axes = (
            ", ".join(f"{axis} {length}" for axis, length in plan.mesh.items() if length > 1)
            or "one device"
        )
        parts = " | ".join(
            f"{plan.memory[part] / GIB:.2f}"
            for part in ("peak", "parameters", "optimizer", "activations")
        )
        sent = (
            ", ".join(
                f"{kind} {amount / 1e6:.3g}" for kind, amount in plan.sent.items() if amount > 1e4
            )
            or "nothing"
        )
        lines.append(
            f"| {axes} | {'yes' if plan.fits else 'no'} | {parts} | {1e3 * plan.seconds:.3g} | {100 * plan.mfu:.1f} | {sent} |"
        )
    lines.append("")
    lines.append(f"chosen: {best.mesh}: {why}" if best.fits else why)
    if largest is not None:
        lines.append(
            f"largest batch that fits it: {largest} clips ({largest // count} a device), by the line through two compilations"
        )
    source = "compiler's cycles" if where.counts_cycles else "peak FLOP/s, so at the least"
    lines.append(f"time: {source}, and collectives at the links' rate, nothing overlapped")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parses flags, compiles and prints; returns 0 where a mesh fits, 1 where none does."""
    parser = argparse.ArgumentParser(
        prog="python -m sacjax.plan", description=__doc__, allow_abbrev=False
    )
    config_lib.add_flags(parser)
    parser.add_argument(
        "--topology", required=True, help="v5e:16x16, v4:4x4x4, v6e:8x8, h100x64, …"
    )
    parser.add_argument("--stage", help="which stage of the config (default: the first)")
    parser.add_argument(
        "--mesh",
        action="append",
        metavar="data=-1,fsdp=8",
        help="may be repeated: all are compiled (default: candidates till one fits)",
    )
    parser.add_argument(
        "--classes", type=int, default=50, help="of a classifier, whose data are not read"
    )
    parser.add_argument(
        "--largest",
        action="store_true",
        help="find the largest batch that fits (compiles once more)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="TPU: compile in a third of the time to a slower program, for memory alone",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args, unknown = parser.parse_known_args(argv)
    jax.config.update("jax_platforms", "cpu")
    if args.quick:
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    if (match := NAME.fullmatch(args.topology)) and match[3]:  # before anything starts JAX
        jax.config.update("jax_num_cpu_devices", int(match[3]))
    config = config_lib.from_flags(args, unknown)
    name = config_lib.stage_name(config, args.stage)
    meshes = [dict(data=-1, fsdp=1, tensor=1) | _mesh(text) for text in args.mesh or ()]
    where = topology(args.topology)
    plans, why = choose(config, name, where, meshes, args.classes)
    best = plans[-1]
    largest = largest_batch(config, name, where, best, args.classes) if args.largest else None
    if args.json:
        print(json.dumps(dict(
            topology=args.topology, devices=len(where.devices), stage=name, chosen=best.mesh if best.fits else None, why=why,
            largest_batch=largest, plans=[plan._asdict() for plan in plans],
        ), indent=1))  # fmt: skip
    else:
        print(describe(config, name, where, plans, why, largest))
    return 0 if best.fits else 1


def _mesh(text: str) -> dict[str, int]:
    """Returns the axes of `data=-1,fsdp=8`. Raises UserError."""
    sizes = {}
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in ("data", "fsdp", "tensor") or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise UserError(f"--mesh is '{text}': give axes such as data=-1,fsdp=8,tensor=1")
        sizes[axis] = int(size)
    return sizes


if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
