"""Turns any source into ArrayRecord shards that train fast and move easily.

    python -m sacjax.prepare --config FILE[:ARG] [--config.STAGE.data.key=value] --output DIR
    python -m sacjax.prepare --folder DIR | --manifest FILE --output DIR

Read the result with `data.source='arrayrecord'`, `data.path=DIR`. Names, labels, folds, splits and groups are kept; so are
sample rates and channels unless `--sample-rate` or `--mono` say otherwise. What could not be decoded is in `DIR/skipped.csv`.
A run that was stopped goes on by the same command: finished shards are verified by their checksums and kept.
"""

import argparse
import csv
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from array_record.python.array_record_module import ArrayRecordWriter
from ml_collections import ConfigDict
from tqdm import tqdm

from sacjax import config as config_lib
from sacjax import errors
from sacjax.data.recordings import Clip, Recordings
from sacjax.data.sources import files as sources
from sacjax.data.sources.array_record import BLOCK, METADATA
from sacjax.errors import UserError


@dataclasses.dataclass
class Job:
    """All that a worker needs."""

    recordings: Recordings
    folder: Path
    fingerprint: str  # of the recordings and options; a shard of another is not kept
    per_shard: int
    sample_rate: int  # 0 = each clip's own
    mono: bool

    @property
    def shards(self) -> list[str]:
        """The shards' file names."""
        n = -(-len(self.recordings) // self.per_shard)
        return [f"data-{k:05d}-of-{n:05d}.array_record" for k in range(n)]


def pcm_blocks(
    clip: Clip, sample_rate: int = 0, mono: bool = False, block: int = BLOCK
) -> Iterator[np.ndarray]:
    """Yields a clip as int16 [n, channels], n = `block` but for the last; holds a few blocks in memory, however long the clip.

    Raises:
      ValueError: samples that are not finite.
    """
    rate, position, channels, resampler, ended = clip.sample_rate, 0, 1, None, False
    rest = np.zeros([0, 0], np.float32)
    while not ended:
        x = clip.read(position, block)
        if not len(x):  # an end may not know how many channels there were
            x = np.zeros([0, channels], np.float32)
        position, channels = position + len(x), x.shape[1]
        ended = len(x) < block
        if not np.isfinite(x).all():
            raise ValueError("samples that are not finite")
        if mono:
            x = x.mean(axis=1, keepdims=True)
        if sample_rate and sample_rate != rate:
            resampler = resampler or soxr.ResampleStream(
                rate, sample_rate, x.shape[1], dtype="float32"
            )
            x = resampler.resample_chunk(np.ascontiguousarray(x, np.float32), last=ended)
        rest = np.concatenate([rest, x]) if len(rest) else x
        while len(rest) >= block or (ended and len(rest)):
            yield np.clip(np.rint(rest[:block] * 32768), -32768, 32767).astype(np.int16)
            rest = rest[block:]


def _wav(pcm: np.ndarray, sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_finished(job: Job, path: Path) -> bool:
    """Whether a shard is there, whole and of this job."""
    try:
        shard = json.loads(path.with_suffix(".json").read_text())
        good = shard["fingerprint"] == job.fingerprint and path.stat().st_size == shard["bytes"]
        return good and _checksum(path) == shard["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_shard(job: Job, k: int, tick: Any = None) -> None:
    """Writes shard k with its JSON file, unless it is there already. Each appears under its name only when it is whole."""
    tick = tick or (lambda: None)
    path, source = job.folder / job.shards[k], job.recordings
    indices = range(k * job.per_shard, min((k + 1) * job.per_shard, len(source)))
    if _is_finished(job, path):
        for _ in indices:
            tick()
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    rows, skipped, records = [], [], 0
    writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed,max_parallelism:1")
    for i in indices:
        first, samples, channels, rate, reason = records, 0, 0, 0, ""
        blocks: Iterator[np.ndarray] = iter(())
        while (
            True
        ):  # only opening and reading a clip may fail and be skipped; a failing disk may not
            try:
                if not rate:
                    clip = source.open(i)
                    rate = job.sample_rate or clip.sample_rate
                    blocks = pcm_blocks(clip, job.sample_rate, job.mono)
                pcm = next(blocks, None)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                break
            if pcm is None:
                reason = "" if samples else "it has no samples"
                break
            writer.write(_wav(pcm, rate))
            records, samples, channels = records + 1, samples + len(pcm), pcm.shape[1]
        if reason:  # what was written of it stays in the shard, and no row names it
            skipped.append([source.names[i], " ".join(reason.split())])
        else:
            labels = source.labels[i]  # null is unknown, [] none
            row = {
                "name": source.names[i],
                "labels": None if labels is None else list(labels),
                "first": first,
            }
            row |= {"sample_rate": rate, "samples": samples, "channels": channels}
            for key, column in (
                ("fold", source.folds),
                ("split", source.splits),
                ("group", source.groups),
            ):
                if column is not None:
                    row[key] = column[i] if key != "fold" else int(column[i])
            rows.append(row)
        tick()
    writer.close()
    side = {
        "fingerprint": job.fingerprint,
        "bytes": partial.stat().st_size,
        "sha256": _checksum(partial),
    }
    os.replace(partial, path)
    _write_json(
        path.with_suffix(".json"),
        side | {"records": records, "recordings": rows, "skipped": skipped},
    )


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(value, ensure_ascii=True) + "\n")
    os.replace(partial, path)


_worker: dict[str, Any] = {}


def _start_worker(job: Job, counter: Any) -> None:
    """Keeps the job, which may be large, once a process; a worker whose parent was killed ends itself."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    def tick() -> None:
        with counter.get_lock():
            counter.value += 1

    _worker.update(job=job, tick=tick)
    threading.Thread(target=watch, daemon=True).start()


def _work(k: int) -> None:
    write_shard(_worker["job"], k, _worker["tick"])


def _run(job: Job, workers: int) -> None:
    """Writes all shards, with a progress bar."""
    count = len(job.shards)
    with tqdm(total=len(job.recordings), unit="clip", desc="preparing") as bar:
        if workers <= 1 or count == 1:
            for k in range(count):
                write_shard(job, k, bar.update)
            return
        context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
        counter = context.Value("q", 0)
        pool = ProcessPoolExecutor(min(workers, count), context, _start_worker, (job, counter))
        try:
            todo = {pool.submit(_work, k) for k in range(count)}
            while todo:
                done, todo = wait(todo, timeout=0.2, return_when=FIRST_COMPLETED)
                if counter.value > bar.n:
                    bar.update(counter.value - bar.n)
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed (out of memory?): use fewer --workers and run again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _fingerprint(recordings: Recordings, data: ConfigDict, options: list) -> str:
    """Returns a digest of what will be written: names and labels, the files' sizes and times, and the options."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(json.dumps(value, default=str).encode() + b"\n")

    add(
        [1, BLOCK, options, data.source, data.name, os.path.abspath(data.path) if data.path else ""]
    )
    if data.source in ("synthetic", "tfds"):  # these settings change what such a source's clips are
        add([data.sample_rate, data.seconds, data.examples, data.split_seed])
    add(recordings.class_names)
    for column in (
        recordings.names,
        recordings.labels,
        recordings.folds,
        recordings.splits,
        recordings.groups,
    ):
        add(column)
    for path in recordings.paths or ():
        try:
            stat = os.stat(path)
            add([stat.st_size, stat.st_mtime_ns])
        except OSError:
            add(None)
    return digest.hexdigest()


def prepare(
    recordings: Recordings,
    data: ConfigDict,
    output: str | Path,
    workers: int = 1,
    per_shard: int = 0,
    sample_rate: int = 0,
    mono: bool = False,
) -> dict[str, Any]:
    """Writes recordings as ArrayRecord shards into a folder; goes on where an earlier call was stopped.

    Args:
      data: the data config that the recordings came from.
      workers: processes.
      per_shard: recordings a shard; 0 makes 16 shards, or more where they would hold over 256 recordings.
      sample_rate: resample to it (Hz); 0 keeps each clip's own.
      mono: down-mix.

    Returns:
      What `metadata.json` holds: 'recordings' and 'skipped' are numbers, 'seconds' the sum of durations.

    Raises:
      UserError: the folder holds something else or cannot be written, or nothing could be decoded.
    """
    folder = Path(output)
    per_shard = per_shard or min(max(-(-len(recordings) // 16), 1), 256)
    fingerprint = _fingerprint(recordings, data, [per_shard, sample_rate, mono])
    job = Job(recordings, folder, fingerprint, per_shard, sample_rate, mono)
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
                    f"--output {folder} holds another data set, other options, or an older state of the files: delete it or name another"
                )
        elif any(folder.iterdir()):
            raise UserError(
                f"--output {folder} is not empty and was not written by sacjax.prepare: name another folder"
            )
        for left in folder.glob("*.partial"):
            left.unlink()
        _write_json(plan, {"fingerprint": fingerprint})
        _run(job, workers)
        return _finish(job)
    except (OSError, RuntimeError) as error:
        raise UserError(f"--output {folder} cannot be written: {error}") from error


def _finish(job: Job) -> dict[str, Any]:
    """Writes `skipped.csv` and, last, `metadata.json`: the sign that all is there."""
    kept, seconds, skipped = 0, 0.0, []
    for name in job.shards:
        shard = json.loads((job.folder / name).with_suffix(".json").read_text())
        kept += len(shard["recordings"])
        seconds += sum(row["samples"] / row["sample_rate"] for row in shard["recordings"])
        skipped += shard["skipped"]
    partial = job.folder / "skipped.csv.partial"
    with open(partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([["file", "reason"], *skipped])
    os.replace(partial, job.folder / "skipped.csv")
    if not kept:
        raise UserError(
            f"none of the {len(job.recordings)} recordings could be decoded: see {job.folder / 'skipped.csv'}"
        )
    meta: dict[str, Any] = {
        "version": 2,  # 2: null is an unknown label
        "block": BLOCK,
        "class_names": list(job.recordings.class_names),
        "shards": job.shards,
    }
    meta |= {"recordings": kept, "skipped": len(skipped), "seconds": round(seconds, 3)}
    _write_json(job.folder / METADATA, meta)
    return meta


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, `--folder`, `--manifest` (one of them) and `--stage`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--config", metavar="FILE[:ARG]", help="config file; --config.key=value overrides"
    )
    source.add_argument(
        "--folder", metavar="DIR", help="DIR/<label>/**/*, or files without a label directly in DIR"
    )
    source.add_argument("--manifest", metavar="FILE", help="CSV, TSV or JSONL with filename,label")
    parser.add_argument(
        "--stage", default="", help="whose data to read (default: the config's first stage)"
    )


def stage_from_flags(args: argparse.Namespace, unknown: list[str]) -> ConfigDict:
    """Returns the stage config that the flags of `add_source_flags` name. Raises UserError."""
    if args.config:
        config = config_lib.from_flags(args, unknown)
        name = args.stage or config.stages[0]
        if name not in config.stages:
            raise UserError(
                f"--stage: the config has no stage '{name}'{errors.nearest(name, config.stages)}"
            )
        return config[name]
    config = config_lib.default()
    config.supervised.data.source = "folder" if args.folder else "manifest"
    config.supervised.data.path = args.folder or args.manifest
    return config_lib.override(config, config_lib.overrides_from(unknown)).supervised


def main(argv: list[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        "sacjax.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_source_flags(parser)
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for shards and metadata"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--per-shard", type=int, default=0, help="recordings a shard (default: up to 256)"
    )
    parser.add_argument(
        "--sample-rate", type=int, default=0, help="resample to it, Hz (default: keep)"
    )
    parser.add_argument("--mono", action="store_true", help="down-mix to one channel")
    args, unknown = parser.parse_known_args(argv)
    data = stage_from_flags(args, unknown).data
    for name, least in (("workers", 1), ("per_shard", 0), ("sample_rate", 0)):
        if getattr(args, name) < least:
            raise UserError(
                f"--{name.replace('_', '-')} is {getattr(args, name)}: it must be at least {least}"
            )
    meta = prepare(
        sources.load(data),
        data,
        args.output,
        args.workers,
        args.per_shard,
        args.sample_rate,
        args.mono,
    )
    print(
        f"{meta['recordings']} recordings ({meta['seconds'] / 60:.1f} min) of {len(meta['class_names'])} classes "
        f"in {len(meta['shards'])} shards: {args.output}"
    )
    if meta["skipped"]:
        print(f"{meta['skipped']} skipped: {Path(args.output) / 'skipped.csv'}")
    return 0


if __name__ == "__main__":
    errors.run(main)
