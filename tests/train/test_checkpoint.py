"""Saving, keeping, restoring, and refusing what does not fit."""

import errno
import gc
import itertools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from ml_collections import ConfigDict
from workdirs import config_of, random_values

from sacjax import config as config_lib
from sacjax import distributed, objectives
from sacjax import io as io_lib
from sacjax.errors import UserError
from sacjax.inference import load_trained
from sacjax.train.checkpoint import (
    Checkpoints,
    best_of,
    complete,
    is_better,
)
from sacjax.train.checkpoint_files import write_labels
from sacjax.train.hooks import note_best
from sacjax.train.loop import Record
from sacjax.train.state import TrainState
from sacjax.train.trained import take_encoder


def state(step, width=3):
    params = {
        "encoder": {"conv": {"kernel": jnp.full([2, width], float(step))}},
        "head": {"bias": jnp.zeros([width])},
    }
    return TrainState(
        jnp.asarray(step),
        jnp.zeros([2], jnp.int32),
        params,
        {},
        (jnp.ones([]),),
        None,
        {"loss": (jnp.ones([]), jnp.ones([]))},
        jnp.zeros([], jnp.int32),
        jnp.zeros([4], bool),
    )


def abstract(values):
    """The shapes of a state, with the shardings that `restore` places it by."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), values
    )


def saved(folder, *steps, metrics=(), **options):
    """Checkpoints of these steps in a folder, opened anew as another process would."""
    checkpoints = Checkpoints(folder, "supervised", asynchronous=False, **options)
    for step, metric in itertools.zip_longest(steps, metrics):
        checkpoints.save(step, state(step), {"note": step}, metric)
    checkpoints.close()
    return Checkpoints(folder, "supervised", asynchronous=False, **options)


def files_of(folder, step):
    """The files of a checkpoint."""
    return [path for path in folder_of(folder, step).rglob("*") if path.is_file()]


def folder_of(folder, step):
    return folder / "checkpoints" / "supervised" / str(step)


def contents(folder):
    """{path: content} of all files of the checkpoints, to tell that nothing was removed."""
    root = folder / "checkpoints"
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def no_pauses(monkeypatch):
    """Retries without waiting; returns the pauses that there would have been."""
    pauses = []
    monkeypatch.setattr(distributed.time, "sleep", pauses.append)
    return pauses


def test_keeps_the_last_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, "supervised", keep=2)
    for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.6), (5, None)):
        checkpoints.save(step, state(step), {"note": step}, accuracy)
    checkpoints.wait()
    assert sorted(complete(checkpoints.folder)) == [2, 4, 5]
    assert checkpoints.best() == 2 and checkpoints.latest() == 5
    restored, meta = checkpoints.restore(state(0))
    assert int(restored.step) == 5 and meta == {"note": 5}
    np.testing.assert_array_equal(restored.params["encoder"]["conv"]["kernel"], 5.0)
    assert int(checkpoints.restore(state(0), 2)[0].step) == 2
    checkpoints.close()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ESTALE, "Stale file handle"),
        OSError(errno.EIO, "Input/output error"),
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
        ValueError("User-provided restore item and on-disk tree structures do not match"),
    ],
    ids=["stale", "io", "memory", "device_memory", "library"],
)
def test_an_error_of_reading_is_raised_and_nothing_is_deleted(
    tmp_path, monkeypatch, no_pauses, error
):
    checkpoints = saved(tmp_path, 1, 2)
    before = contents(tmp_path)

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.StandardCheckpointHandler, "restore", fail)
        with pytest.raises(type(error)) as raised:
            checkpoints.restore(state(0))
    assert raised.value is error
    assert "supervised/2 cannot be read; nothing of it is removed" in error.__notes__[0]
    assert contents(tmp_path) == before and checkpoints.latest() == 2
    assert len(no_pauses) == (3 if isinstance(error, OSError) else 0)
    assert int(checkpoints.restore(state(0))[0].step) == 2


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ESTALE, "Stale file handle"), ValueError("UNKNOWN: x [os_error_code='116']")],
)
def test_an_error_that_passes_is_tried_again(tmp_path, monkeypatch, no_pauses, error):
    checkpoints, restore = saved(tmp_path, 1), ocp.StandardCheckpointHandler.restore
    errors = [error, error]

    def fail_twice(*args, **kwargs):
        if errors:
            raise errors.pop()
        return restore(*args, **kwargs)

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", fail_twice)
    assert int(checkpoints.restore(state(0))[0].step) == 1
    assert no_pauses == list(distributed.RETRY_SECONDS[:2])


def test_a_folder_that_cannot_be_looked_at_is_an_error_and_not_empty(
    tmp_path, monkeypatch, no_pauses
):
    saved(tmp_path, 1)

    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(type(tmp_path), "iterdir", fail)
    with pytest.raises(OSError, match="Input/output error"):
        Checkpoints(tmp_path, "supervised")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("spoil", [cut, Path.unlink], ids=["cut", "missing"])
@pytest.mark.parametrize("which", ["model/manifest.ocdbt", "training/d/*", "metrics/metrics"])
def test_a_checkpoint_that_lost_a_file_gives_way_to_the_one_before(tmp_path, capsys, spoil, which):
    saved(tmp_path, 1, 2, metrics=(0.5, 0.9))
    spoil(next(folder_of(tmp_path, 2).glob(which)))
    before = contents(tmp_path)
    checkpoints = Checkpoints(tmp_path, "supervised", asynchronous=False)
    restored, meta = checkpoints.restore(state(0))
    assert int(restored.step) == 1 and meta == {"note": 1}
    assert checkpoints.latest() == checkpoints.best() == 1 and contents(tmp_path) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert "supervised/2: left out: " in line and line.endswith("; nothing is removed")
    with pytest.raises(UserError, match="no checkpoint of step 2: "):
        checkpoints.restore(state(0), 2)


def test_a_damaged_checkpoint_makes_way_for_others_and_stays(tmp_path, capsys):
    checkpoints = saved(tmp_path, 1, 2)
    for path in files_of(tmp_path, 2):
        cut(path)
    damaged = {path.name: path.read_bytes() for path in files_of(tmp_path, 2)}
    assert int(checkpoints.restore(state(0))[0].step) == 1
    checkpoints.save(2, state(7), {"note": 7}, None)  # the run comes by again
    assert {p.name: p.read_bytes() for p in files_of(tmp_path, "2.damaged")} == damaged
    assert "supervised/2: is now 2.damaged" in capsys.readouterr().err
    restored, meta = checkpoints.restore(state(0))
    assert int(restored.step) == 7 and meta == {"note": 7}
    assert sorted(complete(checkpoints.folder)) == [1, 2]


def test_a_step_below_a_damaged_checkpoint_is_saved_and_the_good_one_kept(tmp_path):
    """Orbax alone would leave step 5 out, without a word, and count 9 among the two it keeps."""
    saved(tmp_path, 2, 4, 9, keep=3)
    cut(folder_of(tmp_path, 9) / "model" / "manifest.ocdbt")
    checkpoints = Checkpoints(tmp_path, "supervised", keep=2, asynchronous=False)
    assert int(checkpoints.restore(state(0))[0].step) == 4
    checkpoints.save(5, state(5), {}, None)
    assert sorted(complete(checkpoints.folder)) == [4, 5] and checkpoints.latest() == 5
    assert folder_of(tmp_path, "9.damaged").is_dir()
    checkpoints.save(9, state(9), {}, None)
    cut(folder_of(tmp_path, 9) / "model" / "manifest.ocdbt")
    assert int(checkpoints.restore(state(0))[0].step) == 5
    checkpoints.save(9, state(9), {}, None)  # a second one has another name
    assert folder_of(tmp_path, "9.damaged1").is_dir() and checkpoints.latest() == 9


def test_none_that_is_whole_is_one_line_and_not_a_new_beginning(tmp_path):
    saved(tmp_path, 1)
    for path in files_of(tmp_path, 1):
        path.write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, "supervised")
    for ask in (checkpoints.latest, lambda: checkpoints.restore(state(0))):
        with pytest.raises(UserError, match="none of its checkpoints is whole; nothing is removed"):
            ask()
    assert len(files_of(tmp_path, 1)) > 5


def test_a_checkpoint_of_an_earlier_version_has_no_list_of_files(tmp_path):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        (folder_of(tmp_path, step) / "files.json").unlink()
    checkpoints = Checkpoints(tmp_path, "supervised")
    assert int(checkpoints.restore(state(0))[0].step) == 2
    cut(folder_of(tmp_path, 2) / "model" / "manifest.ocdbt")
    with pytest.raises(ValueError, match="manifest"):  # nothing tells that it is short
        checkpoints.restore(state(0))
    assert sorted(complete(checkpoints.folder)) == [1, 2]


def test_the_list_of_files_is_there_as_soon_as_the_checkpoint_is(tmp_path):
    """A kill in between must not leave a checkpoint of which nothing is known."""
    saved(tmp_path, 1)
    sizes = json.loads((folder_of(tmp_path, 1) / "files.json").read_text())
    found = {
        path.relative_to(folder_of(tmp_path, 1)).as_posix(): path.stat().st_size
        for path in files_of(tmp_path, 1)
        if path.parent != folder_of(tmp_path, 1)
    }
    assert sizes == found and "model/manifest.ocdbt" in sizes and "meta/metadata" in sizes


def test_a_save_that_fails_leaves_no_checkpoint_without_its_list_of_files(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(io_lib, "write_text", full)
    with pytest.raises(
        UserError, match="No space left on device.*; the last good one is of step 1"
    ):
        checkpoints.save(2, state(2), {}, None)
    assert complete(checkpoints.folder) == [1]


def test_restore_needs_shapes_alone_and_makes_one_copy(tmp_path):
    checkpoints = saved(tmp_path, 3)
    like = abstract(state(0, width=3))
    gc.collect()
    before = sum(x.nbytes for x in jax.live_arrays())
    restored, _ = checkpoints.restore(like)
    gc.collect()
    size = sum(x.nbytes for x in jax.tree.leaves(restored))
    assert sum(x.nbytes for x in jax.live_arrays()) - before == size
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, like)
    np.testing.assert_array_equal(restored.params["encoder"]["conv"]["kernel"], 3.0)


def test_an_error_of_another_host_ends_this_one_with_its_message(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)
    from jax.experimental import multihost_utils

    told = b"F/x/1: OSError: [Errno 13] Permission denied".ljust(distributed.MESSAGE_BYTES)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils,
        "process_allgather",
        lambda mine: np.stack([mine, np.frombuffer(told, np.uint8)]),
    )
    with pytest.raises(UserError, match="host 1: /x/1: OSError: .*Permission denied"):
        checkpoints.restore(state(0))


def test_a_full_disk_is_one_line_that_names_the_last_good_one(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(
        UserError,
        match="cannot be written .*No space left on device.*; the last good one is of step 1",
    ):
        checkpoints.save(2, state(2), {}, None)
    assert int(checkpoints.restore(state(0))[0].step) == 1


def test_a_host_that_dies_during_a_save_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    """Exit code 2, of a UserError, would keep a scheduler from starting the run again."""
    checkpoints, gone = saved(tmp_path, 1), jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather")

    def fail(*args, **kwargs):
        raise gone

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        checkpoints.save(2, state(2), {}, None)
    assert raised.value is gone


def test_going_back(tmp_path):
    checkpoints = saved(tmp_path, 2, 4, 6, keep=3)
    assert not checkpoints.back_before(1) and checkpoints.latest() == 6
    assert checkpoints.back_before(4) and checkpoints.latest() == 4
    checkpoints.save(6, state(7), {}, None)  # not left alone: it is another one
    assert int(checkpoints.restore(state(0))[0].step) == 7


def test_going_back_is_to_a_checkpoint_that_is_whole(tmp_path):
    saved(tmp_path, 2, 4)
    cut(folder_of(tmp_path, 2) / "model" / "manifest.ocdbt")
    checkpoints = Checkpoints(tmp_path, "supervised", asynchronous=False)
    assert not checkpoints.back_before(3) and int(checkpoints.restore(state(0))[0].step) == 4


def test_lowest_is_best_where_asked(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3, metrics=(0.5, 0.2, 0.7), keep=1, mode="min")
    assert checkpoints.best() == 2 and sorted(complete(checkpoints.folder)) == [2, 3]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_of_equal_metrics_the_first_is_the_best_everywhere(tmp_path, mode):
    """What is kept, what is taken for evaluation, and what the train loop notes."""
    values = (0.5, 0.9, math.nan, 0.9, 0.9, 0.7) if mode == "max" else (3, 1, math.nan, 1, 1, 2)
    evaluation = ConfigDict({"best": "validation/x", "best_mode": mode})
    record = Record()
    checkpoints = Checkpoints(tmp_path, "supervised", keep=1, mode=mode, asynchronous=False)
    for step, value in enumerate(values, 1):
        note_best(record, {"validation/x": value}, evaluation, step, True)
        checkpoints.save(step, state(step), {}, value)
    assert record.best_step == checkpoints.best() == 2 and record.since_best == 4
    assert sorted(complete(checkpoints.folder)) == [2, 6]
    assert Checkpoints(tmp_path, "supervised", mode=mode).best() == 2  # another process


def test_a_metric_that_is_not_finite_is_no_better_than_none():
    assert not is_better(math.nan, None, "max") and not is_better(math.inf, 1.0, "max")
    assert not is_better(None, None, "min") and is_better(0.0, None, "max")
    assert best_of({3: math.nan, 1: None}, "max") is None
    assert best_of({5: 1.0, 3: math.nan, 4: 1.0}, "max") == 4


def test_another_model_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, "supervised")
    checkpoints.save(1, state(1), {}, None)
    checkpoints.wait()
    with pytest.raises(
        UserError, match=r"another model: 'params.encoder.conv.kernel' has shape \(2, 3\).*\(2, 4\)"
    ):
        checkpoints.restore(state(0, width=4))
    other = state(0)
    other.params["encoder"]["extra"] = jnp.zeros([1])
    with pytest.raises(UserError, match="'params.encoder.extra' is only in the config's model"):
        checkpoints.restore(other)
    checkpoints.close()


def test_encoder_is_taken_and_head_left():
    fresh, trained = state(1).params, state(7).params
    trained["head"]["bias"] = trained["head"]["bias"] + 9
    taken = take_encoder(fresh, trained, "there")
    np.testing.assert_array_equal(taken["encoder"]["conv"]["kernel"], 7.0)
    np.testing.assert_array_equal(taken["head"]["bias"], 0.0)
    with pytest.raises(UserError, match="there: the checkpoint is of another model"):
        take_encoder(fresh, state(7, width=5).params, "there")


def test_the_config_says_which_checkpoint_where_nobody_does(tmp_path):
    config = config_of("small_cnn")
    config.supervised.eval.checkpoint = "best"
    objective = objectives.build(config.supervised, ("a", "b"), np.ones(2))
    write_labels(tmp_path, "supervised", ("a", "b"))
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    checkpoints = Checkpoints(tmp_path, "supervised", asynchronous=False)
    for step, accuracy in ((1, 0.9), (2, 0.5)):
        _, params, buffers = nnx.split(
            random_values(lambda: objective.build(nnx.Rngs(0)), step), nnx.Param, ...
        )
        values = state(step)._replace(params=nnx.as_pure(params), buffers=nnx.as_pure(buffers))
        checkpoints.save(step, values, {}, accuracy)
    checkpoints.close()
    assert [load_trained(tmp_path, which).step for which in ("best", "last", None)] == [1, 2, 1]


def test_folders_that_are_no_workdir(tmp_path):
    with pytest.raises(UserError, match="not a workdir of sacjax"):
        load_trained(tmp_path)


def objects(bucket, run):
    return [name for name in bucket.names() if name.startswith(f"{run}/")]


def test_in_a_bucket_a_checkpoint_is_there_when_it_is_committed(bucket):
    run = "gs://bucket/committed"
    checkpoints = saved(run, 1, 2, 3, metrics=(0.9, 0.5, 0.6), keep=1)
    assert sorted(complete(checkpoints.folder)) == [1, 3]
    assert checkpoints.best() == 1 and checkpoints.latest() == 3
    assert not [name for name in objects(bucket, "committed") if "/2/" in name]
    restored, meta = checkpoints.restore(abstract(state(0)))
    assert int(restored.step) == 3 and meta == {"note": 3}
    np.testing.assert_array_equal(restored.params["encoder"]["conv"]["kernel"], 3.0)
    # As a kill leaves it while it is being written.
    bucket.storage.delete_file("bucket", "committed/checkpoints/supervised/3/commit_success.txt")
    checkpoints = Checkpoints(run, "supervised", keep=1, asynchronous=False)
    assert checkpoints.latest() == 1
    checkpoints.save(3, state(7), {"note": 7}, None)
    assert int(checkpoints.restore(abstract(state(0)))[0].step) == 7


def test_in_a_bucket_too_a_run_goes_back(bucket):
    checkpoints = saved("gs://bucket/back", 2, 4, 6, keep=3)
    assert checkpoints.back_before(5) and checkpoints.latest() == 4
    assert not [name for name in objects(bucket, "back") if "/6/" in name]
    assert not checkpoints.back_before(1) and checkpoints.latest() == 4
    assert int(checkpoints.restore(abstract(state(0)))[0].step) == 4


def test_a_bucket_that_answers_503_for_a_while_delays_a_checkpoint(bucket, outage):
    checkpoints = Checkpoints("gs://bucket/delayed", "supervised")
    left = outage()
    checkpoints.save(1, state(1), {}, None)
    checkpoints.close()
    assert left() == 0 and complete(checkpoints.folder) == [1]
    left = outage()
    assert int(checkpoints.restore(abstract(state(0)))[0].step) == 1 and left() == 0
