"""Tar files as WebDataset writes them, made by Python's own tarfile."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import soundfile as sf
from sounds import settings

from sacjax.data import decode, prepare, retry, sources
from sacjax.errors import UserError

RATE = 8000


def samples(k):
    return np.random.default_rng(k).integers(-9000, 9000, 400 + 100 * k).astype(np.int16)


def encoded(k, kind="wav"):
    file = io.BytesIO()
    sf.write(file, samples(k), RATE, format=kind)
    return file.getvalue()


def tar(path, files, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as out:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


def load(path, **values):
    return sources.load(settings(source="webdataset", path=str(path), **values))


def audio_of(recordings, i):
    return decode.read_pcm(recordings.open(i), RATE, 0.0, 10.0)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_labels_in_text_files_and_splits_in_the_tars_names(tmp_path, form):
    long = "far/" + "b" * 90  # such a name takes a header of its own in some formats
    first = {"a.wav": encoded(0), "a.cls": "dog\n", f"{long}.flac": encoded(1, "flac")}
    tar(tmp_path / "train-000.tar", first | {f"{long}.cls": "cat", "readme.md": "x"}, form)
    tar(tmp_path / "train-001.tar", {"./a.cls": "dog", "./a.WAV": encoded(2)}, form)
    tar(tmp_path / "test-000.tar", {"c.wav": encoded(3), "d.wav": encoded(4), "d.cls": ""}, form)
    loaded = load(tmp_path)
    assert loaded.names == [
        "test-000.tar/c.wav", "test-000.tar/d.wav", "train-000.tar/a.wav",
        f"train-000.tar/{long}.flac", "train-001.tar/a.WAV",
    ]  # fmt: skip
    assert loaded.labels == [None, None, ("dog",), ("cat",), ("dog",)]
    assert loaded.class_names == ("cat", "dog")
    assert loaded.splits == ["test"] * 2 + ["train"] * 3
    loaded = pickle.loads(pickle.dumps(loaded))  # as worker processes get it
    for i, k in enumerate((3, 4, 0, 1, 2)):
        np.testing.assert_array_equal(audio_of(loaded, i), samples(k))
    alone = load(tmp_path / "train-000.tar")
    assert alone.names[0] == "train-000.tar/a.wav" and alone.splits is None


def test_what_json_says(tmp_path):
    said = [dict(label=["a", None, "b"], speaker=7, fold=1), dict(label="a", speaker=8, fold=2)]
    files = {f"{k}.ogg": encoded(k, "ogg") for k in range(2)}
    files |= {f"{k}.json": json.dumps(one | {"mood": "ok"}) for k, one in enumerate(said)}
    tar(tmp_path / "d.tar", files)
    loaded = load(tmp_path, multi_label=True)
    assert loaded.labels == [("a", "b"), ("a",)]
    assert (loaded.groups, loaded.folds) == (["7", "8"], [1, 2])
    assert load(tmp_path, label_column="mood", group_column="fold").class_names == ("ok",)
    with pytest.raises(UserError, match="no sample has 'moods'; they have label, speaker, fold"):
        load(tmp_path, label_column="moods")


def test_a_sample_of_nobody_is_in_no_group_that_official_splits_could_share(tmp_path):
    for part in ("train", "test"):
        said = [json.dumps(one) for one in (dict(speaker=part), {})]
        files = {f"{part}{k}.wav": encoded(k) for k in range(2)}
        files |= {f"{part}{k}.json": text for k, text in enumerate(said)}
        tar(tmp_path / f"{part}.tar", files)
    assert load(tmp_path).groups == ["test", "", "train", ""]


def test_one_of_several_sounds_of_a_sample(tmp_path):
    path = tar(tmp_path / "d.tar", {"a.near.wav": encoded(0), "a.far.wav": encoded(1)})
    with pytest.raises(UserError, match="'a.near.wav' and 'a.far.wav' are sounds of one sample"):
        load(path)
    loaded = load(path, audio_column="far.wav")
    assert loaded.names == ["d.tar/a.far.wav"]
    np.testing.assert_array_equal(audio_of(loaded, 0), samples(1))


@pytest.mark.parametrize("names", [("a.mp4", "a.wav"), ("a.wav", "a.mp4")])
def test_a_film_beside_a_sound_is_left_out(tmp_path, names):
    path = tar(tmp_path / "d.tar", {name: encoded(0) for name in names})
    assert load(path).names == ["d.tar/a.wav"]
    assert load(path, audio_column="mp4").names == ["d.tar/a.mp4"]


def test_tars_are_prepared_and_what_is_damaged_is_skipped(tmp_path):
    files = {"a.wav": encoded(0), "a.txt": "x", "b.wav": b"no sound", "b.txt": "y"}
    tar(tmp_path / "in" / "d.tar", files)
    data = settings(source="webdataset", path=str(tmp_path / "in"))
    recordings = sources.load(data)
    with pytest.raises(retry.BadClip, match="Format not recogni|Unrecogni"):
        retry.attempt(lambda: recordings.open(1))
    meta = prepare.prepare(recordings, data, tmp_path / "out")
    assert (meta["recordings"], meta["skipped"]) == (1, 1)
    shards = sources.load(settings(source="arrayrecord", path=str(tmp_path / "out")))
    assert shards.labels == [("x",)] and shards.names == ["d.tar/a.wav"]
    np.testing.assert_array_equal(audio_of(shards, 0), samples(0))


def test_tars_that_were_written_anew_are_not_what_was_prepared(tmp_path):
    data = settings(source="webdataset", path=str(tmp_path / "d.tar"))
    tar(tmp_path / "d.tar", {"a.wav": encoded(0)})
    prepare.prepare(load(tmp_path / "d.tar"), data, tmp_path / "out")
    tar(tmp_path / "d.tar", {"a.wav": encoded(1)})
    with pytest.raises(UserError, match="an older state of the files"):
        prepare.prepare(load(tmp_path / "d.tar"), data, tmp_path / "out")


def test_tars_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="there are no .tar files in"):
        load(tmp_path)
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match="no .tar files in .*: unpack 'd.tar.gz' by gunzip"):
        load(tmp_path)
    with pytest.raises(UserError, match="d.tar.gz cannot be read as an uncompressed tar file"):
        load(tmp_path / "d.tar.gz")
    path = tar(tmp_path / "d.tar", {"a.wav": encoded(0), "b.wav": encoded(1)})
    path.write_bytes(path.read_bytes()[:2300])  # within the second sound
    with pytest.raises(UserError, match="d.tar cannot be read as .*"):
        load(path)
    tar(path, {"a.json": "{", "a.wav": encoded(0)})
    with pytest.raises(UserError, match="'a.json' cannot be read: Expecting"):
        load(path)
    tar(path, {"a.json": "[1]", "a.wav": encoded(0)})
    with pytest.raises(UserError, match="'a.json' is no JSON object"):
        load(path)
    tar(path, {"a.json": '{"fold": 1}', "a.wav": encoded(0), "b.wav": encoded(1)})
    with pytest.raises(UserError, match="'d.tar/b.wav' has no fold, but others have"):
        load(path)
