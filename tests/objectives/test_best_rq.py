"""BEST-RQ against SpeechBrain's quantizer, written out in PyTorch, and the loss in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx
from tiny_stages import SAMPLES, batch_of, stage_of, waves
from toy_tokens import registered

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.objectives.base import Frozen
from sacjax.objectives.best_rq import BestRQOptions, RandomProjectionQuantizer
from sacjax.train import sharding
from sacjax.train.trainer import batch_shapes, make_trainer
from sacjax.views import View

OPTIONS = dict(codes=6, code_dim=4, codebooks=2)


@pytest.fixture(scope="module", autouse=True)
def toy():
    with registered():
        yield


def quantizer_of(**options):
    return RandomProjectionQuantizer(12, BestRQOptions(**(OPTIONS | options)), nnx.Rngs(0))


def speechbrains(x, projection, codebook):
    """SpeechBrain's forward pass, which brings each dimension to length 1 over the clip's time."""
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    projection, codebook = torch.tensor(projection), torch.tensor(codebook)
    y = torch.nn.functional.normalize(torch.tensor(x) @ projection)
    return torch.linalg.vector_norm(codebook.unsqueeze(1) - y.unsqueeze(1), dim=-1).argmin(1)


def frozen_values(quantizer, book):
    return (np.asarray(v[...][book]) for v in (quantizer.projection, quantizer.codebook))


def test_codes_are_speechbrains():
    x = np.random.default_rng(0).normal(size=(3, 20, 12)).astype(np.float32)
    quantizer = quantizer_of(unit_over="time")
    made = quantizer.nearest(quantizer.project(jnp.asarray(x), jnp.full(3, 20)))
    for book in range(2):
        # One clip at a time, with its codes along an axis of their own, as it broadcasts them.
        wanted = [speechbrains(one[None], *frozen_values(quantizer, book))[0] for one in x]
        np.testing.assert_array_equal(made[..., book], wanted)


def test_codes_are_speechbrains_own():
    quantisers = pytest.importorskip("speechbrain.nnet.quantisers", reason="needs SpeechBrain")
    import torch

    x = np.random.default_rng(0).normal(size=(3, 20, 12)).astype(np.float32)
    quantizer, theirs = (
        quantizer_of(unit_over="time"),
        quantisers.RandomProjectionQuantizer(12, 4, 6),
    )
    for book in range(2):
        theirs.P, theirs.CB = map(torch.tensor, frozen_values(quantizer, book))
        made = quantizer.nearest(quantizer.project(jnp.asarray(x), jnp.full(3, 20)))
        for k in range(3):
            np.testing.assert_array_equal(made[k, :, book], theirs(torch.tensor(x[k : k + 1]))[0])


def test_padding_has_no_say_in_a_clips_codes():
    x = np.random.default_rng(0).normal(size=(1, 20, 12)).astype(np.float32)
    quantizer = quantizer_of(unit_over="time")
    codes = lambda x, n: quantizer.nearest(quantizer.project(jnp.asarray(x), jnp.asarray([n])))
    np.testing.assert_array_equal(codes(x, 9)[:, :9], codes(x[:, :9], 9))


def test_projections_are_xaviers_and_codes_have_length_1():
    quantizer = RandomProjectionQuantizer(60, BestRQOptions(codes=50), nnx.Rngs(0))
    projection, codebook = frozen_values(quantizer, 0)
    bound = (6 / (60 + 16)) ** 0.5
    assert 0.97 * bound < np.abs(projection).max() <= bound
    assert projection.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    np.testing.assert_allclose(np.linalg.norm(codebook, axis=-1), 1, rtol=1e-6)


def test_the_papers_codes_are_the_nearest_to_a_vector_of_length_1():
    x = np.random.default_rng(0).normal(size=(3, 20, 12)).astype(np.float32)
    quantizer = quantizer_of()
    made = quantizer.nearest(quantizer.project(jnp.asarray(x), jnp.full(3, 20)))
    for book in range(2):
        y = x @ np.asarray(quantizer.projection[...][book])
        y /= np.linalg.norm(y, axis=-1, keepdims=True)
        far = np.linalg.norm(y[:, :, None] - np.asarray(quantizer.codebook[...][book]), axis=-1)
        np.testing.assert_array_equal(made[..., book], far.argmin(-1))


def test_loss_as_written_out_and_only_the_encoder_and_head_learn():
    """The codes of the clip's own log-mels are told at the masked tokens, and nowhere else."""
    stage = stage_of("best_rq", options=OPTIONS)
    objective = objectives.build(stage)
    model = objective.build(nnx.Rngs(0))
    view, mask = waves([SAMPLES, 900, SAMPLES]), np.array([1, 1, 0])
    batch = batch_of(view, mask)
    loss = nnx.jit(lambda model: objective.loss(model, batch, Context()))(model)

    tokens = np.array([24, (900 - 66) // 64 + 1, 0])
    made = objective.options.masks(
        jax.vmap(lambda k: jax.random.fold_in(jax.random.key(0), k))(jnp.arange(3)),
        jnp.asarray(tokens),
        24,
    )
    masked = np.asarray(made)
    assert masked.sum(1).tolist() == [14, 8, 0]  # 60 % of 24 and of 14
    heard = objective.features_of_tokens(view, 24)
    quantizer = model.quantizer
    codes = np.asarray(quantizer.nearest(quantizer.project(heard, jnp.asarray(tokens))))
    heard_as = lambda encoder: encoder.tokens(*view)._replace(lengths=jnp.asarray(tokens))
    frames = nnx.jit(lambda m: m.encoder.context(heard_as(m.encoder), mask=made).frames)(model)
    logits = np.asarray(frames @ model.head.kernel[...] + model.head.bias[...])
    log = scipy.special.log_softmax(logits.reshape(3, 24, 2, 6), -1)
    right = np.take_along_axis(log, codes[..., None], -1)[..., 0]
    assert loss.count == 22
    np.testing.assert_allclose(loss.total, -right[masked].mean(-1).sum(), rtol=1e-4)
    frozen = nnx.state(model, Frozen)
    assert set(frozen) == {"quantizer"} and "quantizer" not in nnx.state(model, nnx.Param)


def test_noise_takes_the_place_of_masked_input_alone():
    stage = stage_of("best_rq", "toy", OPTIONS | dict(mask_with="noise", noise_std=5.0))
    objective = objectives.build(stage)
    x = jnp.zeros([2, 51, 8])
    mask = np.zeros([2, 25], bool)
    mask[0, 3], mask[1, 24] = True, True
    keys = jax.random.split(jax.random.key(0), 2)
    view = View(x, jnp.asarray([51, 51]))
    noisy = np.asarray(objective.corrupt(view, jnp.asarray(mask), keys).inputs)
    changed = np.flatnonzero((noisy != 0).any(-1).ravel())
    assert changed.tolist() == [6, 7, 51 + 48, 51 + 49]
    assert noisy[noisy != 0].std() == pytest.approx(5, rel=0.4)


@pytest.mark.parametrize(
    ("encoder", "options"), [("wav2vec2", dict()), ("toy", dict(mask_with="noise"))]
)
def test_any_encoder_of_tokens_will_do(encoder, options):
    """Nothing is compiled: the step's shapes fit, and the embeddings are the encoder's features."""
    stage = stage_of("best_rq", encoder, OPTIONS | options)
    config_lib.check(config_lib.default(pretrain=stage))
    objective = objectives.build(stage)
    trainer = make_trainer(objective, stage, sharding.make_mesh({"data": -1, "fsdp": 1}), 4, 0)
    batch = batch_shapes(stage, 8, 0)
    after = jax.eval_shape(trainer.step, trainer.state_shapes, batch)
    assert jax.tree.structure(after) == jax.tree.structure(trainer.state_shapes)
    assert jax.eval_shape(trainer.embed, trainer.state_shapes, batch).shape == (8, 16)


def changed(**changes):
    stage = stage_of("best_rq", changes.pop("encoder", "wav2vec2"), OPTIONS)
    with stage.unlocked():
        stage.update_from_flattened_dict(changes)
    return stage


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frontend.normalize": "none"}, "frontend.normalize is 'none'"),
        ({"augment.waveform": (dict(name="shift"),)}, "augment.waveform has shift"),
        ({"objective.options": dict(codes=0)}, "objective.options.codes is 0"),
        ({"objective.options": dict(stack=5)}, "stack is 5: it must divide the 64 samples"),
        ({"objective.options": dict(mask_with="noize")}, "did you mean 'noise'"),
        (
            {
                "encoder": "toy",
                "model.encoder": dict(bands=2),
                "objective.options": dict(mask_with="noise"),
            },
            "tokens are patches; choose embedding",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        config_lib.check(config_lib.default(pretrain=changed(**changes)))
