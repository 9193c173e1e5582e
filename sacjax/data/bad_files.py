"""Tables of files: those that cannot be decoded, and those that are shorter than they should be."""

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from sacjax import io
from sacjax.data.decode import missing_reason
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError


def host_table(workdir: Path, name: str) -> Path:
    """Returns where this host keeps a table: `<name>.csv`; not the first: `<name>.<host>.csv`."""
    host = jax.process_index()
    return io.to_path(workdir) / (f"{name}.{host}.csv" if host else f"{name}.csv")


def read_table(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a table of file names, of any bytes; none where there is no such file."""
    if not path.is_file():
        return []
    return list(csv.DictReader(io.read_text(path, errors="surrogateescape")))


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table of file names whole, or not at all. Raises UserError where it cannot."""
    io.write_csv(path, header, rows)


class Listing:
    """A table of files and reasons (columns file, reason), one row a file."""

    def __init__(self, path: Path):
        """Reads what an earlier run has written there."""
        self.path = path
        self.found = {row["file"]: row["reason"] for row in read_table(path)}
        self.written = len(self.found)

    def add(self, file: str, reason: str) -> None:
        """Remembers a file, with the first reason given for it."""
        self.found.setdefault(file, " ".join(reason.split()))

    @property
    def grown(self) -> bool:
        """Whether there is more than was written."""
        return len(self.found) > self.written

    def flush(self) -> None:
        """Writes the table, if it has grown, with what others of this host have written there.

        Evaluation lists its files in the same table while training goes on.
        """
        if self.grown:
            there = {row["file"]: row["reason"] for row in read_table(self.path)}
            write_table(self.path, ("file", "reason"), sorted((self.found | there).items()))
            self.written = len(self.found)


class BadFiles:
    """Lists what is wrong with the files of batches.

    `<workdir>/bad_files.csv` has those that cannot be decoded (a batch's `error`) and are left out.
    `<workdir>/cut_short.csv` has those that are shorter than their headers say (its `missing`),
    which are used as they are.
    """

    def __init__(self, workdir: Path, recordings: Recordings, max_fraction: float):
        """Reads the tables of an earlier run. At most `max_fraction` of the files may be bad."""
        self.recordings, self.max_fraction = recordings, max_fraction
        self.bad = Listing(host_table(workdir, "bad_files"))
        self.cut = Listing(host_table(workdir, "cut_short"))
        found = self.bad.found  # of other data sets too
        self.count = sum(name in found for name in recordings.names) if found else 0

    def note(self, batch: dict[str, Any]) -> None:
        """Takes `error` and `missing` out of a host batch and remembers each new file.

        Raises:
          UserError: more than `max_fraction` of the recordings are bad by now.
        """
        errors = batch.pop("error")
        missing = batch.pop("missing", [0.0] * len(errors))
        for index, error, seconds in zip(batch["index"], errors, missing, strict=True):
            if error:
                name = self.recordings.names[int(index)]
                self.count += name not in self.bad.found
                self.bad.add(name, str(error))
            elif seconds:
                self.cut.add(self.recordings.names[int(index)], missing_reason(float(seconds)))
        if self.bad.grown:
            if self.count > self.max_fraction * len(self.recordings):
                self.flush()
                raise UserError(
                    f"{self.count} of {len(self.recordings)} files cannot be decoded, more than "
                    f"data.max_bad_fraction={self.max_fraction:g} of them; they are listed in "
                    f"{self.bad.path}"
                )

    def flush(self) -> None:
        """Writes the tables, each whole and at once."""
        if self.cut.grown and not self.cut.written:
            print(
                f"warning: files are shorter than their headers say; they are used as they are, "
                f"and listed in {self.cut.path}",
                file=sys.stderr,
            )
        self.bad.flush()
        self.cut.flush()
