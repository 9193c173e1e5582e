"""wav2vec 2.0's objective against transformers', NumPy written out by hand and chance.

Also collapse, schedules and devices: run as a script (`test_wav2vec2.py out.json`) it writes loss
and metrics on one device and on all of them.
"""

import csv
import dataclasses
import functools
import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from processes import run_python
from quick_stages import share_trainers
from tiny_stages import batch_of, stage_of
from toy_tokens import registered

from sacjax import config as config_lib
from sacjax import stages
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.layers.masking import masked_positions
from sacjax.models.base import EncoderOutput, Tokens
from sacjax.objectives.wav2vec2 import (
    Masked,
    Pretraining,
    Wav2Vec2Objective,
    Wav2Vec2Options,
    draw_negatives,
)
from sacjax.train import sharding
from sacjax.train.trainer import make_trainer
from sacjax.views import View

ENCODER = dict(  # a frame every 64 samples
    size="tiny",
    conv_channels=(8, 8),
    conv_kernels=(10, 8),
    conv_strides=(8, 8),
    width=16,
    depth=1,
    heads=2,
    mlp_width=16,
    positional_kernel=4,
    positional_groups=2,
    dropout=0.0,
    attention_dropout=0.0,
    projection_dropout=0.0,
)
OPTIONS = dict(
    codebook_entries=8,
    codebook_dim=8,
    projection_dim=8,
    mask_span=3,
    mask_probability=0.1,
    negatives=5,
)
SAMPLES = 1600


def tiny_stage(options=None, **optimizer):
    stage = config_lib.stage()
    stage.data.update(source="synthetic", examples=60, sample_rate=4000, seconds=SAMPLES / 4000)
    stage.model.update(name="wav2vec2", encoder=ENCODER)
    stage.objective.update(name="wav2vec2", options=OPTIONS | (options or {}))
    plain = dict(schedule="constant", warmup_fraction=0.0, weight_decay=0.0, clip_norm=0.0)
    stage.optimizer.update(plain | optimizer)
    stage.train.batch_size = 8
    return stage


def audio_batch(lengths, mask=None, seed=0):
    """Returns noise of these lengths, and noise beyond them too."""
    rng = np.random.default_rng(seed)
    count = len(lengths)
    return dict(
        audio=rng.normal(0, 0.1, [count, SAMPLES]).astype(np.float32),
        length=np.asarray(lengths, np.int32),
        label=np.full(count, -1, np.int32),
        index=np.arange(count, dtype=np.int32),
        mask=np.ones(count, np.float32) if mask is None else np.asarray(mask, np.float32),
    )


def inputs_of(batch):
    """Returns the views of a batch: here, the clip as it is."""
    view = View(batch["audio"], batch["length"])
    return {"views": (view,), "mask": batch["mask"], "index": batch["index"]}


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    """Compiling is most of these tests' time: XLA's optimizations are off while they run."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the heads ask of an encoder."""

    token_features: int
    features: int


def heads_of(token_features, features, options, seed=0):
    return Pretraining(Sizes(token_features, features), options, nnx.Rngs(seed))


def with_frames(heads, frames):
    """Returns a model whose encoder gives these frames, and its features as they are."""

    def context(tokens, ctx, mask):
        return EncoderOutput(jnp.asarray(frames), tokens.lengths)

    return SimpleNamespace(
        encoder=SimpleNamespace(context=context, normalize=lambda features: features),
        quantizer=heads.quantizer,
        project_hidden=heads.project_hidden,
        project_quantized=heads.project_quantized,
    )


def objective_of(**options):
    return Wav2Vec2Objective(tiny_stage(options))


# Against transformers


SIZES = dict(groups=2, entries=5, codes=8, projected=6, hidden=16, conv=12, negatives=7)
TEMPERATURE, KAPPA, DIVERSITY = 1.7, 0.2, 0.3


def hugging_face():
    """Returns a small random Wav2Vec2ForPreTraining of the kind with layer norms, no dropout."""
    torch = pytest.importorskip("torch", reason="torch is the reference")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    torch.manual_seed(0)
    s = SIZES
    off = (
        "hidden_dropout",
        "attention_dropout",
        "activation_dropout",
        "feat_proj_dropout",
        "feat_quantizer_dropout",
        "final_dropout",
        "layerdrop",
        "mask_feature_prob",
    )
    config = transformers.Wav2Vec2Config(
        hidden_size=s["hidden"],
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(s["conv"],) * 2,
        conv_kernel=(10, 4),
        conv_stride=(8, 4),
        feat_extract_norm="layer",
        conv_bias=True,
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_codevector_groups=s["groups"],
        num_codevectors_per_group=s["entries"],
        codevector_dim=s["codes"],
        proj_codevector_dim=s["projected"],
        num_negatives=s["negatives"],
        contrastive_logits_temperature=KAPPA,
        diversity_loss_weight=DIVERSITY,
        **dict.fromkeys(off, 0.0),
    )
    return transformers.Wav2Vec2ForPreTraining(config)


def published_draws(model, batch, samples, lengths):
    """Returns (attention mask of samples, mask [B, T'], negatives [B, T', N] among all frames)."""
    from transformers.models.wav2vec2 import modeling_wav2vec2 as reference

    torch = pytest.importorskip("torch")
    np.random.seed(1)
    frames = [int(model._get_feat_extract_output_lengths(n)) for n in (samples, *lengths)]
    attention = torch.tensor(np.arange(samples) < np.array(lengths)[:, None]).long()
    inside = torch.tensor(np.arange(frames[0]) < np.array(frames[1:])[:, None])
    mask = reference._compute_mask_indices((batch, frames[0]), 0.5, 3, inside, min_masks=2)
    assert not (mask & ~inside.numpy()).any() and len(set(mask.sum(-1))) > 1
    negatives = reference._sample_negative_indices((batch, frames[0]), SIZES["negatives"], mask)
    return attention, mask, negatives


def numbers_among_masked(mask, negatives, positions):
    """Returns transformers' negatives, of all frames of a batch, as numbers of masked frames."""
    out = np.zeros([*positions.shape, negatives.shape[-1]], np.int32)
    for b, row in enumerate(mask):
        number = np.cumsum(row) - 1
        for k in range(row.sum()):
            frames = negatives[b, positions[b, k]] - b * len(row)
            assert row[frames].all()
            out[b, k] = number[frames]
    return out


def put_weights(heads, model):
    array = lambda tensor: jnp.asarray(tensor.detach().numpy())
    shape = (SIZES["groups"], SIZES["entries"], SIZES["codes"] // SIZES["groups"])
    heads.quantizer.codebook[...] = array(model.quantizer.codevectors).reshape(shape)
    pairs = (
        (heads.quantizer.logits, model.quantizer.weight_proj),
        (heads.project_hidden, model.project_hid),
        (heads.project_quantized, model.project_q),
    )
    for ours, theirs in pairs:
        ours.kernel[...], ours.bias[...] = array(theirs.weight).T, array(theirs.bias)


@pytest.mark.parametrize("training", [False, True])
def test_losses_and_gradients_as_transformers(training, monkeypatch):
    """The same mask, negatives and Gumbel noise; one clip of three is padded."""
    model = hugging_face()
    torch = pytest.importorskip("torch")
    model.train(training)
    model.set_gumbel_temperature(TEMPERATURE)
    batch, samples, lengths = 3, 900, (900, 900, 600)
    attention, mask, negatives = published_draws(model, batch, samples, lengths)
    audio = torch.tensor(
        np.random.default_rng(0).standard_normal([batch, samples]).astype(np.float32)
    )
    most = int(mask.sum(-1).max()) + 2
    positions, used = (np.asarray(x) for x in masked_positions(jnp.asarray(mask), most))
    rows, ctx = np.arange(batch)[:, None], Context(jax.random.key(3) if training else None)
    noise = np.zeros([*mask.shape, SIZES["groups"], SIZES["entries"]], np.float32)
    if training:
        shape = (batch, most, SIZES["groups"], SIZES["entries"])
        noise[rows, positions] = jax.random.gumbel(ctx.rng(2), shape)
    noise = torch.tensor(noise.reshape(-1, SIZES["entries"]))
    monkeypatch.setattr(
        torch.Tensor, "exponential_", lambda self, *_: self.copy_(torch.exp(-noise))
    )
    arguments = dict(attention_mask=attention, mask_time_indices=torch.tensor(mask))
    want = model(audio, sampled_negative_indices=torch.tensor(negatives), **arguments)
    base = model.wav2vec2(audio, **arguments)

    options = dict(
        codebook_groups=SIZES["groups"],
        codebook_entries=SIZES["entries"],
        codebook_dim=SIZES["codes"],
        projection_dim=SIZES["projected"],
        negatives=SIZES["negatives"],
        logit_temperature=KAPPA,
        diversity_weight=DIVERSITY,
        temperature_start=TEMPERATURE,
        temperature_end=0.1,
    )
    objective = objective_of(**options)
    heads = heads_of(SIZES["conv"], SIZES["hidden"], Wav2Vec2Options(**options))
    put_weights(heads, model)
    frame_lengths = np.array([int(model._get_feat_extract_output_lengths(n)) for n in lengths])
    ours = numbers_among_masked(mask, negatives, positions)
    graphdef, state = nnx.split(heads)
    frames = base.last_hidden_state.detach().numpy()
    features = jnp.asarray(base.extract_features.detach().numpy())
    tokens = Tokens(features, jnp.asarray(frame_lengths))

    def loss(state):
        stub = with_frames(nnx.merge(graphdef, state), frames)
        masked = Masked(*map(jnp.asarray, (mask, positions, used, ours)))
        found = objective.loss_of(stub, tokens, masked, ctx)
        return found.total, found.metrics

    (total, sums), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(state)
    assert sums["contrastive_loss"][1] == mask.sum()
    identical, of_all = sums["identical_negatives"]
    assert 0.01 < identical / of_all < 0.9  # some coincide
    np.testing.assert_allclose(sums["contrastive_loss"][0], want.contrastive_loss.item(), rtol=1e-4)
    np.testing.assert_allclose(sums["diversity_loss"][0], want.diversity_loss.item(), rtol=1e-4)
    np.testing.assert_allclose(total, want.loss.item(), rtol=1e-4)
    values = objective.summarize(sums)
    perplexity = want.codevector_perplexity.item()
    softmax = values["softmax_perplexity"] * SIZES["groups"]
    np.testing.assert_allclose(softmax, perplexity, rtol=1e-4)
    if not training:  # of the codes themselves
        of_codes = values["code_perplexity_1"] + values["code_perplexity_2"]
        np.testing.assert_allclose(of_codes, perplexity, rtol=1e-4)
        return
    want.loss.backward()
    codebook = model.quantizer.codevectors.grad.reshape(heads.quantizer.codebook.shape)
    pairs = (
        (grads["quantizer"]["codebook"], codebook),
        (grads["quantizer"]["logits"]["kernel"], model.quantizer.weight_proj.weight.grad.T),
        (grads["quantizer"]["logits"]["bias"], model.quantizer.weight_proj.bias.grad),
        (grads["project_hidden"]["kernel"], model.project_hid.weight.grad.T),
        (grads["project_quantized"]["kernel"], model.project_q.weight.grad.T),
    )
    for got, tensor in pairs:
        scale = np.abs(tensor.numpy()).max()
        assert scale > 1e-3
        np.testing.assert_allclose(got[...], tensor.numpy(), rtol=0, atol=1e-4 * scale)


# Masked frames and negatives


def test_positions_of_the_masked_frames():
    mask = np.random.default_rng(0).uniform(size=(5, 20)) < 0.4
    mask[3] = False
    positions, used = (np.asarray(x) for x in masked_positions(jnp.asarray(mask), 16))
    np.testing.assert_array_equal(used.sum(-1), mask.sum(-1))
    for row, found, there in zip(mask, positions, used, strict=True):
        np.testing.assert_array_equal(found[there], np.flatnonzero(row))


def test_negatives_are_uniform_over_the_clips_other_masked_frames():
    counts = jnp.asarray([6, 9, 2])
    drawn = np.asarray(draw_negatives(jax.random.split(jax.random.key(0), 3), counts, 9, 3000))
    assert drawn.shape == (3, 9, 3000)
    for row, count in zip(drawn, np.asarray(counts), strict=True):
        for k in range(count):
            often = np.bincount(row[k], minlength=count)
            assert len(often) == count and often[k] == 0
            others = np.delete(often, k)
            assert len(others) == 1 or scipy.stats.chisquare(others).pvalue > 1e-5


def test_negatives_depend_on_the_clip_alone():
    """Not on the room for masked frames, the other clips, or a neighbour of the same count."""
    keys, counts = jax.random.split(jax.random.key(0), 2), jnp.asarray([5, 5])
    drawn = np.asarray(draw_negatives(keys, counts, 5, 40))
    np.testing.assert_array_equal(draw_negatives(keys[1:], counts[1:], 8, 40)[0, :5], drawn[1])
    assert (drawn[0] != drawn[1]).any()


def random_case(options, batch, frames, seed=0):
    """Returns (heads, token features, the encoder's frames, Masked) for clips masked as a whole."""
    rng = np.random.default_rng(seed)
    normal = lambda size: jnp.asarray(rng.standard_normal([batch, frames, size]), jnp.float32)
    mask = jnp.ones([batch, frames], bool)
    positions, used = masked_positions(mask, frames)
    keys = jax.random.split(jax.random.key(seed), batch)
    negatives = draw_negatives(keys, used.sum(-1), frames, options.negatives)
    masked = Masked(mask, positions, used, negatives)
    return heads_of(6, 16, options), normal(6), normal(16), masked


@functools.cache
def evaluator(options):
    objective = objective_of(**dataclasses.asdict(options))
    graphdef = nnx.graphdef(heads_of(6, 16, options))

    def run(state, frames, tokens, masked):
        model = with_frames(nnx.merge(graphdef, state), frames)
        return objective.loss_of(model, tokens, masked, Context())

    return objective, jax.jit(run)


def evaluate(options, heads, features, frames, masked):
    """Returns (objective, count, sums) of the loss without randomness."""
    objective, run = evaluator(options)
    tokens = Tokens(features, jnp.full(len(features), features.shape[1]))
    loss = run(nnx.state(heads), frames, tokens, masked)
    return objective, loss.count, loss.metrics


def by_hand(heads, features, frames, positions, used, negatives, kappa):
    """Returns each clip's contrastive loss, and how many negatives coincide: plain loops."""
    linear = lambda layer, x: x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
    length_one = lambda x: x / np.linalg.norm(x)
    quantizer, codebook = heads.quantizer, np.asarray(heads.quantizer.codebook[...])
    losses, coinciding = np.zeros(len(features)), 0
    for b in range(len(features)):
        masked = positions[b][used[b]]
        if len(masked) < 2:
            continue
        logits = linear(quantizer.logits, features[b][masked])
        codes = logits.reshape(len(masked), quantizer.groups, quantizer.entries).argmax(-1)
        groups = range(quantizer.groups)
        vectors = [np.concatenate([codebook[g][c[g]] for g in groups]) for c in codes]
        targets = [length_one(linear(heads.project_quantized, v)) for v in vectors]
        for k, position in enumerate(masked):
            prediction = length_one(linear(heads.project_hidden, frames[b][position]))
            alive = [j for j in negatives[b, k] if (codes[j] != codes[k]).any()]
            coinciding += negatives.shape[-1] - len(alive)
            scores = np.array([prediction @ targets[j] for j in [k, *alive]]) / kappa
            losses[b] += np.log(np.exp(scores).sum()) - scores[0]
    return losses, coinciding


def test_coinciding_codes_and_lone_frames_as_written_out():
    """Few entries, so that many negatives have the same code; clips of one frame and of none."""
    options = Wav2Vec2Options(codebook_entries=2, codebook_dim=4, projection_dim=5, negatives=6)
    heads, features, frames, masked = random_case(options, batch=4, frames=12)
    mask = np.random.default_rng(3).uniform(size=masked.mask.shape) < 0.6
    mask[2], mask[3] = np.arange(12) == 4, False
    positions, used = masked_positions(jnp.asarray(mask), 10)
    negatives = draw_negatives(jax.random.split(jax.random.key(2), 4), used.sum(-1), 10, 6)
    masked = Masked(jnp.asarray(mask), positions, used, negatives)
    _, count, sums = evaluate(options, heads, features, frames, masked)
    case = [np.asarray(x) for x in (features, frames, positions, used, negatives)]
    losses, coinciding = by_hand(heads, *case, options.logit_temperature)
    assert count == mask[:2].sum() and 0 < coinciding < 6 * count
    np.testing.assert_allclose(sums["contrastive_loss"][0], losses.sum(), rtol=1e-5)
    np.testing.assert_allclose(sums["identical_negatives"], (coinciding, 6 * count))


# What counts nothing


@functools.cache
def compiled():
    """Returns (parameters, loss, its gradient).

    These are jitted functions (params, batch, key or None) → (total, (count, sums)).
    """
    objective = objective_of(feature_dropout=0.1)
    graphdef, params, rest = nnx.split(objective.build(nnx.Rngs(0)), nnx.Param, ...)

    def run(params, batch, key):
        model = nnx.merge(graphdef, params, rest)
        total, count, sums = objective.loss(model, batch, Context(key))
        return total, (count, sums)

    return nnx.as_pure(params), jax.jit(run), jax.jit(jax.value_and_grad(run, has_aux=True))


def losses(batch, training):
    """Returns (sum of the loss, count, metrics, gradients in training)."""
    params, loss, gradient = compiled()
    grads = {}
    if training:
        (total, (count, sums)), grads = gradient(params, inputs_of(batch), jax.random.key(5))
    else:
        total, (count, sums) = loss(params, inputs_of(batch), None)
    return float(total), float(count), jax.device_get(sums), jax.tree.leaves(jax.device_get(grads))


ONE_FRAME = 100  # samples; 74 are needed


@pytest.mark.parametrize("training", [False, True])
def test_padded_rows_lone_frames_and_empty_clips_count_nothing(training):
    """Rows: a clip that does not fill its row, one of mask 0 with sound, of one frame, empty."""
    odd = audio_batch([900, 1600, ONE_FRAME, 0], [1, 0, 1, 1])
    empty = odd | {"length": np.array([900, 0, 0, 0], np.int32)}
    total, count, sums, grads = losses(odd, training)
    want_total, want_count, want_sums, want_grads = losses(empty, training)
    assert count == want_count > 4 and np.isfinite(total)
    np.testing.assert_allclose(total, want_total, rtol=1e-6)
    for name in (
        "contrastive_loss",
        "diversity_loss",
        "contrastive_accuracy",
        "codes",
        "masked_frames",
    ):
        np.testing.assert_allclose(sums[name][0], want_sums[name][0], rtol=1e-6)
    for got, want in zip(grads, want_grads, strict=True):
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert any(np.abs(grad).max() > 1e-3 for grad in grads) or not training


def test_a_batch_with_nothing_in_it_teaches_nothing():
    for lengths, mask in (([0] * 4, [1] * 4), ([1600] * 4, [0] * 4), ([ONE_FRAME] * 4, [1] * 4)):
        total, count, _, grads = losses(audio_batch(lengths, mask), True)
        assert total == 0 and count == 0
        assert all((grad == 0).all() for grad in grads)


def test_evaluation_does_not_depend_on_rows():
    """Masks go with the example's index: another order of the batch gives the same sums."""
    batch = audio_batch([1600, 900, 1400, 1200])
    total, count, sums, _ = losses(batch, False)
    turned = {name: value[[3, 0, 2, 1]] for name, value in batch.items()}
    again, same, other, _ = losses(turned, False)
    np.testing.assert_allclose((again, same), (total, count), rtol=1e-5)
    np.testing.assert_allclose(other["codes"][0], sums["codes"][0])
    moved = batch | {"index": batch["index"] + 7}
    other_total, other_count, _, _ = losses(moved, False)
    assert other_count != count or other_total != pytest.approx(total, rel=1e-6)


def test_rows_of_mask_0_count_nothing_in_the_feature_penalty():
    odd = audio_batch([1600, 900, 1600, 0], [1, 1, 0, 1])
    empty = odd | {"length": np.array([1600, 900, 0, 0], np.int32)}
    got, want = losses(odd, False)[2], losses(empty, False)[2]
    for name in ("feature_penalty", "mask_share"):
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5)


# Chance


def accuracies(frames, negatives, perfect=False):
    """Returns the metrics of 16 random clips, predicted at random or as their targets are."""
    options = Wav2Vec2Options(codebook_dim=16, projection_dim=16, negatives=negatives)
    heads, features, hidden, masked = random_case(options, batch=16, frames=frames)
    if perfect:
        vectors = heads.quantizer(features).vectors
        hidden = heads.project_quantized(vectors)
        heads.project_hidden.kernel[...] = jnp.eye(16)
        heads.project_hidden.bias[...] = jnp.zeros(16)
    objective, _, sums = evaluate(options, heads, features, hidden, masked)
    return objective.summarize(sums)


def test_random_predictions_are_right_by_chance():
    values = accuracies(frames=300, negatives=3)
    error = np.sqrt(0.25 * 0.75 / 4800)
    for name in ("contrastive_accuracy", "shuffled_accuracy", "chance_accuracy"):
        assert abs(values[name] - 1 / 4) < 4 * error, name


def test_the_shuffled_control_stays_at_chance_where_all_is_right():
    values = accuracies(frames=300, negatives=3, perfect=True)
    assert values["contrastive_accuracy"] == 1
    assert abs(values["shuffled_accuracy"] - 1 / 4) < 4 * np.sqrt(0.25 * 0.75 / 4800)


def test_chance_of_clips_with_fewer_masked_frames_than_negatives():
    """A hundred draws from 19 others are 19 candidates."""
    values = accuracies(frames=20, negatives=100)
    assert values["contrastive_accuracy"] == pytest.approx(1 / 20, abs=0.04)
    assert values["chance_accuracy"] == pytest.approx(values["contrastive_accuracy"], abs=0.03)


def test_shuffled_control_of_clips_with_fewer_masked_frames_than_negatives():
    values = accuracies(frames=20, negatives=100)
    assert values["shuffled_accuracy"] == pytest.approx(1 / 20, abs=0.04)


# Accumulation and schedules by the step


SEED = 3
LENGTHS = [1600, 400, 1600, 350, 1500, 350, 1600, 300]  # rows 0, 2, … are the first micro-batch


@pytest.fixture(scope="module")
def two_steps():
    """Returns the states before, between and after two steps of accumulation 2, on the host."""
    stage = tiny_stage(
        {"feature_dropout": 0.1},
        name="sgd",
        momentum=0.0,
        learning_rate=0.1,
        schedule="linear",
        final_fraction=0.0,
        schedule_steps=4,
        schedule_count=40,
        accumulation=2,
    )
    mesh = sharding.make_mesh(config_lib.default().mesh)
    trainer = make_trainer(Wav2Vec2Objective(stage), stage, mesh, 100, seed=SEED)
    state, states = trainer.init(), []
    for step in range(2):
        states.append(jax.device_get(state))
        state = trainer.step(state, sharding.put_batch(audio_batch(LENGTHS, seed=step), mesh))
    return [*states, jax.device_get(state)]


def test_accumulation_weighs_micro_batches_by_their_masked_frames(two_steps):
    before, after, _ = two_steps
    _, _, gradient = compiled()
    _, step_key = jax.random.split(jax.random.key(SEED))
    _, key = jax.random.split(jax.random.fold_in(step_key, 0))
    batch = inputs_of(audio_batch(LENGTHS))

    def micro(k):
        part = jax.tree.map(lambda x: x[k::2], batch)
        return gradient(before.params, part, jax.random.fold_in(key, k))

    ((_, (m, _)), first), ((_, (n, _)), second) = micro(0), micro(1)
    assert m > 1.5 * n > 0
    assert float(after.sums["loss"][1]) == m + n
    wrong = 0.0
    leaves = zip(*map(jax.tree.leaves, (before.params, after.params, first, second)), strict=True)
    for old, new, a, b in leaves:
        assert np.isfinite(new).all()
        np.testing.assert_allclose(new, old - 0.1 * (a + b) / (m + n), rtol=0, atol=1e-5)
        wrong = max(wrong, np.abs(new - (old - 0.1 * (a / m + b / n) / 2)).max())
    assert wrong > 1e-4  # the plain mean of both would be seen


def test_schedule_counts_masked_frames(two_steps):
    _, first, second = two_steps
    seen = [float(state.sums["masked_frames"][0]) for state in (first, second)]  # they add up
    assert 10 < seen[0] < seen[1]
    for state, frames in zip((first, second), seen, strict=True):
        assert list(state.progress) == [frames // 40, frames % 40]
    pairs = zip(*map(jax.tree.leaves, (first.params, second.params)), strict=True)
    moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs))
    norm = float(second.sums["gradient_norm"][0] - first.sums["gradient_norm"][0])
    rate = 0.1 * (1 - seen[0] / 40 / 4)  # linear over 4 steps of 40 frames
    assert moved / norm == pytest.approx(rate, rel=1e-4)


def test_gumbel_temperature():
    objective = objective_of(temperature_start=2.0, temperature_end=0.5, temperature_decay=0.999995)
    np.testing.assert_allclose(objective.temperature(0.0), 2.0)
    want = 2 * np.exp(100_000 * np.log(0.999995))
    np.testing.assert_allclose(objective.temperature(100_000.0), want, rtol=1e-4)
    # ln 4 / 5e-6 steps.
    np.testing.assert_allclose(objective.temperature(277_258.0), 0.5, rtol=1e-3)
    np.testing.assert_allclose(objective.temperature(400_000.0), 0.5)


# Collapse


HEALTHY = dict(
    code_perplexity_1=5.0,
    code_perplexity_2=1.2,
    identical_negatives=0.3,
    target_variance=0.4,
    prediction_variance=0.2,
)


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ({}, ""),
        ({"code_perplexity_1": 1.4}, "code perplexity 1.40 of 8: one code"),
        ({"code_perplexity_1": 1.6}, ""),
        ({"identical_negatives": 0.96}, "96 % of the negatives equal their positive"),
        ({"identical_negatives": 0.94}, ""),
        ({"target_variance": 9e-5}, "target variance 9.0e-05"),
        ({"target_variance": 2e-4}, ""),
        ({"prediction_variance": 9e-6}, "prediction variance 9.0e-06: constant features"),
        ({"prediction_variance": 2e-5}, ""),
    ],
)
def test_what_looks_collapsed(values, seen):
    """One group of codes in use is enough; a line without these metrics says nothing."""
    found = objective_of().health(HEALTHY | values)
    assert found.startswith(seen) and bool(found) == bool(seen)
    assert objective_of().health({"loss": 1.0}) == ""


def run_config(learning_rate):
    options = dict(diversity_weight=0.0, collapse_patience=2)
    stage = tiny_stage(options, learning_rate=learning_rate, schedule_count=30)
    stage.optimizer.update(schedule="linear", schedule_steps=20, final_fraction=0.1)
    stage.train.update(steps=4, log_every=1, evaluate_every=4)
    config = config_lib.default(pretrain=stage)
    config.tensorboard = False
    return config_lib.check(config)


def log_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_collapsed_run_stops_and_says_what_to_do(tmp_path):
    """The first update, at so high a rate, leaves one code for all frames."""
    with pytest.raises(UserError) as error:
        stages.run(run_config(10.0), tmp_path)
    message, lines = str(error.value), log_of(tmp_path)
    where = "stage pretrain has collapsed (2 log lines in a row, up to step 3)"
    assert message.startswith(f"{where}: code perplexity 1.0")
    assert [line["step"] for line in lines] == [1, 2, 3]  # of 4
    alive = [line["train/code_perplexity_1"] > 1.5 for line in lines]
    assert alive == [True, False, False]
    for words in (
        "of 8",
        "what usually helps",
        "diversity_weight",
        "temperature_end",
        "optimizer.learning_rate",
    ):
        assert words in message
    assert not (tmp_path / "results.json").exists()
    # The curves tell how it came.
    assert "Training of pretrain" in (tmp_path / "report.html").read_text()


def test_a_healthy_run_ends_and_its_rate_follows_the_masked_frames(tmp_path, monkeypatch):
    share_trainers(monkeypatch)
    config = run_config(1e-3)
    results = stages.run(config, tmp_path)["pretrain"]
    everything = log_of(tmp_path)
    lines, seen = [line for line in everything if "train/loss" in line], 0.0
    for line in lines:
        assert line["learning_rate"] == pytest.approx(1e-3 * (1 - 0.9 * seen / 30 / 20), rel=1e-5)
        seen += line["train/masked_frames"]
    assert len(lines) == 4 and seen > 100
    assert 1 < results["validation/code_perplexity_1"] <= 8
    assert np.isfinite(results["validation/loss"])
    assert 1 / 6 <= results["validation/chance_accuracy"] < 0.5  # 5 negatives or fewer
    check_display(set().union(*everything), Wav2Vec2Objective(config.pretrain).display)


def check_display(logged, display):
    """What the bar, the pictures and the reference name is what a run logs."""
    named = set(display.bar.values()).union(*display.panels.values(), display.scales)
    assert named - logged == {"train/knn_accuracy", "validation/knn_accuracy"}  # not asked for here
    with open(display.reference, newline="") as file:
        share, *columns = next(csv.reader(file))
    assert share == "share_of_run" and set(columns) <= named


def test_without_a_validation_part_the_live_probe_leaves_each_training_clip_out_in_turn(
    tmp_path, monkeypatch
):
    share_trainers(monkeypatch)
    config = run_config(1e-3)
    config.pretrain.data.holdout = (0.8, 0.0, 0.2)
    config.pretrain.eval.evaluators = (
        dict(name="objective"),
        dict(name="knn", examples=40, neighbours=1),
    )
    results = stages.run(config, tmp_path)["pretrain"]
    key = "train/knn_accuracy"
    (accuracy,) = [line[key] for line in log_of(tmp_path) if key in line]
    assert accuracy * 40 == pytest.approx(round(accuracy * 40))
    assert accuracy < 1  # its own neighbour it would be right
    assert 0 <= results["test/knn_accuracy"] <= 1
    assert np.isfinite(results["test/loss"])


def test_it_says_how_good_it_is_and_warns_where_that_is_chance():
    values = dict(
        contrastive_accuracy=0.22,
        chance_accuracy=0.05,
        shuffled_accuracy=0.05,
        code_perplexity_1=41.7,
    )
    said = "contrastive accuracy 22.0 % (chance 5.0 %), code perplexity 41.7"
    assert objective_of().describe(values) == said
    assert objective_of().verdict(values) == ""
    for name in ("chance_accuracy", "shuffled_accuracy"):
        assert "encoder/conv" in objective_of().verdict(values | {name: 0.21})


# What is refused


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            dict(codebook_entrys=8),
            "options.codebook_entrys: wav2vec2 has no such option.*codebook_entries",
        ),
        (dict(negatives="many"), "objective.options.negatives is 'many': expected int"),
        (dict(negatives=2.5), "objective.options.negatives is 2.5: expected int"),
        (dict(mask_exact=1), "objective.options.mask_exact is 1: expected bool"),
        (dict(negatives=0), "objective.options.negatives is 0"),
        (dict(mask_span=0), "objective.options.mask_span is 0"),
        (dict(logit_temperature=0.0), "objective.options.logit_temperature is 0.0"),
        (dict(mask_probability=1.5), "objective.options.mask_probability is 1.5"),
        (dict(feature_dropout=-0.1), "objective.options.feature_dropout is -0.1"),
        (
            dict(temperature_start=0.2),
            "objective.options.temperature_start 0.2 is below temperature_end 0.5",
        ),
        (dict(codebook_dim=9), "objective.options.codebook_dim is 9"),
        (
            dict(mask_span=24),
            "data.seconds=0.4 gives 24 frames a clip.*objective.options.mask_span=24",
        ),
    ],
)
def test_options_that_are_refused(change, named):
    with pytest.raises(UserError, match=named):
        config_lib.check(config_lib.default(pretrain=tiny_stage(change)))


def test_a_span_one_frame_shorter_than_the_clip_is_taken():
    stage = tiny_stage({"mask_span": 23, "feature_penalty": 10})
    config_lib.check(config_lib.default(pretrain=stage))


def test_another_encoder_is_refused():
    stage = tiny_stage()
    stage.model.name = "audionet"
    stage.model.encoder = {}
    wanted = "objective.name=wav2vec2 needs model.name=.*wav2vec2.*, not 'audionet'"
    with pytest.raises(UserError, match=wanted):
        config_lib.check(config_lib.default(pretrain=stage))


# Other encoders


def test_frames_of_a_spectrogram_are_told_apart_as_those_of_a_wave():
    """Padding has no say, as of a wave; at the start the loss is that of a guess among six."""
    options = OPTIONS | dict(diversity_weight=0.0, logit_temperature=1e3)
    with registered():
        stage = stage_of("wav2vec2", "toy", options)
        config_lib.check(config_lib.default(pretrain=stage))
        objective = Wav2Vec2Objective(stage)
        model = objective.build(nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 60, 8)).astype(np.float32)
    run = nnx.jit(lambda model, view: objective.loss(model, batch_of(view), Context()))
    results = []
    for frames in (x, np.where(np.arange(60)[:, None] < 50, x, 7.0)):
        view = View(jnp.asarray(frames), jnp.asarray([50, 40]))
        loss = run(model, view)
        results.append(float(loss.total))
        assert loss.count == loss.metrics["mask_share"][0] > 4
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    different = float(loss.metrics["chance_accuracy"][0] / loss.count)  # codes may coincide
    assert np.log(1 / different) <= results[0] / float(loss.count) + 0.1 < np.log(6) + 0.2


# Devices


def on_devices(devices):
    """Returns the loss, its count and all metrics, the batch split over these devices."""
    mesh = sharding.make_mesh({"data": -1}, devices)
    params, loss, _ = compiled()
    batch = sharding.put_batch(inputs_of(audio_batch(LENGTHS)), mesh)
    results = loss(jax.device_put(params, sharding.replicated(mesh)), batch, jax.random.key(5))
    return np.concatenate([np.ravel(value) for value in jax.tree.leaves(results)]).tolist()


def test_the_same_loss_on_1_and_on_8_devices(tmp_path):
    done = run_python(__file__, tmp_path / "out.json", devices=8, path="tests")
    assert done.returncode == 0, done.stderr
    count, one, all_of_them = json.loads((tmp_path / "out.json").read_text())
    assert count == 8
    assert np.isfinite(one).all() and len(one) > 30
    np.testing.assert_allclose(one, all_of_them, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    one, many = on_devices(jax.devices()[:1]), on_devices(jax.devices())
    with open(sys.argv[1], "w") as file:
        json.dump([jax.device_count(), one, many], file)
