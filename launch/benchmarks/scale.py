"""Data sets of millions of clips: how long until the first batch, and how much memory it takes.

    python launch/benchmarks/scale.py --output scale.json      # 2,000,000 clips, 2,000 shards
    python launch/benchmarks/scale.py --only shards --clips 100000

manifest: a CSV of files that are all there, two stages; segments: a CSV of parts of few files;
shards: ArrayRecord with a JSON of rows beside each shard. Of each: from the start of Python to the
first batch of training, as `sacjax train` comes to it, and the most resident memory until then.
evaluation: the memory that an evaluation of the objective takes for ever more clips. reading: clips
that a core gives from ArrayRecord, and what a host of a pod must feed.

One thread does nearly all before the first batch, so that `core_seconds` is what the clock
(`seconds`) says on a machine that does nothing else: it is what the limit is for. Files are hard
links of a few, and shards of one, so that the disk holds
little.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, whose ssl.py would hide Python's own
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import soundfile
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import errors
from sacjax.data import pipeline, sources
from sacjax.data.prepare import prepare

RATE = 16000
CLASSES = 527  # AudioSet's
LINKS = 20_000  # of one file; file systems allow some 65,000
A_FOLDER = 1000  # files
MOST_SECONDS, MOST_MEBIBYTES = 60.0, 2048.0


def write_files(folder: Path, clips: int) -> list[str]:
    """Writes so many files of a second, all links of a few; returns their names."""
    names = [f"{k // A_FOLDER:05d}/{k:07d}.wav" for k in range(clips)]
    for k, name in enumerate(names):
        if k % A_FOLDER == 0:
            (folder / name).parent.mkdir()
        if k % LINKS == 0:
            noise = np.random.default_rng(k).normal(0, 0.1, RATE)
            soundfile.write(folder / name, noise, RATE, subtype="PCM_16")
            first = folder / name
        else:
            os.link(first, folder / name)
    return names


def write_manifest(folder: Path, clips: int) -> Path:
    """Writes a CSV of files with labels; returns it."""
    lines = (f"{name},class{k % CLASSES}\n" for k, name in enumerate(write_files(folder, clips)))
    return _write(folder / "list.csv", "filename,label\n", lines)


def write_segments(folder: Path, clips: int) -> Path:
    """Writes a CSV of parts of a thousand files, with a split of the data set's own."""
    names, each = write_files(folder, min(clips, A_FOLDER)), -(-clips // A_FOLDER)
    split = ("train",) * 8 + ("validation", "test")
    lines = (
        f"{names[k // each]},class{k % CLASSES},{split[k // each % 10]},"
        f"{k % each / each * 0.9:.5f},{k % each / each * 0.9 + 0.1:.5f}\n"
        for k in range(clips)
    )
    return _write(folder / "list.csv", "filename,label,split,start,end\n", lines)


def _write(path: Path, head: str, lines: Any) -> Path:
    with open(path, "w") as file:
        file.write(head)
        file.writelines(lines)
    return path


def write_shards(folder: Path, clips: int, shards: int, seconds: float = 1.0) -> Path:
    """Prepares one shard, and links it under the names of all; returns the folder."""
    each, one = -(-clips // shards), folder / "one"
    (folder / "files").mkdir()
    data = data_of("folder", folder / "files")
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE))
    for k in range(each):
        path = folder / "files" / f"{k:05d}.wav"
        if k == 0:
            soundfile.write(path, noise, RATE, subtype="PCM_16")
        else:
            os.link(folder / "files" / "00000.wav", path)
    meta = prepare(sources.load(data), data, one, per_shard=each)
    shard = json.loads((one / meta["shards"][0]).with_suffix(".json").read_text())
    out = folder / "shards"
    out.mkdir()
    meta["shards"] = [f"data-{k:05d}-of-{shards:05d}.array_record" for k in range(shards)]
    meta["class_names"] = [f"class{k}" for k in range(CLASSES)]
    for k, name in enumerate(meta["shards"]):
        os.link(next(one.glob("*.array_record")), out / name)
        rows = [
            row | {"name": f"{k:05d}/{row['name']}", "labels": [f"class{(k + j) % CLASSES}"]}
            for j, row in enumerate(shard["recordings"])
        ]
        (out / name).with_suffix(".json").write_text(json.dumps(shard | {"recordings": rows}))
    (out / "metadata.json").write_text(json.dumps(meta))
    return out


def data_of(source: str, path: Path) -> ConfigDict:
    """Returns a stage's `data` for a source of clips of a second."""
    data = config_lib.stage().data
    data.source, data.path, data.sample_rate, data.seconds = source, str(path), RATE, 1.0
    return data


def first_batch(source: str, path: Path, workdir: Path) -> None:
    """What a process does: all that `sacjax train` does up to the first batch of two stages."""
    from sacjax import compilation, stages
    from sacjax.data.bad_files import BadFiles
    from sacjax.train import sharding

    compilation.start()
    config = config_lib.default(pretrain=config_lib.stage(), finetune=config_lib.stage())
    for name in config.stages:
        config[name].data = data_of(source, path)
        config[name].model.name = "small_cnn"
        config[name].train.steps = 1000
    config.pretrain.objective.name = "simclr"
    config.finetune.init_from = "pretrain"
    config_lib.override(config, [])
    mesh = sharding.make_mesh(config.mesh)
    prepared: dict[str, stages.Stage] = {}
    for name in config.stages:
        prepared[name] = stages.Stage.prepare(name, config, mesh, workdir, prepared)
    stages.check_leaks(config, prepared)
    for stage in prepared.values():
        batch = next(stage.batches())
        BadFiles(workdir, stage.recordings, 0.05).note(batch)
        assert batch["mask"].all()


def evaluation(path: Path, clips: int) -> None:
    """What a process does: the sums of an objective over the windows of so many clips."""
    from sacjax.evaluators import Judged

    class Mean:
        """The mean of what is summed."""

        def summarize(self, sums: Any) -> dict[str, float]:
            return {"loss": float(np.divide(*sums["loss"]))}

    data = data_of("arrayrecord", path)
    recordings = sources.load(data)
    unused: Any = None
    judged = Judged(
        stage=unused,
        seed=0,
        objective=Mean(),
        recordings=recordings,
        parts={},
        batches=lambda chosen: _without_errors(recordings, chosen, data),
        logits=unused,
        embeddings=unused,
        sums=lambda b: {"loss": (np.abs(b["audio"]).sum(), b["mask"].sum())},
    )
    assert judged.evaluate(np.arange(len(recordings))[:clips])["loss"] > 0


def _without_errors(recordings: Any, chosen: np.ndarray, data: ConfigDict) -> Any:
    for batch in pipeline.eval_batches(recordings, chosen, data, 256):
        batch.pop("error")
        yield batch


def peak_mebibytes() -> float:
    """Returns the most resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def reading(path: Path, seconds: float, batches: int) -> dict[str, Any]:
    """Returns how fast batches of crops come from shards, on the cores that there are."""
    data = data_of("arrayrecord", path)
    data.seconds = seconds
    recordings = sources.load(data)
    stream = pipeline.train_batches(recordings, np.arange(len(recordings)), data, 64, seed=0)
    stream = iter(stream)
    for _ in range(8):
        next(stream)
    clock, used = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(stream)
    clock, used = time.perf_counter() - clock, time.process_time() - used
    return dict(
        clips_per_second=64 * batches / clock,
        clips_per_core_second=64 * batches / used,
        seconds_of_sound=seconds,
        shards=len(list(path.glob("*.array_record"))),
    )


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Runs this script's `--child`; returns seconds, of the clock and of the cores, and memory."""
    command = [sys.executable, __file__, "--child", *arguments]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    after, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begin
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return {"seconds": clock, "core_seconds": used} | told


def child(kind: str, *arguments: str) -> None:
    """What the process of `in_a_process` does; the last line that it prints is JSON."""
    if kind == "reading":
        path, seconds, batches = arguments
        print(json.dumps(reading(Path(path), float(seconds), int(batches))))
        return
    if kind == "evaluation":
        evaluation(Path(arguments[0]), int(arguments[1]))
    else:
        with tempfile.TemporaryDirectory() as workdir:
            first_batch(kind, Path(arguments[0]), Path(workdir))
    print(json.dumps({"mebibytes": peak_mebibytes()}))


def measure_first(kind: str, source: str, write: Callable[[Path], Path]) -> list[dict[str, Any]]:
    """Returns the row of a first batch."""
    with tempfile.TemporaryDirectory() as name:
        path = write(Path(name))
        row = in_a_process(source, str(path))
    good = row["core_seconds"] <= MOST_SECONDS and row["mebibytes"] <= MOST_MEBIBYTES
    return [{"what": kind} | row | {"reached": good}]


def measure(args: argparse.Namespace, kind: str) -> list[dict[str, Any]]:
    """Returns the rows of a kind."""
    if kind == "manifest":
        return measure_first(kind, "manifest", lambda folder: write_manifest(folder, args.clips))
    if kind == "segments":
        return measure_first(kind, "manifest", lambda folder: write_segments(folder, args.clips))
    if kind == "shards":
        return measure_first(
            kind, "arrayrecord", lambda folder: write_shards(folder, args.clips, args.shards)
        )
    rows = []
    with tempfile.TemporaryDirectory() as name:
        if kind == "evaluation":
            path = write_shards(Path(name), args.clips // 10, 100)
            for share in (100, 10, 1):
                clips = args.clips // 10 // share
                rows.append({"what": kind, "clips": clips})
                rows[-1] |= in_a_process("evaluation", str(path), str(clips))
            return rows
        for shards in (16, args.shards):
            folder = Path(name) / str(shards)
            folder.mkdir()
            path = write_shards(folder, 8 * args.shards, shards, seconds=12.0)
            for seconds, batches in (("11", "60"), ("1", "200")):  # a record holds all 12 of them
                rows.append({"what": kind} | in_a_process("reading", str(path), seconds, batches))
    return rows


KINDS = ("manifest", "segments", "shards", "evaluation", "reading")


def main(argv: list[str] | None = None) -> int:
    """Measures what is asked for, and writes the JSON after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--clips", type=int, default=2_000_000)
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("scale.json"))
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(*args.child)
        return 0
    rows: list[dict[str, Any]] = []
    for kind in args.only:
        print(f"{kind} …", file=sys.stderr)
        rows += measure(args, kind)
        about = dict(
            date=time.strftime("%Y-%m-%d"), cores=pipeline.cores(), load=os.getloadavg()[0]
        )
        result = dict(machine=about, clips=args.clips, shards=args.shards, rows=rows)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        told = {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()}
        print(", ".join(f"{key} {value}" for key, value in told.items()))
    return 0


if __name__ == "__main__":
    errors.run(main)
