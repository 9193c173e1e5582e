"""Norms against NumPy on the valid positions alone, and their statistics under sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from processes import run_python

from sacjax.context import Context
from sacjax.layers.norm import BatchNorm, GroupNorm, standardize

TRAIN = Context(jax.random.key(0))


@pytest.mark.parametrize("shape", [(3, 9, 4), (3, 9, 5, 4)])
def test_batch_norm_counts_valid_positions_only(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 3 + 2
    norm, lengths = BatchNorm(4, dtype=jnp.float32, rngs=nnx.Rngs(0)), np.array([9, 4, 0])
    y = norm(jnp.asarray(x), jnp.asarray(lengths), TRAIN)
    seen = np.concatenate([x[k, :n].reshape(-1, 4) for k, n in enumerate(lengths)])
    want = (x - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5)
    for k, n in enumerate(lengths):
        np.testing.assert_allclose(y[k, :n], want[k, :n], atol=1e-4)
        assert not np.any(y[k, n:])
    np.testing.assert_allclose(norm.mean[...], 0.1 * seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * seen.var(0), rtol=1e-4)


def test_the_context_says_by_which_statistics():
    """Without a key the running ones are used and stay, whatever flax's own flag says."""
    norm = BatchNorm(2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    norm.train()
    norm.mean[...] = jnp.array([1.0, -2.0])
    x = jnp.array([[[3.0, 3.0], [5.0, 7.0]]])
    y = norm(x, jnp.array([2]), Context())
    np.testing.assert_allclose(y, (x - jnp.array([1.0, -2.0])) / np.sqrt(1 + 1e-5), rtol=1e-6)
    assert norm.mean[...].tolist() == [1.0, -2.0] and norm.var[...].tolist() == [1.0, 1.0]
    norm.eval()
    norm(x, jnp.array([2]), TRAIN)
    np.testing.assert_allclose(norm.mean[...], [0.9 * 1 + 0.1 * 4, 0.9 * -2 + 0.1 * 5], rtol=1e-6)


def test_a_batch_without_anything_valid_teaches_nothing():
    norm = BatchNorm(2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert np.isfinite(norm(jnp.ones([1, 3, 2]), jnp.array([0]), TRAIN)).all()
    assert not np.any(norm.mean[...]) and np.all(norm.var[...] == 1)


def test_running_statistics_are_used_in_float32():
    norm = BatchNorm(1, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    norm.mean[...] = jnp.array([100.3])
    got = norm(jnp.full([1, 1, 1], 100.0, jnp.bfloat16), jnp.array([1]), Context())
    np.testing.assert_allclose(float(got[0, 0, 0]), -0.3, atol=0.01)  # Flax's own: 0 or -0.5


def test_group_norm_is_torchs_on_the_valid_frames():
    torch = pytest.importorskip("torch", reason="torch is the reference")
    x = np.random.default_rng(0).standard_normal((2, 9, 4)).astype(np.float32)
    norm = GroupNorm(4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = jnp.arange(4.0), jnp.array([0.5, 0, -1, 2])
    got = norm(jnp.asarray(x), jnp.array([9, 5]))
    for k, n in enumerate((9, 5)):
        scale, bias = torch.tensor(norm.scale[...]), torch.tensor(norm.bias[...])
        clip = torch.tensor(x[k : k + 1, :n]).transpose(1, 2)
        want = torch.nn.functional.group_norm(clip, 4, scale, bias).transpose(1, 2)
        np.testing.assert_allclose(got[k, :n], want[0], atol=1e-5)


def test_standardize_is_the_feature_extractors_normalization():
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    x = 0.1 + 0.3 * np.random.default_rng(0).standard_normal((2, 900)).astype(np.float32)
    x[1, 500:] = 0
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    clips = [x[0], x[1, :500]]
    wanted = extractor(clips, sampling_rate=16000, padding=True, return_tensors="np")
    got = standardize(jnp.asarray(x), jnp.array([900, 500]))
    np.testing.assert_allclose(got, wanted["input_values"], atol=1e-5)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P, NamedSharding
from sacjax.context import Context
from sacjax.models.audionet import AudioNet
from sacjax.models.resnet import BasicBlock
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
options = dict(zero_scale=False, drop=0.0, dtype=jnp.float32)
cases = (
    (lambda: BasicBlock(4, 8, 2, rngs=nnx.Rngs(0), **options), (10, 6, 4)),
    (lambda: AudioNet(variant='m5', width=0.125, rngs=nnx.Rngs(0)), (1000,)),
)
for make, size in cases:
    split = lambda: nnx.split(make(), nnx.Param, ...)
    graphdef = nnx.eval_shape(split)[0]
    params, rest = jax.jit(lambda: split()[1:])()
    rng = np.random.default_rng(0)
    loudness = np.linspace(0.2, 3, 16).reshape(16, *[1] * len(size))
    x = (rng.standard_normal((16, *size)) * loudness).astype('float32')
    n = np.arange(1, 17, dtype=np.int32) * size[0] // 16

    @jax.jit
    def step(params, rest, x, n):
        def loss(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            value = (model(x, n, Context(jax.random.key(0)))[0] ** 2).mean()
            return value, nnx.split(model, nnx.Param, ...)[2]
        (value, rest), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, rest, grads

    one = step(params, rest, x, n)
    rows = NamedSharding(mesh, P('data'))
    copies = jax.device_put((params, rest), NamedSharding(mesh, P()))
    eight = step(*copies, jax.device_put(x, rows), jax.device_put(n, rows))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(one[1]))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(float(jnp.abs(a).max()), 1e-3))
print('equal')
"""


def test_statistics_are_those_of_the_global_batch_on_eight_devices():
    result = run_python("-c", SHARDED, devices=8)
    assert result.returncode == 0 and "equal" in result.stdout, result.stderr[-3000:]
