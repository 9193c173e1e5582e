"""Labels in a table beside the sounds: what `data.label_pattern` finds in a name is its key.

A patient's number, a recording's id: many published sets keep the labels in a csv by such a key.
"""

import csv
import glob
import os
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from sacjax.data import hosts
from sacjax.errors import UserError, nearest

Labels = list[tuple[str, ...] | None]


def find(names: Sequence[str], keys: Sequence[str], data: ConfigDict) -> Labels:
    """Returns each recording's label in the table `data.label_table`; None where it has none.

    How many have none is told on stderr.

    Args:
      names: of the recordings.
      keys: of the recordings; '' where the name holds none.
      data: its `path`, and the keys that begin with `label_`.

    Raises:
      UserError: a table that cannot be read or gives a key two labels, or no recording has one.
    """
    table = read(data)
    labels: Labels = [(table[key],) if key in table else None for key in keys]
    without = [name for name, label in zip(names, labels, strict=True) if label is None]
    if len(without) == len(names):
        raise UserError(
            f"data.label_table: none of the {len(names)} recordings has a label in it; it has keys "
            f"such as {next(iter(table), 'none')!r}, and data.label_pattern finds {keys[0]!r} in "
            f"'{names[0]}'"
        )
    if without:
        hosts.tell(
            f"data.label_table: {len(without)} of {len(names)} recordings have no label in it, "
            f"such as '{without[0]}'"
        )
    return labels


def read(data: ConfigDict) -> dict[str, str]:
    """Returns {key: label} of all files that `data.label_table` names; see `Options`.

    A label is what the first group of `data.label_values` finds in the cell, all of it where that
    is '', and a row in which it finds nothing, or without a key, is left out.

    Raises:
      UserError: no such file or column, or a key with two labels.
    """
    where = os.path.join(data.path, data.label_table)
    paths = sorted(glob.glob(os.path.join(glob.escape(data.path), data.label_table)))
    if not paths:
        raise UserError(f"data.label_table: there is no file '{where}'")
    table: dict[str, str] = {}
    for path in paths:
        for key, cell in _cells(path, tuple(data.label_columns)):
            label = _label(cell, data.label_values)
            if not key or not label:
                continue
            if table.setdefault(key, label) != label:
                raise UserError(
                    f"data.label_table: {path}: {key!r} has two labels, {table[key]!r} and "
                    f"{label!r}"
                )
    return table


def _label(cell: str, values: str) -> str:
    if not values:
        return cell
    match = re.search(values, cell)
    return "" if match is None else next(filter(None, match.groups()), match.group())


def _cells(path: str, columns: tuple[str, str]) -> list[tuple[str, str]]:
    """Returns (key, label's cell) of each row of a file."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data.label_table: {path} cannot be read: {error}") from error
    if all(name.isdecimal() for name in columns):
        names = [str(k) for k in range(max(map(len, rows), default=0))]
    else:
        names = [name.strip() for name in rows.pop(0)] if rows else []
    for name in columns:
        if name not in names:
            raise UserError(
                f"data.label_columns: {path} has no column '{name}'{nearest(name, names)}"
            )
    key, label = map(names.index, columns)
    whole = [row for row in rows if len(row) > max(key, label)]
    return [(row[key].strip(), row[label].strip()) for row in whole]
