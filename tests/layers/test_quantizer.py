"""The quantizer against PyTorch's Gumbel softmax, transformers' and SciPy's perplexity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import nnx

from sacjax.errors import UserError
from sacjax.layers.quantizer import Quantizer, perplexity

B, T, D, G, V, DIM = 2, 5, 6, 2, 7, 8
X = np.random.default_rng(0).standard_normal([B, T, D]).astype(np.float32)
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def quantizer():
    return Quantizer(D, groups=G, entries=V, dim=DIM, rngs=nnx.Rngs(0))


def numpy_logits(quantizer, x=X):
    kernel, bias = np.asarray(quantizer.logits.kernel[...]), np.asarray(quantizer.logits.bias[...])
    return (x @ kernel + bias).reshape(*x.shape[:-1], G, V)


def entries(quantizer, codes):
    """Returns the codebook entries of codes [..., G], the groups side by side."""
    codebook = np.asarray(quantizer.codebook[...])
    return np.concatenate([codebook[g][codes[..., g]] for g in range(G)], -1)


@pytest.mark.parametrize("key", [None, KEY])
def test_shapes_and_types(quantizer, key):
    out = quantizer(jnp.asarray(X, jnp.bfloat16), 2.0, key)
    assert out.vectors.shape == (B, T, DIM) and out.vectors.dtype == jnp.float32
    assert out.codes.shape == (B, T, G) and out.codes.dtype == jnp.int32
    assert out.probabilities.shape == (B, T, G, V) and out.probabilities.dtype == jnp.float32


def test_without_a_key_the_most_probable_entries(quantizer):
    out = quantizer(jnp.asarray(X), 0.3)
    codes = numpy_logits(quantizer).argmax(-1)
    np.testing.assert_array_equal(out.codes, codes)
    np.testing.assert_array_equal(out.vectors, entries(quantizer, codes))
    np.testing.assert_allclose(
        out.probabilities, scipy.special.softmax(numpy_logits(quantizer), -1), atol=1e-6
    )


def test_with_a_key_exactly_the_entries_that_the_noise_chose(quantizer):
    codes = (numpy_logits(quantizer) + np.asarray(jax.random.gumbel(KEY, (B, T, G, V)))).argmax(-1)
    out = jax.jit(lambda x: quantizer(x, 0.7, KEY))(X)
    np.testing.assert_array_equal(out.codes, codes)
    np.testing.assert_array_equal(out.vectors, entries(quantizer, codes))  # to the last bit
    assert (codes != numpy_logits(quantizer).argmax(-1)).any()
    np.testing.assert_allclose(
        out.probabilities, scipy.special.softmax(numpy_logits(quantizer), -1), atol=1e-6
    )


@pytest.mark.parametrize("temperature", [2.0, 0.1])
def test_entries_are_drawn_by_their_probability_at_any_temperature(quantizer, temperature):
    frame = 0.3 * X[0, 0]
    codes = quantizer(jnp.broadcast_to(frame, (4000, D)), temperature, KEY).codes
    expected = scipy.special.softmax(numpy_logits(quantizer, frame).astype(np.float64), -1)
    for group in range(G):
        drawn = np.bincount(np.asarray(codes)[:, group], minlength=V)
        assert scipy.stats.chisquare(drawn, 4000 * expected[group]).pvalue > 1e-4


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_straight_through_gradient_as_torch(quantizer, monkeypatch, temperature):
    torch = pytest.importorskip("torch", reason="torch is the reference")
    weight = np.random.default_rng(1).standard_normal([B, T, DIM]).astype(np.float32)
    params, rest = nnx.split(quantizer)

    def loss(state, x):
        return (nnx.merge(params, state)(x, temperature, KEY).vectors * weight).sum()

    value, (grads, x_grad) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(rest, X)

    noise = torch.tensor(np.array(jax.random.gumbel(KEY, (B, T, G, V))))
    # torch takes -log of exponential noise.
    monkeypatch.setattr(
        torch.Tensor, "exponential_", lambda self, *_: self.copy_(torch.exp(-noise))
    )
    x, kernel, bias, codebook = (
        torch.tensor(np.array(value), requires_grad=True)
        for value in (
            X,
            quantizer.logits.kernel[...],
            quantizer.logits.bias[...],
            quantizer.codebook[...],
        )
    )
    chosen = torch.nn.functional.gumbel_softmax(
        (x @ kernel + bias).view(B, T, G, V), tau=temperature, hard=True
    )
    want = (
        torch.einsum("btgv,gvd->btgd", chosen, codebook).reshape(B, T, DIM) * torch.tensor(weight)
    ).sum()
    want.backward()
    np.testing.assert_allclose(value, float(want.detach()), rtol=1e-5)
    ours = (
        x_grad,
        grads["logits"]["kernel"][...],
        grads["logits"]["bias"][...],
        grads["codebook"][...],
    )
    for got, tensor in zip(ours, (x, kernel, bias, codebook), strict=True):
        assert np.abs(tensor.grad.numpy()).max() > 1e-2
        np.testing.assert_allclose(got, tensor.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_perplexity_as_scipy_and_from_1_to_all_entries():
    shares = np.random.default_rng(0).dirichlet(np.full(9, 0.5), 4).astype(np.float32)
    shares[0] = np.eye(9)[3]
    shares[1] = 1 / 9
    got = np.asarray(perplexity(jnp.asarray(shares)))
    np.testing.assert_allclose(got, np.exp(scipy.stats.entropy(shares, axis=-1)), rtol=1e-5)
    np.testing.assert_allclose(got[:2], [1, 9], rtol=1e-5)
    gradient = jax.grad(lambda p: perplexity(p).sum())(jnp.asarray(shares))
    assert np.isfinite(gradient).all()  # of an entry that is never used too


def test_perplexity_as_transformers():
    torch = pytest.importorskip("torch", reason="torch is the reference")
    reference = pytest.importorskip(
        "transformers.models.wav2vec2.modeling_wav2vec2", reason="the reference"
    )
    rng = np.random.default_rng(0)
    probabilities = scipy.special.softmax(2 * rng.standard_normal([B * T, G, V]), -1).astype(
        np.float32
    )
    mask = rng.uniform(size=(B, T)) < 0.6
    want = reference.Wav2Vec2GumbelVectorQuantizer._compute_perplexity(
        torch.tensor(probabilities), torch.tensor(mask)
    )
    shares = jnp.asarray(probabilities[mask.ravel()].mean(0))
    np.testing.assert_allclose(perplexity(shares).sum(), float(want), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(groups=3, dim=8), "codebook_dim is 8: it must divide by codebook_groups 3"),
        (dict(groups=0), "codebook_groups is 0"),
        (dict(entries=0), "codebook_entries is 0"),
        (dict(dim=0), "codebook_dim is 0"),
    ],
)
def test_sizes_that_do_not_fit(options, named):
    with pytest.raises(UserError, match=f"objective.options.{named}"):
        Quantizer(D, **options, rngs=nnx.Rngs(0))
