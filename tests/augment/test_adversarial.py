"""Attacks against worked ones: of a linear loss, within their ball, and as the step trains on them.

A linear classifier's loss rises fastest along W (p - y), which is known without any gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_objectives import SAMPLES, LinearEncoder, bare_stage, batches

from sacjax import augment
from sacjax import config as config_lib
from sacjax.augment import adversarial
from sacjax.errors import UserError
from sacjax.objectives.classification import Classification
from sacjax.train import sharding
from sacjax.train.trainer import make_trainer

MESH = sharding.make_mesh(config_lib.default().mesh)
EPSILON = 0.3
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 6, 3)).astype(np.float32)
KEYS = jax.vmap(jax.random.key)(jnp.arange(4))
ATTACKS = {
    "fgsm": adversarial.fgsm,
    "pgd": adversarial.pgd,
    "pgd from the clip": lambda *given, **options: adversarial.pgd(
        *given, random_start=False, **options
    ),
}


def size(x):
    return np.sqrt((np.asarray(x) ** 2).sum((1, 2)))


@pytest.mark.parametrize("attack", ATTACKS)
def test_of_a_linear_loss_an_attack_is_the_ball_s_corner_or_the_gradient_s_direction(attack):
    given = lambda offset: jnp.asarray(WEIGHTS), KEYS, WEIGHTS.shape
    corner = ATTACKS[attack](*given, epsilon=EPSILON)
    np.testing.assert_allclose(corner, EPSILON * np.sign(WEIGHTS), atol=1e-6)
    rise = (np.asarray(corner) * WEIGHTS).sum((1, 2))
    np.testing.assert_allclose(rise, EPSILON * np.abs(WEIGHTS).sum((1, 2)), rtol=1e-5)
    if attack != "pgd":  # from elsewhere in an l2 ball the way up ends near the best, not on it
        along = ATTACKS[attack](*given, epsilon=EPSILON, norm="l2")
        best = EPSILON * WEIGHTS / size(WEIGHTS)[:, None, None]
        np.testing.assert_allclose(along, best, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_stays_in_its_ball_and_climbs_higher_than_one_step(norm):
    # Of a wave in each cell the sign at the clip itself does not tell where the top is.
    phase = jnp.asarray(RNG.uniform(0, 6, WEIGHTS.shape), jnp.float32)
    loss = lambda offset: jnp.sin(12 * offset + phase).sum((1, 2))
    gradient = jax.grad(lambda offset: loss(offset).sum())
    once = adversarial.fgsm(gradient, KEYS, WEIGHTS.shape, epsilon=EPSILON, norm=norm)
    options = dict(epsilon=EPSILON, norm=norm, steps=30, step=0.1 * EPSILON)
    climbed = adversarial.pgd(gradient, KEYS, WEIGHTS.shape, random_start=False, **options)
    started = adversarial.pgd(gradient, KEYS, WEIGHTS.shape, **options)
    for offset in (once, climbed, started):
        radius = np.abs(offset).max((1, 2)) if norm == "linf" else size(offset)
        assert (radius <= EPSILON * (1 + 1e-6)).all() and (radius > 0).all()
    assert (np.asarray(loss(climbed)) > np.asarray(loss(once))).all()
    assert (np.asarray(loss(climbed)) > np.asarray(loss(jnp.zeros(WEIGHTS.shape)))).all()
    assert not np.allclose(climbed, started)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_clip_whose_gradient_is_none_or_not_finite_stays(norm):
    spoiled = WEIGHTS.copy()
    spoiled[1, 2, 0], spoiled[2] = np.nan, 0
    spoiled[3] *= 1e-30  # its square is 0
    step = np.asarray(adversarial.steepest(jnp.asarray(spoiled), norm))
    assert not step[1:3].any()
    np.testing.assert_allclose(step[3], adversarial.steepest(jnp.asarray(WEIGHTS), norm)[3], 1e-5)


class Line(LinearEncoder):
    """Logits x W + b."""

    def __call__(self, inputs, lengths, ctx=None):
        return super().__call__(inputs, lengths).frames[:, 0]


class LinearClassifier(Classification):
    """Logistic regression on the samples."""

    def build(self, rngs, artifacts=None):
        return Line(SAMPLES, 2, rngs=rngs)


def after_a_step(batch, *waveform, accumulation=1):
    """Returns (the state before, after) one SGD step of a linear classifier on waves."""
    stage = bare_stage(
        name="sgd", momentum=0.0, learning_rate=0.1, clip_norm=0.0, accumulation=accumulation
    )
    stage.augment.waveform = waveform
    trainer = make_trainer(LinearClassifier(stage, ("a", "b"), [1, 1]), stage, MESH, 9, 0)
    before = jax.device_get(trainer.init())
    return before, jax.device_get(trainer.step(trainer.init(), sharding.put_batch(batch, MESH)))


def loss_of(state):
    return state.sums["loss"][0] / state.sums["loss"][1]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_step_trains_on_the_clips_that_are_worked_by_hand(accumulation):
    (batch,) = batches(1)
    batch["length"] = np.asarray([SAMPLES, 9] * 4, np.int32)  # silence stays silence
    batch["audio"] *= np.arange(SAMPLES) < batch["length"][:, None]
    before, plain = after_a_step(batch, accumulation=accumulation)
    kernel, bias = (np.asarray(before.params[name]) for name in ("kernel", "bias"))
    logits = batch["audio"] @ kernel + bias
    found = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (found - np.eye(2)[batch["label"]]) @ kernel.T
    inside = (np.arange(SAMPLES) < batch["length"][:, None]) & (batch["mask"] > 0)[:, None]
    worst = batch["audio"] + EPSILON * np.sign(gradient) * inside
    by_hand = after_a_step(batch | {"audio": worst.astype(np.float32)}, accumulation=accumulation)
    for name, options in (("fgsm", {}), ("pgd", {"steps": 3})):
        spec = dict(name=name, epsilon=EPSILON, **options)
        _, attacked = after_a_step(batch, spec, accumulation=accumulation)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
            attacked.params,
            by_hand[1].params,
        )
        assert loss_of(attacked) > loss_of(plain)


def test_without_a_radius_or_a_chance_the_run_is_that_without_the_attack_to_the_bit():
    (batch,) = batches(1)
    gain = dict(name="gain")
    _, plain = after_a_step(batch, gain)
    for spec in (dict(name="pgd", epsilon=0.0), dict(name="fgsm", probability=0.0)):
        _, attacked = after_a_step(batch, gain, spec)
        jax.tree.map(np.testing.assert_array_equal, attacked, plain)
    _, changed = after_a_step(batch, gain, dict(name="fgsm", epsilon=EPSILON))
    assert loss_of(changed) > loss_of(plain)


@pytest.mark.parametrize("kind", ["waveform", "spectrogram"])
def test_waves_and_spectrograms_of_a_network_of_spectrograms_are_made_harder(kind):
    losses = []
    for epsilon in (0.0, 0.05):
        stage = config_lib.stage()
        stage.data.update(sample_rate=800, seconds=1.0)
        stage.frontend.update(n_fft=64, hop_length=32, n_mels=8)
        stage.model.update(name="small_cnn", encoder=dict(channels=(4, 4), hidden=8))
        stage.train.batch_size = 8
        stage.augment.crop_seconds = 0.75
        stage.augment.spectrogram = (dict(name="time_mask", width=4),)
        stage.augment[kind] += (dict(name="fgsm", epsilon=epsilon),)
        config_lib.check(config_lib.default(supervised=stage))
        trainer = make_trainer(Classification(stage, ("a", "b"), [1, 1]), stage, MESH, 9, 0)
        (batch,) = batches(1, samples=800)
        batch["audio"] *= 0.1
        state = trainer.step(trainer.init(), sharding.put_batch(batch, MESH))
        losses.append(loss_of(jax.device_get(state)))
    assert losses[1] > losses[0] + 1e-3


def test_an_attack_is_of_the_clips_that_its_probability_chooses():
    x, label = jnp.asarray(WEIGHTS[..., 0]), jnp.zeros([4, 2])
    lengths, mask = jnp.full(4, 6), jnp.ones(4)
    spec = dict(name="pgd", probability=0.5)
    apply = lambda offset: augment.apply(
        [spec], KEYS, x, lengths, label, mask, kind="waveform", sample_rate=8, offset=offset
    )[0]
    np.testing.assert_array_equal(apply(None), x)
    moved = np.asarray(apply(jnp.ones_like(x))) - np.asarray(x)
    assert sorted(set(moved.round(4).ravel())) == [0, 1]
    assert (moved.round(4) == moved.round(4)[:, :1]).all()


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            dict(waveform=(dict(name="fgsm"),), spectrogram=(dict(name="pgd"),)),
            "augment.spectrogram.0 is a second attack",
        ),
        (dict(waveform=(dict(name="pgd", steps=0),)), "steps is 0: it must be greater than 0"),
        (dict(waveform=(dict(name="pgd", epsilon=-1.0),)), "epsilon is -1.0: it must be a finite"),
        (dict(waveform=(dict(name="fgsm", norm="l1"),)), "norm is 'l1'; choose one of linf, l2"),
        (dict(waveform=(dict(name="fgsm", steps=3),)), "'fgsm' has no option 'steps'"),
    ],
)
def test_a_bad_attack_is_told(lists, message):
    stage = config_lib.stage()
    stage.augment.update(lists)
    with pytest.raises(UserError, match=message):
        config_lib.check(config_lib.default(supervised=stage))


@pytest.mark.parametrize(
    "model", [dict(name="wav2vec2"), dict(name="spectrogram_resnet", frontend="leaf")]
)
def test_a_spectrogram_that_is_not_made_before_the_model_is_not_attacked(model):
    stage = config_lib.stage()
    stage.model.update(model)
    stage.frontend.normalize = "clip"
    stage.augment.spectrogram = (dict(name="fgsm"),)
    with pytest.raises(UserError, match="augment.spectrogram.0: fgsm finds no spectrogram"):
        config_lib.check(config_lib.default(supervised=stage))
