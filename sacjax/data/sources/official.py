"""What published data sets say of themselves: their own splits, and which column is the group."""

import logging
from collections.abc import Sequence

from sacjax.errors import UserError

# Columns that must not cross a split.
GROUPS = ("group", "src_file", "speaker", "speaker_id")
# How the names of splits begin.
PREFIXES = {
    "train": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "eval": "test",
}


def part_of(split: str) -> str | None:
    """Returns 'train', 'validation' or 'test' by how a split's name begins; None for others."""
    return next(
        (part for prefix, part in PREFIXES.items() if split.lower().startswith(prefix)), None
    )


def parts_of(where: str, splits: Sequence[str], sizes: Sequence[int]) -> list[str] | None:
    """Returns each record's 'train', 'validation' or 'test' by its split; None for one split alone.

    Args:
      where: the data set, for messages.
      splits: their names.
      sizes: how many records each has.

    Raises:
      UserError: several splits, and one that is none of the three.
    """
    if len(splits) == 1:
        return None
    parts = [part_of(split) for split in splits]
    if None in parts:
        raise UserError(
            f"{where}: its splits {', '.join(splits)} are not all train, validation or test"
        )
    return [str(part) for part, size in zip(parts, sizes, strict=True) for _ in range(size)]


def unless_shared(
    where: str, groups: list[str] | None, parts: Sequence[str] | None
) -> list[str] | None:
    """Returns groups that nobody asked for, None, with a warning, where official splits share some.

    Args:
      where: the data set, for the warning.
      groups: of the records; '' is no group.
      parts: of the records: of `parts_of`.
    """
    if not groups or not parts:
        return groups
    pairs = {(group, part) for group, part in zip(groups, parts, strict=True) if group}
    if len(pairs) == len(set(groups) - {""}):
        return groups
    logging.getLogger(__name__).warning(
        "%s: groups are not used, because its official splits share some of them", where
    )
    return None
