"""Groups: recordings that belong together, such as those of one speaker, site or file.

All recordings of a group go to the same part of a split. '' is no group.
"""

import collections
from collections.abc import Sequence


def of_rows(files: Sequence[str], own: Sequence[str | None]) -> list[str] | None:
    """Returns the groups of a manifest's rows, None where there are none.

    Args:
      files: the file that each row is, or is a part of.
      own: what the row's `group` cell says. Where it is empty, the row goes with the other rows of
        its file: in the first group that one of them names, or else in one named as the file.
    """
    named: dict[str, str] = {}
    for file, group in zip(files, own, strict=True):
        if group:
            named.setdefault(file, group)
    rows = collections.Counter(files)
    groups = [
        group or named.get(file) or (file if rows[file] > 1 else "")
        for file, group in zip(files, own, strict=True)
    ]
    return groups if any(groups) else None
