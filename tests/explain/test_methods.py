"""The methods: a planted tone is found, papers' axioms hold, and worked values."""

from types import SimpleNamespace

import bursts
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import spearmanr

from sacjax.explain import methods
from sacjax.explain.explainer import METHODS, available
from sacjax.explain.maps import Grid
from sacjax.explain.network import Network
from sacjax.explain.subject import Subject

AT = 0.4  # seconds, where the tone begins
DEFINED = {
    "audionet": {"integrated_gradients", "grad_cam", "occlusion"},
    "autoencoder": {"integrated_gradients", "grad_cam", "occlusion"},
    "spectrogram_transformer": {"integrated_gradients", "occlusion", "attention_rollout"},
}
COARSE = {"grad_cam": 0.13, "occlusion": 0.07, "attention_rollout": 0.04}  # seconds


def subject_of(model, label=1, seed=5):
    audio, _ = bursts.sounds(2, seed=seed, begin=AT)
    return Subject(Network(model), audio[1], audio.shape[1], label)


def map_of(name, subject, **options):
    """Returns a method's map; `options` are of integrated gradients."""
    if name == "integrated_gradients":
        return methods.integrated_gradients(subject, **options).map
    return getattr(methods, name)(subject)


@pytest.mark.parametrize("encoder", DEFINED)
def test_every_method_finds_the_tone_and_no_random_network_does_so_alike(encoder):
    model = bursts.trained(encoder)
    subject = subject_of(model)
    learned = subject.network.variables
    random = [nnx.split(bursts.untrained(encoder, seed=k).module)[1] for k in (1, 2, 3, 4)]
    assert set(available(subject.network)) == DEFINED[encoder]
    for name in DEFINED[encoder]:
        found = map_of(name, subject)
        assert found.values.shape == found.grid.shape and np.isfinite(found.values).all()
        row, column = np.unravel_index(found.values.argmax(), found.values.shape)
        middle = AT + bursts.LENGTH / 2
        allowed = COARSE.get(name, 0.04)
        assert abs(found.grid.times[row] - middle) <= allowed, name
        if len(found.grid.hertz) > 10:
            assert abs(found.grid.hertz[column] / bursts.TONE - 1) < 0.15, name
        # Adebayo et al. 2018: what a map shows is of the network, not of the sound alone.
        correlations = []
        for variables in random:
            subject.network.variables = variables
            other = map_of(name, subject, most=180).values  # nearly exact will do
            if other.any() and other.size >= 10:  # a handful correlates by chance
                correlations.append(spearmanr(found.values.ravel(), other.ravel()).statistic)
        assert not correlations or abs(np.mean(correlations)) < 0.5, name
        subject.network.variables = learned
    # Completeness, by the logits that `predict` makes of the sound.
    integral = methods.integrated_gradients(subject)
    audio, _ = bursts.sounds(2, seed=5, begin=AT)
    heard = model.logits(audio[1:], np.array([audio.shape[1]], np.int32))[0, 1]
    difference = float(heard) - subject.logits(subject.baseline[None])[0]
    np.testing.assert_allclose(integral.map.values.sum(), difference, rtol=1.1e-3)
    np.testing.assert_allclose(integral.difference, difference, rtol=1e-4)


@pytest.mark.parametrize("encoder", ["gru", "wav2vec2"])
def test_completeness_whatever_the_encoder(encoder):
    """wav2vec2 scales its input: nearly all of the way to silence changes nothing."""
    subject = subject_of(bursts.untrained(encoder))
    found = methods.integrated_gradients(subject)
    first, last = subject.logits(np.stack([subject.baseline, subject.x]))
    assert abs(found.map.values.sum() - (last - first)) <= 1.1e-3 * max(abs(last - first), 1e-2)


def stub(x, f, slope, frames=None):
    """A subject whose logit is a function of x, from a baseline of 0."""
    grid = Grid(np.arange(len(x)) * 1.0, np.arange(x.shape[1]) * 1.0)

    def without(cells):
        return np.where(cells, 0.0, x)

    return SimpleNamespace(
        x=x,
        baseline=np.zeros_like(x),
        grid=grid,
        logits=lambda inputs: np.array([f(one) for one in inputs], float),
        gradients=lambda inputs: (
            np.array([f(one) for one in inputs], float),
            np.stack([slope(one) for one in inputs]),
        ),
        shares=lambda s: s * x,
        without=without,
    )


def test_integrated_gradients_of_a_sum_are_its_terms():
    """Of a sum of functions of one input each, they are what each adds (the paper's axioms)."""
    x = np.random.default_rng(0).normal(0, 2, [5, 4])
    smooth = lambda v: v**3 + np.sin(v)
    subject = stub(x, lambda v: smooth(v).sum(), lambda v: 3 * v**2 + np.cos(v))
    found = methods.integrated_gradients(subject)
    np.testing.assert_allclose(found.map.values, smooth(x), atol=1e-5)
    bent = lambda v: np.maximum(v - 0.7, 0)
    subject = stub(x, lambda v: bent(v).sum(), lambda v: v > 0.7)
    found = methods.integrated_gradients(subject)
    np.testing.assert_allclose(found.map.values, bent(x), atol=0.05)
    assert abs(found.missing) <= 1e-3 * abs(found.difference)


def test_occlusion_is_the_mean_fall_of_the_windows_over_a_cell():
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=[7, 6]), rng.normal(size=[7, 6])
    found = methods.occlusion(stub(x, lambda v: (w * v).sum(), None), slices=(3, 2))
    total, count = np.zeros([7, 6]), np.zeros([7, 6])
    for t in (0, 1, 2, 3, 4):  # windows of 3 frames, half over each other
        for b in (0, 1, 2, 3):
            total[t : t + 3, b : b + 3] += (w * x)[t : t + 3, b : b + 3].sum()
            count[t : t + 3, b : b + 3] += 1
    np.testing.assert_allclose(found.values, total / count)


def test_grad_cam_of_a_mean_and_a_head_is_the_class_activation_map():
    """Zhou et al. 2016, which it generalizes: the head's weights times the frames."""
    model = bursts.untrained("audionet", seed=3)
    subject = subject_of(model)
    inputs, lengths = jnp.asarray(subject.x)[None], jnp.array([subject.length])
    output = nnx.jit(lambda encoder: encoder(inputs, lengths))(model.module.encoder)
    frames = np.asarray(output.frames)[0, : int(output.lengths[0])]
    for label in (0, 1):
        weights = np.asarray(model.module.head.kernel[...])[:, label]
        want = np.maximum(frames @ weights / len(frames), 0)
        subject.label = label
        found = methods.grad_cam(subject).values[:, 0]
        np.testing.assert_allclose(found, want, atol=1e-6)
    assert want.any()


def test_rollout_as_worked_out():
    """Two layers, two heads, two tokens: (A + I) / 2 of the heads' means, multiplied."""
    first = np.array([[[1.0, 0], [1, 0]], [[1, 0], [0, 1]]])  # mean [[1, 0], [.5, .5]]
    second = np.array([[[0, 1.0], [0, 1]]] * 2)
    # first → [[1, 0], [.25, .75]]; second → [[.5, .5], [0, 1]]
    want = np.array([[0.5 + 0.125, 0.375], [0.25, 0.75]])
    np.testing.assert_allclose(methods.rollout(np.stack([first, second])), want)


@pytest.mark.parametrize("encoder", ["causal_transformer", "wav2vec2", "spectrogram_transformer"])
def test_attention_weights_are_those_that_the_encoder_uses(encoder):
    model = bursts.untrained(encoder, change=lambda s: s.model.encoder.update(depth=1))
    subject = subject_of(model)
    weights = subject.network.attention(subject.x, subject.length)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    found = methods.attention_rollout(subject)
    assert found.values.shape == found.grid.shape and found.values.sum() <= 1 + 1e-6
    if encoder == "causal_transformer":
        assert not np.triu(weights, 1).any()
        assert found.values[0] == found.values.max()  # of which every token has a part


@pytest.mark.parametrize("padding", ["silence", "mask"])
def test_rollout_of_whisper_is_of_the_clip_not_of_the_silence_after_it(padding):
    model = bursts.untrained("whisper", change=lambda s: s.model.encoder.update(padding=padding))
    subject = subject_of(model)
    found = methods.attention_rollout(subject)
    # 41 frames at 16 ms, 21 tokens; of silence to the 60th frame there would be 30.
    np.testing.assert_allclose(found.grid.times, np.arange(21) * 0.032, atol=1e-6)
    flow = methods.rollout(subject.network.attention(subject.x, subject.length))
    read = 30 if padding == "silence" else 21
    np.testing.assert_allclose(found.values[:, 0], flow[:read].mean(0)[:21], rtol=1e-6)


def test_maps_of_mfcc_and_of_a_front_end_that_learns():
    for encoder in ("autoencoder", "spectrogram_transformer"):
        mfcc = subject_of(bursts.untrained(encoder, n_mfcc=12))
        leaf = subject_of(
            bursts.untrained(encoder, change=lambda s: s.model.update(frontend="pcen"))
        )
        for name in DEFINED[encoder]:
            assert map_of(name, mfcc, most=0).grid.shape[1] == 1, name
            found = map_of(name, leaf, most=0)
            assert found.values.shape == found.grid.shape and found.grid.shape[1] > 1, name
            assert (np.diff(found.grid.hertz) > 0).all() and found.grid.times[-1] <= 0.65


def test_each_method_has_a_name_to_be_written():
    assert all(hasattr(methods, name) for name in METHODS)
