"""Parquet files and data sets of the `datasets` library, made here; nothing is downloaded."""

import io
import pickle
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from processes import HANG
from sounds import settings

from sacjax.data import decode, pipeline, prepare, retry, sources, splits
from sacjax.data.sources import huggingface
from sacjax.errors import UserError

RATE = 8000
FORMATS = ("wav", "flac", "ogg")


def samples(k):
    return np.random.default_rng(k).integers(-9000, 9000, 400 + 100 * k).astype(np.int16)


def encoded(k, kind="wav"):
    file = io.BytesIO()
    sf.write(file, samples(k), RATE, format=kind)
    return file.getvalue()


def table(numbers, kind="wav", **columns):
    cells = [{"bytes": encoded(k, kind), "path": f"{k}.{kind}"} for k in numbers]
    return pa.table({"audio": cells} | columns)


def parquet(path, numbers, kind="wav", **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(numbers, kind, **columns), path)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def load(path, **values):
    return sources.load(settings(source="huggingface", path=str(path), **values))


def audio_of(recordings, i):
    return decode.read_pcm(recordings.open(i), RATE, 0.0, 10.0)


def test_plain_parquet_files_of_several_splits(tmp_path):
    parquet(tmp_path / "d" / "train-00000-of-00002.parquet", [0, 1], label=["dog", "cat"])
    parquet(tmp_path / "d" / "train-00001-of-00002.parquet", [2], "flac", label=["dog"])
    parquet(tmp_path / "d" / "test-00000-of-00001.parquet", [3, 4], label=["", None])
    loaded = load(tmp_path / "d")
    assert loaded.names == ["0.wav", "1.wav", "2.flac", "3.wav", "4.wav"]
    assert loaded.labels == [("dog",), ("cat",), ("dog",), None, None]
    assert loaded.class_names == ("cat", "dog")
    assert loaded.splits == ["train"] * 3 + ["test"] * 2
    assert (loaded.groups, loaded.folds) == (None, None)
    for k in (4, 0, 2):
        np.testing.assert_array_equal(audio_of(loaded, k), samples(k))
    again = pickle.loads(pickle.dumps(loaded))  # as worker processes get it
    np.testing.assert_array_equal(audio_of(again, 3), samples(3))
    known = load(tmp_path / "d", multi_label=True, empty_label="none")
    assert known.labels[3:] == [(), None]


def saved(path, n=6, **more):
    columns = {
        "sound": [{"bytes": encoded(k), "path": None} for k in range(n)],
        "bird": [k % 3 - (k == 5) * 3 for k in range(n)],
        "speaker": [f"s{k // 2}" for k in range(n)],
    }
    made = datasets.Dataset(pa.table(columns | more))
    made = made.cast_column("bird", datasets.ClassLabel(names=["wren", "crow", "swan"]))
    return made.cast_column("sound", datasets.Audio())


def test_classes_keep_their_order_and_groups_and_folds_are_found(tmp_path):
    saved(tmp_path, fold=[1, 1, 2, 2, 3, 3]).save_to_disk(tmp_path / "d")
    loaded = load(tmp_path / "d", fold=2)
    assert loaded.names[:2] == ["train/0000000", "train/0000001"]
    assert loaded.class_names == ("wren", "crow", "swan")
    assert loaded.labels == [("wren",), ("crow",), ("swan",), ("wren",), ("crow",), None]
    assert loaded.groups == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert loaded.folds == [1, 1, 2, 2, 3, 3] and loaded.splits is None
    assert splits.split(loaded, settings(fold=2))["test"].tolist() == [2, 3]
    named = load(tmp_path / "d", label_column="speaker", group_column="bird", fold_column="fold")
    assert named.class_names == ("s0", "s1", "s2")
    assert named.groups == ["wren", "crow", "swan", "wren", "crow", "-1"]


def test_rows_that_were_chosen_and_shuffled_are_read_as_such(tmp_path):
    saved(tmp_path).select([4, 0, 2]).save_to_disk(tmp_path / "d")
    loaded = load(tmp_path / "d")
    assert loaded.labels == [("crow",), ("wren",), ("swan",)]
    for row, k in enumerate((4, 0, 2)):
        np.testing.assert_array_equal(audio_of(loaded, row), samples(k))


def test_several_labels_a_clip(tmp_path):
    parquet(tmp_path / "d" / "a.parquet", [0, 1, 2], labels=[["a", "b"], [], None])
    loaded = load(tmp_path / "d", multi_label=True)
    assert loaded.labels == [("a", "b"), (), None] and loaded.class_names == ("a", "b")


def test_why_the_library_failed_is_told(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="cannot be loaded: .*Parquet") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_path_leads_only_into_the_data_sets_folder(tmp_path):
    sf.write(tmp_path / "secret.wav", samples(0), RATE)
    (tmp_path / "d").mkdir()
    sf.write(tmp_path / "d" / "in.wav", samples(1), RATE)
    paths = [str(tmp_path / "secret.wav"), "../secret.wav", "in.wav", "none.wav", None]
    cells = [{"bytes": None, "path": path} for path in paths]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"audio": pa.array(cells, kind)}), tmp_path / "d" / "a.parquet")
    loaded = load(tmp_path / "d", max_bad_fraction=1.0)
    np.testing.assert_array_equal(audio_of(loaded, 2), samples(1))
    for k in (0, 1):
        with pytest.raises(retry.BadClip, match="secret.wav' leads out of the data set's folder"):
            retry.attempt(lambda k=k: loaded.open(k))
    with pytest.raises(retry.BadClip, match="there is no sound in the row"):
        retry.attempt(lambda: loaded.open(4))
    free = load(tmp_path / "d", allow_outside_root=True)
    np.testing.assert_array_equal(audio_of(free, 0), samples(0))


def test_damaged_sound_is_skipped_and_the_rest_is_trained_on_and_prepared(tmp_path):
    cells = [{"bytes": encoded(k), "path": f"{k}.wav"} for k in range(3)]
    cells[1]["bytes"] = b"no sound"
    pq.write_table(pa.table({"audio": cells, "label": ["a", "b", "a"]}), tmp_path / "a.parquet")
    data = settings(source="huggingface", path=str(tmp_path), sample_rate=RATE, seconds=0.1)
    recordings = sources.load(data)
    batch = next(iter(pipeline.eval_batches(recordings, np.arange(3), data, 3)))
    assert batch["mask"].tolist() == [1, 0, 1] and batch["label"].tolist() == [0, -1, 0]
    meta = prepare.prepare(recordings, data, tmp_path / "out")
    assert (meta["recordings"], meta["skipped"]) == (2, 1)
    shards = sources.load(settings(source="arrayrecord", path=str(tmp_path / "out")))
    assert shards.labels == [("a",), ("a",)]
    np.testing.assert_array_equal(audio_of(shards, 1), samples(2))


@pytest.mark.parametrize(
    ("columns", "values", "message"),
    [
        ({}, dict(label_column="lable"), "data.label_column: there is no column 'lable'"),
        ({"label": ["a"]}, dict(label_column="lable"), "did you mean 'label'"),
        ({"label": [0.5]}, {}, "'label' holds numbers of type double|float64, not classes"),
        ({"score": [1]}, dict(audio_column="score"), "'score' is no column of sound files"),
        ({"fold": [None]}, {}, "fold is empty in row 0"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, columns, values, message):
    parquet(tmp_path / "a.parquet", [0], **columns)
    with pytest.raises(UserError, match=message):
        load(tmp_path, **values)


def test_what_may_be_the_sound_or_the_label_is_not_guessed():
    audio, classes = datasets.Audio(), datasets.ClassLabel(names=["a"])
    find = lambda **features: huggingface.find_columns(features, settings())
    assert find(audio=audio, other=audio, genre=classes) == ("audio", "genre", "", "")
    assert find(x=audio, tags=datasets.List(classes)) == ("x", "tags", "", "")
    assert find(x=audio, speaker=classes).group == "speaker"
    with pytest.raises(UserError, match="may be the audio .x, y.: choose one by data.audio_column"):
        find(x=audio, y=audio)
    with pytest.raises(UserError, match="may be the label .p, q.: choose one by data.label_column"):
        find(x=audio, p=classes, q=classes)
    with pytest.raises(UserError, match="no column of it is audio; it has text: name one"):
        find(text=datasets.Value("string"))


def test_places_that_are_none(tmp_path):
    with pytest.raises(UserError, match="give one of them"):
        load("")
    with pytest.raises(UserError, match="give one of them"):
        load(tmp_path, name="org/name")
    with pytest.raises(UserError, match="there is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="data.path: .* cannot be loaded: ") as error:
        load(tmp_path)  # it is empty
    assert "\n" not in str(error.value)
    datasets.DatasetDict(train=saved(tmp_path), spare=saved(tmp_path)).save_to_disk(tmp_path / "d")
    with pytest.raises(UserError, match="its splits train, spare are not all train, validation"):
        load(tmp_path / "d")


def test_a_name_of_the_hub_says_config_and_revision(monkeypatch, tmp_path):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.DatasetDict(train=saved(tmp_path))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = settings(source="huggingface", name="org/birds:song@v1.2", data_dir=str(tmp_path))
    assert len(sources.load(data)) == 6
    options = dict(revision="v1.2", cache_dir=str(tmp_path), streaming=False)
    assert asked == [(("org/birds", "song"), options)]
    assert huggingface.split_name("org/birds") == ("org/birds", "", "")


def test_offline_and_without_torch(tmp_path):
    parquet(tmp_path / "d" / "a.parquet", [3])
    code = (
        "import sys; from sounds import settings; from sacjax.data import sources\n"
        "load = lambda **where: sources.load(settings(source='huggingface', **where))\n"
        "print(load(path=sys.argv[1]).open(0).num_samples, 'torch' in sys.modules)\n"
        "try: load(name='org/nowhere')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environment = dict(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), PYTHONPATH=":".join(sys.path))
    command = [sys.executable, "-c", code, str(tmp_path / "d")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG)
    first, second = done.stdout.splitlines()
    assert first == "700 False"
    assert second.startswith("UserError data.name: org/nowhere cannot be loaded: ")
