"""The benchmark's tasks: their data are valid, split as said, and found where they are."""

import numpy as np
import pytest
import soundfile as sf

from sacjax import config as config_lib
from sacjax.data import sources, splits
from sacjax.errors import UserError
from sacjax.evaluators import probes
from sacjax.inference import tasks


@pytest.mark.parametrize("name", tasks.TASKS)
def test_every_task_is_a_valid_config(name):
    task = tasks.TASKS[name]
    assert task.metric in probes.METRICS and task.title and task.protocol
    for data in task.configs():
        stage = config_lib.stage()
        stage.data = data
        config_lib.check(config_lib.default(supervised=stage))


def write(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(root / name, np.zeros(80), 8000)


def of_layout(tmp_path, name, files):
    """Returns ([parts of each split, as names], the groups) of a task on files of its layout."""
    write(tmp_path, files)
    found, missing = tasks.find([f"{name}={tmp_path}"])
    assert not missing
    recordings = sources.load(found[name].configs()[0])
    parts = [splits.split(recordings, data) for data in found[name].configs()]
    names = np.array(recordings.names)
    return [{part: set(names[own]) for part, own in one.items()} for one in parts], recordings


def test_genres_are_tested_ten_tracks_in_a_row(tmp_path):
    files = [f"{g}/{g}.{k:05d}.wav" for g in ("blues", "pop") for k in range(0, 100, 5)]
    parts, recordings = of_layout(tmp_path, "gtzan", files)
    assert recordings.class_names == ("blues", "pop") and len(parts) == 10
    for k, part in enumerate(parts):
        rows = range(10 * k, 10 * k + 10, 5)
        assert part["test"] == {f"{g}/{g}.{row:05d}.wav" for g in ("blues", "pop") for row in rows}
        assert part["train"] == set(files) - part["test"]


def test_a_video_of_a_language_is_not_in_two_parts(tmp_path):
    files = [
        f"{language}/{language}_Ab-{video}__U__S{k}---0{k}10.100-0{k}15.900.wav"
        for language in ("eo", "fi")
        for video in range(5)
        for k in range(2)
    ]
    parts, recordings = of_layout(tmp_path, "voxlingua107", files)
    assert recordings.groups[0] == "eo_Ab-0" and len(set(recordings.groups)) == 10
    for part in parts:
        videos = {name: name.split("__")[0] for name in files}
        held = {videos[name] for name in part["test"]}
        assert len(held) == 2 and held.isdisjoint(videos[name] for name in part["train"])
    assert len({frozenset(part["test"]) for part in parts}) > 1


def test_what_is_there_and_what_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("SACJAX_DATA", str(tmp_path))
    (tmp_path / "fsdd").mkdir()
    found, missing = tasks.find()
    assert {"fsdd", "fsdd_speakers", "sounds"} <= set(found) and "esc10" in missing
    assert found["fsdd"].path == str(tmp_path / "fsdd") and set(found) | set(missing) == set(
        tasks.TASKS
    )
    assert missing["ravdess"] == str(tmp_path / "ravdess" / "manifest.csv")
    found, missing = tasks.find([f"esc10={tmp_path}", "esc50"])
    assert list(found) == ["esc10"] and list(missing) == ["esc50"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["esc1"], "there is no task 'esc1'; did you mean 'esc10'"),
        (["fsdd", "fsdd"], "'fsdd' is given twice"),
        (["sounds=x"], "sounds is synthesized and reads no data"),
        (["fsdd=/nowhere"], "there is no file or folder '/nowhere'"),
    ],
)
def test_mistakes(wanted, message):
    with pytest.raises(UserError, match=message):
        tasks.find(wanted)
