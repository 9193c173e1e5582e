"""Faults that a run survives: updates that are not finite, and preemption by a scheduler."""

import signal
import threading
from pathlib import Path
from typing import Any

import jax

from sacjax.data.bad_files import host_table, read_table, write_table
from sacjax.data.recordings import Recordings


class Skipped:
    """Lists the skipped updates and their clips in `<workdir>/skipped_updates.csv`.

    Its columns are stage, step and files; the files are joined by `|`.
    """

    def __init__(self, workdir: Path, stage: str, recordings: Recordings):
        self.path = host_table(workdir, "skipped_updates")
        self.stage, self.recordings = stage, recordings
        self.recent: dict[int, Any] = {}  # step → this host's examples, since the last log line

    def note(self, step: int, batch: dict[str, Any]) -> None:
        """Remembers the examples of an update."""
        self.recent[step] = batch["index"]

    def write(self, steps: list[int]) -> None:
        """Adds these updates to the list, and forgets all others."""
        if steps:
            # A resumed run may repeat an update that is listed already.
            rows = {(row["stage"], int(row["step"])): row["files"] for row in read_table(self.path)}
            for step in steps:
                names = (self.recordings.names[int(i)] for i in self.recent.get(step, ()) if i >= 0)
                rows[self.stage, step] = "|".join(names)
            flat = ((stage, step, names) for (stage, step), names in sorted(rows.items()))
            write_table(self.path, ("stage", "step", "files"), flat)
        self.recent.clear()


class Termination:
    """Notices SIGTERM, as a context manager.

    Schedulers send it before they take a machine away.
    """

    def __init__(self) -> None:
        self.noticed = False
        self.previous: Any = None
        # With several hosts JAX's own service listens, and agrees on a step that all of them reach.
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
        """Returns whether to save and end after this step; all hosts get the same answer.

        It must be called at each step.
        """
        if self.alone:
            return self.noticed
        from jax.experimental import multihost_utils

        return bool(multihost_utils.reached_preemption_sync_point(step))
