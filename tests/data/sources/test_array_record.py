"""Any prepared TFDS data set without TensorFlow.

Features are found by their types, splits are as given, integers become [-1, 1].
"""

import functools
import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from sacjax import config as config_lib
from sacjax.data import sources
from sacjax.data.sources import tfds as tfds_source
from sacjax.data.sources.array_record import load_array_record, load_tfds
from sacjax.data.tfds_builders.published import pcm16
from sacjax.errors import UserError

SPLITS = {"train": 5, "dev_clean": 3, "test": 2}


def noise(seed: int, n: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n) * 0.1


def audio_feature(dtype=np.int64, sample_rate=16000) -> tfds.features.Audio:
    """TFDS's own default feature, as TFDS with TensorFlow would store it."""
    feature = tfds.features.Audio(sample_rate=sample_rate, dtype=dtype)
    feature.__dict__["dtype"] = dtype
    return feature


def build(
    tmp_path: Path, features: dict, example, splits=None, name: str = "somebodys", config: str = ""
) -> None:
    """Prepares a TFDS data set; `example(i)` gives record i's features."""
    splits = splits or SPLITS

    class Somebodys(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.1.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            ends = np.cumsum(list(splits.values()))
            return {
                split: self._generate_examples(range(end - size, end))
                for (split, size), end in zip(splits.items(), ends, strict=True)
            }

        def _generate_examples(self, indices):
            for i in indices:
                yield i, example(i)

    Somebodys.name = name
    Somebodys.__module__ = "__main__"  # TFDS looks for the package of any other
    Somebodys(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()


def data_config(tmp_path: Path, name: str = "somebodys") -> object:
    data = config_lib.stage().data
    data.source, data.name, data.data_dir = "tfds", name, str(tmp_path / "tfds")
    return data


def test_features_by_type_and_official_splits(tmp_path):
    features = {
        "speech": audio_feature(),
        "emotion": tfds.features.ClassLabel(names=["sad", "glad"]),
        "speaker_id": tfds.features.ClassLabel(names=["ann", "bob", "cy"]),
        "id": tfds.features.Text(),
    }
    pcm = [np.rint(noise(i) * 32768).astype(np.int64) for i in range(10)]
    build(
        tmp_path,
        features,
        lambda i: {
            "speech": pcm[i],
            "emotion": i % 2,
            "speaker_id": (i >= 5) + (i >= 8),
            "id": f"clip é {i}",
        },
    )
    recordings = load_tfds(data_config(tmp_path))
    assert (
        recordings.class_names == ("sad", "glad")
        and len(recordings) == 10
        and recordings.folds is None
    )
    assert {s: recordings.splits.count(s) for s in set(recordings.splits)} == {
        "train": 5,
        "validation": 3,
        "test": 2,
    }
    opener = pickle.loads(pickle.dumps(recordings.open))
    for k, name in enumerate(recordings.names):
        i = int(name.split()[-1])
        assert name == f"clip é {i}" and recordings.labels[k] == (("sad", "glad")[i % 2],)
        assert recordings.groups[k] == ("ann", "bob", "cy")[(i >= 5) + (i >= 8)]
        assert recordings.splits[k] == ("train" if i < 5 else "validation" if i < 8 else "test")
        clip = opener(k)
        assert (clip.sample_rate, clip.num_samples) == (16000, 300)
        expected = (pcm[i] / 32768).astype(np.float32)
        np.testing.assert_array_equal(clip.read(0, 1000), expected[:, None])
        np.testing.assert_array_equal(clip.read(290, 1000), expected[290:, None])
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(np.int64, 2**31), (np.int32, 2**31), (np.int16, 2**15), (np.int64, 2**15), (np.float32, 1)],
)
def test_integers_become_full_scale(tmp_path, dtype, scale):
    x = [noise(i) for i in range(10)]
    samples = [(v if scale == 1 else np.rint(v * scale)).astype(dtype) for v in x]
    build(tmp_path, {"audio": audio_feature(dtype)}, lambda i: {"audio": samples[i]}, {"train": 10})
    recordings = load_tfds(data_config(tmp_path))
    got = np.stack([recordings.open(k).read(0, 300)[:, 0] for k in range(10)])
    assert got.dtype == np.float32
    order = np.argsort(got[:, 0])
    np.testing.assert_allclose(got[order], np.stack(x)[np.argsort(np.stack(x)[:, 0])], atol=2**-15)


def test_unlabelled_one_split_and_no_rate(tmp_path):
    build(
        tmp_path,
        {"audio": audio_feature(sample_rate=None)},
        lambda i: {"audio": np.full(9, i)},
        {"train": 10},
    )
    data = data_config(tmp_path)
    data.sample_rate = 22050
    recordings = load_tfds(data)
    assert (
        recordings.labels == [None] * 10
        and recordings.class_names == ()
        and recordings.splits is None
    )
    assert len(set(recordings.names)) == 10 and recordings.names[3] == "train/0000003"
    assert recordings.open(0).sample_rate == 22050


def test_multi_label_and_config(tmp_path):
    features = {
        "audio": pcm16(8000),
        "label": tfds.features.Sequence(tfds.features.ClassLabel(names=["a", "b", "c"])),
    }
    build(
        tmp_path,
        features,
        lambda i: {"audio": np.full(i + 1, i, np.int16), "label": [0, 2] if i % 2 else []},
        {"train": 4},
        config="big",
    )
    recordings = load_tfds(data_config(tmp_path, "somebodys/big"))
    for k in range(4):
        n = recordings.open(k).num_samples
        assert recordings.labels[k] == (("a", "c") if n % 2 == 0 else ())
    data = data_config(tmp_path, "somebodys/big")
    data.source = "tfds"
    with pytest.raises(UserError, match=r"several labels 'a\|c'.*data.multi_label=True"):
        sources.load(data)
    data.multi_label = True
    assert sources.load(data).labels == recordings.labels


def test_a_label_of_minus_one_is_unknown(tmp_path):
    features = {"audio": pcm16(8000), "label": tfds.features.ClassLabel(names=["a", "b"])}
    build(
        tmp_path,
        features,
        lambda i: {"audio": np.full(i + 1, i, np.int16), "label": i - 1},
        {"train": 3},
    )
    recordings = load_tfds(data_config(tmp_path))
    sizes = [recordings.open(k).num_samples for k in range(3)]
    assert [recordings.labels[sizes.index(n)] for n in (1, 2, 3)] == [None, ("a",), ("b",)]


def test_groups_that_official_splits_share_are_left_out(tmp_path, caplog):
    features = {"audio": pcm16(8000), "speaker": tfds.features.Text()}
    build(tmp_path, features, lambda i: {"audio": np.zeros(3, np.int16), "speaker": f"s{i % 2}"})
    recordings = load_tfds(data_config(tmp_path))
    assert recordings.groups is None and "official splits share" in caplog.text


def test_lazily_decoded_files(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(1), 11025, format="FLAC", subtype="PCM_16")
    feature = tfds.features.Audio(
        file_format="flac", sample_rate=11025, lazy_decode=True, dtype=np.int16
    )
    feature.__dict__["dtype"] = np.int16
    feature.encode_example = functools.partial(bytes)
    build(tmp_path, {"audio": feature}, lambda i: {"audio": buffer.getvalue()}, {"train": 2})
    clip = load_tfds(data_config(tmp_path)).open(1)
    assert clip.sample_rate == 11025
    np.testing.assert_allclose(clip.read(0, 300)[:, 0], noise(1), atol=2**-15)


def test_index_is_kept_and_renewed(tmp_path, monkeypatch):
    calls = []
    real = tfds_source._scan
    monkeypatch.setattr(tfds_source, "_scan", lambda *a: calls.append(1) or real(*a))
    features = {"audio": pcm16(8000), "label": tfds.features.ClassLabel(names=["a", "b"])}
    build(
        tmp_path,
        features,
        lambda i: {"audio": np.full(50, i, np.int16), "label": i % 2},
        {"train": 4},
    )
    first = load_tfds(data_config(tmp_path))
    again = load_tfds(data_config(tmp_path))
    assert len(calls) == 1 and again.labels == first.labels and again.names == first.names
    (index,) = tmp_path.rglob(tfds_source.INDEX)
    index.write_text("{")
    assert load_tfds(data_config(tmp_path)).labels == first.labels and len(calls) == 2


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="data.name is empty"):
        load_tfds(data_config(tmp_path, ""))
    with pytest.raises(
        UserError, match="data.name: nothing is not prepared in .*tfds.*esc50, fsdd"
    ):
        load_tfds(data_config(tmp_path, "nothing"))
    build(tmp_path, {"x": np.int64}, lambda i: {"x": i}, name="silent")
    with pytest.raises(UserError, match="silent: no feature of it is audio; it has x"):
        load_tfds(data_config(tmp_path, "silent"))
    two = {
        "audio": pcm16(8000),
        "a": tfds.features.ClassLabel(num_classes=2),
        "b": tfds.features.ClassLabel(num_classes=2),
    }
    build(tmp_path, two, lambda i: {"audio": np.zeros(3, np.int16), "a": 0, "b": 1}, name="two")
    with pytest.raises(UserError, match="two: it has several labels .a, b."):
        load_tfds(data_config(tmp_path, "two"))
    odd = {"audio": pcm16(8000)}
    build(
        tmp_path,
        odd,
        lambda i: {"audio": np.zeros(3, np.int16)},
        {"train": 2, "spare": 2},
        name="odd",
    )
    with pytest.raises(UserError, match="odd: its splits .*spare"):
        load_tfds(data_config(tmp_path, "odd"))
    for shard in (tmp_path / "tfds" / "odd").rglob("*.array_record*"):
        shard.unlink()
    with pytest.raises(UserError, match="odd.* cannot be read"):
        load_tfds(data_config(tmp_path, "odd"))


def test_array_record_folder_mistakes(tmp_path):
    data = config_lib.stage().data
    data.source, data.path = "arrayrecord", str(tmp_path / "none")
    with pytest.raises(UserError, match="data.path: .*none: there is no such folder"):
        load_array_record(data)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no metadata.json in it"):
        load_array_record(data)
    (tmp_path / "none" / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="not finished: run sacjax prepare again"):
        load_array_record(data)
    (tmp_path / "none" / "metadata.json").write_text('{"version": 1')
    with pytest.raises(UserError, match="damaged"):
        load_array_record(data)
