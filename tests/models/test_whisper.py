"""Whisper's encoder; tests/convert/test_whisper.py compares it with transformers'."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import count_draws

from sacjax.errors import UserError
from sacjax.models.whisper import Whisper, with_silence

SMALL = dict(width=8, depth=2, heads=2, mlp_width=16, max_frames=24)


def small(**options):
    return Whisper(num_features=6, rngs=nnx.Rngs(0), **(SMALL | options))


def test_padding_that_is_left_out_changes_nothing(check_padding):
    check_padding(small(padding="mask"), (24,), (24, 13, 6, 1), features=(6,))


def test_a_clip_is_heard_with_silence_to_the_end_whatever_it_is_batched_with(quick):
    model, lengths = small(), jnp.asarray([20, 7, 0])
    x = np.random.default_rng(0).standard_normal((3, 20, 6)).astype(np.float32)
    run = quick(model, lambda model, x, n: model(x, n))
    together, alone = run(jnp.asarray(x), lengths), run(jnp.asarray(x[1:2, :7]), lengths[1:2])
    assert together.lengths.tolist() == [12, 12, 0]
    np.testing.assert_allclose(together.frames[1], alone.frames[0], atol=1e-5)
    assert not np.any(together.frames[2])


def test_silence_is_80_db_below_the_loudest_and_no_less_than_100():
    x = jnp.asarray([[[0.25], [9.0]], [[1.25], [1.0]], [[9.0], [9.0]]])
    found = with_silence(x, jnp.asarray([1, 2, 0]), 3)[..., 0]
    np.testing.assert_allclose(found, [[0.25, -1.5, -1.5], [1.25, 1.0, -0.75], [-1.5] * 3])


def test_tokens_can_be_masked_and_kept(quick):
    """A kept token attends to the other kept ones alone, at its own position."""
    model, lengths = small(padding="mask"), jnp.asarray([24, 14])
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 24, 6)), jnp.float32)
    keep, mask = jnp.asarray([[0, 3, 9], [6, 2, 11]]), jnp.arange(12)[None] % 2 == jnp.ones([2, 1])
    tokens = model.tokens(x, lengths)
    some = quick(model, lambda model: model.context(tokens, keep=keep))()
    assert some.lengths.tolist() == [3, 2] and not np.any(some.frames[1, 2])
    other = tokens._replace(features=tokens.features.at[:, jnp.asarray([1, 4, 5, 7])].set(5.0))
    again = quick(model, lambda model: model.context(other, keep=keep))()
    np.testing.assert_array_equal(some.frames, again.frames)
    masked = quick(model, lambda model: model.context(tokens, mask=mask))().frames
    changed = tokens._replace(features=tokens.features.at[:, 1::2].add(5.0))
    again = quick(model, lambda model: model.context(changed, mask=mask))().frames
    np.testing.assert_array_equal(masked, again)


def test_gradients_and_bfloat16(check_gradients, check_bfloat16):
    check_gradients(small(), (24,), (24, 12), features=(6,))
    make = lambda dtype: Whisper(num_features=6, dtype=dtype, rngs=nnx.Rngs(0), **SMALL)
    check_bfloat16(make, (24,), features=(6,))


def test_positions_are_no_parameter_and_random_draws_are_apart():
    model = small(dropout=0.1, attention_dropout=0.1, layer_drop=0.1)
    assert "positions" not in nnx.state(model, nnx.Param)
    x = jnp.zeros([1, 24, 6])
    assert count_draws(lambda ctx: model(x, jnp.asarray([24]), ctx)) > 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(max_frames=7), "model.encoder.max_frames .*even"),
        (dict(width=9, heads=3), "model.encoder.width .*even"),
        (dict(heads=3), "model.encoder.width .*3 heads"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, words):
    with pytest.raises(UserError, match=words):
        small(**options)


def test_a_clip_longer_than_the_positions_is_one_line():
    with pytest.raises(UserError, match="max_frames is 24, but the input has 26 frames: shorten"):
        small()(jnp.zeros([1, 26, 6]), jnp.asarray([26]))
    assert small()(jnp.zeros([1, 25, 6]), jnp.asarray([25])).frames.shape == (1, 12, 8)
