"""Where recordings come from: `data.source` names one of `SOURCES`."""

from collections.abc import Callable

from ml_collections import ConfigDict

from sacjax.data import channels, labels, patterns
from sacjax.data.recordings import Recordings
from sacjax.data.sources.files import EXTENSIONS, FileClip, OpenFiles
from sacjax.data.sources.folder import load_folder
from sacjax.data.sources.manifest import load_manifest
from sacjax.data.sources.webdataset import load_webdataset
from sacjax.errors import UserError, nearest

__all__ = ["EXTENSIONS", "SOURCES", "FileClip", "OpenFiles", "load"]


def load_tfds(data: ConfigDict) -> Recordings:
    """A TFDS data set: esc50, fsdd, or any that is prepared as ArrayRecord in `data.data_dir`."""
    from sacjax.data.sources import tfds  # slow to import, and few need it

    return tfds.load_tfds(data)


def load_array_record(data: ConfigDict) -> Recordings:
    """The shards that `sacjax prepare` wrote into the folder `data.path`."""
    from sacjax.data.sources import array_record

    return array_record.load_array_record(data)


def load_synthetic(data: ConfigDict) -> Recordings:
    """Sounds of 20 classes, or music of three, made by rule: for trying without a download."""
    from sacjax.data.sources import synthetic

    return synthetic.load_synthetic(data)


def load_huggingface(data: ConfigDict) -> Recordings:
    """A data set of the Hugging Face Hub (`data.name`), or a folder of Parquet files."""
    from sacjax.data.sources import huggingface

    return huggingface.load_huggingface(data)


SOURCES: dict[str, Callable[[ConfigDict], Recordings]] = {
    "folder": load_folder,
    "manifest": load_manifest,
    "tfds": load_tfds,
    "arrayrecord": load_array_record,
    "synthetic": load_synthetic,
    "huggingface": load_huggingface,
    "webdataset": load_webdataset,
}


# Keys of `data` that say what is done with recordings, not which they are.
OF_USE = (
    "crop", "pad", "fold", "validation_fraction", "labels_per_class", "label_fraction",
    "balance", "cache", "on_device", "workers", "prefetch", "max_bad_fraction",
)  # fmt: skip


# Those that change the sounds or splits of synthetic or TFDS recordings, and no others'.
OF_OTHERS = ("examples", "holdout", "sample_rate", "seconds", "split_seed")


def same(one: ConfigDict, other: ConfigDict) -> bool:
    """Returns whether two stages' `data` give the same recordings, which then need one table."""
    files = one.source not in ("synthetic", "tfds") and not one.windows
    ignored = OF_USE + (OF_OTHERS if files else ())
    return all(one[key] == other[key] for key in one if key not in ignored)


def load(data: ConfigDict) -> Recordings:
    """Returns the recordings that `data.source` names.

    Raises:
      UserError: an unknown, missing or empty source, a malformed manifest, labels that do not fit
        `data.multi_label`, or names that do not fit `data.label_pattern`, `fold_pattern` or
        `group_pattern`.
    """
    if data.source not in SOURCES:
        raise UserError(
            f"data.source: there is no source '{data.source}'{nearest(data.source, SOURCES)}"
        )
    recordings = SOURCES[data.source](data)
    if not len(recordings):
        raise UserError(f"data.source={data.source}: no recordings in '{data.path or data.name}'")
    recordings = channels.choose(patterns.apply(recordings, data), data.channel)
    return labels.checked(recordings, data.multi_label)
