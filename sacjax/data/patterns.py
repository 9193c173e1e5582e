"""Labels, folds and groups that are written in the recordings' names: `data.label_pattern`."""

import dataclasses
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from sacjax.data import hosts, label_table
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError

# What a manifest adds to the names of rows that are parts of a file: see `load_manifest`.
_PART = re.compile(r"#[-+.\deE]+$")


def apply(recordings: Recordings, data: ConfigDict) -> Recordings:
    """Returns the recordings with the labels, folds and groups that the patterns of `data` find.

    A folder's labels and any source's groups are replaced. Other labels, and folds, are the data's
    own: what is right is not guessed where a pattern says something else.

    Raises:
      UserError: a name without a match, labels or folds from both the data and a pattern, or a
        table of labels that does not fit.
    """
    names, found = recordings.names, recordings
    if data.label_pattern:
        if data.source != "folder":
            _refuse_both("label", any(own is not None for own in found.labels))
        labels: label_table.Labels
        if data.label_table:
            keys = search(names, data.label_pattern, "label")
            labels = label_table.find(names, keys, data)
        else:
            labels = [(label,) for label in find(names, data.label_pattern, "label")]
        classes = tuple(sorted({label for own in labels for label in own or ()}))
        found = dataclasses.replace(found, labels=labels, class_names=classes)
    if data.fold_pattern:
        _refuse_both("fold", found.folds is not None)
        folds = number_folds(find(names, data.fold_pattern, "fold"), "data.fold_pattern")
        found = dataclasses.replace(found, folds=folds)
    if data.group_pattern:
        found = dataclasses.replace(found, groups=find(names, data.group_pattern, "group"))
    return found


def find(names: Sequence[str], pattern: str, what: str) -> list[str]:
    r"""Returns what the first group of the first match of `pattern` in each name holds.

    An expression without groups gives the whole match; of alternatives, `spk(\d+)|site(\d+)`, the
    group that took part counts. Parts of one file (`name#start`) get the same.

    Args:
      names: of recordings.
      pattern: a regular expression.
      what: label, fold or group, for messages.

    Raises:
      UserError: no regular expression, or a name without a match or with an empty one. Such a clip
        is not left without: a slip in the expression would go unseen, and a speaker would be in
        training and test.
    """
    found = search(names, pattern, what)
    missing = [name for name, text in zip(names, found, strict=True) if not text]
    if missing:
        more = f" and {len(missing) - 1} more names" if len(missing) > 1 else ""
        raise UserError(
            f"data.{what}_pattern {pattern!r} finds no {what} in '{missing[0]}'{more}: "
            "change it so that it fits every file name"
        )
    return found


def search(names: Sequence[str], pattern: str, what: str) -> list[str]:
    """Returns what `find` does, but '' for a name without a match."""
    expression = _compiled(pattern, what)
    return [_first_group(expression.search(_PART.sub("", name))) for name in names]


def number_folds(texts: Sequence[str], where: str) -> list[int]:
    """Returns folds: the numbers that the texts are, if from 1 on; else they are numbered so.

    Names are numbered in alphabetical order, as for a speaker left out at a time, and numbers from
    0 on in their own. Which fold is which is then told once on stderr.

    Args:
      texts: one a recording.
      where: what gave them, for the message.
    """
    distinct = sorted(set(texts))
    if all(text.isdecimal() for text in distinct):
        if all(int(text) > 0 for text in distinct):
            return [int(text) for text in texts]
        distinct.sort(key=int)
    number = {text: k for k, text in enumerate(distinct, 1)}
    told = ", ".join(f"{k} is {text}" for text, k in list(number.items())[:50])
    more = f" and {len(number) - 50} more" if len(number) > 50 else ""
    hosts.tell(f"{where}: data.fold={told}{more}")
    return [number[text] for text in texts]


def _compiled(pattern: str, what: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            f"data.{what}_pattern is {pattern!r}: not a regular expression: {error}"
        ) from error


def _first_group(match: re.Match | None) -> str:
    """Returns a match's first group that took part, or all of it; '' for None."""
    if match is None:
        return ""
    return next((group for group in match.groups() if group is not None), match.group())


def _refuse_both(what: str, has_own: bool) -> None:
    if has_own:
        raise UserError(
            f"data.{what}_pattern is set, but the data have {what}s of their own: "
            f"unset it, or leave out their {what}s"
        )
