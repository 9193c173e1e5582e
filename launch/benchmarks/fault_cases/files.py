"""Broken sound files, and a checkpoint that was cut short."""

import csv
import json
import random
import shutil
from pathlib import Path

import numpy as np
import soundfile as sf

from launch.benchmarks.fault_cases import runs
from launch.benchmarks.fault_cases.runs import STAGE, Line


def broken(root: Path, count: int) -> Line:
    """A corpus of which a part cannot be decoded, in every way that files are broken."""
    data, workdir = runs.tones(root / "broken_sounds", 95), root / "broken"
    kinds = dict(list(_broken_files((data / "low" / "000.wav").read_bytes()).items())[:count])
    for name, content in kinds.items():
        path = data / "low" / f"broken_{name}.wav"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            sf.write(path, content, 8000, subtype="FLOAT")
    runs.finish(runs.command(data, workdir, train__steps=200, data__max_bad_fraction=0.1))
    with open(workdir / "bad_files.csv", newline="") as file:
        listed = {Path(row["file"]).name for row in csv.DictReader(file)}
    wanted = {f"broken_{name}.wav" for name in kinds}
    accuracy = json.loads((workdir / "results.json").read_text())[STAGE]["test/accuracy"]
    return Line(
        f"{len(wanted)} broken files of {190 + len(wanted)}",
        "trains through, all are listed",
        f"{len(listed & wanted)} of {len(wanted)} listed, {len(listed - wanted)} others; test "
        f"accuracy {100 * accuracy:.0f} %",
        listed == wanted,
    )


def _broken_files(whole: bytes) -> dict[str, bytes | np.ndarray]:
    """Returns {what is broken: a file's bytes, or its samples}."""
    loud = np.zeros(4000, np.float32)
    loud[::7] = np.nan
    return dict(
        empty=b"",
        header=whole[:44],
        text=b"no audio at all",
        cut=whole[:20],
        nan=loud,
        infinite=np.full(4000, np.inf, np.float32),
        silence_of_no_length=np.zeros(0, np.float32),
        noise=bytes(range(256)) * 8,
        flac=b"fLaC" + whole[4:200],
        ogg=b"OggS" + whole[4:200],
    )


def cut(root: Path, count: int) -> Line:
    """The last checkpoint loses the end of one of its files."""
    data, workdir, kept = runs.tones(root / "sounds"), root / "cut", root / "cut_kept"
    changes = dict(train__steps=200, config__checkpoint__every=100)
    runs.finish(runs.command(data, workdir, **changes))
    shutil.copytree(workdir, kept, dirs_exist_ok=True)
    files = sorted(
        path
        for path in (runs.checkpoints(kept) / "200").rglob("*")
        if path.is_file() and path.stat().st_size > 100
    )
    fell_back, chosen = 0, random.Random(0).sample(files, min(count, len(files)))
    for path in chosen:
        shutil.rmtree(workdir)
        shutil.copytree(kept, workdir)
        runs.unfinish(workdir)
        spoiled = workdir / path.relative_to(kept)
        spoiled.write_bytes(spoiled.read_bytes()[: spoiled.stat().st_size // 2])
        said = runs.finish(runs.command(data, workdir, **changes))
        fell_back += runs.resumed_at(said) in (100, 200)
    same = runs.without_time(kept) == runs.without_time(workdir)
    return Line(
        f"{len(chosen)} files of the last checkpoint cut in half",
        "the one before is used",
        f"{fell_back} of {len(chosen)} went on, from a checkpoint that is whole; the log is "
        f"{'the same' if same else 'ANOTHER'}",
        fell_back == len(chosen) and same,
    )
