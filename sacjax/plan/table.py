"""Plans as the table that `sacjax plan` prints."""

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
    source = "compiler's cycles" if topology.counts_cycles else "peak FLOP/s, so at the least"
    lines.append(f"time: {source}, and collectives at the links' rate, nothing overlapped")
    return "\n".join(lines)


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
