"""Streams of the `datasets` library as shards: what is kept, and going on after a stop."""

import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from sounds import settings

from sacjax.commands import prepare as command
from sacjax.data import decode, prepare_stream, sources
from sacjax.errors import UserError

RATE = 8000


def samples(k):
    return np.random.default_rng(k).integers(-9000, 9000, 300 + 10 * k).astype(np.int16)


def encoded(k):
    file = io.BytesIO()
    sf.write(file, samples(k), RATE, format="wav")
    return file.getvalue()


def parquet(path, numbers, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    sounds = [b"no sound" if k == 4 else encoded(k) for k in numbers]
    cells = [{"bytes": sound, "path": None} for sound in sounds]
    labels = [None if k == 6 else "ab"[k % 2] for k in numbers]
    pq.write_table(pa.table({"audio": cells, "label": labels} | columns), path)


@pytest.fixture
def data(tmp_path):
    """Seven rows to train on in two files, and three to test."""
    for part in range(2):
        numbers = range(4 * part, 4 + 3 * part)
        who = [f"s{k // 2}" for k in numbers]
        parquet(tmp_path / "in" / f"train-{part:05d}-of-00002.parquet", numbers, speaker=who)
    parquet(tmp_path / "in" / "test-00000-of-00001.parquet", [7, 8, 9], speaker=["t"] * 3)
    return settings(source="huggingface", path=str(tmp_path / "in"), group_column="speaker")


def content(folder):
    loaded = sources.load(settings(source="arrayrecord", path=str(folder)))
    audio = [decode.read_pcm(loaded.open(i), RATE, 0.0, 9.0) for i in range(len(loaded))]
    columns = (loaded.names, loaded.labels, loaded.splits, loaded.groups, loaded.class_names)
    return columns, [one.tolist() for one in audio]


def test_a_stream_becomes_shards(data, tmp_path):
    meta = prepare_stream.prepare_stream(data, tmp_path / "out", per_shard=2)
    assert (meta["recordings"], meta["skipped"], len(meta["shards"])) == (9, 1, 6)
    (names, labels, splits, groups, classes), audio = content(tmp_path / "out")
    kept = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert names == [f"train/{k:07d}" if k < 7 else f"test/{k - 7:07d}" for k in kept]
    assert labels == [None if k == 6 else ("ab"[k % 2],) for k in kept]
    assert splits == ["train"] * 6 + ["test"] * 3 and classes == ("a", "b")
    assert groups == ["s0", "s0", "s1", "s1", "s2", "s3", "t", "t", "t"]
    assert audio == [samples(k).tolist() for k in kept]
    assert "train/0000004" in (tmp_path / "out" / "skipped.csv").read_text()


@pytest.mark.parametrize("damaged", [False, True])
def test_after_a_stop_it_goes_on_where_it_was(data, tmp_path, monkeypatch, damaged):
    prepare_stream.prepare_stream(data, tmp_path / "whole", per_shard=2)
    opened = []
    true_open = prepare_stream.huggingface.open_cell

    def open_cell(cell, roots):
        opened.append(cell["bytes"])
        if len(opened) == 6:
            raise KeyboardInterrupt
        return true_open(cell, roots)

    monkeypatch.setattr(prepare_stream.huggingface, "open_cell", open_cell)
    with pytest.raises(KeyboardInterrupt):  # within the third shard
        prepare_stream.prepare_stream(data, tmp_path / "out", per_shard=2)
    with pytest.raises(UserError, match="not finished"):
        content(tmp_path / "out")
    if damaged:
        (tmp_path / "out" / "data-00001.array_record").write_bytes(b"")
    prepare_stream.prepare_stream(data, tmp_path / "out", per_shard=2)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    # What was whole is not read again: rows 4 to 9, and of the damaged shard 2 and 3.
    assert len(opened) - 6 == (8 if damaged else 6)
    again = prepare_stream.prepare_stream(data, tmp_path / "out", per_shard=2)  # all is there
    assert again["recordings"] == 9 and len(opened) - 6 == (8 if damaged else 6)
    with pytest.raises(UserError, match="holds another data set, other options"):
        prepare_stream.prepare_stream(data, tmp_path / "out", per_shard=3)


def test_a_stream_that_breaks_says_how_to_go_on(data, tmp_path, monkeypatch):
    def broken(stream, size):
        raise ConnectionResetError("the other side\nhung up")

    monkeypatch.setattr(prepare_stream.itertools, "islice", broken)
    with pytest.raises(UserError, match="the stream ended by an error: .*the same command goes on"):
        prepare_stream.prepare_stream(data, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(label_pattern="a"), "data.label_pattern is set, but rows of a stream have no names"),
        (dict(source="folder"), "--stream is for data.source=huggingface, and it is folder"),
        (dict(fold_column="speaker"), "train/0000000: speaker is 's0', no whole number from 1 on"),
    ],
)
def test_what_a_stream_cannot_do(data, tmp_path, change, message):
    data.update(change)
    with pytest.raises(UserError, match=message):
        prepare_stream.prepare_stream(data, tmp_path / "out")


def test_classes_keep_their_order(tmp_path):
    made = datasets.Dataset(pa.table({"audio": [{"bytes": encoded(0), "path": "x"}], "label": [1]}))
    made = made.cast_column("label", datasets.ClassLabel(names=["wren", "crow"]))
    made.cast_column("audio", datasets.Audio()).save_to_disk(tmp_path / "in")
    data = settings(source="huggingface", path=str(tmp_path / "in"), sample_rate=RATE)
    prepare_stream.prepare_stream(data, tmp_path / "out")
    (_, labels, splits, _, classes), audio = content(tmp_path / "out")
    assert (labels, splits, classes) == ([("crow",)], None, ("wren", "crow"))
    assert audio == [samples(0).tolist()]


def test_the_command(data, tmp_path, capsys):
    (tmp_path / "c.py").write_text(
        "from sacjax import config\ndef get_config(arg=None):\n  return config.default()\n"
    )
    where = [f"--config.supervised.data.{k}={data[k]}" for k in ("source", "path", "group_column")]
    flags = ["--config", str(tmp_path / "c.py"), *where, "--stream", "--output"]
    assert command.main([*flags, str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "9 recordings" in told and "2 shards" in told and "1 skipped" in told
