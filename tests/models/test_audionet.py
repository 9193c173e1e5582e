"""AudioNet: published sizes, padding, gradients, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import count_draws

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.models.audionet import VARIANTS, AudioNet


def count(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize(
    "variant, millions",
    [("audionet", 0.55), ("m5", 0.55), ("m11", 1.78), ("m18", 3.68), ("m34_res", 4.06)],
)
def test_sizes_are_those_of_dai_et_al(variant, millions):
    model = nnx.eval_shape(lambda: AudioNet(variant=variant, rngs=nnx.Rngs(0)))
    assert count(model) / 1e6 == pytest.approx(
        millions, abs=0.006
    )  # without the head: 512 or 384 × classes more


def test_m5_counted_by_hand():
    convolutions = 80 * 128 + 3 * 128 * 128 + 3 * 128 * 256 + 3 * 256 * 512
    assert (
        count(nnx.eval_shape(lambda: AudioNet(variant="m5", rngs=nnx.Rngs(0))))
        == convolutions + 2 * 1024
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_gives_the_same_frames_alone_and_in_a_padded_batch(variant, check_padding):
    check_padding(
        AudioNet(variant=variant, width=0.125, rngs=nnx.Rngs(0)), size=(2500,), lengths=(2500, 700)
    )


def test_gradients_are_finite_and_reach_every_parameter(check_gradients):
    model = AudioNet(variant="m34_res", width=0.125, stochastic_depth=0.3, rngs=nnx.Rngs(0))
    check_gradients(model, size=(1500,), lengths=(1500, 1, 0))


def test_bfloat16_computes_in_it_and_keeps_float32_parameters(check_bfloat16):
    check_bfloat16(
        lambda dtype: AudioNet(variant="m11", width=0.25, dtype=dtype, rngs=nnx.Rngs(0)),
        size=(4000,),
    )


def test_width_and_first_layer(quick):
    model = AudioNet(variant="m5", width=0.25, first_kernel=40, first_stride=2, rngs=nnx.Rngs(0))
    assert model.features == 128 and model.conv1.kernel.shape == (40, 1, 32)
    run = quick(model, lambda model, x, n: model(x, n))
    out = run(jnp.zeros([1, 4096]), jnp.array([4096]))
    assert out.frames.shape[-1] == 128 and int(out.lengths[0]) == out.frames.shape[1] == 8


def test_stochastic_depth_draws_from_the_context_and_is_off_without(quick):
    model = AudioNet(variant="m34_res", width=0.125, stochastic_depth=0.9, rngs=nnx.Rngs(0))
    x, n = (
        jnp.asarray(np.random.default_rng(0).standard_normal((2, 2000)), jnp.float32),
        jnp.array([2000, 2000]),
    )
    run = quick(model, lambda model, key: model(x, n, Context(key)).frames)
    a, b, again = (run(jax.random.key(seed)) for seed in (1, 2, 1))
    assert not np.allclose(a, b)
    np.testing.assert_array_equal(a, again)
    # By the running statistics, which start at 0 and 1, nothing is dropped: two calls are equal.
    still = quick(model, lambda model: model(x, n).frames)
    np.testing.assert_array_equal(still(), still())


def test_blocks_are_dropped_by_keys_of_their_own():
    make = lambda: AudioNet(variant="m34_res", width=0.03, rngs=nnx.Rngs(0))
    call = lambda ctx: make()(jnp.zeros([1, 2000]), jnp.array([2000]), ctx).frames
    assert count_draws(call) == 3 + 4 + 6 + 3


@pytest.mark.parametrize(
    "options",
    [
        dict(variant="m12"),
        dict(width=0.0),
        dict(first_kernel=0),
        dict(first_stride=0),
        dict(stochastic_depth=1.0),
        dict(stochastic_depth=0.1),
    ],
)
def test_wrong_options_are_told(options):
    with pytest.raises(UserError, match=f"model.encoder.{next(iter(options))}"):
        AudioNet(**options, rngs=nnx.Rngs(0))
