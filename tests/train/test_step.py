"""The pure step: updates against worked ones, what is not finite, schedules, teachers."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_objectives import MaskedRegression, TwoViews, bare_stage, batches

from sacjax import config as config_lib
from sacjax.context import Context
from sacjax.models.base import EncoderOutput
from sacjax.objectives.base import Teacher, teacher_of
from sacjax.train import sharding
from sacjax.train.checkpoint import Checkpoints
from sacjax.train.state import Pretrained
from sacjax.train.trainer import make_trainer

MESH = sharding.make_mesh(config_lib.default().mesh)


@cache
def trainer_of(kind, steps=9, seed=0, **optimizer):
    """Returns the compiled functions of a test objective; tests that ask alike share them."""
    stage = bare_stage(**optimizer)
    return make_trainer(kind(stage, ("a", "b")), stage, MESH, steps, seed)


def train(trainer, state, given):
    """Returns the state after a step on each batch."""
    for batch in given:
        state = trainer.step(state, sharding.put_batch(batch, MESH))
    return state


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulation_gives_the_update_of_the_whole_batch_when_counts_differ(optimizer):
    finals = []
    for accumulation in (1, 4):
        options = dict(name=optimizer, learning_rate=0.01, eps=1e-3, accumulation=accumulation)
        trainer = trainer_of(MaskedRegression, **options)
        state = jax.device_get(train(trainer, trainer.init(), batches(5)))
        finals.append(state.params)
    for a, b in zip(*map(jax.tree.leaves, finals), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert state.sums["loss"][1] == sum(b["mask"].sum() for b in batches(5))


def worked_gradient(batch, kernel, bias):
    """Returns the gradient of the summed loss by the outputs, [B, 2]."""
    error = batch["audio"] @ kernel + bias - np.eye(2)[batch["label"]]
    return 2 * error * batch["mask"][:, None]


PLAIN = dict(name="sgd", momentum=0.0, learning_rate=0.1, clip_norm=0.0)


def test_one_sgd_step_as_worked_by_hand():
    trainer = trainer_of(MaskedRegression, seed=3, accumulation=2, **PLAIN)
    state = trainer.init()
    kernel, bias = np.asarray(state.params["kernel"]), np.asarray(state.params["bias"])
    (batch,) = batches(1)
    error = worked_gradient(batch, kernel, bias) / batch["mask"].sum()
    after = train(trainer, state, [batch])
    moved = kernel - 0.1 * batch["audio"].T @ error
    np.testing.assert_allclose(after.params["kernel"], moved, atol=1e-5)
    np.testing.assert_allclose(after.params["bias"], bias - 0.1 * error.sum(0), atol=1e-5)


def test_nothing_is_computed_for_what_never_trains():
    (batch,) = batches(1)
    flops, norms = [], []
    for freeze in ((), (("kernel", 0),)):
        trainer = trainer_of(MaskedRegression, seed=3, freeze=freeze, **PLAIN)
        state = trainer.init()
        kernel, bias = np.asarray(state.params["kernel"]), np.asarray(state.params["bias"])
        step = trainer.step.lower(state, sharding.put_batch(batch, MESH)).compile()
        flops.append(step.cost_analysis()["flops"])
        after = step(state, sharding.put_batch(batch, MESH))
        norms.append(float(after.sums["gradient_norm"][0]))
    error = worked_gradient(batch, kernel, bias)
    np.testing.assert_array_equal(after.params["kernel"], kernel)
    of_bias = np.linalg.norm(error.sum(0)) / batch["mask"].sum()
    np.testing.assert_allclose(norms[1], of_bias, rtol=1e-5)
    assert norms[1] < norms[0] and flops[1] < flops[0] - 2 * 8 * 16 * 2


def test_a_number_that_the_optimizer_makes_not_finite_stays_as_it_was():
    trainer = trainer_of(MaskedRegression, name="adamw", learning_rate=0.01, eps=0.0)
    (batch,) = batches(1)
    batch["audio"][:, 3] = 0  # so that Adam divides 0 by 0
    state = trainer.init()
    before = np.asarray(state.params["kernel"])
    after = jax.device_get(train(trainer, state, [batch]))
    moved = after.params["kernel"] != before
    assert after.skipped == 0 and not moved[3].any() and moved[np.arange(len(moved)) != 3].all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])  # the square of the last overflows
def test_an_update_that_is_not_finite_leaves_nothing_but_that_it_was(value):
    options = dict(name="adamw", learning_rate=0.01, accumulation=2, ema_decay=0.9)
    trainer = trainer_of(MaskedRegression, **options)
    first, spoiled, third = batches(3)
    spoiled["audio"][np.argmax(spoiled["mask"]), 3] = value
    state = train(trainer, trainer.init(), [first])
    before = jax.device_get(state)
    state = train(trainer, state, [spoiled])
    after = jax.device_get(state)
    assert after.step == 2 and after.skipped == 1 and np.flatnonzero(after.skips).tolist() == [1]
    for field in ("params", "buffers", "opt_state", "ema", "sums", "progress"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, field), getattr(before, field))
    last = jax.device_get(train(trainer, state, [third]))
    assert last.skipped == 0 and last.sums["loss"][1] == first["mask"].sum() + third["mask"].sum()
    assert not np.array_equal(last.params["kernel"], after.params["kernel"])
    assert np.isfinite(last.params["kernel"]).all()


def test_the_schedule_counts_what_the_loss_counts_whatever_the_objective():
    schedule = dict(schedule="linear", final_fraction=0.0, schedule_steps=4, schedule_count=3)
    trainer = trainer_of(MaskedRegression, **(PLAIN | schedule))
    given = list(batches(2))
    counts = [int(batch["mask"].sum()) for batch in given]
    first = train(trainer, trainer.init(), given[:1])
    assert first.progress.tolist() == [counts[0] // 3, counts[0] % 3] and counts[0] % 3
    first = jax.device_get(first)
    second = jax.device_get(train(trainer, jax.device_put(first), given[1:]))
    assert second.progress.tolist() == [sum(counts) // 3, sum(counts) % 3]
    error = worked_gradient(given[1], first.params["kernel"], first.params["bias"])
    rate = 0.1 * (1 - counts[0] / 3 / 4)  # linear over 4 steps of 3 clips
    moved = first.params["bias"] - rate * error.sum(0) / counts[1]
    np.testing.assert_allclose(second.params["bias"], moved, rtol=1e-5)


# Objectives of two views with a teacher


TWO = dict(name="adamw", learning_rate=0.01, accumulation=2, ema_decay=0.9)


def test_a_teacher_is_the_moving_average_of_its_student_and_what_is_frozen_stays():
    """The decay rises with the schedule, so that it is seen to be told how far that has come."""
    trainer = trainer_of(TwoViews, **TWO)
    state = trainer.init()
    frozen = np.asarray(state.buffers["projection"])
    teacher = jax.device_get(state.params["encoder"])  # it starts as its student
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.buffers["teacher"]), teacher)
    for k, batch in enumerate(batches(4)):
        state = train(trainer, state, [batch])
        decay = TwoViews.decay(k)
        student = jax.device_get(state.params["encoder"])
        teacher = jax.tree.map(lambda t, s, d=decay: d * t + (1 - d) * s, teacher, student)
        found = jax.device_get(state.buffers["teacher"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, teacher)
    jax.tree.map(lambda t, s: np.testing.assert_array_less(1e-5, abs(t - s).max()), found, student)
    np.testing.assert_array_equal(state.buffers["projection"], frozen)
    assert "teacher" not in state.params and set(state.buffers) == {"teacher", "projection"}


def test_a_skipped_update_does_not_move_the_teacher():
    trainer = trainer_of(TwoViews, **TWO)
    first, spoiled = batches(2)
    spoiled["audio"][np.argmax(spoiled["mask"]), 3] = np.nan
    state = train(trainer, trainer.init(), [first])
    before = jax.device_get(state.buffers)
    after = jax.device_get(train(trainer, state, [spoiled]))
    assert after.skipped == 1
    jax.tree.map(np.testing.assert_array_equal, after.buffers, before)


def test_a_run_with_a_teacher_goes_on_from_a_checkpoint_to_the_bit(tmp_path):
    trainer = trainer_of(TwoViews, **TWO)
    given = list(batches(5))
    checkpoints = Checkpoints(tmp_path, "pretrain", asynchronous=False)
    state = train(trainer, trainer.init(), given[:2])
    checkpoints.save(2, state, {}, None)
    whole = jax.device_get(train(trainer, state, given[2:]))
    again, _ = checkpoints.restore(trainer.state_shapes)
    checkpoints.close()
    resumed = jax.device_get(train(trainer, again, given[2:]))
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_views_of_a_clip_differ_in_training_and_in_evaluation_alike_each_time():
    trainer = trainer_of(TwoViews, **TWO)
    batch = sharding.put_batch(next(batches(1)), MESH)
    state = trainer.init()
    once, again = (jax.device_get(trainer.evaluate(state, batch)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, once, again)
    assert once["view_distance"][0] > 1 and once["clean_distance"][0] > 1
    state = trainer.step(state, batch)
    assert state.sums["view_distance"][0] > 1
    assert not np.isclose(state.sums["view_distance"][0], once["view_distance"][0])


def test_a_teacher_starts_from_the_pretrained_encoder():
    stage = bare_stage(**TWO)
    objective = TwoViews(stage, ("a", "b"))
    _, params, _ = nnx.split(objective.build(nnx.Rngs(7)), nnx.Param, ...)
    given = Pretrained("elsewhere", {"encoder": nnx.as_pure(params)["encoder"]}, {})
    trainer = make_trainer(objective, stage, MESH, 9, 0, given)
    state = jax.device_get(trainer.init(given))
    jax.tree.map(np.testing.assert_array_equal, state.buffers["teacher"], state.params["encoder"])
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], given.params["encoder"])


def test_embeddings_are_the_mean_of_the_frames_and_by_the_moving_average_of_the_parameters():
    """`TwoViews` has no `embed` of its own."""
    trainer = trainer_of(TwoViews, **TWO)
    given = list(batches(2))
    state = train(trainer, trainer.init(), given[:1])
    found = trainer.embed(state, sharding.put_batch(given[1], MESH))
    kernel, bias = (np.asarray(state.ema["encoder"][name]) for name in ("kernel", "bias"))
    want = given[1]["audio"] @ kernel + bias
    there = given[1]["mask"][:, None] > 0  # a padding example has no frames
    np.testing.assert_allclose(found, np.where(there, want, 0), rtol=1e-4, atol=1e-5)
    assert not np.allclose(want, given[1]["audio"] @ np.asarray(state.params["encoder"]["kernel"]))


class Nested(nnx.Module):
    """A module with parameters in a list, statistics, and a variable of another kind."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)])

    def __call__(self, x):
        return EncoderOutput(self.layers[0](x), None)


def test_a_teacher_is_a_copy_that_shares_nothing_and_holds_no_parameter():
    student = Nested(nnx.Rngs(0))
    teacher = teacher_of(student)
    assert not jax.tree.leaves(nnx.state(teacher, nnx.Param))
    copied, original = nnx.state(teacher, Teacher), nnx.state(student, nnx.Param)
    jax.tree.map(np.testing.assert_array_equal, nnx.as_pure(copied), nnx.as_pure(original))
    student.layers[0].kernel[...] = jnp.zeros([4, 4])
    assert np.asarray(teacher.layers[0].kernel[...]).any()
    assert teacher(jnp.ones([1, 4])).frames.shape == (1, 4)


def test_a_context_says_whether_it_trains_and_never_repeats_a_draw():
    key = jax.random.key(0)
    assert not Context().train and Context().rng(3) is None and Context().child(1).key is None
    inner = Context(key, 5.0).child(1)
    assert inner.train and inner.progress == 5.0
    keys = [Context(key).rng(0), Context(key).rng(1), inner.rng(0), inner.rng(1)]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == 4
