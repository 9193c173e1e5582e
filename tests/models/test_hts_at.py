"""HTS-AT; tests/convert/test_clap.py compares it with transformers'."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import count_draws

from sacjax.errors import UserError
from sacjax.models.hts_at import HTSAT, SILENCE, bicubic, joined, repeated, square, windows_of

SMALL = dict(width=8, depths=(1, 2), heads=(1, 2), window=2, patch=4, picture=32, max_frames=60)


def small(**options):
    return HTSAT(num_features=8, rngs=nnx.Rngs(0), **(SMALL | options))


def test_a_clip_gives_the_same_frames_alone_and_in_a_padded_batch(quick):
    model, lengths = small(), jnp.asarray([60, 23, 0])
    x = np.random.default_rng(0).uniform(-80, 0, (3, 60, 8)).astype(np.float32)
    run = quick(model, lambda model, x, n: model(x, n))
    together, alone = run(jnp.asarray(x), lengths), run(jnp.asarray(x[1:2, :23]), lengths[1:2])
    assert together.lengths.tolist() == [16, 16, 0] and together.frames.shape == (3, 16, 16)
    np.testing.assert_allclose(together.frames[1], alone.frames[0], atol=1e-5)
    assert not np.any(together.frames[2])


def test_gradients_and_bfloat16(check_gradients, check_bfloat16):
    check_gradients(small(), (60,), (60, 20), features=(8,))
    make = lambda dtype: HTSAT(num_features=8, dtype=dtype, rngs=nnx.Rngs(0), **SMALL)
    check_bfloat16(make, (60,), features=(8,))


def test_draws_are_apart():
    rates = dict(dropout=0.1, attention_dropout=0.1, stochastic_depth=0.5)
    x, lengths = jnp.zeros([1, 60, 8]), jnp.asarray([60])
    assert count_draws(lambda ctx: small(**rates)(x, lengths, ctx)) == 1 + 3 * 4


def test_a_short_clip_is_repeated_whole_and_then_silent():
    x = jnp.asarray([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
    found = repeated(x, jnp.asarray([3, 2]), 7)[..., 0]
    np.testing.assert_array_equal(found, [[1, 2, 3, 1, 2, 3, SILENCE], [4, 5, 4, 5, 4, 5, SILENCE]])


def test_parts_of_a_log_mel_lie_one_above_the_other():
    x = jnp.arange(16.0).reshape(1, 8, 2)  # value 2 t + band
    found = square(x, 4)[0]
    np.testing.assert_array_equal(
        found, [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]]
    )


def test_windows_are_cut_and_joined():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    cut = windows_of(x, 2)
    assert cut[0, 1, :, 0].tolist() == [2, 3, 6, 7]
    np.testing.assert_array_equal(joined(cut, 4, 2), x)


@pytest.mark.parametrize(("inputs", "outputs"), [(1001, 1024), (5, 16)])
def test_the_stretch_is_pytorchs(inputs, outputs):
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    x = np.random.default_rng(0).standard_normal(inputs)
    wanted = torch.nn.functional.interpolate(
        torch.tensor(x)[None, None, :, None].repeat(1, 1, 1, 3),
        (outputs, 3),
        mode="bicubic",
        align_corners=True,
    )[0, 0, :, 1]
    np.testing.assert_allclose(bicubic(inputs, outputs) @ x, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(heads=(1,)), "depths .*as many"),
        (dict(heads=(3, 2)), "heads .*divide 8"),
        (dict(picture=30), "picture .*divide"),
        (dict(window=3), "window .*divide the 8 patches"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, words):
    with pytest.raises(UserError, match=words):
        small(**options)


def test_a_clip_longer_than_the_picture_is_one_line():
    with pytest.raises(UserError, match="max_frames is 60, but the input has 61 frames"):
        small()(jnp.zeros([1, 61, 8]), jnp.asarray([61]))
    with pytest.raises(UserError, match="picture is 32: 12 mel bins"):
        HTSAT(num_features=12, rngs=nnx.Rngs(0), **SMALL)
