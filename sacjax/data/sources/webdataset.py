"""Tar files as WebDataset writes them: a sample is the files of one key, the audio among them.

They are not unpacked. Their headers are read once, and a clip is then read where it lies, so that
clips can be shuffled like those of any other source.
"""

import contextlib
import dataclasses
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sacjax.data import patterns
from sacjax.data.recordings import Clip, Recordings
from sacjax.data.retry import RetriedFile
from sacjax.data.sources import official, pyav
from sacjax.data.sources.files import LIBSNDFILE, open_content
from sacjax.errors import UserError

SOUNDS = LIBSNDFILE | pyav.EXTENSIONS
TEXTS = ("cls", "txt")  # files of a sample that say its label
MOST_BYTES = 1 << 20  # of a text or JSON file


@dataclasses.dataclass
class Sample:
    """The files of one key: where the sound lies, and what the others say."""

    name: str = ""  # of the sound within the tar file
    start: int = 0  # byte
    size: int = 0  # bytes
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class OpenMembers:
    """Opens a sound file within a tar file."""

    def __init__(self, paths: list[str], names: list[str], places: list[tuple[int, int]]):
        """Takes each clip's tar file, its name there, and its (first byte, bytes)."""
        self.paths, self.names, self.places = paths, names, places

    def __call__(self, i: int) -> Clip:
        """Returns the clip. Raises whatever a bad file makes its decoder raise."""
        start, size = self.places[i]
        content = RetriedFile(self.paths[i], skip=start)
        found = content.read(size)
        content.check()
        if len(found) < size:
            raise OSError("the tar file ends within it")
        return open_content(found, self.names[i])


def load_webdataset(data: ConfigDict) -> Recordings:
    """Reads the tar files in the folder `data.path`, or the one that it names.

    A key is a file's path up to the first dot of its last part, as in WebDataset. A sample has one
    sound (`.wav`, `.flac`, `.ogg` or what else libsndfile reads; by PyAV `.m4a`, `.mp4`, `.webm`
    …, where none of the others is beside them), or that of the ending `data.audio_column`. Its
    label is the text in `.cls`, or else in `.txt`, or else under `label` in `.json`;
    `data.label_column` names one of those (cls, txt, or a key of the JSON), as `group_column` and
    `fold_column` do. An empty text is unknown, or no label if `data.empty_label` says so. Tar files
    or folders called train…, valid…, val…, dev…, test… or eval… are official splits if all are
    called so and not all the same.

    Raises:
      UserError: no tar files, one that is damaged or compressed, JSON that cannot be read, or
        several sounds in a sample.
    """
    root = Path(data.path)
    tars = [root] if root.is_file() else sorted(root.rglob("*.tar"))
    if not data.path or not tars:
        packed = [p for p in root.rglob("*.tar.*") if p.is_file()] if data.path else []
        advice = f": unpack '{packed[0].name}' by gunzip or the like" if packed else ""
        raise UserError(f"data.path: there are no .tar files in '{data.path}'{advice}")
    samples: list[Sample] = []
    names, paths, splits = list[str](), list[str](), list[str | None]()
    for path in tars:
        below = path.name if root.is_file() else path.relative_to(root).as_posix()
        own = [s for s in samples_of(path, data.audio_column) if s.name]
        samples += own
        names += [f"{below}/{sample.name}" for sample in own]
        paths += [os.path.abspath(path)] * len(own)
        splits += [official.part_of(below)] * len(own)
    parts = None if None in splits or len(set(splits)) < 2 else [str(part) for part in splits]
    known = list(dict.fromkeys(key for sample in samples for key in sample.facts))
    label = _column("label", data.label_column, known, (*TEXTS, "label"))
    group = _column("group", data.group_column, known, official.GROUPS)
    fold = _column("fold", data.fold_column, known, ("fold",))
    labels = [_labels(sample.facts.get(label), data.empty_label) for sample in samples]
    groups = [_text(sample.facts.get(group)) for sample in samples] if group else None
    if not data.group_column:
        groups = official.unless_shared(data.path, groups, parts)
    folds = [_text(sample.facts.get(fold)) for sample in samples] if fold else []
    if "" in folds:
        raise UserError(f"data.path: '{names[folds.index('')]}' has no {fold}, but others have")
    return Recordings(
        names=names,
        labels=labels,
        class_names=tuple(sorted({one for own in labels for one in own or ()})),
        open=OpenMembers(
            paths,
            [sample.name for sample in samples],
            [(sample.start, sample.size) for sample in samples],
        ),
        folds=patterns.number_folds(folds, f"{data.path}, {fold}") if folds else None,
        splits=parts,
        groups=groups,
    )


def samples_of(path: Path, audio: str = "") -> list[Sample]:
    """Returns the samples of a tar file in its order; of those without sound, `name` is ''.

    Args:
      path: of the tar file.
      audio: the ending of the sound, without a dot; '': whatever is a sound, but of a film beside
        a sound file that one.

    Raises:
      UserError: it cannot be read, or a sample has several sounds.
    """
    found: dict[str, Sample] = {}
    for name, member, file in _members(path):
        folder, slash, base = name.rpartition("/")
        key, _, ending = base.partition(".")
        sample = found.setdefault(folder + slash + key, Sample())
        ending = ending.lower()
        is_sound = "." + ending.rpartition(".")[2] in SOUNDS
        if ending == audio if audio else is_sound:
            if not audio and sample.name and _plain(name) != _plain(sample.name):
                if not _plain(name):  # the film of a sound
                    continue
            elif sample.name:
                raise UserError(
                    f"{path}: '{sample.name}' and '{name}' are sounds of one sample: choose by "
                    "data.audio_column, the ending"
                )
            sample.name, sample.start, sample.size = name, member.offset_data, member.size
        elif ending in (*TEXTS, "json") and member.size <= MOST_BYTES:
            content = file.extractfile(member)
            assert content is not None  # it is a file
            sample.facts |= _facts(path, name, ending, content.read())
    return list(found.values())


def _plain(name: str) -> bool:
    """Returns whether a file's ending is one that libsndfile reads."""
    return "." + name.lower().rpartition(".")[2] in LIBSNDFILE


def _members(path: Path) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
    """Yields (name, header, its tar file) of the files in a tar file."""
    try:
        with tarfile.open(path, "r:") as file:
            for member in file:
                if member.isreg() and not member.issparse():
                    yield member.name.removeprefix("./"), member, file
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path} cannot be read as an uncompressed tar file: {error}") from error


def _facts(path: Path, name: str, ending: str, content: bytes) -> dict[str, Any]:
    """Returns what a text or JSON file says, by key."""
    try:
        text = content.decode("utf-8-sig").strip()
        if ending != "json":
            return {ending: text}
        said = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: '{name}' cannot be read: {error}") from error
    with contextlib.suppress(AttributeError):
        return dict(said.items())
    raise UserError(f"{path}: '{name}' is no JSON object")


def _column(what: str, asked: str, known: Sequence[str], usual: Sequence[str]) -> str:
    """Returns the key that is the label, group or fold; '' for none."""
    if asked and asked not in known:
        has = ", ".join(known[:10]) or "nothing but sound"
        raise UserError(f"data.{what}_column: no sample has '{asked}'; they have {has}")
    return asked or next((key for key in usual if key in known), "")


def _labels(said: Any, empty: str) -> tuple[str, ...] | None:
    if said is None:
        return None
    if isinstance(said, list):
        return tuple(dict.fromkeys(_text(one) for one in said if one not in (None, "")))
    return (_text(said),) if said != "" else (() if empty == "none" else None)


def _text(said: Any) -> str:
    return "" if said is None else str(said)
