"""The learning-rate finder on curves with a known answer."""

import numpy as np
import pytest

from sacjax.errors import UserError
from sacjax.train.lr_find import smooth, suggest, sweep


def test_suggestion_is_at_the_steepest_descent():
    rates = np.logspace(-6, 0, 200)
    losses = 2.3 - 1.5 / (
        1 + np.exp(-4 * (np.log10(rates) + 3))
    )  # a logistic fall, steepest at 1e-3
    assert 1e-3 <= suggest(rates, losses) <= 10**-2.4  # the average lags a little


def test_a_loss_that_only_rises_is_an_error():
    with pytest.raises(UserError, match="does not fall"):
        suggest(np.logspace(-6, 0, 50), np.linspace(1, 5, 50))


def test_smoothing_as_worked_by_hand():
    np.testing.assert_allclose(
        smooth(np.array([1.0, 3.0]), 0.5), [1.0, (0.25 * 1 + 0.5 * 3) / 0.75]
    )


def test_sweep_stops_when_the_loss_explodes():
    values = iter([1.0, 0.9, 0.8, 50.0, 60.0])
    losses = sweep(
        lambda state, batch: (state, next(values)), None, iter(range(10)), np.logspace(-3, 0, 5)
    )
    assert losses.tolist() == [1.0, 0.9, 0.8, 50.0]
