"""Preparing shards: what it keeps, what it skips, going on after a kill, memory, mistakes."""

import csv
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soxr
from processes import HANG
from sounds import write

from sacjax import config as config_lib
from sacjax.data import prepare, retry, shard_folder, sources
from sacjax.data.recordings import Recordings
from sacjax.data.sources import array_record
from sacjax.data.sources.array_record import load_array_record
from sacjax.errors import UserError

REPO = Path(__file__).parents[2]


class FakeClip:
    """A clip in memory that notes the largest read."""

    def __init__(self, samples: np.ndarray, sample_rate: int):
        self.samples, self.sample_rate, self.num_samples, self.largest = (
            samples,
            sample_rate,
            len(samples),
            0,
        )

    def read(self, start: int, count: int) -> np.ndarray:
        self.largest = max(self.largest, count)
        return self.samples[start : start + count]


class FakeOpen:
    """Opens clips of different lengths, rates and channels; every seventh cannot be opened."""

    def __init__(self, slow: float = 0.0):
        self.slow = slow

    def __call__(self, i: int) -> FakeClip:
        time.sleep(self.slow)
        if i % 7 == 3:
            raise OSError(f"clip {i} is\nbroken")
        samples = np.random.default_rng(i).uniform(-0.9, 0.9, [200 + 37 * i, 1 + i % 2])
        return FakeClip(
            (np.rint(samples * 32768) / 32768).astype(np.float32), 8000 + 1000 * (i % 3)
        )


def fake(n: int = 20, slow: float = 0.0, **columns) -> Recordings:
    labels = [
        ("even" if i % 2 == 0 else "odd", *(["third"] if i % 3 == 0 else [])) for i in range(n)
    ]
    names = [f"é/clip {i}.wav" for i in range(n)]
    return Recordings(
        names=names,
        labels=labels,
        class_names=("odd", "even", "third"),
        open=FakeOpen(slow),
        **columns,
    )


def stage_data(path: str | Path = "x", source: str = "folder") -> object:
    data = config_lib.stage().data
    data.source, data.path = source, str(path)
    return data


def load(folder: Path) -> Recordings:
    return load_array_record(stage_data(folder, "arrayrecord"))


@pytest.mark.parametrize("workers", [1, 2])
def test_round_trip(tmp_path, workers):
    n, out = 20, tmp_path / "out"
    columns = {"folds": [i % 5 + 1 for i in range(n)], "groups": [f"g{i // 4}" for i in range(n)]}
    columns["splits"] = ["train" if i < 15 else "test" for i in range(n)]
    meta = prepare.prepare(fake(n, **columns), stage_data(), out, workers=workers, per_shard=6)
    assert (meta["recordings"], meta["skipped"]) == (17, 3) and len(meta["shards"]) == 4
    got, kept = load(out), [i for i in range(n) if i % 7 != 3]
    assert got.names == [f"é/clip {i}.wav" for i in kept] and got.class_names == (
        "odd",
        "even",
        "third",
    )
    assert got.labels == [fake(n).labels[i] for i in kept]
    assert got.folds == [columns["folds"][i] for i in kept] and got.groups == [
        columns["groups"][i] for i in kept
    ]
    assert got.splits == [columns["splits"][i] for i in kept]
    for k, i in enumerate(kept):
        clip, true = got.open(k), FakeOpen()(i)
        assert (clip.sample_rate, clip.num_samples) == (true.sample_rate, true.num_samples)
        np.testing.assert_array_equal(clip.read(0, 10**6), true.samples)
        np.testing.assert_array_equal(clip.read(50, 30), true.samples[50:80])
        assert clip.read(10**6, 5).shape == (0, 1 + i % 2)
    with open(out / "skipped.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "reason"]
    assert rows[1:] == [[f"é/clip {i}.wav", f"OSError: clip {i} is broken"] for i in (3, 10, 17)]


def test_long_recordings_are_read_and_written_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "BLOCK", 1000)
    monkeypatch.setattr(shard_folder, "BLOCK", 1000)
    samples = (np.random.default_rng(0).integers(-30000, 30000, [5300, 2]) / 32768).astype(
        np.float32
    )
    clip = FakeClip(samples, 8000)
    recordings = Recordings(["a", "b"], [("x",), ("y",)], ("x", "y"), lambda i: clip)
    blocks = list(prepare.pcm_blocks(clip, block=1000))
    assert [len(b) for b in blocks] == [1000] * 5 + [300] and clip.largest == 1000
    monkeypatch.setattr(prepare, "pcm_blocks", lambda c, r, m: (b for b in blocks))
    prepare.prepare(recordings, stage_data(), tmp_path / "out")
    got = load(tmp_path / "out").open(1)
    assert got.num_samples == 5300
    reads = []
    records = got.records

    class Counting:
        def __getitem__(self, k):
            reads.append(k)
            return records[k]

    got.records = Counting()
    for start, count, touched in [
        (0, 5300, 6),
        (999, 2, 2),
        (1000, 1000, 1),
        (5299, 9, 1),
        (5300, 1, 0),
        (5600, 1, 0),
        (2500, 1000, 2),
    ]:
        reads.clear()
        np.testing.assert_array_equal(got.read(start, count), samples[start : start + count])
        assert len(reads) == touched, (start, count)


@pytest.mark.parametrize("rate", [16000, 11025, 4000])
def test_resampling_in_blocks_is_resampling(rate):
    samples = np.random.default_rng(0).standard_normal([9000, 2]).astype(np.float32) * 0.1
    got = np.concatenate(
        list(prepare.pcm_blocks(FakeClip(samples, 8000), rate, mono=True, block=700))
    )
    expected = soxr.resample(samples.mean(1), 8000, rate)
    assert got.shape == (len(expected), 1)
    np.testing.assert_allclose(got[:, 0] / 32768, expected, atol=3 / 32768)


def test_bad_samples_and_empty_clips_are_skipped(tmp_path):
    clips = [
        np.zeros([0, 1], np.float32),
        np.full([9, 1], np.nan, np.float32),
        np.full([9, 1], 3.0, np.float32),
    ]
    recordings = Recordings(
        ["empty", "nan", "loud"], [("x",)] * 3, ("x",), lambda i: FakeClip(clips[i], 8000)
    )
    meta = prepare.prepare(recordings, stage_data(), tmp_path / "out")
    assert (meta["recordings"], meta["skipped"]) == (1, 2)
    assert load(tmp_path / "out").open(0).read(0, 9).max() == 32767 / 32768
    text = (tmp_path / "out" / "skipped.csv").read_text()
    assert (
        "empty,it has no samples" in text and "nan,ValueError: samples that are not finite" in text
    )


def test_failure_half_way_leaves_the_others_right(tmp_path, monkeypatch):
    def blocks(clip, *args):
        yield np.full([5, 1], clip.sample_rate, np.int16)
        if clip.sample_rate == 2:
            raise ValueError("broken half way")

    monkeypatch.setattr(prepare, "pcm_blocks", blocks)
    recordings = Recordings(
        list("abc"), [("x",)] * 3, ("x",), lambda i: FakeClip(np.zeros([5, 1]), i + 1)
    )
    prepare.prepare(recordings, stage_data(), tmp_path / "out")
    got = load(tmp_path / "out")
    assert got.names == ["a", "c"]
    assert [int(got.open(k).read(0, 5)[0, 0] * 32768) for k in range(2)] == [1, 3]


def test_finished_shards_are_kept_and_damaged_ones_redone(tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare.prepare(fake(), stage_data(), out, per_shard=5)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("data-*")}
    content = {p.name: p.read_bytes() for p in out.glob("data-*")}
    shards = sorted(out.glob("data-*.array_record"))
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-3] + bytes(3))  # same size, other content
    shards[2].with_suffix(".json").unlink()  # killed between the shard and its listing
    dead = f"{socket.gethostname()}.{2**22 + 1}"  # more than Linux gives
    left = f"data-00003-of-00004.array_record.{dead}.partial"
    (out / left).write_bytes(b"half")
    (out / "metadata.json").unlink()
    with pytest.raises(UserError, match="not finished: run sacjax prepare again"):
        load(out)
    prepare.prepare(fake(), stage_data(), out, per_shard=5)
    changed = {p.name for p in out.glob("data-*") if p.stat().st_mtime_ns != before[p.name]}
    assert {name[:10] for name in changed} == {"data-00001", "data-00002"}
    assert {p.name: p.read_bytes() for p in out.glob("data-*")} == content and not list(
        out.glob("*.partial")
    )
    assert len(load(out)) == 17


def test_killed_and_run_again(tmp_path):
    """Kills the parent with several workers at work: they end too.

    The next run makes what one run makes.
    """
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom test_prepare import *\n"
        "if __name__ == '__main__':\n"
        "    recordings = fake(40, slow=float(sys.argv[2]))\n"
        "    prepare.prepare(recordings, stage_data(), sys.argv[1], workers=2, per_shard=4)\n"
    )
    paths = (REPO, REPO / "tests", Path(__file__).parent)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, script, out, "0.1"], env=env, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + HANG
    while not list(out.glob("data-*.json")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workers and not psutil.wait_procs(workers, timeout=HANG)[1]
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("data-*.json")}
    assert 0 < len(kept) < 10 and not (out / "metadata.json").exists()
    subprocess.run(
        [sys.executable, script, out, "0"], env=env, check=True, stderr=subprocess.DEVNULL
    )
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    prepare.prepare(fake(40), stage_data(), tmp_path / "whole", per_shard=4)
    for path in (tmp_path / "whole").glob("data-*"):
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_mistakes(tmp_path):
    out = tmp_path / "out"
    prepare.prepare(fake(), stage_data(), out, per_shard=5)
    with pytest.raises(UserError, match="--output .* holds another data set"):
        prepare.prepare(fake(), stage_data(), out, per_shard=6)
    with pytest.raises(UserError, match="--output .* holds another data set"):
        prepare.prepare(fake(19), stage_data(), out, per_shard=5)
    assert len(load(out)) == 17  # untouched
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="--output .*mine is not empty"):
        prepare.prepare(fake(), stage_data(), tmp_path / "mine")
    with pytest.raises(UserError, match="cannot be written"):
        prepare.prepare(fake(), stage_data(), tmp_path / "mine" / "thesis.txt" / "x")
    none = Recordings(["a"], [("x",)], ("x",), lambda i: FakeOpen()(3))
    with pytest.raises(UserError, match="none of the 1 recordings.*skipped.csv"):
        prepare.prepare(none, stage_data(), tmp_path / "none")
    shard = next(out.glob("*.array_record"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="another size.*run sacjax prepare again"):
        load(out)
    shard.unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        load(out)


def test_parts_that_end_elsewhere_are_not_what_was_prepared(tmp_path):
    write(tmp_path / "a.wav", np.zeros(8000), 4000)
    data = stage_data(source="manifest", path=str(tmp_path / "m.csv"))

    def seconds(end):
        Path(data.path).write_text(f"filename,label,start,end\na.wav,x,0.5,{end}\n")
        return prepare.prepare(sources.load(data), data, tmp_path / "out")["seconds"]

    assert seconds(1.0) == 0.5
    with pytest.raises(UserError, match="an older state of the files"):
        seconds(1.5)


def test_shard_names_cannot_leave_the_folder(tmp_path):
    out = tmp_path / "out"
    prepare.prepare(fake(), stage_data(), out)
    meta = json.loads((out / array_record.METADATA).read_text())
    meta["shards"] = [f"../{name}" for name in meta["shards"]]
    (out / array_record.METADATA).write_text(json.dumps(meta))
    assert all(str(out) in shard for shard, _ in load(out).open.records.files)


@pytest.mark.parametrize(
    ("recordings", "shards"),
    [(1, 1), (16, 16), (100, 15), (4096, 16), (10_000, 40), (65_536, 256), (281_241, 256)],
)
def test_shards_are_few_and_large(recordings, shards):
    per_shard = prepare.default_per_shard(recordings)
    job = prepare.Job(fake(1), Path(), "", per_shard, 0, False)
    job.recordings.names *= recordings
    assert len(job.shards) == shards


def test_what_was_cut_short_or_damaged_is_stored_as_far_as_it_goes_and_listed(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 160_000)
    for name in ("cut.wav", "cut.flac", "cut.ogg", "cut.mp3", "damaged.flac"):
        path = write(tmp_path / "in" / name, noise, 16000)
        write(tmp_path / "in" / f"whole_{name}", noise, 16000)
        content = bytearray(path.read_bytes())
        if name == "damaged.flac":  # in the middle
            content[len(content) // 5 : len(content) // 5 + 200] = bytes(200)
        else:
            content = content[: int(0.6 * len(content))]
        path.write_bytes(content)
    write(tmp_path / "in" / "no.wav").write_bytes(b"RIFF")
    data = stage_data(tmp_path / "in")
    meta = prepare.prepare(sources.load(data), data, tmp_path / "out", per_shard=4)
    assert (meta["recordings"], meta["skipped"], meta["cut_short"]) == (10, 1, 5)
    with open(tmp_path / "out" / "skipped.csv", newline="") as file:
        rows = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert set(rows) == {
        "no.wav", "cut.wav", "cut.flac", "cut.ogg", "cut.mp3", "damaged.flac"
    }  # fmt: skip
    got = load(tmp_path / "out")
    for k, name in enumerate(got.names):
        seconds = got.open(k).num_samples / 16000
        share = 0.2 if name == "damaged.flac" else 0.6
        if name in rows:
            assert seconds == pytest.approx(10 * share, abs=0.9)
            if name != "cut.ogg":
                assert f"damaged: {10 - seconds:.3f} s are missing" in rows[name]
        else:
            assert seconds == 10
    assert rows["cut.ogg"] == "cut short or damaged: its end is missing"
    assert "LibsndfileError" in rows["no.wav"]


def test_a_disk_that_fails_loses_no_recording(tmp_path, failing_disk):
    for k in range(6):
        write(tmp_path / "in" / f"{k}.wav", np.full(3000, 0.1 * k))
    data = stage_data(tmp_path / "in")
    recordings = sources.load(data)
    prepare.prepare(recordings, data, tmp_path / "whole", per_shard=2)
    failing_disk.every = 3
    prepare.prepare(recordings, data, tmp_path / "out", per_shard=2)
    assert failing_disk.failed > 3
    for path in (tmp_path / "whole").glob("data-*.array_record"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    failing_disk.every = 1
    with pytest.raises(UserError, match="0.wav: cannot be read: Input/output error"):
        prepare.prepare(recordings, data, tmp_path / "later", per_shard=2)
    assert not (tmp_path / "later" / "skipped.csv").exists()
    failing_disk.every = 0
    meta = prepare.prepare(recordings, data, tmp_path / "later", per_shard=2)
    assert (meta["recordings"], meta["skipped"]) == (6, 0)


def test_a_source_whose_library_tells_errors_in_words(tmp_path, monkeypatch):
    """As ArrayRecord does; a clip half read is not stored twice or in part."""
    monkeypatch.setattr(retry, "WAITS", (0, 0))
    failed = []

    class Flaky(FakeClip):
        def read(self, start: int, count: int) -> np.ndarray:
            if len(failed) < 4 and len(failed) % 3 < 2:
                failed.append(1)
                raise RuntimeError(f"pread() failed: {os.strerror(errno.ESTALE)}; reading x")
            failed.append(0)
            return super().read(start, count)

    samples = np.linspace(-0.5, 0.5, 700, dtype=np.float32)[:, None]
    recordings = Recordings(["a", "b"], [("x",)] * 2, ("x",), lambda i: Flaky(samples, 8000))
    prepare.prepare(recordings, stage_data(), tmp_path / "out")
    got = load(tmp_path / "out")
    assert got.names == ["a", "b"] and sum(failed) >= 2
    np.testing.assert_allclose(got.open(1).read(0, 999), samples, atol=1e-4)


def test_what_others_are_writing_stays(tmp_path):
    host = socket.gethostname()
    names = {
        "living": f"data-0.array_record.{host}.{os.getppid()}.partial",
        "dead": f"data-0.array_record.{host}.{2**22 + 1}.partial",
        "elsewhere": "data-0.array_record.another.12.partial",
        "elsewhere, long ago": f".plan.json.a.b.{2**22 + 1}.partial",
    }
    for name in names.values():
        (tmp_path / name).write_bytes(b"x")
    os.utime(tmp_path / names["elsewhere, long ago"], (0, 0))
    shard_folder.remove_partial(tmp_path)
    left = {key for key, name in names.items() if (tmp_path / name).exists()}
    assert left == {"living", "elsewhere"}
