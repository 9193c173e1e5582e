"""The autoencoder's encoder and mirror: sizes, padding, gradients, the published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.models.autoencoder import Autoencoder

SMALL = dict(frames=8, widths=(24, 16, 6), channels=(3, 4, 5), bottleneck=6, num_features=10)
KINDS = [(kind, variant) for kind in ("dense", "conv") for variant in ("baseline", "improved")]


def make(**options):
    return Autoencoder(**SMALL | dict(rngs=nnx.Rngs(0)) | options)


@pytest.mark.parametrize("kind, variant", KINDS)
def test_a_clip_gives_the_same_frames_alone_and_in_a_padded_batch(kind, variant, check_padding):
    model = make(kind=kind, variant=variant)
    check_padding(model, size=(40,), lengths=(40, 23, 8, 1), features=(10,))


@pytest.mark.parametrize("kind, variant", KINDS[1::2])
def test_gradients_are_finite(kind, variant, check_gradients):
    model = make(kind=kind, variant=variant)
    check_gradients(model, size=(40,), lengths=(40, 1, 0), features=(10,))


def test_bfloat16(check_bfloat16):
    check_bfloat16(lambda dtype: make(kind="conv", dtype=dtype), size=(40,), features=(10,))


@pytest.mark.parametrize("kind, frames", [("dense", 1), ("dense", 17), ("conv", 1), ("conv", 17)])
def test_a_clip_of_any_length_is_decoded_to_its_length_at_least(kind, frames):
    """Dense: a frame a block of 8; conv: one for every 8, three times halved."""

    def both():
        encoder = make(kind=kind)
        output = encoder(jnp.ones([2, frames, 10]), jnp.array([frames, 1]))
        return output, *encoder.mirror(nnx.Rngs(1))(output, Context())

    output, decoded, reached = nnx.eval_shape(both)
    assert output.frames.shape == (2, -(-frames // 8), 6)
    assert decoded.shape == (2, 8 * -(-frames // 8), 10)


def test_the_published_one_has_451_million_weights_with_its_mirror():
    """METHODS: 225.5 million in the encoder, 25,024 inputs being 64 bands × 391 frames here."""

    def both():
        encoder = Autoencoder(num_features=64, variant="baseline", rngs=nnx.Rngs(0))
        return encoder, encoder.mirror(nnx.Rngs(0))

    encoder, mirror = nnx.eval_shape(both)
    sizes = (25024, 8224, 2056, 1024, 512, 256)
    weights = sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    count = lambda model: sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count(encoder) == weights + sum(sizes[1:])
    assert count(mirror) == weights + sum(sizes[:-1])
    assert weights / 1e6 == pytest.approx(225.5, abs=0.1)
    assert encoder.features == 256


@pytest.mark.parametrize(
    "options", [dict(frames=0), dict(widths=()), dict(channels=(4, 0)), dict(kind="deep")]
)
def test_wrong_options_are_told(options):
    with pytest.raises(UserError, match=f"model.encoder.{next(iter(options))}"):
        make(**options)


def test_silence_beyond_a_clip_is_what_fills_the_last_block():
    model, x = make(variant="baseline"), np.ones([1, 12, 10], np.float32)
    filled = np.pad(x, ((0, 0), (0, 4), (0, 0)))
    alone = model(jnp.asarray(x), jnp.array([12])).frames
    np.testing.assert_array_equal(alone, model(jnp.asarray(filled), jnp.array([16])).frames)
