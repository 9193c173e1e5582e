"""APC: its loss against s3prl's model with the same weights and against NumPy; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import quick

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.models.base import EncoderOutput
from sacjax.train import sharding
from sacjax.train.trainer import batch_shapes, make_trainer
from sacjax.views import View

ENCODERS = {
    "gru": dict(width=6, layers=3, dropout=0.0),
    "causal_transformer": dict(width=8, depth=1, heads=2, mlp_width=8),
    "small_cnn": dict(channels=(8, 8), hidden=16),
}
B, F, M = 3, 14, 5
X = jnp.asarray(np.random.default_rng(0).standard_normal((B, F, M)), jnp.float32)


def config_of(encoder="gru", options=None, **model):
    config = config_lib.default(pretrain=config_lib.stage())
    s = config.unlock().pretrain
    s.data.update(source="synthetic", examples=120, sample_rate=8000, seconds=0.25, cache=True)
    s.frontend.update(n_fft=256, hop_length=64, n_mels=M, normalize="band")
    s.model.name, s.model.encoder = encoder, ENCODERS[encoder] | model
    s.objective.name, s.objective.options = "apc", options or {}
    s.train.update(batch_size=16, steps=8, log_every=1)
    s.eval.update(best="validation/loss", best_mode="min", batch_size=16)
    return config


def batch_of(lengths, mask=(1.0, 1.0, 1.0), clean=None):
    view = View(X, jnp.asarray(lengths))
    clean = view if clean is None else View(clean, view.lengths)
    return {"views": (view,), "clean": clean, "mask": jnp.asarray(mask)}


def build(**options):
    stage = config_of(options=options).pretrain
    objective = objectives.build(stage)
    return objective, objective.build(nnx.Rngs(0))


def torch_apc(torch, model):
    """Returns predict(frames): s3prl's APC or VQ-APC written with torch.nn.GRU, our weights."""
    value = lambda variable: torch.tensor(np.asarray(variable[...].T))

    def predict(x):
        for number, layer in enumerate(model.encoder.layers):
            inputs, gates = layer.input.kernel.shape
            gru = torch.nn.GRU(inputs, gates // 3, batch_first=True)
            weights = (layer.input.kernel, layer.state.kernel, layer.input.bias, layer.state.bias)
            for name, weight in zip(gru._flat_weights_names, weights, strict=True):
                getattr(gru, name).data = value(weight)
            y = gru(x)[0]
            x = y + x if number else y
        if model.quantizer is not None:
            logits = x @ value(model.quantizer.logits.kernel).T + value(model.quantizer.logits.bias)
            codebook = torch.tensor(np.asarray(model.quantizer.codebook[...][0]))
            x = torch.nn.functional.one_hot(logits.argmax(-1), len(codebook)).float() @ codebook
        return x @ value(model.head.kernel).T + value(model.head.bias)

    return predict


@pytest.mark.parametrize("options", [dict(ahead=3), dict(ahead=5, codebook_entries=7)])
def test_loss_is_torchs_with_the_same_weights(options):
    """Mean L1 over valid frames, where s3prl's also counts padding: clips of one length at a time.

    The gains are over predictions of the last frame heard, and of the mean frame.
    """
    torch = pytest.importorskip("torch", reason="torch is the reference")
    objective, model = build(**options)
    lengths, mask, n = (14, 9, 14), (1.0, 1.0, 0.0), options["ahead"]
    loss = quick(model, lambda model: objective.loss(model, batch_of(lengths, mask), Context()))()
    predict, errors = torch_apc(torch, model), []
    futures = np.concatenate([np.asarray(X[k, n : lengths[k]]) for k in (0, 1)])
    with torch.no_grad():
        for k in (0, 1):
            clip = torch.tensor(np.array(X[k : k + 1, : lengths[k]]))
            errors.append((predict(clip[:, :-n]) - clip[:, n:]).abs().mean(-1).ravel().numpy())
    errors = np.concatenate(errors)
    assert loss.count == len(errors) == len(futures)
    np.testing.assert_allclose(loss.total / loss.count, errors.mean(), rtol=1e-4)
    copied = [np.abs(X[k, n : lengths[k]] - X[k, : lengths[k] - n]).mean(-1).sum() for k in (0, 1)]
    constant = np.abs(futures - futures.mean(0)).mean(-1).sum()
    values = objective.summarize(loss.metrics)
    assert values["loss"] == pytest.approx(errors.mean(), rel=1e-4)
    assert values["gain_over_copying"] == pytest.approx(1 - errors.sum() / sum(copied), abs=1e-4)
    assert values["gain_over_mean"] == pytest.approx(1 - errors.sum() / constant, abs=1e-4)
    assert ("code_perplexity" in values) == bool(options.get("codebook_entries"))


@pytest.mark.parametrize("entries", [0, 7])
def test_predictions_are_s3prls_apc_and_vq_apc(entries):
    torch = pytest.importorskip("torch", reason="torch is the reference")
    apc = pytest.importorskip("s3prl.upstream.apc.apc", reason="s3prl is the reference")
    objective, model = build(codebook_entries=entries, ahead=5)
    vq = dict(codebook_size=[entries], code_dim=[6], gumbel_temperature=0.5) if entries else None
    peer = apc.APC(M, 6, 3, dropout=0.0, residual=True, vq=vq)
    weights = {"postnet.weight": model.head.kernel[...].T, "postnet.bias": model.head.bias[...]}
    for number, layer in enumerate(model.encoder.layers):
        for ours, name in ((layer.input, "ih"), (layer.state, "hh")):
            weights[f"rnn_layers.{number}.weight_{name}_l0"] = ours.kernel[...].T
            weights[f"rnn_layers.{number}.bias_{name}_l0"] = ours.bias[...]
    if entries:
        weights["vq_layers.0.vq_logits.weight"] = model.quantizer.logits.kernel[...].T
        weights["vq_layers.0.vq_logits.bias"] = model.quantizer.logits.bias[...]
        weights["vq_layers.0.codebook_CxE.weight"] = model.quantizer.codebook[...][0].T
    peer.load_state_dict({name: torch.tensor(np.asarray(w)) for name, w in weights.items()})
    with torch.no_grad():
        x = torch.tensor(np.array(X))
        predicted, states = peer(x[:, :-5], [F - 5] * B, testing=True)
        want = torch.nn.functional.l1_loss(predicted, x[:, 5:])
    batch = batch_of((F,) * B)
    loss = quick(model, lambda model: objective.loss(model, batch, Context()))()
    np.testing.assert_allclose(loss.total / loss.count, want, rtol=1e-4)
    frames = quick(model, lambda model: model.encoder(X, jnp.full([B], F)).frames)()
    np.testing.assert_allclose(frames[:, :-5], states, rtol=1e-4, atol=1e-5)


def test_what_is_predicted_is_the_clean_clip_where_asked_for():
    model = build(ahead=3)[1]
    losses = []
    for target in ("view", "clean"):
        objective = build(ahead=3, target=target)[0]
        batch = batch_of((F,) * B, clean=X + 10)
        losses.append(quick(model, lambda m, o=objective, b=batch: o.loss(m, b, Context()))())
    assert losses[0].total / losses[0].count < 2 < 8 < losses[1].total / losses[1].count < 12


def test_the_joined_frames_of_a_token_are_predicted_each_n_ahead():
    """A head that gives back what was heard predicts a clip that repeats itself every n frames."""
    stage = config_of(options=dict(ahead=4), stack=2).pretrain
    objective = objectives.build(stage)
    model = objective.build(nnx.Rngs(0))
    repeating = jnp.tile(X[:, :4], [1, 4, 1])[:, :F]

    def heard(inputs, lengths, ctx):
        tokens = model.encoder.tokens(inputs, lengths)
        return EncoderOutput(tokens.features, tokens.lengths)

    class Echo:
        encoder = staticmethod(heard)

        def predict(self, states, key):
            return model.encoder.frames(states), None

    batch = batch_of((F, 11, F)) | {"views": (View(repeating, jnp.array([F, 11, F])),)}
    loss = objective.loss(Echo(), batch, Context())
    np.testing.assert_allclose(loss.total, 0, atol=1e-5)
    assert loss.count == 10 + 7 + 10


def test_codes_are_drawn_in_training_and_gradients_go_through_them():
    objective, model = build(codebook_entries=7, ahead=5)

    def run(model, key):
        loss = lambda model: objective.loss(model, batch_of((F, F, 9)), Context(key)).total
        return nnx.value_and_grad(loss)(model)

    step = quick(model, run)
    (one, grads), (other, _) = (step(jax.random.key(k)) for k in (0, 1))
    assert one != other
    grads = nnx.to_flat_state(grads)
    still = [path for path, g in grads if not np.any(g[...])]
    assert still == [("encoder", "mask_embedding")]


@pytest.mark.parametrize(
    "options, values, seen",
    [
        (dict(), dict(gain_over_mean=0.005, gain_over_copying=0.3), "no better than by the mean"),
        (dict(), dict(gain_over_mean=-0.5), "no better than by the mean"),
        (dict(), dict(gain_over_mean=0.1, gain_over_copying=-0.2), ""),
        (dict(codebook_entries=64), dict(gain_over_mean=0.2, code_perplexity=1.1), "1.10 of 64"),
        (dict(codebook_entries=64), dict(gain_over_mean=0.2, code_perplexity=9.0), ""),
        (dict(), {}, ""),
    ],
)
def test_what_looks_like_nothing_learned(options, values, seen):
    found = build(**options)[0].health(values)
    assert seen in found and bool(found) == bool(seen)


def test_a_flat_run_is_seen_in_its_own_metrics():
    """A head that always says the mean frame gains nothing over it; one that knows gains all."""
    objective, model = build(ahead=3)
    model.head.kernel[...] = jnp.zeros_like(model.head.kernel[...])
    model.head.bias[...] = X[:, 3:].mean((0, 1))
    batch = batch_of((F,) * B)
    run = quick(model, lambda model: objective.loss(model, batch, Context()).metrics)
    values = objective.summarize(run())
    assert "no better" in objective.health(values) and objective.options.collapse_patience == 20


@pytest.mark.parametrize("encoder", ["gru", "causal_transformer"])
def test_steps_and_embeddings_fit(encoder):
    """Nothing is compiled: the step's shapes fit, and the embeddings are the encoder's features."""
    stage = config_lib.check(config_of(encoder, dict(codebook_entries=8))).pretrain
    objective = objectives.build(stage, ("a", "b"))
    trainer = make_trainer(objective, stage, sharding.make_mesh({"data": -1, "fsdp": 1}), 4, 0)
    batch = batch_shapes(stage, 16, 2)
    after = jax.eval_shape(trainer.step, trainer.state_shapes, batch)
    assert jax.tree.structure(after) == jax.tree.structure(trainer.state_shapes)
    embedded = jax.eval_shape(trainer.embed, trainer.state_shapes, batch)
    assert embedded.shape == (16, objective.features)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(options=dict(ahead=0)), "objective.options.ahead is 0: it must be positive"),
        (dict(options=dict(codebook_temperature=0.0)), "codebook_temperature is 0.0"),
        (dict(options=dict(aheed=3)), "objective.options.aheed: .*ahead"),
        (dict(options=dict(ahead=32)), "ahead is 32: data.seconds=0.25 gives 32 frames"),
        (dict(stack=6), "ahead is 5: a token has model.encoder.stack=6 frames"),
        (dict(encoder="small_cnn"), "needs an encoder that hears no future.*not 'small_cnn'"),
        (
            dict(encoder="causal_transformer", causal=False),
            "causal is False: the encoder would hear the frames that objective.name=apc predicts",
        ),
    ],
)
def test_what_is_refused(change, words):
    with pytest.raises(UserError, match=words) as error:
        config_lib.check(config_of(**change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "augment, fits",
    [
        (dict(waveform=(dict(name="noise"), dict(name="gain"))), True),
        (dict(waveform=(dict(name="speed"),)), False),
        (dict(spectrogram=(dict(name="time_warp"),)), False),
        (dict(crop_seconds=0.2), False),
    ],
)
def test_clean_targets_need_augmentation_that_moves_nothing(augment, fits):
    config = config_of(options=dict(target="clean"))
    config.pretrain.augment.update(augment)
    if fits:
        config_lib.check(config)
    else:
        with pytest.raises(UserError, match="target is 'clean', but augment has .* in time"):
            config_lib.check(config)
