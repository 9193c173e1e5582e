"""The folder that `sacjax prepare` writes: whose it is, what of it is whole, and what ends it."""

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sacjax import io as files
from sacjax.data.sources.array_record import BLOCK, METADATA
from sacjax.errors import UserError


@contextlib.contextmanager
def writing_into(folder: Path, fingerprint: str) -> Iterator[None]:
    """Makes the folder, or checks that it is of the same job, and removes what was not finished.

    Raises:
      UserError: the folder holds something else, or cannot be written, also by what runs within.
    """
    plan = folder / "plan.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if plan.is_file():
            try:
                known = json.loads(plan.read_text())["fingerprint"]
            except (ValueError, KeyError, TypeError):
                known = None
            if known != fingerprint:
                raise UserError(
                    f"--output {folder} holds another data set, other options, or an older state "
                    "of the files: delete it or name another"
                )
        elif any(folder.iterdir()):
            raise UserError(
                f"--output {folder} is not empty and was not written by sacjax prepare: "
                "name another folder"
            )
        remove_partial(folder)
        files.write_json(plan, {"fingerprint": fingerprint})
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(f"--output {folder} cannot be written: {error}") from error


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_finished(path: Path, fingerprint: str) -> bool:
    """Whether a shard is there, whole and of the job with that fingerprint."""
    try:
        shard = json.loads(path.with_suffix(".json").read_text())
        good = shard["fingerprint"] == fingerprint and path.stat().st_size == shard["bytes"]
        return good and checksum(path) == shard["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove_partial(folder: Path) -> None:
    """Removes what processes that are no more have left; others may be at work there."""
    for left in folder.glob("*.partial"):
        name, _, process = left.name.removesuffix(".partial").rpartition(".")
        ours = name.endswith(f".{socket.gethostname()}") and process.isdecimal()
        # Another host's is old when nothing was written to it for an hour.
        if not _is_alive(int(process)) if ours else left.stat().st_mtime < time.time() - 3600:
            left.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Whether another process of this host has that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def finish(folder: Path, names: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """Writes `skipped.csv` and, last, `metadata.json`, the sign that all is there; returns that."""
    shards = [json.loads((folder / name).with_suffix(".json").read_text()) for name in names]
    rows = [row for shard in shards for row in shard["recordings"]]
    skipped = [row for shard in shards for row in shard["skipped"]]
    cut = [row for shard in shards for row in shard.get("cut", ())]
    listed = folder / "skipped.csv"
    files.write_csv(listed, ("file", "reason"), skipped + cut, errors="backslashreplace")
    if not rows:
        raise UserError(f"none of the {len(skipped)} recordings could be decoded: see {listed}")
    meta: dict[str, Any] = {
        "version": 2,  # 2: null is an unknown label
        "block": BLOCK,
        "class_names": list(class_names),
        "shards": list(names),
    }
    seconds = sum(row["samples"] / row["sample_rate"] for row in rows)
    meta |= {"recordings": len(rows), "skipped": len(skipped), "cut_short": len(cut)}
    meta["seconds"] = round(seconds, 3)
    files.write_json(folder / METADATA, meta)
    return meta
