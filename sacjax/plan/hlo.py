"""What a compiled program sends between devices, read from its HLO text."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

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


class Collective(NamedTuple):
    """Collectives of a kind and size, and how often a run of the program comes by them."""

    kind: str
    bytes: float  # of the result on one device
    times: int  # round loops whose trip count the compiler knows
    groups: str  # replica groups or source-target pairs, as the HLO spells them


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of a compiled module (`compiled.as_text()`), those inside loops with their trip counts."""
    found: list[Collective] = []
    for line, times in instructions(text):
        match = INSTRUCTION.match(line)
        kind = match[2].removesuffix("-start") if match else ""
        if not match or kind not in KINDS:
            continue
        groups = re.search(
            r"(?:replica_groups|source_target_pairs)=(mesh\[.*?\] \{.*?\}|\{\{.*?\}\}|\S+(?:<=\S+)?)",
            line,
        )
        parts = SHAPE.findall(match[1])
        if match[2].endswith("-start") and kind != "all-reduce":
            parts = parts[1:2]  # of (operand, result, …)
        found.append(
            Collective(
                kind, sum(map(_bytes, parts)), times, groups[1].rstrip(",") if groups else ""
            )
        )
    return found


def cycles(text: str) -> int:
    """Returns the clock cycles that a TPU's compiler expects of a program's instructions, collectives left out; 0: it does not say."""
    told = (
        (int(found[1]), times)
        for line, times in instructions(text)
        if (found := CYCLES.search(line))
    )
    return sum(
        count * times for count, times in told if count < 2**60
    )  # beyond: its mark of what it does not know


def instructions(text: str) -> Iterator[tuple[str, int]]:
    """Yields the instructions of a compiled module that are run one by one, and how often: round loops whose trip count is known."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            name = match[2]
            entry = name if match[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)

    def visit(computation: str, times: int) -> Iterator[tuple[str, int]]:
        for line in bodies.get(computation, ()):
            match = INSTRUCTION.match(line)
            if not match:
                continue
            yield line, times
            kind = match[2].removesuffix("-start")
            if kind in KINDS:
                continue  # what it adds up with sends nothing
            rounds = _trips(line, bodies) if kind == "while" else 1
            inner = CALLED.findall(line)
            for branches in BRANCHES.findall(line):
                inner += [branch.strip().lstrip("%") for branch in branches.split(",")]
            for called in inner:
                yield from visit(called, times * rounds)

    yield from visit(entry, 1)


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """Returns how often a loop goes round, as the compiler says or, for one that counts from 0, as its condition does; else 1."""
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
    """Returns the mesh axes along which a collective sends, from its `groups`; none where they are spelled in a way not known here.

    Args:
      sizes: {axis: devices along it} of the mesh, in its order.
    """
    count = math.prod(sizes.values())
    if named := re.match(r"mesh\[(.*)\] \{(.*)\}$", groups):
        inner = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        if math.prod(inner.values()) != count or "(" in groups:
            return ()
        chosen = re.findall(r"'([^']+)'", named[2])
        place = tuple(slice(None) if name in chosen else 0 for name in inner)
        members = [np.arange(count).reshape(tuple(inner.values()))[place].ravel()]
    elif iota := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", groups):
        shape, source, order = (
            [int(n) for n in part.split(",")] if part else [] for part in iota.groups()
        )
        members = [np.arange(count).reshape(source).transpose(order or None).reshape(shape)[0]]
    elif groups in ("{}", "{{}}"):
        members = [np.arange(count)]
    else:
        members = [
            np.asarray([int(n) for n in part.split(",")])
            for part in re.findall(r"\{([\d,]+)\}", groups)
        ]
    places = [np.stack(np.unravel_index(group, tuple(sizes.values()))) for group in members]
    moved = [any(len(set(place[k])) > 1 for place in places) for k in range(len(sizes))]
    return tuple(axis for axis, along in zip(sizes, moved, strict=True) if along)


def _bytes(shape: tuple[str, str]) -> float:
    kind, sizes = shape
    digits = re.search(r"\d+$", kind)
    return math.prod(map(int, filter(None, sizes.split(",")))) * BYTES.get(
        kind, int(digits[0]) / 8 if digits else 1
    )
