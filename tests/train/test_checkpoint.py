"""Saving, keeping, restoring, and refusing what does not fit."""

import errno

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from workdirs import config_of, random_values

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.errors import UserError
from sacjax.train.checkpoint import Checkpoints, load_trained, take_encoder, write_labels
from sacjax.train.loop import TrainState


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


def test_keeps_the_last_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, "supervised", keep=2)
    for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.6), (5, None)):
        checkpoints.save(step, state(step), {"note": step}, accuracy)
    checkpoints.manager.wait_until_finished()
    assert sorted(checkpoints.manager.all_steps()) == [2, 4, 5]
    assert checkpoints.best() == 2 and checkpoints.latest() == 5
    restored, meta = checkpoints.restore(state(0))
    assert int(restored.step) == 5 and meta == {"note": 5}
    np.testing.assert_array_equal(restored.params["encoder"]["conv"]["kernel"], 5.0)
    assert int(checkpoints.restore(state(0), 2)[0].step) == 2
    checkpoints.close()


def test_a_checkpoint_cut_short_gives_way_to_the_one_before(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, "supervised", asynchronous=False)
    for step in (1, 2):
        checkpoints.save(step, state(step), {"note": step}, None)
    for file in (tmp_path / "checkpoints" / "supervised" / "2").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    restored, meta = checkpoints.restore(state(0))
    assert int(restored.step) == 1 and meta == {"note": 1} and checkpoints.latest() == 1
    assert "supervised/2: cannot be read, and is removed" in capsys.readouterr().out
    checkpoints.save(2, state(2), {"note": 2}, None)  # the run comes by again
    assert int(checkpoints.restore(state(0))[0].step) == 2
    checkpoints.close()


def test_none_that_can_be_read_is_one_line(tmp_path):
    checkpoints = Checkpoints(tmp_path, "supervised", asynchronous=False)
    checkpoints.save(1, state(1), {}, None)
    for file in (tmp_path / "checkpoints" / "supervised" / "1").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match="none of its checkpoints can be read"):
        checkpoints.restore(state(0))


def test_a_full_disk_is_one_line_that_names_the_last_good_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, "supervised", asynchronous=False)
    checkpoints.save(1, state(1), {}, None)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.manager, "save", full)
    with pytest.raises(
        UserError,
        match="cannot be written .*No space left on device.*; the last good one is of step 1",
    ):
        checkpoints.save(2, state(2), {}, None)
    assert int(checkpoints.restore(state(0))[0].step) == 1


def test_going_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, "supervised", keep=3, asynchronous=False)
    for step in (2, 4, 6):
        checkpoints.save(step, state(step), {}, None)
    assert not checkpoints.back_before(1) and checkpoints.latest() == 6
    assert checkpoints.back_before(4) and checkpoints.latest() == 4
    checkpoints.save(6, state(7), {}, None)  # not left alone: it is another one
    assert int(checkpoints.restore(state(0))[0].step) == 7


def test_lowest_is_best_where_asked(tmp_path):
    checkpoints = Checkpoints(tmp_path, "supervised", keep=1, mode="min")
    for step, value in ((1, 0.5), (2, 0.2), (3, 0.7)):
        checkpoints.save(step, state(step), {}, value)
    checkpoints.manager.wait_until_finished()
    assert checkpoints.best() == 2 and sorted(checkpoints.manager.all_steps()) == [2, 3]
    checkpoints.close()


def test_another_model_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, "supervised")
    checkpoints.save(1, state(1), {}, None)
    checkpoints.manager.wait_until_finished()
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
        _, params, extra = nnx.split(
            random_values(lambda: objective.build(nnx.Rngs(0)), step), nnx.Param, ...
        )
        values = state(step)._replace(params=nnx.as_pure(params), extra=nnx.as_pure(extra))
        checkpoints.save(step, values, {}, accuracy)
    checkpoints.close()
    assert [load_trained(tmp_path, which).step for which in ("best", "last", None)] == [1, 2, 1]


def test_folders_that_are_no_workdir(tmp_path):
    with pytest.raises(UserError, match="not a workdir of sacjax"):
        load_trained(tmp_path)
