"""SmallCNN: sizes, padding, gradients."""

import jax.numpy as jnp
import pytest
from flax import nnx

from sacjax.errors import UserError
from sacjax.models.small_cnn import SmallCNN


def make(**options):
    return SmallCNN(**dict(channels=(4, 8), hidden=16, num_features=18, rngs=nnx.Rngs(0)) | options)


@pytest.mark.parametrize("lengths", [(40, 23, 9, 1)])
def test_a_clip_gives_the_same_frames_alone_and_in_a_padded_batch(lengths, check_padding):
    check_padding(make(), size=(40,), lengths=lengths, features=(18,))


def test_gradients_are_finite(check_gradients):
    check_gradients(make(), size=(40,), lengths=(40, 1, 0), features=(18,))


def test_bfloat16(check_bfloat16):
    check_bfloat16(lambda dtype: make(dtype=dtype), size=(40,), features=(18,))


@pytest.mark.parametrize("frames, bins", [(128, 128), (5, 3), (1, 1)])
def test_any_size_works(frames, bins, quick):
    run = quick(make(num_features=bins), lambda model, x, n: model(x, n))
    out = run(jnp.ones([1, frames, bins]), jnp.array([frames]))
    assert out.frames.shape == (1, max(frames // 4, 1), 16)


@pytest.mark.parametrize("options", [dict(channels=(4,)), dict(channels=(4, 0)), dict(hidden=0)])
def test_wrong_options_are_told(options):
    with pytest.raises(UserError, match="model.encoder"):
        make(**options)
