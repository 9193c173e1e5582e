"""Groups: recordings that belong together, such as those of one speaker, site or file.

All recordings of a group go to the same part of a split. '' is no group.
"""

import collections
import re
from collections.abc import Sequence

from sacjax.errors import UserError

# What a manifest adds to the names of rows that are parts of a file: see `load_manifest`.
_PART = re.compile(r"#[-+.\deE]+$")


def compile_pattern(pattern: str) -> re.Pattern:
    """Returns `data.group_pattern` compiled. Raises UserError where it is no regular expression."""
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            f"data.group_pattern is {pattern!r}: not a regular expression: {error}"
        ) from error


def from_names(names: Sequence[str], pattern: str) -> list[str]:
    r"""Returns the group of each name: what the first group of the first match of `pattern` holds.

    An expression without groups gives the whole match; of alternatives, `spk(\d+)|site(\d+)`, the
    group that took part counts. Parts of one file (`name#start`) get the same group.

    Raises:
      UserError: no regular expression, or a name without a match or with an empty one. Such a clip
        is not made a group of its own: a slip in the expression would go unseen, and the speaker
        would be in training and test.
    """
    expression = compile_pattern(pattern)
    groups = [_group(expression.search(_PART.sub("", name))) for name in names]
    missing = [name for name, group in zip(names, groups, strict=True) if not group]
    if missing:
        more = f" and {len(missing) - 1} more names" if len(missing) > 1 else ""
        raise UserError(
            f"data.group_pattern {pattern!r} finds no group in '{missing[0]}'{more}: "
            "change it so that it fits every file name"
        )
    return groups


def _group(match: re.Match | None) -> str:
    """Returns what a match says: its first group that took part, or all of it; '' for None."""
    if match is None:
        return ""
    return next((group for group in match.groups() if group is not None), match.group())


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
