"""Hooks on runs of no steps: what they write, save, and stop by."""

from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from sacjax import config as config_lib
from sacjax.errors import UserError
from sacjax.train import hooks
from sacjax.train.loop import Record

NAN = float("nan")


class MadeUpRun:
    """What hooks see of a run, and what they have written and saved."""

    name, epoch_steps, is_first_host, state, workdir = "supervised", 20, True, None, Path("run")

    def __init__(self, steps=100, **changes):
        self.config = config_lib.default()
        self.stage = self.config.supervised
        self.stage.train.update(log_every=5, evaluate_every=10)
        for key, value in changes.items():
            group, name = key.split("__")
            self.stage[group][name] = value
        self.steps, self.step, self.record = steps, 0, Record()
        self.values, self.written, self.saved = {}, [], []
        self.progress = SimpleNamespace(reset=lambda: None, rates=dict)
        self.schedule = lambda progress: 0.1 * progress

    @property
    def is_last(self):
        return self.step == self.steps or self.record.stopped

    def write(self, values):
        self.values |= values
        self.written.append(values)

    def save(self, metric=None):
        self.saved.append((self.step, metric))


def go(run, acting, until, values=None):
    """Runs hooks through the steps, as the loop does."""
    while run.step < until and not run.record.stopped:
        for hook in acting:
            hook.before_step(run, {})
        run.step += 1
        run.values = dict(values(run.step)) if values else {}
        for hook in acting:
            hook.after_step(run)


def noted(values, mode="max", **evaluation):
    """Returns the record after evaluations with these values of the metric."""
    stage, record = config_lib.stage(), Record()
    stage.eval.update(dict(best_mode=mode) | evaluation)
    for step, value in enumerate(values, 1):
        hooks.note_best(record, {stage.eval.best: value}, stage.eval, step, True)
    return record.best, record.best_step, record.since_best


def test_the_first_of_equals_is_the_best():
    assert noted([0.5, 0.7, 0.7, 0.6]) == (0.7, 2, 2)
    assert noted([0.5, 0.7, 0.4, 0.4], mode="min") == (0.4, 3, 1)


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf])
def test_a_metric_that_is_not_finite_is_no_better_than_any(mode, bad):
    assert noted([bad, bad], mode) == (None, 0, 2)
    assert noted([bad, 0.5], mode) == (0.5, 2, 0)
    assert noted([0.5, bad, bad], mode) == (0.5, 1, 2)


def test_a_metric_that_nobody_measures_is_told_where_something_hangs_on_it():
    stage, record = config_lib.stage(), Record()
    stage.eval.best = "validation/acuracy"
    hooks.note_best(record, {"validation/accuracy": 1.0}, stage.eval, 1, False)
    assert record.best is None and record.since_best == 0
    wanted = "eval.best: there is no metric 'validation/acuracy'; did you mean 'validation/accur"
    with pytest.raises(UserError, match=wanted):
        hooks.note_best(record, {"validation/accuracy": 1.0}, stage.eval, 1, True)


def test_a_run_stops_early_and_saves_its_best_and_its_last_step():
    accuracy = {10: 0.5, 20: 0.8, 30: NAN, 40: 0.8, 50: 0.9}
    run = MadeUpRun(train__early_stopping=2)
    evaluated = hooks.EvaluateHook(lambda state: {"validation/accuracy": accuracy[run.step]})
    go(run, [evaluated, hooks.SaveHook()], 100)
    assert run.step == 40 and run.record.stopped and run.record.best_step == 20
    assert run.saved == [(10, 0.5), (20, 0.8), (30, pytest.approx(NAN, nan_ok=True)), (40, 0.8)]
    assert run.record.best == 0.8


def test_a_metric_of_training_names_the_best_at_evaluations_between_two_log_lines():
    run = MadeUpRun(
        steps=20, eval__best="train/loss", train__early_stopping=3, eval__best_mode="min"
    )
    run.stage.train.evaluate_every = 7
    sums = {7: 0.5, 10: 0.4, 14: 0.3, 20: 0.6}  # of the hook that ends log lines
    logs = SimpleNamespace(before_step=lambda *_: None)
    logs.after_step = lambda run: (
        run.values.update({"train/loss": sums.get(run.step, 1.0)})
        if hooks.is_logged(run, run.step)
        else None
    )
    go(run, [logs, hooks.EvaluateHook(lambda state: {})], 20)
    assert (run.record.best, run.record.best_step) == (0.3, 14)


def test_checkpoints_come_every_so_many_steps_and_at_the_best_and_the_last():
    accuracy = {10: 0.5, 20: 0.8, 30: 0.7, 34: 0.6}
    run = MadeUpRun(steps=34)
    run.config.checkpoint.every = 15
    evaluated = hooks.EvaluateHook(lambda state: {"validation/accuracy": accuracy[run.step]})
    go(run, [evaluated, hooks.SaveHook()], 34)
    assert run.saved == [(10, 0.5), (15, None), (20, 0.8), (30, 0.7), (34, 0.6)]


def test_without_a_number_of_steps_it_evaluates_once_an_epoch_and_no_more_often_than_it_logs():
    def evaluated(**changes):
        run, steps = MadeUpRun(steps=50, train__evaluate_every=0, **changes), []
        go(run, [hooks.EvaluateHook(lambda state: steps.append(run.step) or {})], 50)
        return steps

    assert evaluated() == [20, 40, 50]
    assert evaluated(train__log_every=25) == [25, 50]


class Sick:
    """An objective whose health follows a metric."""

    options, advice = SimpleNamespace(collapse_patience=2), "drink water"

    def health(self, values):
        """Looks at 'fever', without its prefix."""
        return f"fever {values['fever']:.0f}" if values.get("fever", 0) > 38 else ""


@pytest.mark.parametrize(
    ("fevers", "stops"),
    [([37, 40, 41], 15), ([40, 37, 40, 37], None), ([40, 40], 10), ([37, 37], None)],
)
def test_a_run_that_looks_collapsed_on_so_many_log_lines_in_a_row_stops(fevers, stops):
    run = MadeUpRun()
    run.task = SimpleNamespace(objective=Sick())

    def values(step):
        return {"train/fever": fevers[step // 5 - 1]} if step % 5 == 0 else {}

    if stops is None:
        return go(run, [hooks.HealthHook()], 5 * len(fevers), values)
    wanted = rf"stage supervised has collapsed \(2 log lines in a row, up to step {stops}\): fever"
    with pytest.raises(UserError, match=wanted + ".*drink water"):
        go(run, [hooks.HealthHook()], 5 * len(fevers), values)


class Sums:
    """Of a state: what the log hook takes from it."""

    def __init__(self, sums, progress):
        self.sums, self.progress = sums, progress

    def _replace(self, sums):
        return Sums(sums, self.progress)


def test_a_log_line_has_the_rate_of_its_own_update_and_starts_new_sums():
    run = MadeUpRun(steps=12, optimizer__schedule_count=4)
    run.task = SimpleNamespace(
        objective=SimpleNamespace(summarize=lambda sums: {"loss": float(sums["loss"][0])})
    )

    class Step(hooks.Hook):
        def after_step(self, run):
            sums = {"loss": (run.state.sums["loss"][0] + 1, jnp.ones([]))}
            run.state = Sums(sums, jnp.asarray([run.step, 2]))

    run.state = Sums({"loss": (jnp.zeros([]), jnp.ones([]))}, jnp.asarray([0, 2]))
    run.progress.rates = lambda: {"time/productive_seconds": 2.0}
    go(run, [Step(), hooks.LogHook()], 12, lambda step: {"train/skipped_updates": 1.0})
    lines = run.written
    assert [line["train/loss"] for line in lines] == [5, 5, 2]  # steps 5, 10 and, as the last, 12
    # Before update k the schedule was at k - 1 and two quarters.
    rates = [line["learning_rate"] for line in lines]
    np.testing.assert_allclose(rates, [0.45, 0.95, 1.15], rtol=1e-6)
    assert [line["epoch"] for line in lines] == [0.25, 0.5, 0.6]
    assert all(line["train/skipped_updates"] == 1 for line in lines)
    assert run.record.productive == 6.0 and lines[0]["time/goodput"] > 0


def test_profiles_five_steps_past_what_compiles(monkeypatch):
    traced = []
    profiler = hooks.jax.profiler
    monkeypatch.setattr(profiler, "start_trace", lambda folder: traced.append((run.step, folder)))
    monkeypatch.setattr(profiler, "stop_trace", lambda: traced.append(run.step))
    run = MadeUpRun()
    run.step = 40  # a run that goes on
    go(run, [hooks.ProfileHook()], 60)
    assert not traced
    run = MadeUpRun()
    run.step, run.config.profile = 40, True
    with hooks.ProfileHook() as hook:
        go(run, [hook], 60)
    assert traced == [(43, "run/profile"), 48]


def test_a_stage_of_few_steps_is_profiled_to_its_end_and_leaves_the_next_one_free(tmp_path):
    for name in ("pretrain", "finetune"):
        run = MadeUpRun(steps=5)
        run.workdir, run.config.profile = tmp_path / name, True
        with hooks.ProfileHook() as hook:
            go(run, [hook], 5)
        assert list(run.workdir.glob("profile/**/*.xplane.pb"))
