"""TFDS data sets as recordings, without TensorFlow.

Our own builders, and any data set that is prepared as ArrayRecord.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sacjax import io
from sacjax.data import patterns
from sacjax.data.recordings import Clip, MemoryClip, Recordings
from sacjax.data.sources import official
from sacjax.data.sources.files import open_content
from sacjax.data.sources.records import Records
from sacjax.errors import UserError, nearest

# All but the audio of a prepared data set, so that it is read from its records only once.
INDEX = ".sacjax_index.json"
INDEX_VERSION = 3  # 2: labels that are not known are null; 3: folds are texts
# Features that may name a record.
NAMES = ("name", "audio/filename", "filename", "file_name", "id", "audio_id", "path")


class OpenTfds:
    """Opens record i of a prepared TFDS data set; pickles as the folder's path."""

    def __init__(
        self,
        folder: str,
        splits: list[str],
        sizes: list[int],
        feature: str,
        sample_rate: int,
        scale: float,
    ):
        """Takes where the data set is, and what `_index` found out about it."""
        self.folder, self.splits, self.feature = folder, splits, feature
        self.sample_rate, self.scale = sample_rate, scale
        self.stops = np.cumsum(sizes)
        self.sources: list | None = None
        self.reader: Any = None
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"sources": None, "reader": None, "lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"lock": threading.Lock()}

    def __call__(self, i: int) -> Clip:
        """Reads record i. Raises whatever a damaged record makes its reader raise."""
        with self.lock:
            if self.sources is None:
                builder = _from_directory(self.folder)
                self.reader = _subset(builder, [self.feature])
                self.sources = [_raw(builder, split) for split in self.splits]
        split = int(np.searchsorted(self.stops, i, side="right"))
        record = self.sources[split][int(i - (self.stops[split - 1] if split else 0))]
        audio = self.reader.deserialize_example_np(record)[self.feature]
        if isinstance(audio, bytes):  # Audio(lazy_decode=True) keeps files as they are
            return open_content(audio)
        audio = audio if audio.ndim == 2 else audio[:, None]
        if np.issubdtype(audio.dtype, np.integer) and audio.dtype != np.int16:
            peak = float(np.abs(audio.astype(np.float64)).max(initial=0.0))
            audio = (audio / (self.scale if peak <= self.scale else 2.0**31)).astype(np.float32)
        if not len(audio):
            raise ValueError("it has no samples")
        return MemoryClip(audio, self.sample_rate)


def load_tfds(data_config: ConfigDict) -> Recordings:
    """Returns the recordings of a TFDS data set.

    `data.name` is one of ours (`esc50/esc50`, `esc50/esc10`, `fsdd/official`, `fsdd/loso`),
    prepared here on first use from the published layout in `data.path` or else from the published
    archive, or any other that is prepared as ArrayRecord in `data.data_dir`. The audio feature and
    the label are found by their types; without a label the recordings are unlabelled.

    Raises:
      UserError: an unknown or unprepared data set, no audio feature, several labels, a failed
        download.
    """
    from sacjax.data.tfds_builders import BUILDERS

    name = data_config.name
    if not name:
        raise UserError(
            f"data.name is empty: name a TFDS data set, such as {', '.join(BUILDERS)}, esc50/esc10"
        )
    base, _, config = name.partition(":")[0].partition("/")
    if base in BUILDERS:
        folder, table = _prepare(BUILDERS[base], base, config, data_config)
    else:
        folder = _find(name, data_config.data_dir, list(BUILDERS))
        try:
            table = _index(_from_directory(folder))
        except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
            raise UserError(f"data.name {name}: {folder} cannot be read: {error}") from error
    opener = OpenTfds(
        os.path.abspath(folder),
        table["splits"],
        table["sizes"],
        table["feature"],
        table["sample_rate"] or data_config.sample_rate,
        table["scale"],
    )
    names = table["names"] or [
        f"{s}/{k:07d}"
        for s, n in zip(table["splits"], table["sizes"], strict=True)
        for k in range(n)
    ]
    splits = official.parts_of(f"data.name {name}", table["splits"], table["sizes"])
    folds = table["folds"]
    return Recordings(
        names=names,
        labels=[None if label is None else tuple(label) for label in table["labels"]],
        class_names=tuple(table["class_names"]),
        open=opener,
        folds=patterns.number_folds(folds, f"data.name {name}, fold") if folds else None,
        splits=splits,
        groups=official.unless_shared(name, table["groups"], splits),
    )


def _prepare(
    builder_class: Any, base: str, config: str, data_config: ConfigDict
) -> tuple[str, dict]:
    """Returns (folder, table) of one of our builders, prepared unless it is already.

    A broken preparation is redone.
    """
    import tensorflow_datasets as tfds

    known = [c.name for c in builder_class.BUILDER_CONFIGS]
    if config and config not in known:
        raise UserError(
            f"data.name: {base} has no config '{config}'{nearest(config, known) if known else ''}"
        )
    root = Path(data_config.data_dir or tfds.core.constants.DATA_DIR).expanduser()

    folder = builder_class.home(data_config.path, root).joinpath(
        *filter(None, [base, config or "".join(known[:1])])
    )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(root / f".{base}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the hosts of a pod may share this folder
            return _prepare_locked(
                builder_class, folder / str(builder_class.VERSION), root, config, data_config
            )
    except OSError as error:
        raise UserError(f"data.data_dir: {root} cannot be written: {error}") from error


def _prepare_locked(
    builder_class: Any, folder: Path, root: Path, config: str, data_config: ConfigDict
) -> tuple[str, dict]:
    # TFDS prepares in a folder `incomplete…` and renames it at the end: what has the right name was
    # once finished.
    for attempt in (1, 2):
        try:
            with contextlib.redirect_stdout(sys.stderr):
                builder = builder_class(path=data_config.path, data_dir=root, config=config or None)
                builder.download_and_prepare()
            assert Path(builder.data_dir) == folder, builder.data_dir
            return str(folder), _index(_from_directory(str(folder)))
        except UserError:
            raise
        except Exception as error:
            if attempt == 2:
                raise UserError(
                    f"data.name {data_config.name}: cannot be prepared in {folder}: {error}"
                ) from error
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            # Of a run that was killed; the lock is ours.
            for left in folder.parent.glob("incomplete.*"):
                shutil.rmtree(left, ignore_errors=True)
    raise AssertionError


def _find(name: str, data_dir: str, ours: list[str]) -> str:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    try:
        return str(builder_from_files(name, data_dir=data_dir or None).data_dir)
    except (
        tfds.core.DatasetNotFoundError,
        FileNotFoundError,
        ValueError,
        AttributeError,
        ImportError,
    ) as error:
        where = data_dir or tfds.core.constants.DATA_DIR
        raise UserError(
            f"data.name: {name} is not prepared in {where} (data.data_dir), and is not one of ours "
            f"({', '.join(ours)}): prepare it with TFDS and file_format='array_record'"
        ) from error


def _from_directory(folder: str) -> Any:
    import tensorflow_datasets as tfds

    # Lets TFDS's Audio feature do without TensorFlow.
    from sacjax.data.tfds_builders import published  # noqa: F401

    return tfds.builder_from_directory(folder)


def _raw(builder: Any, split: str) -> Records:
    """Returns the serialized records of a split."""
    info = builder.info.splits[split]
    return Records(list(zip(map(str, info.filepaths), info.shard_lengths, strict=True)))


def _subset(builder: Any, keys: list[str]) -> Any:
    """Returns a feature that decodes only some keys of a record."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict({key: builder.info.features[key] for key in keys})


def _index(builder: Any) -> dict:
    """Returns all but the audio of a prepared TFDS data set as columns.

    They are read from its records once, and then from a file.
    """
    info = builder.info
    splits = [name for name, split in info.splits.items() if split.num_examples]
    files = [path for split in splits for path in info.splits[split].filepaths]
    stamp: list[Any] = [[Path(path).name, os.stat(path).st_size] for path in files]
    stamp.append(INDEX_VERSION)
    path = Path(builder.data_dir) / INDEX
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        table = json.loads(path.read_text())
        if table["stamp"] == stamp:
            return table
    if not str(files[0] if files else "").count(".array_record"):
        raise UserError(
            f"{builder.data_dir}: prepare it with file_format='array_record' ({info.file_format} "
            "has no random access)"
        )
    table = _scan(builder, splits) | {"stamp": stamp}
    with contextlib.suppress(UserError):  # a data set that others share may be read-only
        io.write_json(path, table)
    return table


def _scan(builder: Any, splits: list[str]) -> dict:
    import tensorflow_datasets as tfds

    features = dict(sorted(builder.info.features.items()))  # TFDS keeps no order
    audio = [key for key, f in features.items() if isinstance(f, tfds.features.Audio)]
    if not audio:
        raise UserError(f"{builder.name}: no feature of it is audio; it has {', '.join(features)}")
    feature = "audio" if "audio" in audio else audio[0]

    def class_label(f: Any) -> Any:
        inner = getattr(f, "feature", f)  # of a Sequence
        return inner if isinstance(inner, tfds.features.ClassLabel) else None

    labels = [key for key, f in features.items() if class_label(f) is not None]
    supervised = (builder.info.supervised_keys or ("", ""))[1]
    label = next((key for key in ("label", supervised) if key in labels), None)
    group = next((key for key in official.GROUPS if key in features and key != label), None)
    candidates = [key for key in labels if key != group]
    if label is None and len(candidates) > 1:
        raise UserError(
            f"{builder.name}: it has several labels ({', '.join(candidates)}) and none is called "
            "'label'"
        )
    label = label or (candidates[0] if candidates else None)
    name = next((key for key in NAMES if isinstance(features.get(key), tfds.features.Text)), None)
    fold = "fold" if "fold" in features else None
    keys = [key for key in (label, group, name, fold) if key]
    reader = _subset(builder, keys) if keys else None
    class_names = list(class_label(features[label]).names) if label else []
    columns: dict[str, list] = {"labels": [], "groups": [], "names": [], "folds": []}

    def text(key: str, value: Any) -> str:
        if class_label(features[key]):
            return features[key].int2str(int(value))
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    for record in (record for split in splits for record in _raw(builder, split)):
        row = reader.deserialize_example_np(record) if reader else {}
        numbers = np.atleast_1d(row[label]).tolist() if label else []
        known = [class_names[n] for n in numbers if n >= 0]
        # No number at all says that there is none, -1 that nobody knows.
        columns["labels"].append(None if not label or (numbers and not known) else known)
        for key, column in ((group, "groups"), (name, "names")):
            if key:
                columns[column].append(text(key, row[key]))
        if fold:
            columns["folds"].append(text(fold, row[fold]))
    names = columns["names"]
    return {
        "splits": splits,
        "sizes": [builder.info.splits[split].num_examples for split in splits],
        "feature": feature,
        "sample_rate": features[feature].sample_rate,
        "scale": _scale(builder, splits, feature),
        "class_names": class_names,
        "labels": columns["labels"],
        "groups": columns["groups"] or None,
        "folds": columns["folds"] or None,
        "names": names if len(set(names)) == len(columns["labels"]) else None,
    }


def _scale(builder: Any, splits: list[str], feature: str) -> float:
    """Returns what full scale is in a data set's integers.

    TFDS keeps 16-bit and wider audio alike as int64: look at some.
    """
    dtype = builder.info.features[feature].np_dtype
    if dtype in (np.int8, np.int32):
        return float(np.iinfo(dtype).max) + 1
    reader, peak = _subset(builder, [feature]), 0.0
    if dtype == np.int64:
        for split in splits:
            raw = _raw(builder, split)
            for k in np.unique(np.linspace(0, len(raw) - 1, 16).astype(int)):
                audio = reader.deserialize_example_np(raw[int(k)])[feature]
                if not isinstance(audio, bytes):
                    peak = max(peak, float(np.abs(audio).max(initial=0)))
    return 2.0**31 if peak > 2**15 else 2.0**15
