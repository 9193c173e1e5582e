"""data2vec: its targets against transformers' layers in PyTorch, its loss, teacher and export."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_stages import SAMPLES, batch_of, stage_of, waves
from toy_tokens import registered

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.context import Context
from sacjax.convert import huggingface
from sacjax.errors import UserError
from sacjax.objectives.base import Teacher, ema_decay, ramp_steps
from sacjax.objectives.data2vec import distance, over_time, spread
from sacjax.train import sharding
from sacjax.train.optimizer import name_of
from sacjax.train.trainer import batch_shapes, make_trainer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
OPTIONS = dict(top_layers=2, mask_span=3, mask_probability=0.15, teacher_ramp=0.5)


@pytest.fixture(scope="module", autouse=True)
def toy():
    with registered():
        yield


def objective_of(**options):
    return objectives.build(stage_of("data2vec", options=OPTIONS | options))


# The teacher


def test_the_decay_rises_in_a_line_and_stays():
    progress = jnp.asarray([0.0, 50.0, 100.0, 1000.0])
    np.testing.assert_allclose(ema_decay(progress, 0.9, 0.98, 100), [0.9, 0.94, 0.98, 0.98])
    assert ema_decay(0, 0.9, 0.98, 0) == pytest.approx(0.98)
    stage = stage_of("data2vec")
    assert ramp_steps(stage, 0.5) == 10 and ramp_steps(stage, 75.0) == 75
    stage.train.steps = 0
    with pytest.raises(UserError, match="teacher_ramp is a share of the run"):
        ramp_steps(stage, 0.5)


def test_the_teacher_follows_by_the_decay_of_its_step_and_learns_nothing():
    objective = objective_of(teacher_decay=0.5, teacher_decay_end=0.9)
    model = objective.build(nnx.Rngs(0))
    teacher = nnx.as_pure(nnx.state(model.teacher, Teacher))
    student = jax.tree.map(lambda x: x + 1, nnx.as_pure(nnx.state(model.encoder, nnx.Param)))
    nnx.update(model.encoder, student)
    objective.after_update(model, Context(progress=5.0))  # half of the ramp of 10 steps
    moved = nnx.as_pure(nnx.state(model.teacher, Teacher))
    for old, new in zip(*map(jax.tree.leaves, (teacher, moved)), strict=True):
        np.testing.assert_allclose(new, old + 0.3, rtol=1e-5, atol=1e-6)
    learned = {name_of(path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert learned and not any(name.startswith("teacher") for name in learned)
    objective.after_loading(model)
    for a, b in zip(*map(jax.tree.leaves, (nnx.state(model.teacher), student)), strict=True):
        np.testing.assert_array_equal(a, b)


# Targets and loss


def test_the_encoder_loads_in_transformers_whose_layers_give_the_targets(tmp_path):
    """The targets: the top layers' MLP outputs, instance-normalized over time, in the mean."""
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    sizes = dict(conv_norm="layer", positional_layers=2, positional_kernel=3, pre_norm=False)
    stage = stage_of("data2vec", options=OPTIONS, **sizes, depth=3)
    objective = objectives.build(stage)
    model = objective.build(nnx.Rngs(0))
    huggingface.save_huggingface(model, tmp_path)
    theirs = transformers.Data2VecAudioModel.from_pretrained(tmp_path).eval()
    outputs, x = [], np.asarray(waves([SAMPLES]).inputs)
    for layer in theirs.encoder.layers[-2:]:
        layer.feed_forward.register_forward_hook(lambda *call: outputs.append(call[-1]))
    with torch.no_grad():
        last = theirs(torch.tensor((x - x.mean()) / x.std())).last_hidden_state
        normed = [torch.nn.functional.instance_norm(y.transpose(1, 2)) for y in outputs]
    wanted = (sum(normed) / 2).transpose(1, 2)
    tokens = model.encoder.tokens(*waves([SAMPLES]))
    made = objective.targets(model.teacher, tokens)
    np.testing.assert_allclose(model.encoder.context(tokens).frames, last, atol=1e-4)
    np.testing.assert_allclose(made, wanted, atol=2e-3)


def test_loss_as_written_out():
    objective = objective_of()
    model = objective.build(nnx.Rngs(0))
    view = waves([SAMPLES, 900, SAMPLES])
    loss = objective.loss(model, batch_of(view, [1, 1, 0]), Context())
    counts = np.array([24, (900 - 66) // 64 + 1, 0])
    keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.key(0), k))(jnp.arange(3))
    mask = objective.options.masks(keys, jnp.asarray(counts), 24)
    tokens = model.encoder.tokens(*view)._replace(lengths=jnp.asarray(counts))
    frames = np.asarray(model.encoder.context(tokens, mask=mask).frames)
    predicted = frames @ np.asarray(model.predictor.kernel[...])
    added = np.asarray(model.encoder.context(tokens, hidden_states="mlp").hidden_states)
    errors = []
    for row, count in enumerate(counts):
        for channel in range(16):
            layers = added[:, row, :count, channel]
            if not count:
                continue
            centred = layers - layers.mean(1, keepdims=True)
            target = (centred / np.sqrt(layers.var(1, keepdims=True) + 1e-5)).mean(0)
            errors += list((predicted[row, :count, channel] - target)[mask[row, :count]] ** 2)
    assert loss.count == mask.sum() > 0
    np.testing.assert_allclose(loss.total, np.sum(errors) / 16**0.5, rtol=1e-4)
    total, count = loss.metrics["prediction_std"]
    told = predicted[np.asarray(mask)]
    np.testing.assert_allclose(total / count, np.sqrt(told.var(0) + 1e-6).mean(), rtol=1e-4)


def test_clones_share_the_targets_and_mask_otherwise():
    view = waves([SAMPLES, 900])
    one, many = objective_of(), objective_of(clones=3)
    model = one.build(nnx.Rngs(0))
    batch, masks = batch_of(view), []
    draw = type(many.options).masks
    spy = lambda *args: masks.append(draw(*args)) or masks[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(many.options), "masks", spy)
        tripled = many.loss(model, batch, Context())
    assert masks[0].shape == (6, 24) and tripled.count == masks[0].sum()
    rows = np.asarray(masks[0])
    assert len({row.tobytes() for row in rows}) == 6
    assert not rows[3:, (900 - 66) // 64 + 1 :].any()  # clones of a clip lie side by side


def test_smooth_l1_is_pytorchs():
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    x = np.linspace(-3, 3, 25, dtype=np.float32)[None, None]
    for beta in (0.5, 2.0):
        wanted = torch.nn.functional.smooth_l1_loss(
            torch.tensor(x), torch.zeros(x.shape), beta=beta, reduction="none"
        )
        np.testing.assert_allclose(distance(jnp.asarray(x), beta), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(distance(jnp.asarray(x), 0.0), x**2, rtol=1e-6)


def test_padding_has_no_say_in_the_norm_over_time():
    x = np.random.default_rng(0).normal(size=(1, 9, 4)).astype(np.float32)
    made = over_time(jnp.asarray(x), jnp.asarray([6]))
    alone = over_time(jnp.asarray(x[:, :6]), jnp.asarray([6]))
    np.testing.assert_allclose(made[:, :6], alone, atol=1e-6)
    assert not made[:, 6:].any()


def test_constant_predictions_have_no_spread():
    x, used = jnp.ones([2, 5, 3]), jnp.ones([2, 5], bool)
    value, count = spread(x, used)
    values = dict(target_std=1.0, prediction_std=float(value / count))
    assert "prediction_std 0.001, below 0.01" in objective_of().health(values)
    assert "target_std" in objective_of().health(dict(target_std=0.05))
    assert not objective_of().health(dict(target_std=0.5, prediction_std=0.1))


@pytest.mark.parametrize(
    ("encoder", "options"),
    [("wav2vec2", dict(teacher_tokens="teacher")), ("toy", dict(clones=2, layer_norm=True))],
)
def test_any_encoder_of_tokens_will_do(encoder, options):
    """Nothing is compiled: the step's shapes fit, and the embeddings are the encoder's features."""
    stage = stage_of("data2vec", encoder, OPTIONS | options)
    config_lib.check(config_lib.default(pretrain=stage))
    objective = objectives.build(stage)
    trainer = make_trainer(objective, stage, sharding.make_mesh({"data": -1, "fsdp": 1}), 4, 0)
    batch = batch_shapes(stage, 8, 0)
    after = jax.eval_shape(trainer.step, trainer.state_shapes, batch)
    assert jax.tree.structure(after) == jax.tree.structure(trainer.state_shapes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(top_layers=3), "top_layers is 3: the encoder has 2 layers"),
        (dict(teacher_decay=1.5), "objective.options.teacher_decay is 1.5"),
        (dict(clones=0), "objective.options.clones is 0"),
    ],
)
def test_options_that_are_refused(options, message):
    stage = stage_of("data2vec", options=OPTIONS | options)
    with pytest.raises(UserError, match=message):
        config_lib.check(config_lib.default(pretrain=stage))
