"""Data sets of the `datasets` library: of the Hugging Face Hub, or a folder of Parquet files.

Sound is read as the files that it was written in and decoded by our own decoder, so that neither
PyTorch nor torchcodec is needed.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from sacjax.data import patterns
from sacjax.data.recordings import Clip, Recordings
from sacjax.data.sources import official
from sacjax.data.sources.files import open_content, open_file
from sacjax.errors import UserError, first_line, nearest

EXTRA = "data.source=huggingface needs the datasets library: pip install 'sacjax[huggingface]'"
LABELS = ("label", "labels")


class Columns(NamedTuple):
    """Which columns of a data set are what; '' where there is none."""

    audio: str
    label: str
    group: str
    fold: str


class OpenRows:
    """Opens row i of data sets one after the other."""

    def __init__(self, parts: Sequence[Any], roots: Sequence[str]):
        """Takes data sets of one audio column alone, and the folders that files may lie in."""
        self.parts, self.roots = list(parts), list(roots)
        self.stops = np.cumsum([len(part) for part in self.parts])

    def __call__(self, i: int) -> Clip:
        """Returns the clip. Raises whatever a damaged one makes its decoder raise."""
        k = int(np.searchsorted(self.stops, i, side="right"))
        row = self.parts[k][int(i - (self.stops[k - 1] if k else 0))]
        (cell,) = row.values()
        return open_cell(cell, self.roots)


def open_cell(cell: Mapping[str, Any] | None, roots: Sequence[str]) -> Clip:
    """Returns the clip in a cell of an audio column that is not decoded.

    Args:
      cell: its `bytes` are a sound file, or its `path` is where one lies.
      roots: folders; a path is relative to the first, and leads into one of them. None: anywhere.

    Raises:
      ValueError: nothing is there, or its path leads elsewhere.
      Exception: it cannot be opened.
    """
    content, path = (cell or {}).get("bytes"), (cell or {}).get("path")
    if content:
        return open_content(content, path or "")
    if not path:
        raise ValueError("there is no sound in the row")
    full = os.path.realpath(os.path.join(roots[0] if roots else "", path))
    if roots and not any(os.path.commonpath([root, full]) == root for root in roots):
        raise ValueError(f"its path '{path}' leads out of the data set's folder")
    return open_file(full)


def load_huggingface(data: ConfigDict) -> Recordings:
    """Reads a data set of the Hugging Face Hub, or a folder of Parquet files.

    `data.name` is its name on the Hub, `ORG/NAME`, then `:CONFIG` where it has several and
    `@REVISION` to pin one; it is downloaded into `data.data_dir` (default: the library's cache), or
    only looked for there if `HF_HUB_OFFLINE=1`. Or else `data.path` is a folder of Parquet files,
    or as `save_to_disk` writes it. See `find_columns` for what is read. Its splits train,
    validation and test are the official ones. A data set of loose sound files is read by the
    library only where torchcodec is installed: locally, data.source=folder reads it without.

    Raises:
      UserError: the library is not installed, no such data set, columns that are not there, or
        splits of other names.
    """
    splits = {name: part for name, part in load_splits(data).items() if len(part)}
    where = f"data.name {data.name}" if data.name else f"data.path {data.path}"
    if not splits:
        raise UserError(f"{where}: there are no rows in it")
    features = next(iter(splits.values())).features
    columns = find_columns(features, data)
    tables = [undecoded(part, columns.audio) for part in splits.values()]
    sizes = [len(table) for table in tables]
    taken = list(dict.fromkeys(filter(None, columns[1:])))
    rows: dict[str, list] = {key: [] for key in taken}
    for table in tables if taken else ():
        for key, values in table.select_columns(taken)[:].items():
            rows[key] += values
    labels: list[tuple[str, ...] | None] = [None] * sum(sizes)
    if columns.label:
        kind = features[columns.label]
        labels = [label_names(cell, kind, data.empty_label) for cell in rows[columns.label]]
    groups = None
    if columns.group:
        groups = [text_of(cell, features[columns.group]) for cell in rows[columns.group]]
    parts = official.parts_of(where, list(splits), sizes)
    if not data.group_column:
        groups = official.unless_shared(where, groups, parts)
    folds = [str(cell) for cell in rows.get(columns.fold, ())]
    if "None" in folds:
        raise UserError(f"{where}: {columns.fold} is empty in row {folds.index('None')}")
    roots = roots_of(data)
    return Recordings(
        names=_names(tables, columns.audio, list(splits), roots[:1]),
        labels=labels,
        class_names=class_names(features.get(columns.label), labels),
        open=OpenRows([table.select_columns([columns.audio]) for table in tables], roots),
        folds=patterns.number_folds(folds, f"{where}, {columns.fold}") if folds else None,
        splits=parts,
        groups=groups,
    )


def load_splits(data: ConfigDict, streaming: bool = False) -> dict[str, Any]:
    """Returns a data set's parts by name; not downloaded if `streaming`. Raises UserError."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(EXTRA) from error
    if bool(data.name) == bool(data.path):
        raise UserError(
            "data.source=huggingface reads data.name (ORG/NAME on the Hub) or data.path (a "
            "folder): give one of them"
        )
    if data.path and not os.path.isdir(data.path):
        raise UserError(f"data.path: there is no folder '{data.path}'")
    cache = data.data_dir or None
    name, config, revision = split_name(data.name)
    try:
        if data.path and any(
            os.path.isfile(os.path.join(data.path, file))
            for file in ("dataset_dict.json", "state.json")
        ):
            found = datasets.load_from_disk(data.path)
            found = found if isinstance(found, dict) else {"train": found}
            return {k: v.to_iterable_dataset() for k, v in found.items()} if streaming else found
        return dict(
            datasets.load_dataset(
                os.path.abspath(data.path) if data.path else name,
                config or None,
                revision=revision or None,
                cache_dir=cache,
                streaming=streaming,
            )
        )
    except Exception as error:  # of the library, a file, or a connection
        where = f"data.path: {data.path}" if data.path else f"data.name: {data.name}"
        cause: BaseException = error
        while cause.__cause__ is not None:  # the library's own words say only that it failed
            cause = cause.__cause__
        raise UserError(f"{where} cannot be loaded: {first_line(cause)}") from error


def split_name(name: str) -> tuple[str, str, str]:
    """Returns (repository, config, revision) of 'ORG/NAME:CONFIG@REVISION', '' for what lacks."""
    rest, _, revision = name.partition("@")
    repository, _, config = rest.partition(":")
    return repository, config, revision


def find_columns(features: Mapping[str, Any], data: ConfigDict) -> Columns:
    """Returns which columns are the sound, the label, the group and the fold.

    The options `data.audio_column`, `label_column`, `group_column` and `fold_column` name them.
    Else the sound is the column called audio, or the only one of audio; the label the one called
    label or labels, or the only one of classes; the group one of `official.GROUPS`, and the fold
    the one called fold, where there are such.

    Raises:
      UserError: a column that is not there, no sound, or several that it may be.
    """
    from datasets import Audio, ClassLabel

    for key in ("audio_column", "label_column", "group_column", "fold_column"):
        if data[key] and data[key] not in features:
            raise UserError(
                f"data.{key}: there is no column '{data[key]}'{nearest(data[key], features)}"
            )
    sounds = [name for name, kind in features.items() if isinstance(kind, Audio)]
    audio = data.audio_column or _one_of("audio", sounds, ("audio",), features)
    if not audio:
        raise UserError(
            f"no column of it is audio; it has {', '.join(features)}: name one, data.audio_column"
        )
    group = data.group_column or next((name for name in official.GROUPS if name in features), "")
    classes = [
        name
        for name, kind in features.items()
        if isinstance(getattr(kind, "feature", kind), ClassLabel) and name != group
    ]
    label = data.label_column or _one_of("label", classes, LABELS, features)
    dtype = str(getattr(features[label], "dtype", "")) if label else ""
    if dtype.startswith(("float", "double")):
        raise UserError(f"data.label_column: '{label}' holds numbers of type {dtype}, not classes")
    return Columns(audio, label, group, data.fold_column or ("fold" if "fold" in features else ""))


def undecoded(part: Any, audio: str) -> Any:
    """Returns a data set whose audio column gives files as they are. Raises UserError."""
    from datasets import Audio

    try:
        return part.cast_column(audio, Audio(decode=False))
    except Exception as error:  # of Arrow: it has no type for that
        raise UserError(
            f"data.audio_column: '{audio}' is no column of sound files: {first_line(error)}"
        ) from error


def label_names(cell: Any, kind: Any, empty: str) -> tuple[str, ...] | None:
    """Returns the labels in a cell, None where they are unknown: null, a negative class, or ''.

    Args:
      cell: a class's number, a text, a whole number, or a list of them.
      kind: the column's feature.
      empty: `data.empty_label`: what '' says.
    """
    if cell is None:
        return None
    inner = getattr(kind, "feature", kind)
    if isinstance(cell, list):
        return tuple(dict.fromkeys(text_of(one, inner) for one in cell if one is not None))
    if cell == "":
        return () if empty == "none" else None
    if hasattr(inner, "int2str") and cell < 0:
        return None
    return (text_of(cell, inner),)


def text_of(cell: Any, kind: Any) -> str:
    """Returns a cell as a text, a class by its name, null as ''."""
    if cell is None:
        return ""
    return kind.int2str(cell) if hasattr(kind, "int2str") and cell >= 0 else str(cell)


def class_names(kind: Any, labels: Sequence[tuple[str, ...] | None]) -> tuple[str, ...]:
    """Returns a label column's classes in its own order, or those of the labels sorted."""
    names = getattr(getattr(kind, "feature", kind), "names", None)
    return tuple(names or sorted({name for label in labels for name in label or ()}))


def _one_of(what: str, found: Sequence[str], called: Sequence[str], features: Any) -> str:
    """Returns a column by its name, or the only one found; '' where there is none."""
    for name in called:
        if name in features:
            return name
    if len(found) > 1:
        raise UserError(
            f"it has several columns that may be the {what} ({', '.join(found)}): "
            f"choose one by data.{what}_column"
        )
    return found[0] if found else ""


def roots_of(data: ConfigDict) -> list[str]:
    """Returns the folders that a data set's files may lie in; none for anywhere."""
    if data.allow_outside_root:
        return []
    if data.path:
        return [os.path.realpath(data.path)]
    from datasets import config
    from huggingface_hub import constants

    places = [data.data_dir, str(config.HF_DATASETS_CACHE), constants.HF_HUB_CACHE]
    return [os.path.realpath(place) for place in places if place]


def _names(
    tables: Sequence[Any], audio: str, splits: Sequence[str], roots: Sequence[str]
) -> list[str]:
    """Returns the files' paths where each row has one of its own, else 'split/number'."""
    paths: list[str | None] = []
    for table in tables:
        chunks = table.data.column(audio).chunks  # Arrow's: of the files only the paths are read
        paths += [path for chunk in chunks for path in chunk.field("path").to_pylist()]
    if None not in paths and len(set(paths)) == len(paths):
        root = os.path.join(roots[0], "") if roots else "\0"
        return [str(path).removeprefix(root) for path in paths]
    return [
        f"{split}/{k:07d}"
        for split, table in zip(splits, tables, strict=True)
        for k in range(len(table))
    ]
