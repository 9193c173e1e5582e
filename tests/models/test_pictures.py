"""Networks on pictures; tests/convert/test_imagenet.py compares them with timm's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import count_draws, fewer_blocks
from processes import ROOT
from workdirs import random_values

from sacjax import config as config_lib
from sacjax import models
from sacjax.errors import UserError
from sacjax.layers.depthwise import DepthwiseConv
from sacjax.layers.tap import tapped
from sacjax.models.inception import mean_of_nine

SMALL = {
    "convnext_tiny": dict(width=4, layer_scale=1.0),
    "efficientnet_b0": dict(width=4),
    "inception_v3": dict(width=2),
    "vgg11": dict(width=4),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_clip_gives_the_same_frames_alone_and_in_a_padded_batch(name, check_padding, monkeypatch):
    fewer_blocks(monkeypatch)
    model = random_values(lambda: models.ENCODERS[name](**SMALL[name], rngs=nnx.Rngs(0)))
    seen = []  # by Grad-CAM
    with tapped(lambda x: seen.append(x.shape) or x):
        check_padding(model, size=(200,), lengths=(200, 117), features=(80,))
    assert seen and all(len(shape) == 4 and shape[-1] == model.features for shape in seen)


PUBLISHED = {  # parameters of timm's, without the last layers
    "convnext_tiny": 27_818_592,
    "efficientnet_b0": 4_007_548,
    "inception_v3": 21_785_568,
    "vgg11": 9_225_984,
}


@pytest.mark.parametrize("name", SMALL)
def test_published_sizes(name):
    make = lambda: models.ENCODERS[name](in_channels=3, rngs=nnx.Rngs(0))
    leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param))
    assert sum(leaf.size for leaf in leaves) == PUBLISHED[name]


@pytest.mark.parametrize("name", [*SMALL, "spectrogram_resnet"])
def test_the_recipe_parts_a_trunk_in_two(name):
    """Late layers and early ones learn at other rates, and both have kernels."""
    config = config_lib.load(f"{ROOT}/configs/imagenet/finetune.py:encoder={name}").finetune
    encoder = nnx.eval_shape(lambda: models.ENCODERS[name](in_channels=3, rngs=nnx.Rngs(0)))
    paths = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(encoder))]
    (pattern, late), (rest, early) = config.optimizer.multipliers
    assert (1e-2 * late, 1e-2 * early) == pytest.approx((1e-4, 1e-8)) and rest == "^encoder/"
    kernels = [f"encoder/{path}" for path in paths if path.endswith("kernel")]
    later = [bool(re.search(pattern, path)) for path in kernels]
    assert 0.2 < np.mean(later) < 0.9, kernels


@pytest.mark.parametrize(("size", "stride"), [(7, 1), (5, 2), (3, 2)])
def test_a_depthwise_convolution_is_xlas_in_groups(size, stride):
    conv = DepthwiseConv(6, size, stride, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), [2, 17, 12, 6])
    found, lengths = conv(x, jnp.asarray([17, 8]))
    wanted = jax.lax.conv_general_dilated(
        x,
        conv.kernel[...],
        (stride, stride),
        [(size // 2, size // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=6,
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert lengths.tolist() == [-(-17 // stride), -(-8 // stride)]


def test_means_over_nine_count_zeros_outside():
    x = np.random.default_rng(0).standard_normal((1, 5, 4, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    np.testing.assert_allclose(mean_of_nine(jnp.asarray(x)), windows.mean((-2, -1)), atol=1e-6)


def test_branches_are_dropped_each_by_its_own_key():
    def call(ctx):
        small = SMALL["convnext_tiny"] | dict(stochastic_depth=0.5)
        model = models.ENCODERS["convnext_tiny"](**small, rngs=nnx.Rngs(0))
        return model(jnp.zeros([2, 64, 32]), jnp.asarray([64, 64]), ctx)

    assert count_draws(call) == 18  # one a block


def test_gradients_are_finite(check_gradients):
    model = models.ENCODERS["vgg11"](**SMALL["vgg11"], rngs=nnx.Rngs(0))
    check_gradients(model, size=(64,), lengths=(64, 1, 0), features=(32,))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vgg11", dict(imagenet_norm=True), "imagenet_norm .*in_channels=3"),
        ("efficientnet_b0", dict(width=6), "width .*divide by 4"),
        ("inception_v3", dict(width=3), "width .*even"),
        ("convnext_tiny", dict(layer_scale=-1.0), "layer_scale"),
    ],
)
def test_options_that_do_not_fit_are_one_line(name, options, words):
    with pytest.raises(UserError, match=words):
        models.ENCODERS[name].Options(**options)
