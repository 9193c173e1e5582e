"""What a run survives: updates that are not finite, and a scheduler that takes its machine away."""

import csv
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax

from sacjax.data.recordings import Recordings


class Skipped:
    """Lists the skipped updates and their examples in `<workdir>/skipped_updates.csv` (columns stage, step, files as a|b)."""

    def __init__(self, workdir: Path, stage: str, recordings: Recordings):
        host = jax.process_index()
        self.path = Path(workdir) / (f"skipped_updates.{host}.csv" if host else "skipped_updates.csv")
        self.stage, self.recordings = stage, recordings
        self.recent: dict[int, Any] = {}  # step → this host's examples, since the last log line

    def note(self, step: int, batch: dict[str, Any]) -> None:
        """Remembers the examples of an update."""
        self.recent[step] = batch["index"]

    def write(self, steps: list[int]) -> None:
        """Lists these updates, and forgets the others."""
        if steps:
            rows: dict[tuple[str, int], str] = {}
            if self.path.is_file():  # a run that goes on may come by the same update again
                with open(self.path, newline="", encoding="utf-8", errors="surrogateescape") as file:
                    rows = {(row["stage"], int(row["step"])): row["files"] for row in csv.DictReader(file)}
            for step in steps:
                names = (self.recordings.names[int(i)] for i in self.recent.get(step, ()) if i >= 0)
                rows[self.stage, step] = "|".join(names)
            partial = self.path.with_suffix(".partial")
            with open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.writer(file)
                writer.writerow(["stage", "step", "files"])
                writer.writerows([stage, step, names] for (stage, step), names in sorted(rows.items()))
            os.replace(partial, self.path)
        self.recent.clear()


class Termination:
    """Notices SIGTERM, which schedulers send before they take a machine away, while its `with` lasts."""

    def __init__(self) -> None:
        self.noticed = False
        self.previous: Any = None
        # Between hosts JAX's own service listens, and names a step that all of them reach.
        self.alone = jax.process_count() == 1

    def __enter__(self) -> "Termination":
        if self.alone and threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGTERM, self._notice)
        return self

    def _notice(self, *_: Any) -> None:
        self.noticed = True

    def __exit__(self, *_: Any) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGTERM, self.previous)

    def asked(self, step: int) -> bool:
        """Returns whether to save and end after this step, on every host alike; to be called at each step."""
        if self.alone:
            return self.noticed
        from jax.experimental import multihost_utils

        return bool(multihost_utils.reached_preemption_sync_point(step))
