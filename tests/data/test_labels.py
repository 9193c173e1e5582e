"""Unknown labels and no labels are different things, from every source to the batch."""

import json

import numpy as np
import pytest
import soundfile as sf

from sacjax import config as config_lib
from sacjax.data import labels, pipeline, prepare, sources
from sacjax.data.recordings import Recordings
from sacjax.data.sources.array_record import load_array_record
from sacjax.errors import UserError

MIXED = [("a", "c"), None, (), ("b",)]


def settings(**values):
    data = config_lib.stage().data
    data.update(dict(sample_rate=100, seconds=0.3, multi_label=True) | values)
    return data


def write(path):
    path.parent.mkdir(exist_ok=True, parents=True)
    sf.write(path, np.full(30, 0.1), 100)


def mixed(found=MIXED):
    return Recordings(
        [f"{k}.wav" for k in range(len(found))], found, ("a", "b", "c"), lambda i: None
    )


def test_a_table_of_several_labels_tells_unknown_from_none():
    table = [[1, 0, 1], [-1, -1, -1], [0, 0, 0], [0, 1, 0]]
    got = labels.label_array(mixed(), True)
    assert got.dtype == np.float32 and got.tolist() == table
    assert labels.label_array(mixed(), True, [3, 1]).tolist() == [table[3], table[1]]
    assert labels.label_array(mixed(), True, []).shape == (0, 3)
    one = labels.label_array(mixed([("a",), None, (), ("b",)]), False)
    assert one.dtype == np.int32 and one.tolist() == [0, -1, -1, 1]
    withheld = labels.LabelRows(mixed(), True, withheld=True)
    assert all(withheld[k].tolist() == [-1] * 3 for k in range(4))


def test_counts_and_strata():
    assert labels.first_labels(mixed()).tolist() == [0, -1, -1, 1]
    assert labels.strata(mixed()).tolist() == [0, -1, 3, 1]
    assert labels.class_counts(mixed(), [0, 1, 2, 3, 0]).tolist() == [2, 1, 2]
    assert mixed().with_classes(("c", "b", "a", "d")).labels == MIXED


def test_a_batch_tells_unknown_from_none(tmp_path):
    for k in range(4):
        write(tmp_path / f"{k}.wav")
    rows = [{"filename": f"{k}.wav"} for k in range(4)]
    for row, found in zip(rows, MIXED, strict=True):
        row |= {} if found is None else {"label": list(found)}
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = settings(source="manifest", path=str(tmp_path / "list.jsonl"))
    recordings = sources.load(data)
    assert recordings.labels == MIXED
    (batch,) = pipeline.eval_batches(recordings, range(4), data, 6, 0.0)
    known = batch["mask"] > 0  # two rows only fill the batch
    assert (
        batch["label"][known].tolist()
        == labels.label_array(mixed(), True)[batch["index"][known]].tolist()
    )
    assert (batch["label"][~known] == -1).all() and known.sum() == 4


@pytest.mark.parametrize("ending, separator", [("csv", ","), ("tsv", "\t")])
def test_an_empty_cell_is_unknown_unless_the_config_says_none(tmp_path, ending, separator):
    for name in "xyz":
        write(tmp_path / f"{name}.wav")
    path = tmp_path / f"list.{ending}"
    path.write_text(f"filename{separator}label\nx.wav{separator}a|b\ny.wav{separator}\nz.wav\n")
    load = lambda **more: sources.load(settings(source="manifest", path=str(path), **more)).labels
    assert load() == [("a", "b"), None, None]
    assert load(empty_label="none") == [("a", "b"), (), ()]
    path.write_text(f"filename{separator}label\nx.wav{separator}a\ny.wav{separator} | \nz.wav\n")
    assert load(multi_label=False, empty_label="none") == [("a",), None, None]
    path.write_text("filename\nx.wav\n")  # there is no cell that could be empty
    assert load(empty_label="none") == [None]
    with pytest.raises(UserError, match="data.empty_label is 'nothing'; did you mean 'none'"):
        config_lib.override(config_lib.default(), ["--config.supervised.data.empty_label=nothing"])


def test_json_lines_tell_it_themselves(tmp_path):
    write(tmp_path / "x.wav")
    rows = [{"label": None}, {}, {"label": []}, {"label": ""}, {"label": ["a"]}, {"label": 0}]
    text = [json.dumps({"filename": "x.wav", "start": 0.01 * k} | r) for k, r in enumerate(rows)]
    (tmp_path / "list.jsonl").write_text("\n".join(text))
    load = lambda **more: (
        sources.load(settings(source="manifest", path=str(tmp_path / "list.jsonl"), **more)).labels
    )
    assert load() == [None, None, (), None, ("a",), ("0",)]
    assert load(empty_label="none") == [None, None, (), (), ("a",), ("0",)]
    assert load(multi_label=False) == [None, None, None, None, ("a",), ("0",)]


def test_files_beside_the_labels_folders_are_unknown(tmp_path):
    write(tmp_path / "a" / "x.wav"), write(tmp_path / "y.wav")
    recordings = sources.load(settings(source="folder", path=str(tmp_path)))
    assert recordings.labels == [("a",), None]


@pytest.fixture
def shards(tmp_path):
    """A manifest of four clips, prepared."""
    text = "\n".join(
        json.dumps({"filename": f"{k}.wav"} | ({} if found is None else {"label": list(found)}))
        for k, found in enumerate(MIXED)
    )
    for k in range(4):
        write(tmp_path / f"{k}.wav")
    (tmp_path / "list.jsonl").write_text(text)
    data = settings(source="manifest", path=str(tmp_path / "list.jsonl"))
    prepare.prepare(sources.load(data), data, tmp_path / "out")
    return tmp_path / "out"


def test_shards_keep_unknown_and_none_apart(shards):
    data = settings(source="arrayrecord", path=str(shards))
    assert sources.load(data).labels == MIXED
    # In shards that were written before, [] may mean either: nothing is claimed.
    meta = json.loads((shards / "metadata.json").read_text())
    (shards / "metadata.json").write_text(json.dumps(meta | {"version": 1}))
    assert load_array_record(data).labels == [("a", "c"), None, None, ("b",)]


def test_several_labels_are_refused_where_one_is_expected(shards):
    """Whatever the source; here the first of them would be trained on."""
    data = settings(source="arrayrecord", path=str(shards), multi_label=False)
    with pytest.raises(
        UserError, match=r"'0.wav' has several labels 'a\|c'; set data.multi_label=True"
    ):
        sources.load(data)
    with pytest.raises(UserError, match="and so have 2 more clips"):
        labels.checked(mixed([("a", "b")] * 3), False)


def test_one_label_knows_nothing_of_none():
    got = labels.checked(mixed([("a",), None, (), ("b",)]), False)
    assert got.labels == [("a",), None, None, ("b",)]
