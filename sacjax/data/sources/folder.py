"""A folder of sound files, whose sub-folders are labels."""

import collections
import os
import stat
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from sacjax.data import hosts
from sacjax.data.recordings import Recordings
from sacjax.data.retry import retried
from sacjax.data.sources import pyav
from sacjax.data.sources.files import EXTENSIONS, OpenFiles
from sacjax.errors import UserError

# What folders of a data set's own split are called.
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}


def load_folder(data: ConfigDict) -> Recordings:
    """Reads `DIR/<label>/**/*`, or `DIR/<split>/<label>/**/*`; DIR is `data.path`.

    The first folder below DIR is the label; that of files directly in DIR is unknown. But where all
    folders with sounds are called as splits are (train, validation, valid, val, dev, test, eval),
    and each holds folders, those are the data set's own split and the labels are below them. Files
    directly in DIR are then for training.

    Hidden files and folders, and files that no sound format's name ends in, are left out; of the
    latter it is told how many there are. Links are followed; one that leads out of DIR is refused
    unless `data.allow_outside_root`.

    Raises:
      UserError: no such folder, no sounds in it, or a link that leads out of it.
    """
    root = os.path.abspath(data.path)
    if not data.path:
        raise UserError("data.path is empty: give the folder that has a sub-folder for each label")
    if not os.path.isdir(root):
        kind = " (it is a file: is it for data.source=manifest?)" if os.path.isfile(root) else ""
        raise UserError(f"data.path: there is no folder '{data.path}'{kind}")
    parts, others = [], collections.Counter[str]()
    for path in _walk(root, data.allow_outside_root):
        ending = os.path.splitext(path[-1])[1].lower()
        if ending in EXTENSIONS:
            parts.append(path)
        else:
            others[ending] += 1
    if not parts:
        raise UserError(
            f"data.path: no sound files that can be read in '{data.path}' (it has {_list(others)})"
        )
    if others:
        hosts.tell(f"{data.path}: {len(parts)} files are read, others are not: {_list(others)}")
    parts.sort()
    # A name that is not UTF-8 still has to go into tables.
    names = [os.fsencode("/".join(part)).decode("utf-8", "backslashreplace") for part in parts]
    splits = _splits(names)
    below = 1 if splits else 0  # the label's index in a name
    labels = [(name.split("/")[below],) if name.count("/") > below else None for name in names]
    classes = tuple(sorted({label[0] for label in labels if label}))
    paths = [os.path.join(root, *part) for part in parts]
    return Recordings(names, labels, classes, OpenFiles(paths), splits=splits, paths=paths)


def _splits(names: list[str]) -> list[str] | None:
    """Returns each file's part where the top folders are parts, with folders below; else None."""
    folders = {name.split("/")[0] for name in names if "/" in name}
    with_labels = {name.split("/")[0] for name in names if name.count("/") > 1}
    if not folders or folders != with_labels or any(name.lower() not in SPLITS for name in folders):
        return None
    return [SPLITS[name.split("/")[0].lower()] if "/" in name else "train" for name in names]


def _list(others: Mapping[str, int]) -> str:
    """Returns what kinds of files there are, the most frequent first."""
    most = sorted(others.items(), key=lambda item: -item[1])
    kinds = [f"{count} {kind or 'without ending'}" for kind, count in most[:5]]
    kinds += [f"{sum(count for _, count in most[5:])} more"] if len(most) > 5 else []
    helps = not pyav.INSTALLED and any(kind in pyav.EXTENSIONS for kind in others)
    advice = " (pip install 'sacjax[av]' reads more kinds)" if helps else ""
    return (", ".join(kinds) or "no files") + advice


def _is_file(path: str) -> bool:
    """Whether it is a file; no file is lost to a bad moment of the file system."""
    try:
        return stat.S_ISREG(retried(lambda: os.stat(path)).st_mode)
    except OSError:
        return False


def _walk(root: str, allow_outside: bool) -> Iterator[list[str]]:
    """Yields the components of each file's path below `root`.

    It enters no folder twice, whatever the links.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"data.path: '{error.filename}' cannot be read: {error.strerror}")

    real, seen = os.path.realpath(root), set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=fail):
        key = os.path.realpath(folder)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and key not in seen
        )
        files = [name for name in files if not name.startswith(".") and key not in seen]
        seen.add(key)
        above = [] if folder == root else os.path.relpath(folder, root).split(os.sep)
        for name in folders + files:
            path = os.path.join(folder, name)
            if os.path.islink(path) and not allow_outside:
                target = os.path.realpath(path)
                if os.path.commonpath([real, target]) != real:
                    raise UserError(
                        f"data.path: '{path}' is a link out of the folder, to '{target}'; "
                        "set data.allow_outside_root=True to allow it"
                    )
        yield from ([*above, name] for name in files if _is_file(os.path.join(folder, name)))
