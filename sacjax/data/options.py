"""The keys of a config's `data`: what is read, and how it is split, cut and fed."""

import dataclasses
import re
from typing import Literal

from sacjax.config import options as options_lib


@dataclasses.dataclass(frozen=True)
class Options(options_lib.Options):
    """`data` of a stage."""

    where = "data"

    source: Literal[
        "folder", "manifest", "tfds", "arrayrecord", "synthetic", "huggingface", "webdataset"
    ] = "synthetic"
    path: str = ""  # folder, manifest, published layout of a TFDS builder, shards, Parquet, tars
    # tfds: such as 'esc50/esc10'; huggingface: 'ORG/NAME:CONFIG@REVISION'; synthetic: music or ''.
    name: str = ""
    data_dir: str = ""  # tfds, huggingface: where data sets are kept ('' = the library's default)
    # huggingface, webdataset: which columns, or keys, are what ('' = by type and name).
    audio_column: str = ""
    label_column: str = ""
    group_column: str = ""
    fold_column: str = ""
    examples: int = 2048  # synthetic: clips in all
    sample_rate: int = 16000  # Hz; everything is resampled to it
    seconds: float = 1.0  # length of a training crop and of an evaluation window
    crop: Literal["random", "center", "start"] = "random"  # in training
    pad: Literal["zero", "repeat", "reflect"] = "zero"  # what follows a clip that is shorter
    channel: int | str = "mix"  # the mean of all channels, or the number of one, from 0 on
    multi_label: bool = False  # several labels a clip: sigmoid, binary cross-entropy
    # Regular expressions on the clips' names; the first group is the label, the fold, the group.
    label_pattern: str = ""
    fold_pattern: str = ""
    group_pattern: str = ""
    # A csv below `path` (* stands for anything) that has the label of what label_pattern finds; its
    # columns of both, numbers from 0 on where it has no header; and what is a label in its cells.
    label_table: str = ""
    label_columns: tuple[str, str] = ("0", "1")
    label_values: str = ""
    empty_label: Literal["unknown", "none"] = (
        "unknown"  # csv, multi-label: what an empty cell means
    )
    windows: float = 0.0  # manifest: rows are events; a window every so many seconds is a clip
    background: str = "background"  # the label of windows without event, where clips have one label
    fold: int = 0  # k, from 1 on: test on official fold k, train on the others; 0: no folds
    holdout: tuple[float, ...] = (0.6, 0.2, 0.2)  # train, validation, test, where there is no split
    validation_fraction: float = 0.2  # of the rest, under folds and official splits
    split_seed: int = 0  # which random split
    labels_per_class: int = 0  # keep so many training clips a class; 0 = all
    label_fraction: float = 1.0  # keep this share of the training clips
    balance: Literal["none", "over", "under"] = "none"  # sampling of classes
    cache: bool = False  # keep decoded int16 clips in host memory
    on_device: bool = False  # keep training clips in the devices' memory and crop them there
    workers: int = 0  # decoding processes; 0 = threads of this process
    prefetch: int = 2  # batches made ahead
    max_bad_fraction: float = 0.05  # stop when more of the clips than this cannot be decoded
    allow_outside_root: bool = False  # folder, manifest: let paths leave their folder

    def check(self) -> None:
        """Raises UserError for shares that are none, or a bad expression."""
        self.require_positive("sample_rate", "seconds", "examples")
        self.require_not_negative("fold", "labels_per_class", "workers", "prefetch")
        self.require_shares("validation_fraction", "label_fraction", "max_bad_fraction")
        good = not self.labels_per_class or self.label_fraction == 1
        wanted = f"data.labels_per_class {self.labels_per_class} chooses them: set one of the two"
        self.require(good, "label_fraction", wanted)
        good = self.channel == "mix" or (isinstance(self.channel, int) and self.channel >= 0)
        self.require(good, "channel", "give mix, or a channel's number, from 0 on")
        good = 0 <= self.windows <= self.seconds and (not self.windows or self.source == "manifest")
        wanted = f"it is of data.source=manifest, and at most data.seconds {self.seconds:g}"
        self.require(good, "windows", wanted, self.windows)
        self.require(bool(self.background), "background", "it needs a name")
        good = bool(self.label_pattern) or not self.label_table
        self.require(good, "label_table", "data.label_pattern must say what to look for in it")
        good = len(self.label_columns) == 2 and all(isinstance(c, str) for c in self.label_columns)
        self.require(good, "label_columns", "give two: of the key and of the label")
        shares = self.holdout
        good = len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6
        self.require(good, "holdout", "give three shares that sum to 1")
        for key in ("label_pattern", "fold_pattern", "group_pattern", "label_values"):
            try:
                re.compile(getattr(self, key))
            except re.error as error:
                self.require(False, key, f"it is no regular expression ({error})")
