"""The parts of CLAP's fusion against worked ones; tests/convert/test_clap.py has transformers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sacjax.context import Context
from sacjax.models.clap_fusion import four_views, local_starts
from sacjax.models.hts_at import HTSAT

FUSED = dict(width=8, depths=(1, 1), heads=(1, 2), window=2, picture=32, max_frames=60, fusion=True)


@pytest.mark.parametrize("frames", [61, 62, 63, 64, 65, 100, 907])
def test_a_stretch_out_of_each_third_of_those_that_are_possible(frames):
    thirds = np.array_split(np.arange(frames - 60 + 1), 3)
    u = jnp.linspace(0, 1, 2000, endpoint=False)[:, None] * jnp.ones(3)
    found = np.asarray(local_starts(u, jnp.full(2000, frames), 60))
    for k, third in enumerate(thirds):
        counts = np.bincount(found[:, k], minlength=frames)
        own = third if len(third) else [0]
        assert np.flatnonzero(counts).tolist() == list(own)
        assert np.ptp(counts[own]) <= 2  # equally likely


def test_views_of_a_line_are_lines():
    x = jnp.broadcast_to(jnp.arange(12.0)[:, None], (12, 2))[None]
    views = np.asarray(four_views(x, jnp.asarray([10]), jnp.asarray([[0, 2, 5]]), 5))[0]
    assert views.shape == (4, 5, 2)
    np.testing.assert_allclose(views[0, :, 0], [0.5, 2.5, 4.5, 6.5, 8.5])  # means of two
    for view, start in zip(views[1:], (0, 2, 5), strict=True):
        np.testing.assert_array_equal(view[:, 1], start + np.arange(5))


def test_in_training_stretches_are_random_and_norms_follow_longer_clips_alone(quick):
    model = HTSAT(num_features=8, rngs=nnx.Rngs(0), **FUSED)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(-60, 0, [2, 150, 8]), jnp.float32)

    @jax.jit
    def run(state, lengths, key):
        module = nnx.merge(nnx.graphdef(model), state)
        frames = module(x, lengths, Context(key)).frames
        return frames, module.fusion.local.norm_in.mean[...]

    state, keys = nnx.state(model), jax.random.split(jax.random.key(0))
    short = jnp.asarray([60, 30])
    frames, mean = run(state, short, keys[0])
    np.testing.assert_array_equal(frames, run(state, short, keys[1])[0])
    assert not np.any(mean)  # as it began
    long = jnp.asarray([150, 30])
    frames, mean = run(state, long, keys[0])
    other, _ = run(state, long, keys[1])
    assert np.abs(frames[0] - other[0]).max() > 1e-3 and np.any(mean)


def test_gradients_of_long_clips(check_gradients):
    check_gradients(
        HTSAT(num_features=8, rngs=nnx.Rngs(0), **FUSED), (90,), (90, 20), features=(8,)
    )
