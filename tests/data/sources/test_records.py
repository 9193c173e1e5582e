"""Many shards are read with few of them open."""

import os
import pickle
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from sacjax.data import retry
from sacjax.data.sources.records import Records
from sacjax.errors import UserError


def write(folder, counts):
    """Writes shards with so many records each; record k of all holds k, many times."""
    files, k = [], 0
    for number, count in enumerate(counts):
        path = str(folder / f"{number}.array_record")
        writer = ArrayRecordWriter(path, "group_size:1,uncompressed,max_parallelism:1")
        for _ in range(count):
            writer.write(np.full(3000, k, np.int32).tobytes())
            k += 1
        writer.close()
        files.append((path, count))
    return files


def number(record):
    values = np.frombuffer(record, np.int32)
    assert len(values) == 3000 and (values == values[0]).all()
    return int(values[0])


def open_shards():
    names = []
    for name in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # of the listing itself
            continue
    return sum(name.endswith(".array_record") for name in names)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_few_are_open_however_many_there_are(tmp_path):
    records = Records(write(tmp_path, [2, 1, 3, 1] * 5), most_open=4)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(records)), 20))
    most = 0

    def read(k):
        nonlocal most
        found = number(records[int(k)])
        most = max(most, open_shards())
        return found

    with ThreadPoolExecutor(3) as pool:  # each may hold one that was dropped meanwhile
        assert list(pool.map(read, order)) == order.tolist()
    assert 2 <= most <= 4 + 3 and open_shards() <= 4
    assert [number(record) for record in records] == list(range(35))
    again = pickle.loads(pickle.dumps(records))
    assert number(again[34]) == 34 and len(again) == 35


def test_no_file_to_open_is_no_bad_clip_and_passes(tmp_path, monkeypatch):
    records = Records(write(tmp_path, [3, 3]))
    assert number(records[0]) == 0
    monkeypatch.setattr(retry, "WAITS", (0,))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(UserError, match="Too many open files"):
            retry.attempt(lambda: records[4])
        assert number(records[1]) == 1  # what is open stays so
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert number(records[4]) == 4


def test_damage_is_one_clips_own(tmp_path):
    files = write(tmp_path, [20])
    content = bytearray(open(files[0][0], "rb").read())
    content[150_000:150_100] = bytes(range(100))
    open(files[0][0], "wb").write(content)
    records, bad = Records(files), []
    for k in range(20):
        try:
            assert number(retry.attempt(lambda k=k: records[k])) == k
        except retry.BadClip as reason:
            bad.append(k)
            assert "hash mismatch" in str(reason)
    assert bad == [12]
