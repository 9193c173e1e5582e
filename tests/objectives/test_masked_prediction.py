"""Mockingjay and TERA: the loss against s3prl's model and NumPy; what is altered and refused."""

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
from sacjax.objectives.masked_prediction import Altered
from sacjax.train import sharding
from sacjax.train.trainer import batch_shapes, make_trainer
from sacjax.views import View

SIZES = dict(width=8, depth=2, heads=2, mlp_width=12, causal=False, pre_norm=False)
ENCODERS = {"causal_transformer": SIZES, "gru": dict(width=6), "small_cnn": dict(channels=(8, 8))}
B, F, M = 3, 30, 10
X = jnp.asarray(np.random.default_rng(0).standard_normal((B, F, M)), jnp.float32)
LENGTHS = jnp.array([30, 17, 30])


def config_of(encoder="causal_transformer", options=None, **model):
    config = config_lib.default(pretrain=config_lib.stage())
    s = config.unlock().pretrain
    s.data.update(source="synthetic", examples=120, sample_rate=8000, seconds=0.25, cache=True)
    s.frontend.update(n_fft=256, hop_length=64, n_mels=M, normalize="band")
    s.model.name, s.model.encoder = encoder, ENCODERS[encoder] | model
    s.objective.name, s.objective.options = "masked_prediction", options or {}
    s.train.update(batch_size=16, steps=8, log_every=1)
    s.eval.update(best="validation/loss", best_mode="min", batch_size=16)
    return config


def build(options=None, **model):
    objective = objectives.build(config_of(options=options, **model).pretrain)
    return objective, objective.build(nnx.Rngs(0))


def altered():
    rng = np.random.default_rng(1)
    cells = (rng.random((B, F, M)) < 0.3) & (np.arange(F) < LENGTHS[:, None])[..., None]
    return Altered(jnp.where(cells, 0, X), jnp.asarray(cells))


def batch_of(mask=(1.0, 1.0, 0.0)):
    view = View(X, LENGTHS)
    return dict(views=(view,), mask=jnp.asarray(mask), index=jnp.arange(B) + 40)


@pytest.mark.parametrize("stack", [1, 4])
def test_loss_is_the_mean_error_of_altered_cells(stack):
    """With the head written out; the rest is compared with predicting the mean frame."""
    objective, model = build(stack=stack)
    given, view = altered(), View(X, LENGTHS)
    both = lambda m: (objective.loss_of(m, view, given, Context()), m.encoder(given[0], LENGTHS))
    loss, output = quick(model, both)()
    torch = pytest.importorskip("torch", reason="torch is the reference")
    weight = lambda variable: torch.tensor(np.array(variable[...].T))
    with torch.no_grad():
        x = torch.tensor(np.array(output.frames)) @ weight(model.hidden.kernel).T
        x = torch.nn.functional.gelu(x + weight(model.hidden.bias))
        x = torch.nn.functional.layer_norm(x, (8,)) @ weight(model.head.kernel).T
        predicted = (x + weight(model.head.bias)).reshape(B, -1, M)[:, :F].numpy()
    cells = np.asarray(given.cells)
    errors = np.abs(predicted - X)[cells]
    assert loss.count == cells.sum()
    np.testing.assert_allclose(loss.total / loss.count, errors.mean(), rtol=1e-4)
    inside = np.asarray(X)[np.arange(F) < np.asarray(LENGTHS)[:, None]]
    constant = np.abs(inside.mean(0) - X)[cells].sum()
    values = objective.summarize(loss.metrics)
    assert values["gain_over_mean"] == pytest.approx(1 - errors.sum() / constant, abs=1e-4)
    assert values["altered_share"] == pytest.approx(cells.sum() / inside.size, rel=1e-5)


def test_loss_is_s3prls_with_the_same_weights():
    torch = pytest.importorskip("torch", reason="torch is the reference")
    peer_lib = pytest.importorskip("s3prl.upstream.mockingjay.model", reason="the reference")
    task = pytest.importorskip("s3prl.pretrain.mockingjay.task", reason="the reference")
    objective, model = build()
    config = dict(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="gelu",
        intermediate_size=12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.02,
        layer_norm_eps=1e-5,
        share_layer=False,
        pre_layer_norm=False,
    )
    config = peer_lib.TransformerConfig(config)
    peer = peer_lib.TransformerModel(config, M).eval()
    head = peer_lib.TransformerSpecPredictionHead(config, M).eval()
    linear = lambda name, ours, k=...: {
        f"{name}.weight": np.asarray(ours.kernel[...])[k].T,
        f"{name}.bias": np.asarray(ours.bias[...])[k],
    }
    norm = lambda name, ours, k=...: {
        f"{name}.weight": np.asarray(ours.scale[...])[k],
        f"{name}.bias": np.asarray(ours.bias[...])[k],
    }
    t = model.encoder.transformer
    weights = linear("input_representations.spec_transform", model.encoder.projection)
    weights |= norm("input_representations.LayerNorm", t.input_norm)
    for k in range(2):
        at, ours = f"encoder.layer.{k}", t.layers
        for name in ("query", "key", "value"):
            weights |= linear(f"{at}.attention.self.{name}", getattr(ours.attention, name), k)
        weights |= linear(f"{at}.attention.output.dense", ours.attention.out, k)
        weights |= norm(f"{at}.attention.output.LayerNorm", ours.attention_norm, k)
        weights |= linear(f"{at}.intermediate.dense", ours.mlp_in, k)
        weights |= linear(f"{at}.output.dense", ours.mlp_out, k)
        weights |= norm(f"{at}.output.LayerNorm", ours.mlp_norm, k)
    of_head = linear("dense", model.hidden) | norm("LayerNorm", model.norm)
    of_head |= linear("output", model.head)
    for module, values in ((peer, weights), (head, of_head)):
        module.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    given = altered()
    inside = (np.arange(F) < np.asarray(LENGTHS)[:, None]).astype(np.float32)
    as_torch = lambda x: torch.tensor(np.array(x))
    with torch.no_grad():
        positions = task.fast_position_encoding(F, 8).expand(B, F, 8)
        states = peer(as_torch(given.inputs), positions, as_torch(inside), False)
        predicted, cells = head(states)[0], as_torch(given.cells)
        want = torch.nn.functional.l1_loss(predicted[cells], as_torch(X)[cells])
    loss = quick(model, lambda m: objective.loss_of(m, View(X, LENGTHS), given, Context()))()
    np.testing.assert_allclose(loss.total / loss.count, want, rtol=1e-4)


@pytest.mark.parametrize(
    "options, frames_alone, bands_alone",
    [
        (dict(band_share=0.0), True, False),  # Mockingjay
        (dict(time_share=0.0, band_share=0.4), False, True),
        (dict(), False, False),  # TERA: both
    ],
)
def test_what_is_altered_is_what_is_predicted(options, frames_alone, bands_alone):
    """Cells that are not predicted stay, and padding is no part of it."""
    objective = objectives.build(config_of(options=options).pretrain)
    alter = jax.jit(objective.alter)
    for key in range(5):
        keys = jax.random.split(jax.random.key(key), B)
        inputs, cells = map(np.asarray, alter(keys, View(X, LENGTHS)))
        there = (np.arange(F) < np.asarray(LENGTHS)[:, None])[..., None]
        assert not (cells & ~there).any() and not inputs[~np.broadcast_to(there, X.shape)].any()
        kept = there & ~cells
        np.testing.assert_array_equal(inputs[kept], np.asarray(X)[kept])
        for k, n in enumerate(LENGTHS):
            mask = cells[k, :n]
            if frames_alone:
                assert (mask.all(1) == mask.any(1)).all()
            if bands_alone:
                assert (mask.all(0) == mask.any(0)).all()


def test_noise_alone_predicts_all_cells():
    """As s3prl does where neither frames nor bands are masked."""
    options = dict(time_share=0.0, band_share=0.0, noise_probability=1.0)
    objective = objectives.build(config_of(options=options).pretrain)
    inputs, cells = jax.jit(objective.alter)(
        jax.random.split(jax.random.key(0), B), View(X, LENGTHS)
    )
    there = np.broadcast_to((np.arange(F) < np.asarray(LENGTHS)[:, None])[..., None], X.shape)
    np.testing.assert_array_equal(cells, there)
    assert np.asarray(inputs - X)[there].std() == pytest.approx(0.2, rel=0.1)


def test_examples_draw_by_their_row_in_training_and_else_by_their_index():
    objective, model = build()
    batch = batch_of()
    moved = {
        "views": (View(X[::-1], LENGTHS[::-1]),),
        "mask": batch["mask"][::-1],
        "index": batch["index"][::-1],
    }
    judge = quick(model, lambda model, batch: objective.loss(model, batch, Context()))
    train = quick(model, lambda model, key: objective.loss(model, batch, Context(key)))
    one, two = judge(batch), judge(moved)
    np.testing.assert_allclose(one.total, two.total, rtol=1e-5)
    assert one.count == two.count
    assert train(jax.random.key(0)).total != train(jax.random.key(1)).total


def test_a_flat_run_is_seen_in_its_own_metrics():
    """A head that always says the mean frame gains nothing over it."""
    objective, model = build()
    model.head.kernel[...] = jnp.zeros_like(model.head.kernel[...])
    inside = np.asarray(X)[np.arange(F) < np.asarray(LENGTHS)[:, None]]
    model.head.bias[...] = jnp.asarray(inside.mean(0))
    run = quick(model, lambda m: objective.loss_of(m, View(X, LENGTHS), altered(), Context()))
    values = objective.summarize(run().metrics)
    assert "no better" in objective.health(values) and objective.options.collapse_patience == 20
    assert objective.health({"gain_over_mean": 0.1}) == objective.health({}) == ""


@pytest.mark.parametrize("encoder", ["gru", "causal_transformer"])
def test_steps_and_embeddings_fit(encoder):
    """Nothing is compiled: the step's shapes fit, and the embeddings are the encoder's features."""
    stage = config_lib.check(config_of(encoder, dict(noise_probability=0.5), stack=2)).pretrain
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
        (dict(options=dict(time_span=0)), "objective.options.time_span is 0: it must be positive"),
        (dict(options=dict(time_share=1.5)), "time_share is 1.5"),
        (dict(options=dict(swap_probability=0.3)), "swap_probability is 0.3: with zero_prob"),
        (dict(options=dict(time_share=0.0, band_share=0.0)), "nothing would be altered"),
        (dict(options=dict(time_shard=0.1)), "objective.options.time_shard: .*time_share"),
        (dict(encoder="small_cnn"), "whose tokens are frames of a spectrogram.*not 'small_cnn'"),
    ],
)
def test_what_is_refused(change, words):
    with pytest.raises(UserError, match=words) as error:
        config_lib.check(config_of(**change))
    assert "\n" not in str(error.value)
