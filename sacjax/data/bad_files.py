"""Files that could not be decoded: counted, listed with the reason, and a stop when there are too many."""

import csv
import os
from pathlib import Path
from typing import Any

import jax

from sacjax.data.recordings import Recordings
from sacjax.errors import UserError


class BadFiles:
    """Collects the `error` column of batches into `<workdir>/bad_files.csv` (columns file, reason)."""

    def __init__(self, workdir: Path, recordings: Recordings, max_fraction: float):
        host = jax.process_index()
        self.path = Path(workdir) / (f"bad_files.{host}.csv" if host else "bad_files.csv")
        self.recordings, self.max_fraction = recordings, max_fraction
        self.found: dict[str, str] = {}
        if self.path.is_file():
            with open(self.path, newline="", encoding="utf-8", errors="surrogateescape") as file:
                self.found = {row["file"]: row["reason"] for row in csv.DictReader(file)}
        self.written = len(self.found)
        self.names = set(recordings.names)

    def note(self, batch: dict[str, Any]) -> None:
        """Takes `error` out of a host batch and remembers each new bad file.

        Raises:
          UserError: more than `max_fraction` of the recordings are bad by now.
        """
        for index, error in zip(batch["index"], batch.pop("error"), strict=True):
            if error:
                self.found.setdefault(self.recordings.names[int(index)], " ".join(str(error).split()))
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
        partial = self.path.with_suffix(".partial")
        with open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "reason"])
            writer.writerows(sorted(self.found.items()))
        os.replace(partial, self.path)
        self.written = len(self.found)
