"""The classifier, and how it is built from a config."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from sacjax import models
from sacjax.errors import UserError
from sacjax.models.pooling import KINDS

OPTIONS = {"audionet": dict(variant="m5", width=0.125), "spectrogram_resnet": dict(width=4), "small_cnn": dict(channels=(4, 4), hidden=8)}  # fmt: skip


def config(name="small_cnn", pooling="mean", dropout=0.0, dtype="float32", **encoder):
    return ConfigDict(dict(name=name, encoder=encoder, pooling=pooling, dropout=dropout, dtype=dtype))


@pytest.mark.parametrize("name", models.ENCODERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_and_padding_changes_nothing(name, dtype, quick):
    c = config(name, "mean_max", dtype=dtype, **OPTIONS[name])
    models.check(c)
    model = models.build(c, num_classes=3, num_features=16, rngs=nnx.Rngs(0))
    model.eval()
    size = (1000,) if models.input_kind(c) == "waveform" else (40, 16)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, *size)), jnp.float32)
    half = size[0] // 2
    run = quick(model, lambda model, x, n: model(x, n))
    logits = run(x, jnp.array([size[0], half]))
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32
    tolerance = 1e-5 if dtype == "float32" else 0.05
    alone = run(x[1:, :half], jnp.array([half]))
    np.testing.assert_allclose(logits[1:], alone, atol=tolerance * max(float(jnp.abs(alone).max()), 1))


@pytest.mark.parametrize("pooling", KINDS)
def test_every_pooling_fits_the_head(pooling):
    model = models.build(
        config(pooling=pooling, **OPTIONS["small_cnn"]), num_classes=3, num_features=16, rngs=nnx.Rngs(0)
    )
    assert model(jnp.ones([2, 8, 16]), jnp.array([8, 4])).shape == (2, 3)


def test_dropout_is_drawn_from_the_keys_given_and_off_in_evaluation():
    model = models.build(config(dropout=0.5, **OPTIONS["small_cnn"]), num_classes=3, num_features=16, rngs=nnx.Rngs(0))
    x, n = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 16)), jnp.float32), jnp.array([8, 8])
    draw = lambda seed: model(x, n, rngs=nnx.Rngs(dropout=seed))
    np.testing.assert_array_equal(draw(0), draw(0))
    assert not np.allclose(draw(0), draw(1))
    model.eval()
    np.testing.assert_array_equal(draw(0), model(x, n))


@pytest.mark.parametrize("model, message", [
    (config("resnet"), "model.name is 'resnet'; did you mean"),
    (config("spectrogram_resnet", dept=18), "model.encoder.dept: .* did you mean 'depth'"),
    (config("spectrogram_resnet", num_features=3), "no such option"),
    (config("spectrogram_resnet", depth="18"), "model.encoder.depth is '18': expected int, such as 18"),
    (config("spectrogram_resnet", width=True), "model.encoder.width is True"),
    (config("spectrogram_resnet", stem_pool=1), "model.encoder.stem_pool is 1"),
    (config("spectrogram_resnet", depth=19), "model.encoder.depth is 19: choose one of 18, 34, 50, 101"),
    (config("small_cnn", channels=8), "model.encoder.channels is 8"),
    (config("audionet", variant="m10"), "model.encoder.variant is 'm10'; did you mean"),
    (config(pooling="average"), "model.pooling is 'average'"),
])  # fmt: skip
def test_mistakes_are_told_in_one_line(model, message):
    with pytest.raises(UserError, match=message) as error:
        models.check(model)
    assert "\n" not in str(error.value)


def test_options_that_may_be_several_things_pass():
    models.check(config("spectrogram_resnet", stem="small", stem_kernel=None, stem_pool=True, stochastic_depth=0))
    models.check(config("audionet", width=1))
    models.check(config("small_cnn", channels=[8, 8]))
