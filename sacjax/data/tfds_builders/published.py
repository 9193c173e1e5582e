"""Base of sacjax's TFDS builders: published files become PCM16 ArrayRecords.

The files lie in a folder or in a downloaded zip. TFDS runs without TensorFlow here; only its Audio
feature would import it, see `_without_tensorflow`.
"""

import functools
import hashlib
import io
import logging
import os
import shutil
import socket
import types
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import soundfile
import soxr
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.features import audio_feature
from tqdm import tqdm

from sacjax.errors import UserError

MAX_FILE = 1 << 28  # bytes; a larger member of a published zip is not what was published


def _without_tensorflow() -> None:
    """Makes TFDS's Audio feature work without TensorFlow, whether it is installed or not.

    The feature looks up two dtypes in TensorFlow when it is constructed, and its lazy decoder
    imports tensorflow_io, which is not used here.
    """
    audio_feature.tf = types.SimpleNamespace(
        string=np.object_, dtypes=types.SimpleNamespace(as_dtype=np.dtype)
    )
    audio_feature._LazyDecoder.__init__ = audio_feature._AudioDecoder.__init__


_without_tensorflow()


def pcm16(sample_rate: int) -> tfds.features.Audio:
    """Returns an Audio feature of mono int16 samples.

    They are stored as bytes: TFDS's default, varints, takes three times the space.
    """
    feature = tfds.features.Audio(
        shape=(None,), dtype=np.int16, sample_rate=sample_rate, encoding="bytes"
    )
    # Audio would pass arrays on without the encoding, and ask TensorFlow for its dtype; Tensor does
    # neither.
    feature.encode_example = functools.partial(tfds.features.Tensor.encode_example, feature)
    feature.__dict__["dtype"] = np.int16
    return feature


class Layout:
    """The files of a published data set, in a folder or in a zip that is never extracted.

    Names are POSIX paths relative to the data set's root. A zip's single top folder, which GitHub's
    archives have, is not part of them.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.zip: zipfile.ZipFile | None = None
        if self.root.is_file():
            try:
                self.zip = zipfile.ZipFile(self.root)
            except zipfile.BadZipFile as error:
                raise UserError(
                    f"{root}: not a complete zip archive; delete it and run again"
                ) from error
            files = [info for info in self.zip.infolist() if not info.is_dir()]
            tops = {info.filename.split("/")[0] for info in files}
            skip = (
                len(tops.pop()) + 1
                if len(tops) == 1 and all("/" in info.filename for info in files)
                else 0
            )
            self.members = {info.filename[skip:]: info for info in files}
        elif not self.root.is_dir():
            raise UserError(f"data.path: there is no folder {root}")

    def folder(self, name: str) -> list[str]:
        """Returns the sorted names of the files directly in a folder."""
        if self.zip:
            return sorted(n for n in self.members if str(PurePosixPath(n).parent) == name)
        found = self.root / name
        return (
            sorted(f"{name}/{p.name}" for p in found.iterdir() if p.is_file())
            if found.is_dir()
            else []
        )

    def read(self, name: str) -> bytes:
        """Returns a file's bytes.

        Raises:
          UserError: the name leaves the data set's root, or there is no such file.
        """
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise UserError(
                f"{self.root}: the file name '{name}' leaves the data set's folder: refused"
            )
        try:
            if self.zip is None:
                return (self.root / path).read_bytes()
            info = self.members[name]
            if info.file_size > MAX_FILE:
                raise UserError(f"{self.root}: '{name}' unpacks to {info.file_size} bytes: refused")
            return self.zip.read(info)
        except (KeyError, FileNotFoundError) as error:
            raise UserError(f"{self.root}: there is no file '{name}' in it") from error
        except zipfile.BadZipFile as error:
            raise UserError(
                f"{self.root}: '{name}' is damaged; delete the archive and run again"
            ) from error


def fingerprint(root: str | Path, folders: tuple[str, ...]) -> str:
    """Returns 12 hex digits that identify the files of a local data set.

    They change when a file is added, removed or changed.
    """
    root = Path(root)
    files = (
        [root]
        if root.is_file()
        else [p for f in folders if (root / f).is_dir() for p in sorted((root / f).iterdir())]
    )
    digest = hashlib.sha256(os.fsencode(os.path.abspath(root)))
    for path in files:
        stat = path.stat()
        digest.update(os.fsencode(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n"))
    return digest.hexdigest()[:12]


def download(url: str, target: Path) -> Path:
    """Downloads a file once, whole or not at all; returns its path.

    Raises:
      UserError: it cannot be reached.
    """
    if target.is_file():
        return target
    partial = target.with_name(f"{target.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as response, open(partial, "wb") as file:
            size = int(response.headers.get("Content-Length") or 0)
            with tqdm.wrapattr(
                response, "read", total=size or None, desc=f"downloading {url}", leave=False
            ) as stream:
                shutil.copyfileobj(stream, file, 1 << 20)
            if size and file.tell() != size:
                raise OSError(f"it broke off after {file.tell()} of {size} bytes")
        os.replace(partial, target)
    except OSError as error:
        raise UserError(
            f"cannot download {url}: {getattr(error, 'reason', error)}; set data.path to a copy of "
            "the published folder"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


class PublishedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS builder that reads a local copy (`path`), or else downloads the published archive.

    A local copy has the published layout. What is prepared from it goes to a folder under
    `data_dir` that is named by the `fingerprint` of the copy, so that two copies never mix.
    """

    URL: str
    FOLDERS: tuple[str, ...]  # of the published layout
    SAMPLE_RATE: int
    # TFDS would find it by importlib_resources, which it does not install.
    code_path = epath.Path(__file__)

    def __init__(self, *, path: str = "", data_dir: str | Path | None = None, **kwargs: Any):
        self.path = path
        root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
        super().__init__(data_dir=self.home(path, root), file_format="array_record", **kwargs)

    @classmethod
    def home(cls, path: str, root: Path) -> Path:
        """Returns TFDS's `data_dir` of a local copy, or of the published archive.

        Args:
          path: the local copy; '' for the published archive.
          root: the folder of all data sets.

        Raises:
          UserError: there is no such local copy.
        """
        if path and not os.path.exists(path):
            raise UserError(f"data.path: there is no folder {path}")
        return root / f"local-{fingerprint(path, cls.FOLDERS)}" if path else root

    def _layout(self, dl_manager: Any) -> Layout:
        if self.path:
            return Layout(self.path)
        return Layout(
            download(self.URL, Path(dl_manager.download_dir) / f"{self.name}-{Path(self.URL).name}")
        )

    def _decode(self, name: str, data: bytes) -> np.ndarray:
        """Returns mono int16 samples [n] at the data set's rate.

        A file that cannot be decoded gives a warning and no samples. Its record stays, so that the
        pipeline counts and lists it like any other bad file.
        """
        try:
            audio, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
            mono = audio.mean(axis=1)
            if rate != self.SAMPLE_RATE:
                mono = soxr.resample(mono, rate, self.SAMPLE_RATE)
            if not np.isfinite(mono).all():
                raise ValueError("samples that are not finite")
            return np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)
        except Exception as error:
            logging.getLogger(__name__).warning("%s: cannot be decoded: %s", name, error)
            return np.zeros(0, np.int16)
