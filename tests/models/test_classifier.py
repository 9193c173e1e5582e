"""The classifier, and how it is built from a config."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from networks import count_draws

from sacjax import models
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.pooling import KINDS

OPTIONS = {
    "audionet": dict(variant="m5", width=0.125),
    "autoencoder": dict(frames=8, widths=(16, 8)),
    "causal_transformer": dict(width=16, depth=2, heads=2, mlp_width=16),
    "gru": dict(width=8),
    "spectrogram_resnet": dict(width=4),
    "small_cnn": dict(channels=(4, 4), hidden=8),
    "spectrogram_transformer": dict(size="mini", width=16, depth=2, mlp_width=32, patch_bands=8),
    "convnext_tiny": dict(width=4, layer_scale=1.0),
    "efficientnet_b0": dict(width=4),
    "hts_at": dict(
        width=8, depths=(1, 2), heads=(1, 2), window=2, patch=4, picture=32, max_frames=60
    ),
    "inception_v3": dict(width=2),
    "vgg11": dict(width=4),
    "wav2vec2": dict(size="tiny", positional_kernel=16, positional_groups=4),
    "whisper": dict(width=16, depth=2, heads=2, mlp_width=16, max_frames=40),
}


def config(
    name="small_cnn",
    pooling="mean",
    dropout=0.0,
    dtype="float32",
    layers="last",
    projection=0,
    **encoder,
):
    around = dict(
        pooling=pooling, dropout=dropout, dtype=dtype, layers=layers, projection=projection
    )
    return ConfigDict(dict(name=name, encoder=encoder, **around))


# Deep networks of pictures take long to compile: test_pictures.py pads their clips, in float32.
LONG = ("convnext_tiny", "efficientnet_b0", "inception_v3")


@pytest.mark.parametrize("name", [name for name in models.ENCODERS if name not in LONG])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_and_padding_changes_nothing(name, dtype, quick):
    c = config(name, "mean_max", dtype=dtype, **OPTIONS[name])
    models.check(c)
    model = models.build(c, num_classes=3, num_features=16, rngs=nnx.Rngs(0))
    size = (1000,) if models.input_kind(c) == "waveform" else (40, 16)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, *size)), jnp.float32)
    half = size[0] // 2
    run = quick(model, lambda model, x, n: model(x, n))
    logits = run(x, jnp.array([size[0], half]))
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32
    tolerance = 1e-5 if dtype == "float32" else 0.05
    alone = run(x[1:, :half], jnp.array([half]))
    np.testing.assert_allclose(
        logits[1:], alone, atol=tolerance * max(float(jnp.abs(alone).max()), 1)
    )


@pytest.mark.parametrize("pooling", KINDS)
def test_every_pooling_fits_the_head(pooling, quick):
    model = models.build(
        config(pooling=pooling, **OPTIONS["small_cnn"]),
        num_classes=3,
        num_features=16,
        rngs=nnx.Rngs(0),
    )
    run = quick(model, lambda model, x, n: model(x, n))
    assert run(jnp.ones([2, 8, 16]), jnp.array([8, 4])).shape == (2, 3)


def test_the_norm_before_the_head_is_of_the_pooled_vector(quick):
    c = config(**OPTIONS["small_cnn"])
    c.head_norm = True
    model = models.build(c, num_classes=3, num_features=16, rngs=nnx.Rngs(0))
    x, n = jnp.asarray(np.random.default_rng(0).standard_normal([2, 8, 16]), "float32"), [8, 4]
    run = quick(model, lambda m, n: (m(x, n), m.embed(x, n), m.head.kernel[...]))
    logits, pooled, kernel = map(np.asarray, run(jnp.asarray(n)))
    centred = pooled - pooled.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(logits, normed @ kernel, atol=1e-5)  # the biases are zero


def test_dropout_of_the_pooled_vector_is_drawn_from_the_context_and_off_without():
    model = models.build(
        config(dropout=0.5, **OPTIONS["small_cnn"]),
        num_classes=3,
        num_features=16,
        rngs=nnx.Rngs(0),
    )
    x, n = (
        jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 16)), jnp.float32),
        jnp.array([8, 8]),
    )
    draw = lambda seed: model(x, n, Context(jax.random.key(seed)))
    np.testing.assert_array_equal(draw(0), draw(0))
    assert not np.allclose(draw(0), draw(1))
    pooled = model.embed(x, n)
    np.testing.assert_array_equal(model(x, n), model.head(pooled))
    np.testing.assert_array_equal(model.embed(x, n, Context(jax.random.key(0))), pooled)


RESNET = "spectrogram_resnet"


@pytest.mark.parametrize(
    "model, message",
    [
        (config("resnet"), "model.name is 'resnet'; did you mean"),
        (config(RESNET, dept=18), "model.encoder.dept: .* did you mean 'depth'"),
        (config(RESNET, num_features=3), "no such option"),
        (config(RESNET, depth="18"), "encoder.depth is '18': choose one of 18, 34, 50, 101"),
        (config(RESNET, depth=19), "encoder.depth is 19: choose one of 18, 34, 50, 101"),
        (config(RESNET, zero_init=1), "encoder.zero_init is 1: expected bool, such as True"),
        (config(RESNET, width=True), "model.encoder.width is True"),
        (config(RESNET, stem_pool=1), "model.encoder.stem_pool is 1"),
        (config("small_cnn", channels=8), "model.encoder.channels is 8"),
        (config("audionet", variant="m10"), "model.encoder.variant is 'm10'; did you mean"),
        (config(pooling="average"), "model.pooling is 'average': choose one of mean, max"),
        (config(layers="all"), "model.layers is 'all': choose one of last, weighted"),
        (config(projection=-1), "model.projection is -1: it must not be negative"),
        (config(dropout=1.0), "model.dropout is 1.0: it must be at least 0 and below 1"),
        (config(dtype="float64"), "model.dtype is 'float64'; did you mean"),
    ],
)
def test_mistakes_are_told_in_one_line(model, message):
    with pytest.raises(UserError, match=message) as error:
        models.check(model)
    assert "\n" not in str(error.value)


def test_options_that_may_be_several_things_pass():
    models.check(
        config(
            "spectrogram_resnet", stem="small", stem_kernel=None, stem_pool=True, stochastic_depth=0
        )
    )
    models.check(config("audionet", width=1))
    models.check(config("small_cnn", channels=[8, 8]))


def test_weighted_layers_are_a_softmax_weighted_sum_before_pooling(quick):
    """SUPERB's way; the projection is applied to the frames."""
    c = config("wav2vec2", layers="weighted", projection=5, **OPTIONS["wav2vec2"])
    model = models.build(c, num_classes=3, num_features=1, rngs=nnx.Rngs(0))
    weights = np.array([0.3, -1.0, 0.7], np.float32)
    model.layer_weights[...] = jnp.asarray(weights)
    x, n = (
        jnp.asarray(np.random.default_rng(0).standard_normal((1, 2000)), jnp.float32),
        jnp.array([2000]),
    )
    logits, out = quick(
        model, lambda model: (model(x, n), model.encoder(x, n, hidden_states=True))
    )()
    share = np.exp(weights) / np.exp(weights).sum()
    frames = np.tensordot(share, np.asarray(out.hidden_states), 1)[0, : int(out.lengths[0])]
    pooled = (frames @ np.asarray(model.project.kernel) + np.asarray(model.project.bias)).mean(0)
    wanted = pooled @ np.asarray(model.head.kernel) + np.asarray(model.head.bias)
    np.testing.assert_allclose(logits[0], wanted, rtol=1e-4, atol=1e-5)


def test_weighted_layers_need_a_stack():
    with pytest.raises(UserError, match="layers=weighted needs an encoder with a stack"):
        models.check(config("small_cnn", layers="weighted", **OPTIONS["small_cnn"]))


def test_every_encoder_says_what_it_is_in_a_line_and_what_it_takes():
    """`sacjax list encoders` shows the line; a config's keys are the fields of the options."""
    for name, encoder in models.ENCODERS.items():
        line = encoder.__doc__.splitlines()[0]
        assert line.endswith(".") and encoder.__doc__ != encoder.__base__.__doc__, name
        assert encoder.input_kind in ("waveform", "spectrogram")
        layered = "hidden_states" in inspect.signature(encoder.__call__).parameters
        assert layered == issubclass(encoder, models.TokenEncoder)


def test_checking_a_config_builds_nothing(monkeypatch):
    monkeypatch.setattr(nnx, "eval_shape", None)
    monkeypatch.setattr(jax.random, "split", None)
    models.check(config("wav2vec2", size="large"))


def test_the_width_of_frames_is_told_without_building():
    assert models.width(config("wav2vec2", size="large")) == 1024
    assert models.width(config("spectrogram_resnet", depth=50, width=16)) == 512


def test_no_two_draws_of_a_classifier_share_a_key():
    options = OPTIONS["wav2vec2"] | dict(mask_probability=0.2, layer_drop=0.1)
    c = config("wav2vec2", dropout=0.1, **options)
    make = lambda: models.build(c, num_classes=3, num_features=1, rngs=nnx.Rngs(0))
    call = lambda ctx: make()(jnp.zeros([1, 2000]), jnp.array([2000]), ctx)
    # Before the head, after the projection, of SpecAugment, of the Transformer's input, in a layer.
    assert count_draws(call) == 1 + 1 + 1 + 1 + 5


def test_hidden_units_with_relu_come_before_the_head():
    c = ConfigDict(
        dict(name="small_cnn", encoder=OPTIONS["small_cnn"], hidden=5, dropout=0.5, dtype="float32")
    )
    models.check(c)
    model = models.build(c, num_classes=3, num_features=16, rngs=nnx.Rngs(0))
    x, lengths = jax.random.normal(jax.random.key(0), [2, 40, 16]), jnp.array([40, 30])
    pooled = np.asarray(model.embed(x, lengths))
    first, last = (
        (np.asarray(layer.kernel[...]), np.asarray(layer.bias[...]))
        for layer in (model.hidden, model.head)
    )
    wanted = np.maximum(pooled @ first[0] + first[1], 0) @ last[0] + last[1]
    np.testing.assert_allclose(model(x, lengths), wanted, atol=1e-5)
    assert count_draws(lambda ctx: model(x, lengths, ctx)) >= 2  # of the vector and of the units
    with pytest.raises(UserError, match="model.hidden"):
        models.check(ConfigDict(c.to_dict() | dict(hidden=-1)))
