"""Clips in device memory give the batches that decoding gives, and the training too."""

import json

import jax
import numpy as np
import pytest
import soundfile as sf
from quick_stages import share_trainers

from sacjax import config as config_lib
from sacjax import stages
from sacjax.data import pipeline, resident, sources
from sacjax.errors import UserError
from sacjax.train import sharding


@pytest.fixture
def sounds(tmp_path):
    """Clips of many lengths, one of them broken."""
    rng = np.random.default_rng(0)
    for k, size in enumerate((500, 4000, 4001, 9000, 700, 12345, 4800, 2)):
        folder = tmp_path / "sounds" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        sf.write(folder / f"{k}.wav", rng.uniform(-0.5, 0.5, size), 8000)
    (tmp_path / "sounds" / "a" / "broken.wav").write_bytes(b"no audio")
    return tmp_path / "sounds"


@pytest.mark.parametrize("pad", ["zero", "repeat", "reflect"])
@pytest.mark.parametrize("crop", ["random", "center"])
def test_the_same_batches_as_from_the_cache(sounds, pad, crop):
    data = config_lib.stage().data
    data.update(
        source="folder",
        path=str(sounds),
        sample_rate=8000,
        seconds=0.5,
        pad=pad,
        crop=crop,
        cache=True,
    )
    recordings, mesh = sources.load(data), sharding.make_mesh(config_lib.default().mesh)
    indices = np.arange(len(recordings))
    kept = resident.Resident(recordings, indices, data, mesh)
    decoded = iter(pipeline.train_batches(recordings, indices, data, 6, 3))
    placed = iter(pipeline.train_batches(recordings, indices, data, 6, 3, reader=kept))
    broken = 0
    for _ in range(6):
        want, got = next(decoded), next(placed)
        errors = [[bool(error) for error in batch.pop("error")] for batch in (want, got)]
        assert errors[0] == errors[1]
        broken += sum(errors[0])
        got = jax.device_get(kept.crop(sharding.put_batch(got, mesh)))
        assert got.keys() == want.keys()
        for key, value in want.items():
            np.testing.assert_array_equal(got[key], value, err_msg=key)
            assert got[key].dtype == value.dtype
        if pad != "zero":
            assert set(want["length"][want["mask"] > 0]) == {4000}
    assert broken


def test_a_run_learns_the_same(tmp_path, small_overrides, monkeypatch):
    share_trainers(monkeypatch)
    losses = []
    for change in ("cache", "on_device"):
        config = config_lib.load(
            "configs/folder.py", [*small_overrides, f"--config.supervised.data.{change}=True"]
        )
        config.tensorboard, config.supervised.train.log_every = False, 1
        stages.run(config, tmp_path / change)
        lines = map(json.loads, (tmp_path / change / "metrics.jsonl").read_text().splitlines())
        losses.append([line["train/loss"] for line in lines if "train/loss" in line])
    assert len(losses[0]) == 12 and losses[0] == losses[1]


def test_short_files_are_told_and_a_disk_that_fails_is_no_bad_clip(sounds, failing_disk):
    data = config_lib.stage().data
    data.update(source="folder", path=str(sounds), sample_rate=8000, seconds=0.5)
    path = sounds / "b" / "5.wav"  # of 12,345 samples
    path.write_bytes(path.read_bytes()[: 44 + 2 * 8345])
    recordings, mesh = sources.load(data), sharding.make_mesh(config_lib.default().mesh)
    indices = np.arange(len(recordings))
    failing_disk.every = 3
    kept = resident.Resident(recordings, indices, data, mesh)
    batch = kept([(i, 0.0) for i in indices])
    short = recordings.names.index("b/5.wav")
    assert failing_disk.failed and sum(bool(error) for error in batch["error"]) == 1
    assert np.flatnonzero(batch["missing"]).tolist() == [short]
    assert batch["missing"][short] == pytest.approx(0.5, abs=0.01) and batch["mask"][short] == 1
    failing_disk.every = 1
    with pytest.raises(UserError, match="wav: cannot be read: Input/output error"):
        resident.Resident(recordings, indices, data, mesh)


def test_what_does_not_fit_is_told(sounds, monkeypatch):
    data = config_lib.stage().data
    data.update(source="folder", path=str(sounds), sample_rate=8000, seconds=0.5)
    recordings, mesh = sources.load(data), sharding.make_mesh(config_lib.default().mesh)
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 1000)
    with pytest.raises(UserError, match="data.on_device needs .* GiB on each device .9 clips"):
        resident.Resident(recordings, np.arange(len(recordings)), data, mesh)
