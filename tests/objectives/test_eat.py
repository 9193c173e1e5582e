"""EAT: its masks, targets, decoder and losses, written out in NumPy and PyTorch."""

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
from sacjax.layers.masking import inverse_blocks, kept_counts
from sacjax.objectives.base import Teacher
from sacjax.objectives.eat import layer_targets
from sacjax.train.optimizer import name_of
from sacjax.views import View

BANDS, PATCH, WIDTH, CLONES = 12, 4, 16, 3
OPTIONS = dict(
    clones=CLONES, block=2, decoder_depth=2, decoder_groups=4, mask_ratio=0.75, mask_noise=0.0
)


def config_of(**options):
    config = config_lib.default(pretrain=config_lib.stage())
    s = config.unlock().pretrain
    s.data.update(source="synthetic", examples=120, sample_rate=8000, seconds=0.25)
    s.frontend.update(n_fft=256, hop_length=64, n_mels=BANDS)
    s.model.name, s.objective.name = "spectrogram_transformer", "eat"
    s.model.encoder = dict(
        width=WIDTH, depth=2, heads=2, mlp_width=32, patch_frames=PATCH, patch_bands=PATCH
    )
    s.objective.options = OPTIONS | options
    s.train.update(batch_size=8, steps=100)
    return config_lib.check(config)


@pytest.fixture(scope="module")
def objective():
    return objectives.build(config_of().pretrain)


@pytest.fixture(scope="module")
def model(objective):
    model = objective.build(nnx.Rngs(0))
    rng = np.random.default_rng(0)
    noisy = lambda x: x + jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype)
    for kind in (nnx.Param, Teacher):  # so that nothing is 0 or 1, and the teacher another
        nnx.update(model, jax.tree.map(noisy, nnx.state(model, kind)))
    return model


@pytest.fixture(scope="module")
def whole(objective, model):
    """Returns what a step computes of a batch: the loss, and the parts that it is made of."""

    def run(model, x, lengths, mask):
        batch = {"views": (View(x, lengths),), "mask": mask, "index": jnp.arange(len(mask))}
        tokens = model.encoder.tokens(x, lengths)
        tokens = tokens._replace(lengths=jnp.where(mask > 0, tokens.lengths, 0))
        kept = objective.draw(
            jax.random.split(jax.random.key(1), len(mask) * CLONES),
            jnp.repeat(tokens.lengths, CLONES),
            tokens.features.shape[1] // model.encoder.bands,
            model.encoder.bands,
        )
        encoded = model.encoder.encode(tokens, keep=kept.keep)
        targets = objective.targets(model.teacher, tokens)
        keys = jax.random.split(jax.random.key(2), len(mask) * CLONES)
        part = objective.loss_of(model, tokens, targets, kept, keys, Context())
        states = model.teacher.encode(tokens, hidden_states="mlp").patches.hidden_states
        return objective.loss(model, batch, Context()), part, kept, encoded, targets, states

    return quick(model, run)


def sound(count=3, frames=24, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal([count, frames, BANDS]), jnp.float32)


@pytest.mark.parametrize("grid", [(64, 8, 512), (64, 8, 200), (6, 3, 18)])
def test_blocks_are_squares_about_valid_centres_cut_at_the_edges(grid):
    """EAT's grid: ⌊512 · (0.2 + 0.07) / 25⌋ = 5 centres."""
    columns, bands, length = grid
    block = 5 if columns == 64 else 2
    draw = jax.jit(
        jax.vmap(
            lambda key: inverse_blocks(
                key, jnp.asarray(length), columns, bands, share=0.27, block=block
            )
        )
    )
    masks = np.asarray(draw(jax.random.split(jax.random.key(0), 300)))
    number = int(length * 0.27 / block**2)
    assert not masks[:, length:].any() and number >= 1
    assert masks.sum(1).max() <= number * block**2 and masks.any(1).all()
    rows, places = np.nonzero(masks)
    assert len(np.unique(places)) == length  # every valid patch may be in a block
    single = draw(jax.random.split(jax.random.key(1), 40))
    for mask in np.asarray(single):
        union = np.zeros([columns, bands], bool)
        squares = []
        for t in range(-(-length // bands)):
            for f in range(bands):
                if t * bands + f < length:
                    square = np.zeros([columns, bands], bool)
                    top, left = max(t - block // 2, 0), max(f - block // 2, 0)
                    square[top : t - block // 2 + block, left : f - block // 2 + block] = True
                    square.ravel()[length:] = False
                    squares.append(square)
        inside = [s for s in squares if not (s & ~mask.reshape(columns, bands)).any()]
        union = np.any(inside, 0)
        np.testing.assert_array_equal(union.ravel(), mask)  # a union of whole squares


def test_exactly_a_share_is_kept_blocks_first(objective):
    lengths = jnp.asarray([512] * 20 + [256] * 20)
    options = dict(mask_ratio=0.8, block=5)
    eat = objectives.build(config_of(**options).pretrain)
    keys = jax.random.split(jax.random.key(0), 40)
    kept = jax.tree.map(np.asarray, jax.jit(lambda k, n: eat.draw(k, n, 64, 8))(keys, lengths))
    counts = (kept.slots < kept.keep.shape[1]).sum(1)
    assert counts[:20].tolist() == [102] * 20 and counts[20:].tolist() == [51] * 20
    assert kept_counts(512, 1 - 0.8)[512] == 102
    assert (kept.keep[20:, 51:] == 512).all() and (kept.keep[20:, :51] < 256).all()
    grids = (kept.slots < 102).reshape(40, 64, 8)[:20]
    beside = (grids[:, 1:] & grids[:, :-1]).sum() / grids.sum()
    assert beside > 0.5  # of random patches a fifth have their follower kept too


def test_targets_are_normalized_layers_averaged_and_normalized_again():
    rng = np.random.default_rng(0)
    states, lengths = rng.normal(1, 2, [3, 2, 7, 8]).astype(np.float32), [7, 4]
    found = layer_targets(jnp.asarray(states), jnp.asarray(lengths))
    for row, n in enumerate(lengths):
        x = states[:, row, :n].astype(np.float64)
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        x = x.mean(0)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(found[row, :n], x, atol=1e-5)
        assert not np.any(found[row, n:])


def decode(model, x, columns):
    """The decoder in PyTorch, of one clip alone: [N, D] of so many valid columns."""
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    y = torch.tensor(np.asarray(x)).reshape(1, columns, 3, WIDTH).permute(0, 3, 1, 2)
    for kernel, bias in zip(model.decoder.kernels, model.decoder.biases, strict=True):
        weight = torch.tensor(np.asarray(kernel[...]).transpose(3, 2, 0, 1).copy())
        bias = torch.tensor(np.asarray(bias[...]))
        z = torch.nn.functional.conv2d(y, weight, bias, padding=1, groups=4)
        z = torch.nn.functional.layer_norm(z.permute(0, 2, 3, 1), [WIDTH])
        y = y + torch.nn.functional.gelu(z).permute(0, 3, 1, 2)
    y = y.permute(0, 2, 3, 1).reshape(-1, WIDTH).numpy()
    project = model.decoder.project
    return y @ np.asarray(project.kernel[...]) + np.asarray(project.bias[...])


def test_both_losses_as_written_out(objective, model, whole):
    """Of clips of 18 and 12 patches, three copies each, and one that does not count."""
    lengths, mask = jnp.asarray([24, 16, 24]), jnp.asarray([1, 1, 0.0])
    _, loss, kept, encoded, targets, states = whole(sound(), lengths, mask)
    np.testing.assert_allclose(targets, layer_targets(states, jnp.asarray([18, 12, 0])), atol=1e-5)
    frames, utterances = [], []
    for row in range(2 * CLONES):
        clip, n = row // CLONES, (18, 12)[row // CLONES]
        keep = [k for k in np.asarray(kept.keep[row]) if k < n]
        assert len(keep) == (4, 3)[clip]  # a quarter of 18 and 12
        grid = np.zeros([n, WIDTH], np.float32)  # noise of deviation 0
        grid[keep] = encoded.patches.frames[row, : len(keep)]
        told, wanted = decode(model, grid, n // 3), np.asarray(targets[clip, :n])
        gone = np.setdiff1d(np.arange(n), keep)
        frames += (((told - wanted) ** 2).sum(-1) / 4)[gone].tolist()  # 4: the root of the width
        token = np.asarray(encoded.classes[row, 0])
        utterances.append(((token - wanted.mean(0)) ** 2).sum() / 4)
    assert loss.count == len(frames) == 3 * (14 + 9)
    values = objective.summarize(loss.metrics)
    np.testing.assert_allclose(values["frame_loss"], np.mean(frames), rtol=1e-4)
    np.testing.assert_allclose(values["utterance_loss"], np.mean(utterances), rtol=1e-4)
    np.testing.assert_allclose(values["loss"], np.mean(frames) + np.mean(utterances), rtol=1e-4)
    valid = np.concatenate([targets[0], targets[1, :12]])
    np.testing.assert_allclose(values["target_std"], np.sqrt(valid.var(0) + 1e-6).mean(), rtol=1e-4)
    assert "deviation of targets" in objective.describe(values)


def test_padding_changes_nothing(whole):
    lengths, mask = jnp.asarray([24, 15, 24]), jnp.asarray([1, 1, 0.0])
    x = sound()
    one = whole(x, lengths, mask)[0]
    other = whole(x.at[1, 15:].add(9.0).at[2].add(9.0), lengths, mask)[0]
    np.testing.assert_array_equal(one.total, other.total)


def test_the_teacher_follows_by_a_decay_that_rises_over_a_quarter_of_the_run():
    objective = objectives.build(config_of(teacher_decay=0.9, teacher_decay_end=0.99).pretrain)
    decays = [float(objective.decay(Context(progress=step))) for step in (0, 10, 25, 90)]
    np.testing.assert_allclose(decays, [0.9, 0.936, 0.99, 0.99], atol=1e-6)
    model = objective.build(nnx.Rngs(0))
    before = nnx.as_pure(nnx.state(model.teacher, Teacher))
    student = jax.tree.map(lambda x: x + 1, nnx.as_pure(nnx.state(model.encoder, nnx.Param)))
    nnx.update(model.encoder, student)
    objective.after_update(model, Context(progress=10))
    after = nnx.as_pure(nnx.state(model.teacher, Teacher))
    for old, new, own in zip(*map(jax.tree.leaves, (before, after, student)), strict=True):
        np.testing.assert_allclose(new, 0.936 * old + 0.064 * own, rtol=1e-5, atol=1e-6)
    learned = {name_of(path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert not any(name.startswith("teacher") for name in learned)


def test_a_collapse_is_told(objective, model, whole):
    """A teacher that gives one vector whatever it hears: the deviation of its targets is 0."""
    collapsed = nnx.clone(model)
    still = jax.tree.map(jnp.zeros_like, nnx.state(collapsed.teacher, Teacher))
    nnx.update(collapsed.teacher, still)
    run = lambda model: objective.loss(
        model,
        {
            "views": (View(sound(), jnp.full(3, 24)),),
            "mask": jnp.ones(3),
            "index": jnp.arange(3),
        },
        Context(),
    )
    values = objective.summarize(quick(collapsed, run)().metrics)
    assert "target_std" in objective.health(values)
    healthy = objective.summarize(whole(sound(), jnp.full(3, 24), jnp.ones(3))[0].metrics)
    assert objective.health(healthy) == ""
    assert "prediction_std" in objective.health(healthy | dict(prediction_std=0.001))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(clones=0), "objective.options.clones is 0"),
        (dict(mask_ratio=0.0), "objective.options.mask_ratio is 0.0"),
        (dict(decoder_kernel=4), "decoder_kernel is 4: it must be odd"),
        (dict(decoder_groups=3), "decoder_groups is 3: it must divide"),
        (dict(average_layers=3), "average_layers is 3: the encoder has 2"),
        (dict(teacher_decay=1.1), "objective.options.teacher_decay is 1.1"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        config_of(**options)


def test_it_needs_a_class_token():
    config = config_of()
    with config.pretrain.model.unlocked():
        config.pretrain.model.encoder.class_tokens = 0
    with pytest.raises(UserError, match="class_tokens is 0: objective.name=eat learns a class"):
        config_lib.check(config)
