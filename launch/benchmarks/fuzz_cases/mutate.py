"""Mutations of bytes, texts and values, all drawn from a generator: they repeat with its seed."""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

Rng = np.random.Generator
T = TypeVar("T")

# Numbers at which a field of a header, or of a config, changes its meaning.
NUMBERS = (0, 1, 2, 127, 128, 255, 32767, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63, -1)
TEXTS = (
    "", " ", "0", "-1", "nan", "inf", "-inf", "1e309", "1e-320", "1_000", "0x10", "１", "None",
    "True", "a|b", "|", "..", "../../etc/passwd", "/etc/passwd", "a\0b", "\u202e", "\ud800", "#",
    "\ufeff", "'", '"', '"""', "\\", "\n", "x" * 5000, "é", "=", "{}", "()", "[" * 300, "((),)",
    "{'name': 1}", "lambda: 0", "float('nan')", "(1,", "9" * 5000,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 1000, 2**31, 2**63, 10**30, 0.0, -0.0, 0.5, 1e-9, 1e300,
    float("nan"), float("inf"), "", "0", "x", [], [0], [[]], [1, 2, 3], {}, {"a": 1}, {"0": "x"},
    [None], ["x", "x"], [-1] * 7,
)  # fmt: skip


def pick(rng: Rng, choices: Sequence[T]) -> T:
    """Returns one of them."""
    return choices[int(rng.integers(len(choices)))]


def _place(rng: Rng, data: bytes, header: int = 0) -> int:
    """Returns a place in the data; half of the time one of the first `header` bytes."""
    end = min(header, len(data)) if header and rng.random() < 0.5 else len(data)
    return int(rng.integers(max(end, 1)))


def _flip(rng: Rng, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(int(rng.integers(1, 17)) if data else 0):
        flipped[_place(rng, data, 128)] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def _cut(rng: Rng, data: bytes) -> bytes:
    return data[: _place(rng, data, 128)]


def _field(rng: Rng, data: bytes) -> bytes:
    """A number of 1, 2, 4 or 8 bytes, in either order, near the start."""
    size, place = pick(rng, (1, 2, 4, 8)), _place(rng, data, 64)
    number = pick(rng, NUMBERS) % 2 ** (8 * size)
    field = number.to_bytes(size, pick(rng, ("little", "big")))  # type: ignore[arg-type]
    return data[:place] + field + data[place + size :]


def _overwrite(rng: Rng, data: bytes) -> bytes:
    place, size = _place(rng, data), int(rng.integers(1, 500))
    return data[:place] + rng.bytes(size) + data[place + size :]


def _remove(rng: Rng, data: bytes) -> bytes:
    place = _place(rng, data, 128)
    return data[:place] + data[place + int(rng.integers(1, 500)) :]


def _repeat(rng: Rng, data: bytes) -> bytes:
    place, size = _place(rng, data, 128), int(rng.integers(1, 500))
    return data[: place + size] + data[place:]


def _append(rng: Rng, data: bytes) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 2000)))


BYTES: tuple[Callable[[Rng, bytes], bytes], ...] = (
    _flip,
    _cut,
    _field,
    _field,
    _overwrite,
    _remove,
    _repeat,
    _append,
)


def of_bytes(rng: Rng, data: bytes) -> bytes:
    """Returns data with one to three mutations: bits, header fields, parts cut, moved or added."""
    for _ in range(int(rng.integers(1, 4))):
        data = pick(rng, BYTES)(rng, data)
    return data


def of_json(rng: Rng, value: Any) -> Any:
    """Returns a copy of a JSON value with one to three of its entries changed, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        owners = [value, *_containers(value)]
        owner = pick(rng, [o for o in owners if isinstance(o, dict | list) and o] or [{}])
        key: Any = pick(rng, list(owner) if isinstance(owner, dict) else range(len(owner)))
        how = rng.random()
        if how < 0.15:
            del owner[key]
        elif how < 0.25 and isinstance(owner, dict):
            owner[pick(rng, TEXTS)] = owner.pop(key)
        elif how < 0.4 and isinstance(owner[key], int | float) and owner[key]:
            owner[key] = owner[key] * pick(rng, (-1, 2, 0.5, 1000))
        elif how < 0.9:
            owner[key] = copy.deepcopy(pick(rng, VALUES))
        else:
            owner[key] = pick(rng, TEXTS)
    return value


def _containers(value: Any) -> list[Any]:
    inside = value.values() if isinstance(value, dict) else value
    found = [item for item in inside if isinstance(item, dict | list)]
    return found + [deeper for item in found for deeper in _containers(item)]


def json_bytes(rng: Rng, value: Any) -> bytes:
    """Returns a JSON value as a file's bytes: mutated as a value, or in one of four as a text."""
    if rng.random() < 0.25:
        return of_bytes(rng, json.dumps(value, indent=1).encode())
    return json.dumps(of_json(rng, value), indent=1).encode()
