"""What a compiled program sends between devices, read from its HLO text."""

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "f8e4m3fn": 1, "f8e5m2": 1, "c64": 8, "c128": 16}
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
CALLED = re.compile(r"(?:to_apply|calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')


class Collective(NamedTuple):
    """Collectives of a kind and size, and how often a run of the program comes by them."""

    kind: str
    bytes: float  # of the result on one device
    times: int  # round loops whose trip count the compiler knows
    groups: str  # replica groups or source-target pairs, as the HLO spells them


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of a compiled module (`compiled.as_text()`), those inside loops with their trip counts."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            name = match[2]
            entry = name if match[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    found: list[Collective] = []

    def visit(computation: str, times: int) -> None:
        for line in bodies.get(computation, ()):
            match = INSTRUCTION.match(line)
            if not match:
                continue
            shape, opcode = match.groups()
            kind = opcode.removesuffix("-start")
            if kind in KINDS:
                groups = re.search(r"(?:replica_groups|source_target_pairs)=(\S+(?:<=\S+)?)", line)
                parts = SHAPE.findall(shape)
                if opcode.endswith("-start") and kind != "all-reduce":
                    parts = parts[1:2]  # of (operand, result, …)
                size = sum(map(_bytes, parts))
                found.append(Collective(kind, size, times, groups[1].rstrip(",") if groups else ""))
                continue  # what it adds up with sends nothing
            rounds = TRIPS.search(line) if opcode == "while" else None
            inner = CALLED.findall(line)
            for branches in BRANCHES.findall(line):
                inner += [branch.strip().lstrip("%") for branch in branches.split(",")]
            for called in inner:
                visit(called, times * (int(rounds[1]) if rounds else 1))

    visit(entry, 1)
    return found


def _bytes(shape: tuple[str, str]) -> float:
    kind, sizes = shape
    digits = re.search(r"\d+$", kind)
    return math.prod(map(int, filter(None, sizes.split(",")))) * BYTES.get(kind, int(digits[0]) / 8 if digits else 1)
