"""Files that could not be decoded: counted, listed with the reason, and a stop when there are too many."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from sacjax.data.recordings import Recordings
from sacjax.errors import UserError


def host_table(workdir: Path, name: str) -> Path:
    """Returns where this host keeps its table of the workdir: `<name>.csv`, of another host than the first `<name>.<host>.csv`."""
    host = jax.process_index()
    return Path(workdir) / (f"{name}.{host}.csv" if host else f"{name}.csv")


def read_table(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a table of file names, which may be of any bytes; none where there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table of file names whole, or not at all."""
    partial = path.with_suffix(".partial")
    with open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    os.replace(partial, path)


class BadFiles:
    """Collects the `error` column of batches into `<workdir>/bad_files.csv` (columns file, reason)."""

    def __init__(self, workdir: Path, recordings: Recordings, max_fraction: float):
        self.path = host_table(workdir, "bad_files")
        self.recordings, self.max_fraction = recordings, max_fraction
        self.found = {row["file"]: row["reason"] for row in read_table(self.path)}
        self.written = len(self.found)
        self.names = set(recordings.names)

    def note(self, batch: dict[str, Any]) -> None:
        """Takes `error` out of a host batch and remembers each new bad file.

        Raises:
          UserError: more than `max_fraction` of the recordings are bad by now.
        """
        for index, error in zip(batch["index"], batch.pop("error"), strict=True):
            if error:
                self.found.setdefault(
                    self.recordings.names[int(index)], " ".join(str(error).split())
                )
        if len(self.found) > self.written:
            bad = len(self.names & set(self.found))
            if bad > self.max_fraction * len(self.recordings):
                self.flush()
                raise UserError(
                    f"{bad} of {len(self.recordings)} files cannot be decoded, more than data.max_bad_fraction="
                    f"{self.max_fraction:g} of them; they are listed in {self.path}"
                )

    def flush(self) -> None:
        """Writes the list, whole and at once."""
        if len(self.found) == self.written:
            return
        write_table(self.path, ("file", "reason"), sorted(self.found.items()))
        self.written = len(self.found)
