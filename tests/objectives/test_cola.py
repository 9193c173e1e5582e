"""COLA: its loss as written out by NumPy; padding, collapse, and crops that would be the same."""

import jax.numpy as jnp
import numpy as np
import pytest
from family import stage_of
from flax import nnx

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.views import View


def views_of(clips, seed=0):
    rng = np.random.default_rng(seed)
    first = rng.standard_normal([clips, 20, 16])
    second = first + 0.3 * rng.standard_normal(first.shape)
    lengths = jnp.full(clips, 20)
    return tuple(View(jnp.asarray(x, jnp.float32), lengths) for x in (first, second))


def written_out(vectors, model, similarity, temperature=0.2):
    """Linear, layer norm, tanh, a·W·p; or linear, and cosine over a temperature, in doubles."""
    value = lambda variable: np.asarray(variable[...], np.float64)
    x = vectors @ value(model.projection.kernel) + value(model.projection.bias)
    if similarity == "bilinear":
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        x = np.tanh(x * value(model.norm.scale) + value(model.norm.bias))
        logits = x[: len(x) // 2] @ value(model.bilinear) @ x[len(x) // 2 :].T
    else:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        logits = x[: len(x) // 2] @ x[len(x) // 2 :].T / temperature
    return np.log(np.exp(logits).sum(1)) - np.diagonal(logits)


@pytest.mark.parametrize("similarity", ["bilinear", "cosine"])
def test_the_loss_as_written_out(similarity):
    stage = stage_of("cola", dict(similarity=similarity))
    objective = objectives.build(stage)
    model = objective.build(nnx.Rngs(0))
    views, mask = views_of(5), np.array([1, 1, 1, 1, 0.0], np.float32)
    batch = {"views": views, "mask": jnp.asarray(mask)}
    loss = objective.loss(model, batch, Context())
    vectors = [np.asarray(model.clip(view, Context()), np.float64)[:4] for view in views]
    losses = written_out(np.concatenate(vectors), model, similarity)
    assert loss.count == 4
    np.testing.assert_allclose(loss.total, losses.sum(), rtol=1e-4)


def test_crops_of_one_vector_are_called_a_collapse():
    objective = objectives.build(stage_of("cola", dict(similarity="cosine")))
    model = objective.build(nnx.Rngs(0))
    model.projection.kernel[...] *= 0
    model.projection.bias[...] += 1
    loss = objective.loss(model, {"views": views_of(5), "mask": jnp.ones(5)}, Context())
    np.testing.assert_allclose(loss.total / loss.count, np.log(5), rtol=1e-5)
    assert "all clips have nearly one" in objective.health(objective.summarize(loss.metrics))


def test_two_crops_that_are_the_same_are_refused():
    stage = stage_of("cola")
    stage.augment.crop_seconds, stage.augment.waveform = 0.0, ()
    with pytest.raises(UserError, match="augment.crop_seconds is 0 and augment.waveform is empty"):
        config_lib.check(config_lib.default(pretrain=stage))
