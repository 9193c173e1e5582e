"""What a compiled step sends between devices and what its parts cost, read from its HLO text."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from sacjax.parts import part_of

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
BYTES = {
    "pred": 1,
    "s4": 0.5,
    "u4": 0.5,
    "bf16": 2,
    "f16": 2,
    "f8e4m3fn": 1,
    "f8e5m2": 1,
    "c64": 8,
    "c128": 16,
}
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
CALLED = re.compile(
    r"(?:to_apply|calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
CONDITION = re.compile(r"condition=%?([\w.\-]+)")
TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
BOUND = re.compile(r" s32\[\]\S* constant\((\d+)\)")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
PATH = re.compile(r'op_name="([^"]*)"')
GROUPS = re.compile(
    r"(?:replica_groups|source_target_pairs)="
    r"(mesh\[.*?\] \{.*?\}|\{\{.*?\}\}|\S+(?:<=\S+)?)"
)
COUNTS = re.compile(r"(num_partitions|replica_count)=(\d+)")
CONTEXT = ("u32", "")  # u32[], two of which a started permutation states beside its arrays
# A TPU's asynchronous collective is spelled in each of the fusions that it goes on behind.
CHAIN = re.compile(r"channel_id=\d+(?=,.*chain_id=)")
FUSED_SCATTER = "all-reduce-scatter"  # a TPU's reduce-scatter: an all-reduce, a slice of the result


class Collective(NamedTuple):
    """Collectives of a kind and size, and how often a run of the program comes by them."""

    kind: str  # one of KINDS
    bytes: float  # of the result on one device
    times: int  # round loops whose trip count the compiler knows
    groups: str  # replica groups or source-target pairs, as the HLO spells them

    def sent(self, devices: int) -> float:
        """Returns the bytes that one of so many devices sends, all `times` together."""
        return self.times * sent_once(self.kind, self.bytes, group_size(self.groups, devices))


def sent_once(kind: str, result: float, size: int) -> float:
    """Returns the bytes that a device sends in one collective, as the ring algorithm does it.

    With N devices in a group, and S bytes of the whole array that they sum, gather or exchange:

    - all-gather: a device passes on all parts but one: (N - 1) / N * S.
    - reduce-scatter: a device passes on a partial sum of all parts but one: (N - 1) / N * S.
    - all-reduce: a reduce-scatter and an all-gather: 2 * (N - 1) / N * S.
    - all-to-all: a device keeps the part that is its own already: (N - 1) / N * S, however many
      links a part travels.
    - collective-broadcast: all devices but the last pass S on: on average (N - 1) / N * S.
    - collective-permute: a device sends what it has: S.

    The mean over the devices, where not all of them send alike (Thakur et al. 2005; Patarasuk and
    Yuan 2009).

    Args:
      kind: one of KINDS.
      result: bytes of the result on one device: S, but S / N of a reduce-scatter.
      size: N.
    """
    if kind == "collective-permute":
        return result
    whole = result * size if kind == "reduce-scatter" else result
    return (2 if kind == "all-reduce" else 1) * (size - 1) / size * whole


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of a compiled module (`compiled.as_text()`)."""
    found: list[Collective] = []
    begun: set[str] = set()
    devices = _devices(text)
    for line, times, computation in instructions(text):
        match = INSTRUCTION.match(line)
        kind = match[2].removesuffix("-start") if match else ""
        if not match or kind not in KINDS:
            continue
        if chain := CHAIN.search(line):
            if chain[0] in begun:
                continue
            begun.add(chain[0])
        groups = GROUPS.search(line)
        spelled = groups[1].rstrip(",") if groups else ""
        size = _result_bytes(kind, match[1], started=match[2].endswith("-start"))
        if computation.startswith(FUSED_SCATTER) and kind == "all-reduce":
            kind, size = "reduce-scatter", size / group_size(spelled, devices)
        found.append(Collective(kind, size, times, spelled))
    return found


def _result_bytes(kind: str, shapes: str, started: bool) -> float:
    """Returns the bytes of a collective's result, of the shapes that its instruction states.

    What only starts states the operands, then the results, then (a permutation) its own context.
    """
    parts = SHAPE.findall(shapes)
    if started and kind == "collective-permute":
        parts = [part for part in parts if part != CONTEXT]
    if started and kind != "all-reduce":
        parts = parts[len(parts) // 2 :]
    return sum(map(_bytes, parts))


def _devices(text: str) -> int:
    """Returns how many devices a module is compiled for."""
    counts = {key: int(number) for key, number in COUNTS.findall(text.partition("\n")[0])}
    return counts.get("num_partitions", 1) * counts.get("replica_count", 1)


def cycles(text: str) -> dict[str, int]:
    """Returns the clock cycles that a TPU's compiler expects of each part of a program.

    Those of collectives and custom calls are left out. Nothing is told of other devices' programs.

    Args:
      text: of a compiled module.

    Returns:
      {part, as `sacjax.parts` names it: cycles}, the costliest first; '' is what has no part.
    """
    found: dict[str, int] = {}
    for line, times, _ in instructions(text):
        told = CYCLES.search(line)
        if not told or int(told[1]) >= 2**60:  # its mark of what it does not know
            continue
        path = PATH.search(line)
        name = part_of(path[1]) if path else ""
        found[name] = found.get(name, 0) + times * int(told[1])
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def instructions(text: str) -> Iterator[tuple[str, int, str]]:
    """Yields the instructions of a compiled module that are run one by one.

    Yields:
      (line, how often it is run: round loops whose trip count is known, the computation it is in).
    """
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            name = match[2]
            entry = name if match[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    yield from _visit(entry, 1, bodies)


def _visit(
    computation: str, times: int, bodies: Mapping[str, list[str]]
) -> Iterator[tuple[str, int, str]]:
    for line in bodies.get(computation, ()):
        match = INSTRUCTION.match(line)
        if not match:
            continue
        yield line, times, computation
        kind = match[2].removesuffix("-start")
        if kind in KINDS:
            continue  # what it adds up with sends nothing
        rounds = _trips(line, bodies) if kind == "while" else 1
        inner = CALLED.findall(line)
        for branches in BRANCHES.findall(line):
            inner += [branch.strip().lstrip("%") for branch in branches.split(",")]
        for called in inner:
            yield from _visit(called, times * rounds, bodies)


def _trips(line: str, bodies: Mapping[str, list[str]]) -> int:
    """Returns how often a loop goes round, 1 where nothing tells.

    As the compiler says or, for one that counts from 0, as its condition does.
    """
    if known := TRIPS.search(line):
        return int(known[1])
    condition = CONDITION.search(line)
    bounds = {
        found[1]
        for one in bodies.get(condition[1] if condition else "", ())
        if (found := BOUND.search(one))
    }
    return int(bounds.pop()) if len(bounds) == 1 else 1


def axes(groups: str, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the mesh axes along which a collective sends.

    Args:
      groups: of a `Collective`.
      sizes: {axis: devices along it} of the mesh, in its order.

    Returns:
      The axes; none where the groups are spelled in a way that is not known here.
    """
    members = _members(groups, math.prod(sizes.values()))
    coordinates = [np.stack(np.unravel_index(group, tuple(sizes.values()))) for group in members]
    moved = [any(len(set(group[k])) > 1 for group in coordinates) for k in range(len(sizes))]
    return tuple(axis for axis, along in zip(sizes, moved, strict=True) if along)


def group_size(groups: str, devices: int) -> int:
    """Returns how many devices take part in a collective; all where its groups are not known."""
    return max((len(group) for group in _members(groups, devices)), default=devices)


def _members(groups: str, devices: int) -> list[np.ndarray]:
    """Returns the devices of each group, or of the first where all are alike; [] if not known."""
    if named := re.match(r"mesh\[(.*)\] \{(.*)\}$", groups):
        inner = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        if math.prod(inner.values()) != devices or "(" in groups:
            return []
        chosen = re.findall(r"'([^']+)'", named[2])
        first = tuple(slice(None) if name in chosen else 0 for name in inner)
        return [np.arange(devices).reshape(tuple(inner.values()))[first].ravel()]
    if iota := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", groups):
        shape, source, order = (
            [int(n) for n in part.split(",")] if part else [] for part in iota.groups()
        )
        whole = np.arange(math.prod(source)).reshape(source)
        return [whole.transpose(order or None).reshape(shape)[0]]
    if groups in ("", "{}", "{{}}"):
        return [np.arange(devices)]
    parts = re.findall(r"\{([\d,]+)\}", groups)
    return [np.asarray([int(n) for n in part.split(",")]) for part in parts]


def _bytes(shape: tuple[str, str]) -> float:
    kind, sizes = shape
    digits = re.search(r"\d+$", kind)
    return math.prod(map(int, filter(None, sizes.split(",")))) * BYTES.get(
        kind, int(digits[0]) / 8 if digits else 1
    )
