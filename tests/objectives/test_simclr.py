"""SimCLR: its loss as written out; negatives, padding and collapse."""

import jax.numpy as jnp
import numpy as np
import pytest
from family import stage_of
from flax import nnx

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.objectives.simclr import nt_xent


def written_out(x, temperature):
    """NT-Xent by loops over views, in double precision: losses, and which found their other."""
    n = len(x)
    losses, right = [], []
    for i in range(n):
        other = (i + n // 2) % n
        similarity = {j: float(x[i] @ x[j]) / temperature for j in range(n) if j != i}
        denominator = sum(np.exp(value) for value in similarity.values())
        losses.append(-np.log(np.exp(similarity[other]) / denominator))
        right.append(max(similarity, key=similarity.get) == other)
    return np.array(losses), np.array(right)


def unit_rows(rows, width=6, seed=0):
    x = np.random.default_rng(seed).standard_normal([rows, width])
    x[rows // 2 :] += 1.5 * x[: rows // 2]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_as_written_out(temperature):
    x = unit_rows(10)
    losses, right = nt_xent(jnp.asarray(x, jnp.float32), jnp.ones(10), temperature)
    expected, found = written_out(x, temperature)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_array_equal(right > 0, found)
    assert 0 < found.mean() < 1


def test_padding_is_nobodys_negative():
    x, mask = unit_rows(8), np.tile([1.0, 1, 1, 0], 2)
    losses, _ = nt_xent(jnp.asarray(x, jnp.float32), jnp.asarray(mask, jnp.float32), 0.2)
    expected, _ = written_out(x[mask > 0], 0.2)
    np.testing.assert_allclose(losses[mask > 0], expected, rtol=1e-4)
    np.testing.assert_array_equal(losses[mask == 0], 0)


def test_views_of_one_vector_are_called_a_collapse():
    """A projector that gives the same for all: the loss is that of guessing among 2B − 1."""
    stage = stage_of("simclr")
    objective = objectives.build(stage)
    model = objective.build(nnx.Rngs(0))
    model.projector.second.kernel[...] *= 0
    model.projector.second.bias[...] += 1
    rng = np.random.default_rng(0)
    from sacjax.views import View

    views = tuple(
        View(jnp.asarray(rng.standard_normal([5, 20, 16]), jnp.float32), jnp.full(5, 20))
        for _ in range(2)
    )
    loss = objective.loss(model, {"views": views, "mask": jnp.ones(5)}, Context())
    np.testing.assert_allclose(loss.total / loss.count, np.log(9), rtol=1e-5)
    values = objective.summarize(loss.metrics)
    assert "all clips have nearly one embedding" in objective.health(values)
    assert not objective.health({"spread": 0.9})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(temperature=0.0), "objective.options.temperature is 0"),
        (dict(projection_dims=8), "objective.options.projection_dims: .*projection_dim"),
    ],
)
def test_options_that_are_refused(options, message):
    stage = stage_of("simclr")
    with stage.objective.unlocked():
        stage.objective.options = options
    with pytest.raises(UserError, match=message):
        config_lib.check(config_lib.default(pretrain=stage))
