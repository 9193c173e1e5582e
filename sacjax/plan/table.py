"""Plans as the table that `sacjax plan` prints."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from sacjax.plan.flops import PEAKS
from sacjax.plan.step import Plan
from sacjax.plan.topology import GIB, Topology

HEADER = (
    "| mesh | fits | peak, GiB | parameters | optimizer | activations | step, ms | MFU, % "
    "| sent by a device, MB a step |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def describe(
    config: ConfigDict,
    name: str,
    topology: Topology,
    plans: list[Plan],
    why: str,
    largest: int | None = None,
) -> str:
    """Returns what is printed of a stage's plans.

    Args:
      config: of the run.
      name: the stage's.
      topology: the devices.
      plans: those that were compiled, the chosen one last.
      why: the reason of the choice, as `choose` gives it.
      largest: clips of the largest batch that fits the chosen plan, where it was asked for.
    """
    stage, best, chip = config[name], plans[-1], topology.chip
    count = len(topology.devices)
    lines = [
        f"{topology.name}: {count} devices ({chip.kind}) of {chip.memory / GIB:.1f} GiB and "
        f"{PEAKS[chip.kind] / 1e12:.0f} TFLOP/s",
        f"{name}: {best.batch_size} clips of {stage.data.seconds:g} s an update, "
        f"{best.flops * count / 1e12:.4g} TFLOP",
        "",
        HEADER,
        *map(_row, plans),
        "",
        f"chosen: {best.mesh}: {why}" if best.fits else why,
    ]
    if largest is not None:
        lines.append(
            f"largest batch that fits it: {largest} clips ({largest // count} a device), "
            "by the line through two compilations"
        )
    if best.parts:
        lines += ["", "| part of the step | ms | share, % |", "| --- | --- | --- |"]
        lines += [
            f"| {name} | {1e3 * cost:.3g} | {share:.0f} |" for name, cost, share in costly(best)
        ]
        lines.append("")
    source = "compiler's cycles" if topology.counts_cycles else "peak FLOP/s, so at the least"
    lines.append(f"time: {source}, and collectives at the links' rate, nothing overlapped")
    return "\n".join(lines)


def costly(plan: Plan, least: float = 0.01) -> list[tuple[str, float, float]]:
    """Returns (part, seconds, share of the step in %) of the costliest parts first.

    Args:
      plan: a plan.
      least: share from which on a part is told.
    """
    shares = [(name, cost, 100 * cost / plan.seconds) for name, cost in plan.parts.items()]
    return [part for part in shares if part[2] >= 100 * least]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Returns a table of what changed between two answers of `sacjax plan`, as JSON holds them.

    Args:
      before: the older answer, with its chosen plan as the last of its plans.
      after: the newer one.
    """
    old, new = _figures(before["plans"][-1]), _figures(after["plans"][-1])
    lines = ["| | before | after | change, % |", "| --- | --- | --- | --- |"]
    for name in [*new, *(name for name in old if name not in new)]:
        one, two = old.get(name, 0.0), new.get(name, 0.0)
        change = f"{100 * (two / one - 1):+.1f}" if one else "new"
        lines.append(f"| {name} | {one:.3g} | {two:.3g} | {change} |")
    return "\n".join(lines)


def _figures(plan: Mapping[str, Any]) -> dict[str, float]:
    """Returns {what: number} of a plan as JSON holds it."""
    return {
        "step, ms": 1e3 * plan["seconds"],
        "MFU, %": 100 * plan["mfu"],
        "peak, GiB": plan["memory"]["peak"] / GIB,
        "sent, MB": sum(plan["sent"].values()) / 1e6,
        **{f"{name}, ms": 1e3 * cost for name, cost in plan["parts"].items()},
    }


def _row(plan: Plan) -> str:
    """Returns the line of the table of one plan."""
    axes = [f"{axis} {length}" for axis, length in plan.mesh.items() if length > 1]
    parts = [plan.memory[part] for part in ("peak", "parameters", "optimizer", "activations")]
    sent = [f"{kind} {size / 1e6:.3g}" for kind, size in plan.sent.items() if size > 1e4]
    cells = [
        ", ".join(axes) or "one device",
        "yes" if plan.fits else "no",
        *(f"{size / GIB:.2f}" for size in parts),
        f"{1e3 * plan.seconds:.3g}",
        f"{100 * plan.mfu:.1f}",
        ", ".join(sent) or "nothing",
    ]
    return f"| {' | '.join(cells)} |"
