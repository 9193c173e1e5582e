import errno
import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import soundfile as sf
from hypothesis import strategies as st
from processes import HANG

from sacjax import config as config_lib
from sacjax.data import decode, hosts, pipeline, retry, sources, splits
from sacjax.data.bad_files import BadFiles
from sacjax.data.recordings import Recordings
from sacjax.data.sources import FileClip, OpenFiles
from sacjax.errors import UserError

RATE = 100


class Ramp:
    """Clip i holds the samples (1000 * i + place) / 32768: each tells where it is from."""

    sample_rate = RATE

    def __init__(self, i, num_samples):
        self.i, self.num_samples = i, num_samples

    def read(self, start, count):
        place = np.arange(start, min(start + count, self.num_samples))
        return ((1000 * self.i + place) / 32768).astype(np.float32)[:, None]


class OpenRamps:
    def __init__(self, sizes):
        self.sizes = sizes

    def __call__(self, i):
        if self.sizes[i] < 0:
            raise OSError(f"clip {i} is broken")
        return Ramp(i, self.sizes[i])


def ramps(sizes, classes=2):
    n = len(sizes)
    names = tuple(f"c{k}" for k in range(classes))
    return Recordings(
        [f"{i}.wav" for i in range(n)],
        [(names[i % classes],) for i in range(n)],
        names,
        OpenRamps(list(sizes)),
    )


def settings(**values):
    data = config_lib.stage().data
    data.update(dict(sample_rate=RATE, seconds=0.2) | values)
    return data


def take(batches, count, position=None):
    iterator = iter(batches)
    if position is not None:
        iterator.set_state(position)
    return [next(iterator) for _ in range(count)], iterator


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert np.array_equal(a[key], b[key]), key


def join(parts):
    """One global batch of the hosts' parts."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


# --- training ---


def test_a_batch_is_as_the_contract_says():
    recordings, data = ramps([50, 10, 200]), settings()
    (batch,), _ = take(pipeline.train_batches(recordings, [0, 1, 2], data, 6, seed=0), 1)
    assert {key: (value.dtype, value.shape) for key, value in batch.items() if key != "error"} == {
        "audio": (np.int16, (6, 20)),
        "length": (np.int32, (6,)),
        "label": (np.int32, (6,)),
        "index": (np.int32, (6,)),
        "mask": (np.float32, (6,)),
        "missing": (np.float32, (6,)),
    }
    assert batch["error"] == [""] * 6 and (batch["mask"] == 1).all()
    assert (batch["label"] == batch["index"] % 2).all()
    for audio, length, index in zip(batch["audio"], batch["length"], batch["index"], strict=True):
        assert length == min(20, recordings.open.sizes[index]) and not audio[length:].any()
        first = audio[0] - 1000 * index
        assert 0 <= first <= max(recordings.open.sizes[index] - 20, 0)
        assert (audio[:length] == 1000 * index + first + np.arange(length)).all()


def test_each_epoch_has_every_example_once_in_an_order_of_its_own():
    recordings = ramps([30] * 10)
    chosen = [1, 3, 4, 5, 7, 8, 9]
    batches, _ = take(pipeline.train_batches(recordings, chosen, settings(), 5, seed=3), 21)
    epochs = np.concatenate([b["index"] for b in batches]).reshape(-1, 7)
    assert all(sorted(epoch) == chosen for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 10
    crops = {(int(b["index"][k]), int(b["audio"][k, 0])) for b in batches for k in range(5)}
    assert len(crops) > 40  # random crops differ from epoch to epoch


def test_the_stream_depends_on_the_seed_alone():
    recordings = ramps([30] * 10)
    make = lambda seed, **more: take(
        pipeline.train_batches(recordings, range(10), settings(**more), 4, seed), 6
    )[0]
    for a, b in zip(make(1), make(1, prefetch=7), strict=True):
        same(a, b)
    assert any((a["index"] != b["index"]).any() for a, b in zip(make(1), make(2), strict=True))
    assert make(-1)[0]["index"].shape == make(2**40)[0]["index"].shape == (4,)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_global_batches_do_not_depend_on_the_number_of_hosts(count):
    recordings, data = ramps([30, 45, 12, -1, 60, 25, 33]), settings()
    alone, _ = take(pipeline.train_batches(recordings, range(7), data, 12, seed=5), 8)
    hosts = [
        take(pipeline.train_batches(recordings, range(7), data, 12, 5, p, count), 8)[0]
        for p in range(count)
    ]
    for t in range(8):
        same(alone[t] | {"error": np.array(alone[t]["error"])}, join([host[t] for host in hosts]))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_position_is_kept_exactly(tmp_path, workers):
    # Workers import what they open clips with, so these are files.
    paths = []
    for k in range(6):
        paths.append(str(tmp_path / f"{k}.wav"))
        sf.write(paths[-1], np.random.default_rng(k).uniform(-0.5, 0.5, 400 if k else 0), RATE)
    recordings = Recordings(paths, [("a",)] * 6, ("a",), OpenFiles(paths))
    data = settings(workers=workers, cache=bool(workers))
    make = lambda data, p=0: pipeline.train_batches(recordings, range(6), data, 4, 7, p, 2)
    reference, _ = take(make(settings()), 9)
    first, iterator = take(make(data), 4)
    state = iterator.get_state()
    assert state == {"next_index": 4}
    for a, b in zip(reference, first, strict=False):
        same(a, b)
    iterator.set_state({"next_index": 2})  # backwards, in one that runs
    same(reference[2], next(iterator))
    again, _ = take(make(settings()), 5, state)  # as after a crash, whatever the number of workers
    for a, b in zip(reference[4:], again, strict=True):
        same(a, b)
    assert any(error for batch in reference for error in batch["error"])
    iterator.close()


def test_labels_multi_hot_unknown_and_withheld():
    recordings = ramps([30] * 4, classes=3)
    recordings.labels = [("c0", "c2"), None, ("c1",), ()]
    table = np.array([[1, 0, 1], [-1, -1, -1], [0, 1, 0], [0, 0, 0]], np.float32)
    (batch,), _ = take(
        pipeline.train_batches(recordings, range(4), settings(multi_label=True), 4, 0), 1
    )
    assert batch["label"].dtype == np.float32 and np.array_equal(
        batch["label"], table[batch["index"]]
    )
    (batch,), _ = take(pipeline.train_batches(recordings, range(4), settings(), 4, 0), 1)
    assert np.array_equal(batch["label"], np.array([0, -1, 1, -1])[batch["index"]])
    for multi in (False, True):
        (batch,), _ = take(
            pipeline.train_batches(
                recordings, range(4), settings(multi_label=multi), 4, 0, labels=False
            ),
            1,
        )
        assert (batch["label"] == -1).all() and (batch["mask"] == 1).all()


def test_no_labels_at_all():
    recordings = ramps([30] * 4)
    recordings.labels, recordings.class_names = [None] * 4, ()
    (batch,), _ = take(pipeline.train_batches(recordings, range(4), settings(), 4, 0), 1)
    assert (batch["label"] == -1).all()
    (batch,), _ = take(pipeline.eval_batches(recordings, range(4), settings(), 8), 1)
    assert (batch["label"] == -1).all() and set(batch["index"].tolist()) == {0, 1, 2, 3}
    (batch,), _ = take(
        pipeline.train_batches(recordings, range(4), settings(multi_label=True), 4, 0), 1
    )
    assert batch["label"].shape == (4, 0)


@pytest.mark.parametrize("how, share", [("none", 0.1), ("over", 0.5), ("under", 0.5)])
def test_balanced_sampling(how, share):
    recordings = ramps([30] * 40)
    recordings.labels = [("c1",) if i < 4 else ("c0",) for i in range(40)]
    chosen = splits.balance(recordings, np.arange(40), how, 0)
    batches, _ = take(
        pipeline.train_batches(recordings, range(40), settings(balance=how), 4, 0), len(chosen) // 4
    )
    labels = np.concatenate([b["label"] for b in batches])
    assert labels.mean() == pytest.approx(share) and len(labels) == len(chosen)


def test_what_cannot_be_batched():
    recordings = ramps([30] * 4)
    with pytest.raises(UserError, match="no clips to train on"):
        pipeline.train_batches(recordings, [], settings(), 4, 0)
    with pytest.raises(UserError, match="multiple of the number of hosts, 3"):
        pipeline.train_batches(recordings, range(4), settings(), 4, 0, 0, 3)
    with pytest.raises(UserError, match="eval.overlap"):
        pipeline.eval_batches(recordings, range(4), settings(), 4, overlap=1.0)


# --- evaluation ---


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_windows_cover_each_clip_from_start_to_end(overlap):
    sizes = [5, 20, 21, 40, 41, 137, -1, 0]
    table = pipeline.windows(ramps(sizes), range(8), 0.2, overlap)
    for i, size in enumerate(sizes):
        starts = [start * RATE for index, start in table if index == i]
        if size <= 20:
            assert starts == [0.0]
            continue
        assert starts[0] == 0 and starts[-1] + 20 == pytest.approx(size)
        steps = np.diff(starts)
        assert len(steps) and steps.max() <= 20 * (1 - overlap) + 1e-6 and np.ptp(steps) < 1e-6
        assert len(starts) == 1 + np.ceil((size - 20) / (20 * (1 - overlap)))


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=4),
    st.floats(0.05, 9),
    st.floats(0, 0.95),
)
def test_windows_of_any_length_leave_no_sample_out(sizes, seconds, overlap):
    table = pipeline.windows(ramps(sizes), range(len(sizes)), seconds, overlap)
    assert [index for index, _ in table] == sorted(index for index, _ in table)
    for i, size in enumerate(sizes):
        starts = np.array([start for index, start in table if index == i])
        assert starts[0] == 0 and (np.diff(starts) > 0).all()
        assert starts[-1] + seconds >= size / RATE - 1e-6 * seconds
        assert starts[-1] <= max(size / RATE - seconds, 0) + 1e-9
        assert (np.diff(starts) <= seconds * (1 - overlap) * (1 + 1e-6) + 1e-9).all()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 12, 30])
@pytest.mark.parametrize("clips", [1, 7, 12])
def test_every_clip_is_evaluated_exactly_once(count, batch_size, clips):
    recordings = ramps([30] * 2 + [20] * 11)
    chosen = np.arange(1, 1 + clips)
    hosts = [
        list(pipeline.eval_batches(recordings, chosen, settings(), batch_size, 0.0, p, count))
        for p in range(count)
    ]
    assert len({len(host) for host in hosts}) == 1
    assert all(len(batch["audio"]) == batch_size // count for host in hosts for batch in host)
    whole = [join([host[t] for host in hosts]) for t in range(len(hosts[0]))]
    rows = [
        (i, a[0])
        for b in whole
        for i, a, m in zip(b["index"], b["audio"], b["mask"], strict=True)
        if m
    ]
    assert rows == [(1, 1000), (1, 1010)] + [
        (i, 1000 * i) for i in chosen[1:]
    ]  # clip 1 takes two windows
    padding = [b["index"][b["mask"] == 0] for b in whole]
    assert all((p == -1).all() for p in padding) and not any(len(p) for p in padding[:-1])
    assert all(
        b["label"][k] == (b["index"][k] % 2 if b["mask"][k] else -1)
        for b in whole
        for k in range(batch_size)
    )


def test_nothing_to_evaluate_is_no_batch():
    assert list(pipeline.eval_batches(ramps([30]), [], settings(), 4)) == []


def test_clips_are_measured_once():
    recordings, opened = ramps([30] * 5), []
    whole = recordings.open
    recordings.open = lambda i: (opened.append(i), whole(i))[1]
    first = pipeline.windows(recordings, range(5), 0.2, 0.5)
    again = pipeline.windows(recordings, range(5), 0.2, 0.5)
    assert again.tolist() == first.tolist() and len(opened) == 5


# --- cache ---


def noise_files(tmp_path, count=6, rate=44100):
    paths = [str(tmp_path / f"{k}.wav") for k in range(count)]
    for k, path in enumerate(paths):
        sf.write(path, np.random.default_rng(k).uniform(-0.3, 0.3, rate + 1000 * k), rate)
    return Recordings(paths, [("a",)] * count, ("a",), OpenFiles(paths))


@pytest.mark.parametrize("rate, tolerance", [(44100, 0), (16000, 33)])
def test_cached_clips_are_decoded_once_and_sound_the_same(tmp_path, rate, tolerance):
    recordings = noise_files(tmp_path)
    data = settings(sample_rate=rate, seconds=0.5)
    fresh, _ = take(pipeline.train_batches(recordings, range(6), data, 4, 0), 6)
    data.cache, opened, whole = True, [], recordings.open
    recordings.open = lambda i: (opened.append(i), whole(i))[1]
    cached, iterator = take(pipeline.train_batches(recordings, range(6), data, 4, 0), 6)
    for a, b in zip(fresh, cached, strict=True):
        assert np.abs(a["audio"].astype(int) - b["audio"]).max() <= tolerance
        same(a | {"audio": 0}, b | {"audio": 0})
    for _ in range(10):
        next(iterator)
    before = len(opened)
    assert before <= 12 and set(opened) == set(range(6))  # two threads may begin with the same clip
    evaluated = list(pipeline.eval_batches(recordings, range(6), data, 4))
    assert len(opened) == before + 6 and len(evaluated) > 3  # only their lengths were looked up


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("pad", ["zero", "repeat", "reflect"])
def test_repeats_and_reflections_are_heard_and_zeros_are_not(pad, cache):
    recordings = ramps([5, 20, 33, -1])
    data = settings(pad=pad, cache=cache)
    short = {"zero": [0, 1, 2, 3, 4] + [0] * 15, "repeat": [0, 1, 2, 3, 4] * 4}
    short["reflect"] = [0, 1, 2, 3, 4, 3, 2, 1] * 2 + [0, 1, 2, 3]
    trained, _ = take(pipeline.train_batches(recordings, range(4), data, 4, 0), 2)
    for batch in [*trained, *pipeline.eval_batches(recordings, range(4), data, 6)]:
        for index, length, audio in zip(
            batch["index"], batch["length"], batch["audio"], strict=True
        ):
            if index == 0:
                assert length == (5 if pad == "zero" else 20) and audio.tolist() == short[pad]
            else:  # a whole window, or nothing where there is nothing to pad
                assert length == (0 if index in (3, -1) else 20)


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    recordings = noise_files(tmp_path)
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 2 * 16000 * 3)  # three clips of about a second
    data = settings(sample_rate=16000, seconds=0.5, cache=True)
    bounded, _ = take(pipeline.train_batches(recordings, range(6), data, 6, 0), 5)
    (cache,) = [value for key, value in recordings.memo.items() if key[0] == "cache"]
    assert (
        1 <= len(cache.clips) <= 3
        and cache.used == sum(c.samples.nbytes for c in cache.clips.values()) <= 96000
    )
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 1 << 30)
    recordings.memo.clear()
    whole, _ = take(pipeline.train_batches(recordings, range(6), data, 6, 0), 5)
    for a, b in zip(bounded, whole, strict=True):
        assert np.abs(a["audio"].astype(int) - b["audio"]).max() <= 33


# --- bad audio ---


def bad_files(root: Path):
    """Writes one file of each kind; returns {name: whether it can be decoded}."""
    x = (0.3 * np.sin(np.arange(8000) / 5)).astype(np.float32)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    header = lambda size: (
        struct.pack("<4sI4s", b"RIFF", (size + 36) % 2**32, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", size)
    )
    pcm = (x * 32767).astype("<i2").tobytes()
    raw = {
        "empty.wav": b"",
        "header.wav": header(16000),
        "zero length.wav": header(0),
        "text.wav": b"not audio " * 99,
        "truncated.wav": header(16000) + pcm[:9001],
        "four gigabytes.wav": header(0xFFFFFFF0) + pcm,
        "cut header.wav": header(16000)[:30],
    }
    good = {"truncated.wav", "four gigabytes.wav"}
    for name, content in raw.items():
        (root / name).write_bytes(content)
    sounds = {
        "nan.wav": np.where(np.arange(8000) == 4000, np.nan, x),
        "inf.wav": np.where(np.arange(8000) > 10, np.inf, x),
    }
    for name, samples in sounds.items():
        sf.write(root / name, samples.astype(np.float32), 8000, subtype="FLOAT")
    sf.write(root / "eight.wav", np.repeat(x[:, None], 8, 1), 8000)
    sf.write(root / "fast.wav", np.repeat(x, 24), 192000)
    sf.write(root / "eight bits.wav", x, 8000, subtype="PCM_U8")
    sf.write(root / "ñandú 鳥 🎵.flac", x, 8000)
    sf.write(root / "locked.wav", x, 8000)
    sf.write(root / "cut.flac", x, 8000)
    (root / "cut.flac").write_bytes((root / "cut.flac").read_bytes()[:-600])
    good |= {"eight.wav", "fast.wav", "eight bits.wav", "ñandú 鳥 🎵.flac", "cut.flac"}
    return {name: name in good for name in sorted(os.listdir(root))}


@pytest.mark.parametrize(("limit", "most"), [("max", 1 << 35), ("2000000\n", 1_000_000)])
def test_the_cache_takes_half_of_what_a_container_may_use(tmp_path, monkeypatch, limit, most):
    file = tmp_path / "memory.max"
    file.write_text(limit)
    monkeypatch.setattr(pipeline, "MEMORY_LIMITS", (str(file), str(tmp_path / "none")))
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 1 << 40)
    monkeypatch.setattr(os, "sysconf", lambda _: 1 << 18)  # pages of bytes: 64 GiB
    recordings = Recordings(["a"], [None], (), OpenRamps([10]))
    of_two = pipeline._opener(recordings, settings(cache=True, workers=2))
    assert of_two.most_bytes == most // 2


@pytest.mark.parametrize("cache", [False, True])
def test_bad_files_are_told_and_masked_and_move_nothing(tmp_path, monkeypatch, cache):
    (tmp_path / "dog").mkdir()
    expected = bad_files(tmp_path / "dog")
    whole = FileClip.__init__

    def locked(self, path, *args):  # root may read everything, so what the others see is simulated
        if path.endswith("locked.wav"):
            raise PermissionError(13, "Permission denied", path)
        whole(self, path, *args)

    monkeypatch.setattr(FileClip, "__init__", locked)
    data = settings(source="folder", path=str(tmp_path), sample_rate=8000, seconds=1.0, cache=cache)
    recordings = sources.load(data)
    n = len(recordings)
    assert [name.removeprefix("dog/") for name in recordings.names] == list(expected)
    for batches in (
        take(pipeline.train_batches(recordings, range(n), data, n, 0), 1)[0],
        list(pipeline.eval_batches(recordings, range(n), data, 5)),
    ):
        batch = join(batches)
        used = batch["index"] >= 0
        assert sorted(batch["index"][used].tolist()) == list(range(n))
        for k in np.flatnonzero(used):
            name = recordings.names[batch["index"][k]].removeprefix("dog/")
            good = expected[name]
            assert bool(batch["mask"][k]) == good == (not batch["error"][k]), name
            assert batch["audio"][k].any() == good and (batch["length"][k] > 0) == good, name
            assert batch["label"][k] == (0 if good else -1)
    errors = {
        recordings.names[i]: e for i, e in zip(batch["index"], batch["error"], strict=True) if e
    }
    reasons = {
        "empty": "empty file",
        "header": "no samples",
        "nan": "1 samples",
        "inf": "infinite",
        "locked": "denied",
    }
    for name, reason in reasons.items():
        assert reason in errors[f"dog/{name}.wav"]


def test_a_bad_file_does_not_move_the_others():
    good, bad = ramps([30] * 8), ramps([30, 30, -1, 30, 30, -1, 30, 30])
    a, _ = take(pipeline.train_batches(good, range(8), settings(), 4, 0), 8)
    b, _ = take(pipeline.train_batches(bad, range(8), settings(), 4, 0), 8)
    for x, y in zip(a, b, strict=True):
        assert np.array_equal(x["index"], y["index"])
        kept = y["mask"] > 0
        assert np.array_equal(kept, ~np.isin(y["index"], [2, 5])) and np.array_equal(
            x["audio"][kept], y["audio"][kept]
        )
        assert all(("is broken" in e) != k for e, k in zip(y["error"], kept, strict=True))


def test_files_that_were_cut_short_are_told_and_used(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)
    for name, share in {"a.wav": 1, "b.wav": 0.6, "c.flac": 0.6, "d.ogg": 0.6, "e.flac": 1}.items():
        path = tmp_path / "dog" / name
        path.parent.mkdir(exist_ok=True)
        sf.write(path, noise, 8000)
        content = path.read_bytes()
        path.write_bytes(content[: round(share * len(content))])
    data = settings(source="folder", path=str(tmp_path), sample_rate=8000, seconds=1.0)
    cached = data.copy_and_resolve_references()
    cached.cache = True
    recordings = sources.load(data)
    for batches in (
        take(pipeline.train_batches(recordings, range(5), data, 5, 0), 12)[0],
        list(pipeline.eval_batches(recordings, range(5), data, 5)),
        take(pipeline.train_batches(recordings, range(5), cached, 5, 0), 12)[0],
    ):  # fmt: skip
        table = BadFiles(tmp_path / "run", recordings, 0.0)  # not one bad clip
        for batch in batches:
            table.note(batch)
        assert sorted(table.cut.found) == ["dog/b.wav", "dog/c.flac", "dog/d.ogg"]
        assert "short or damaged: 2.00" in table.cut.found["dog/b.wav"]
        assert "its end is missing" in table.cut.found["dog/d.ogg"]
        assert all((batch["mask"] == (batch["index"] >= 0)).all() for batch in batches)


# --- a machine that cannot read ---


@pytest.mark.parametrize("cache", [False, True])
def test_a_disk_that_fails_now_and_then_changes_nothing(tmp_path, failing_disk, cache):
    recordings = noise_files(tmp_path)
    data = settings(sample_rate=16000, seconds=0.5, cache=cache)
    make = lambda: (
        take(pipeline.train_batches(recordings, range(6), data, 6, 0), 4)[0]
        + list(pipeline.eval_batches(recordings, range(6), data, 4))
    )
    expected = make()
    recordings.memo.clear()
    failing_disk.every = 3
    for a, b in zip(expected, make(), strict=True):
        same(a, b)
    assert failing_disk.failed > 10 and not any(any(batch["error"]) for batch in expected)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_disk_that_fails_ends_the_run_with_what_it_is(tmp_path, failing_disk, number):
    recordings = noise_files(tmp_path)
    data = settings(sample_rate=16000, seconds=0.5)
    failing_disk.every, failing_disk.error = 1, number
    for make in (
        lambda: next(iter(pipeline.train_batches(recordings, range(6), data, 6, 0))),
        lambda: next(iter(pipeline.eval_batches(recordings, range(6), data, 4))),
        lambda: pipeline.Cache(recordings.open, 16000, 1 << 30)(0),
    ):
        with pytest.raises(UserError, match=rf"\.wav: cannot be read: {os.strerror(number)}"):
            make()


@pytest.mark.parametrize("failing", [None, 0, 1, 2])
def test_hosts_share_one_table_of_windows_and_end_together(monkeypatch, failing):
    count, barrier, rows = 3, threading.Barrier(3), {}
    here = threading.local()

    def gather(own):  # as `process_allgather` does, between threads
        rows[here.host] = own
        barrier.wait(HANG)
        found = np.stack([rows[host] for host in range(count)])
        barrier.wait(HANG)
        return found

    monkeypatch.setattr(hosts, "_gather_bytes", gather)
    monkeypatch.setattr(hosts, "place", lambda: (here.host, count))
    monkeypatch.setattr(retry, "WAITS", ())
    sizes = [30, 55, 20, -1, 137, 41, 90]
    expected = pipeline.windows(ramps(sizes), range(7), 0.2, 0.5).tolist()

    def run(host):
        here.host = host
        recordings = ramps(sizes)
        whole, opened = recordings.open, []

        def open_clip(i):
            opened.append(i)
            if host == failing:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), f"/data/{i}.wav")
            if i == 2 and host != 2:  # only its own host can open it
                raise OSError("broken")
            return whole(i)

        recordings.open = open_clip
        try:
            first = pipeline.windows(recordings, range(7), 0.2, 0.5, host, count).tolist()
            again = pipeline.windows(recordings, range(7), 0.2, 0.5, host, count).tolist()
        except UserError as error:
            return str(error), opened
        assert again == first
        return first, opened

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(run, range(count)))
    opened = sorted(sum((opened for _, opened in found), []))
    assert opened == sorted(set(opened)) and (failing is not None or opened == list(range(7)))
    for host, (result, _) in enumerate(found):
        if failing is None:
            assert result == expected
        else:
            assert "Stale file handle" in result
            assert result.startswith("/data/" if host == failing else f"host {failing}: /data/")


# --- real recordings ---


def test_real_recordings(real_data):
    import librosa

    paths = sorted(map(str, (real_data / "esc10" / "audio").glob("*.ogg")))[:6]
    recordings = Recordings(paths, [("a",)] * 6, ("a",), OpenFiles(paths))
    data = settings(sample_rate=16000, seconds=2.0)
    batches = list(pipeline.eval_batches(recordings, range(6), data, 4, 0.0))
    assert not any(sum((b["error"] for b in batches), []))
    for index, start in pipeline.windows(recordings, [0, 5], 2.0, 0.0)[:2]:
        theirs, _ = librosa.load(paths[index], sr=16000, res_type="soxr_hq")
        ours, length = decode.read_window(recordings.open(index), 16000, start, 2.0, "zero")
        first = round(start * 16000)
        np.testing.assert_allclose(ours[:length], theirs[first : first + length], atol=2e-3)
