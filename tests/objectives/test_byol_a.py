"""BYOL-A: its augmentations, its loss and its teacher against NumPy.

Run as a script (`test_byol_a.py out.json`, with 8 devices) it writes how the parameters of student
and teacher are split over them.
"""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick_stages import share_trainers

from sacjax import config as config_lib
from sacjax import objectives, stages
from sacjax.augment import mixing, spectrogram
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.objectives.base import follow
from sacjax.train import sharding
from sacjax.train.optimizer import name_of
from sacjax.train.trainer import batch_shapes, make_trainer
from sacjax.views import View

ENCODERS = {
    "small_cnn": dict(channels=(8, 8), hidden=16),
    "spectrogram_resnet": dict(width=4, stem="small"),
    "audionet": dict(width=0.05),
    "wav2vec2": dict(
        size="tiny",
        conv_channels=(16,) * 3,
        conv_kernels=(20, 8, 8),
        conv_strides=(10, 4, 4),
        positional_kernel=8,
        positional_groups=4,
    ),
}
OPTIONS = dict(hidden=32, projection_dim=16, teacher_decay=0.9)


def config_of(encoder="small_cnn", **train):
    config = config_lib.default(pretrain=config_lib.stage())
    config.tensorboard = False
    s = config.unlock().pretrain
    s.data.update(source="synthetic", examples=120, sample_rate=8000, seconds=0.25, cache=True)
    s.frontend.update(n_fft=256, hop_length=64, n_mels=16)
    s.model.name, s.objective.name = encoder, "byol_a"
    s.model.encoder, s.objective.options = ENCODERS[encoder], OPTIONS
    s.augment.waveform = (dict(name="gain"),)
    if encoder in ("small_cnn", "spectrogram_resnet"):
        names = ("log_mixup", "resize_crop", "linear_fade")
        s.augment.spectrogram = tuple(dict(name=name) for name in names)
    s.optimizer.learning_rate = 1e-3
    s.train.update(dict(batch_size=16, steps=8, log_every=1, evaluate_every=100) | train)
    s.eval.update(best="validation/loss", best_mode="min", batch_size=16)
    return config_lib.check(config)


def spectrograms(count=4, frames=24, bands=16, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal([count, frames, bands]), jnp.float32)


def length_of(x):
    return jnp.asarray(len(x))


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


# Augmentations


def resize_crop(key, x, length, **options):
    return jax.jit(partial(spectrogram.resize_crop, sample_rate=1, **options))(key, x, length)


def test_log_mixup_puts_another_clip_behind():
    x, lengths = np.asarray(spectrograms(6)), np.array([24, 24, 24, 10, 24, 24])
    mask = np.array([1, 1, 1, 1, 1, 0.0])
    labels = np.eye(6, dtype=np.float32)
    arrays = map(jnp.asarray, (x, lengths, labels, mask > 0, mask))
    mix = jax.jit(partial(mixing.log_mixup, sample_rate=1, max_share=0.4))
    mixed, same = mix(keys(6), *arrays)
    np.testing.assert_array_equal(same, labels)
    np.testing.assert_array_equal(mixed[5], x[5])
    for i in range(5):
        found = []
        for j in (j for j in range(5) if j != i):
            n = min(lengths[i], lengths[j])
            behind, own = np.exp(x[j, :n]), np.exp(x[i, :n])
            shares = (np.exp(np.asarray(mixed[i, :n])) - own) / (behind - own)
            found.append(np.ptp(shares) < 1e-3 and 0 <= shares.mean() <= 0.4)
            if found[-1]:
                np.testing.assert_array_equal(mixed[i, n:], x[i, n:])
        assert sum(found) == 1


def test_resize_crop_of_the_whole_changes_nothing():
    (x,) = spectrograms(1)
    crop = dict(low_scale=1.0, high_scale=1.0, canvas=1.0)
    same, length = resize_crop(jax.random.key(0), x, 24, **crop)
    np.testing.assert_allclose(same, x, atol=1e-5)
    assert length == 24


def test_resize_crop_stretches_a_slope_by_the_box():
    """Cubic interpolation keeps a straight line: its slope tells the size of the box."""
    line = jnp.broadcast_to(jnp.arange(40.0), [60, 40])
    crop = dict(low_scale=0.5, high_scale=0.5, canvas=1.0)
    changed, _ = resize_crop(jax.random.key(1), line, 60, **crop)
    inside = np.asarray(changed)[5:-5, 5:-5]
    np.testing.assert_allclose(np.diff(inside, axis=1), 0.5, atol=1e-4)
    np.testing.assert_allclose(np.diff(inside, axis=0), 0.0, atol=1e-4)


def test_a_box_that_leaves_the_canvas_shows_zeros_in_time():
    ones = jnp.ones([40, 16])
    crop = dict(low_scale=1.5, high_scale=1.5, canvas=1.5)
    shares = [float(resize_crop(key, ones, 40, **crop)[0].mean()) for key in keys(3)]
    np.testing.assert_allclose(shares, 40 / 60, atol=0.03)  # the box is the canvas: 60 frames


def test_linear_fade_adds_one_line_over_time():
    (x,) = spectrograms(1)
    for key in keys(5):
        faded, _ = spectrogram.linear_fade(key, x, jnp.asarray(20), sample_rate=1, max_change=0.7)
        line = np.asarray(faded - x)[:20]
        np.testing.assert_allclose(line - line[:, :1], 0, atol=1e-5)
        np.testing.assert_allclose(np.diff(line[:, 0], 2), 0, atol=1e-5)
        assert np.abs(line).max() <= 0.7 + 1e-5


def test_log_mixup_is_for_spectrograms():
    config = config_of()
    config.pretrain.augment.waveform = (dict(name="log_mixup"),)
    with pytest.raises(UserError, match="augment.waveform.0: log_mixup is for spectrograms"):
        config_lib.check(config)


# The loss and the teacher


@pytest.fixture(scope="module")
def model():
    return nnx.jit(lambda: objectives.build(config_of().pretrain).build(nnx.Rngs(0)))()


def head(module, x, mask):
    """Linear, batch norm over the rows that count, ReLU, linear: written out."""
    value = lambda variable: np.asarray(variable[...], np.float64)
    x = x @ value(module.first.kernel) + value(module.first.bias)
    rows = x[mask > 0]
    x = (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    x = np.maximum(x * value(module.norm.scale) + value(module.norm.bias), 0)
    return x @ value(module.second.kernel) + value(module.second.bias)


def test_loss_as_written_out(model):
    objective = objectives.build(config_of().pretrain)
    follow(model.teacher, model.student, 0.0)
    lengths, mask = jnp.asarray([24, 24, 16, 24]), np.array([1, 1, 1, 0.0])
    first, second = (View(3 * spectrograms(seed=k) + 5, lengths) for k in (1, 2))
    batch = {"views": (first, second), "mask": jnp.asarray(mask)}
    ctx = Context(jax.random.key(0))
    loss = nnx.jit(lambda model: objective.loss(model, batch, ctx))(nnx.clone(model))

    both = np.concatenate([first.inputs, second.inputs]).astype(np.float64)
    counted = np.arange(24) < np.tile(lengths, 2)[:, None]
    both = np.where(counted[..., None], (both - both[counted].mean()) / both[counted].std(), 0)
    given = jnp.asarray(both, jnp.float32), jnp.tile(lengths, 2), ctx
    output = nnx.jit(lambda encoder, *given: encoder(*given))(model.encoder, *given)
    vectors = []
    for frames, n in zip(np.asarray(output.frames), np.asarray(output.lengths), strict=True):
        vectors.append(frames[:n].mean(0) + frames[:n].max(0))
    rows = np.tile(mask, 2)
    projections = head(model.student.projector, np.stack(vectors), rows)
    length_one = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    predictions = length_one(head(model.predictor, projections, rows))
    targets = np.roll(length_one(projections), 4, 0)  # the teacher is the student here
    distance = (2 - 2 * (predictions * targets).sum(-1)) * rows
    assert loss.count == 3
    np.testing.assert_allclose(loss.total, distance.sum(), rtol=1e-4)
    assert 0 < loss.total / loss.count < 8


def test_the_teacher_follows_and_learns_nothing(model):
    objective = objectives.build(config_of().pretrain)
    teacher = nnx.as_pure(nnx.state(model.teacher, objectives.Teacher))
    student = jax.tree.map(lambda x: x + 1, nnx.as_pure(nnx.state(model.student, nnx.Param)))
    nnx.update(model.student, student)
    objective.after_update(model, Context())
    moved = nnx.as_pure(nnx.state(model.teacher, objectives.Teacher))
    for old, new, followed in zip(*map(jax.tree.leaves, (teacher, moved, student)), strict=True):
        np.testing.assert_allclose(new, 0.9 * old + 0.1 * followed, rtol=1e-5, atol=1e-6)
    learned = {name_of(path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert not any(name.startswith("teacher") for name in learned)


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_any_encoder_will_do(encoder):
    """Nothing is compiled: the step's shapes fit, and the embeddings are the encoder's features."""
    stage = config_of(encoder).pretrain
    objective = objectives.build(stage, ("a", "b"))
    trainer = make_trainer(objective, stage, sharding.make_mesh({"data": -1, "fsdp": 1}), 4, 0)
    batch = batch_shapes(stage, 16, 2)
    after = jax.eval_shape(trainer.step, trainer.state_shapes, batch)
    assert jax.tree.structure(after) == jax.tree.structure(trainer.state_shapes)
    embedded = jax.eval_shape(trainer.embed, trainer.state_shapes, batch)
    assert embedded.shape == (16, objective.features)


@pytest.mark.parametrize(
    ("values", "seen"),
    [({}, ""), ({"target_spread": 0.09}, "target_spread 0.09 of 1"), ({"target_spread": 0.2}, "")],
)
def test_what_looks_collapsed(values, seen):
    found = objectives.build(config_of().pretrain).health(values)
    assert found.startswith(seen) and bool(found) == bool(seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(hidden=0), "objective.options.hidden is 0"),
        (dict(teacher_decay=1.5), "objective.options.teacher_decay is 1.5"),
        (dict(teacher_dekay=0.9), "objective.options.teacher_dekay: .*teacher_decay"),
    ],
)
def test_options_that_are_refused(options, message):
    config = config_of()
    with config.pretrain.objective.unlocked():
        config.pretrain.objective.options = options
    with pytest.raises(UserError, match=message):
        config_lib.check(config)


# A whole run; what every objective must do is in test_family.py


def test_it_is_evaluated_by_its_loss_neighbours_and_a_linear_probe(tmp_path, monkeypatch):
    share_trainers(monkeypatch)
    config = config_of()
    config.pretrain.eval.evaluators = (
        dict(name="objective"),
        dict(name="knn", examples=60),
        dict(name="linear"),
    )
    scores = stages.run(config, tmp_path / "run")["pretrain"]
    for part in ("validation", "test"):
        assert 0 < scores[f"{part}/loss"] < 8
        for probe in ("knn", "linear"):
            assert 0 <= scores[f"{part}/{probe}_accuracy"] <= 1


def splits():
    """Returns {parameter: how student and teacher are split over 8 devices}."""
    stage = config_of("small_cnn", steps=4).pretrain
    with stage.objective.unlocked():
        stage.objective.options = dict(hidden=512, projection_dim=16, teacher_decay=0.9)
    mesh = sharding.make_mesh({"data": 1, "fsdp": 8})
    shapes = make_trainer(objectives.build(stage), stage, mesh, 4, 0).state_shapes
    student, teacher = shapes.params["student"], shapes.buffers["teacher"]
    specs = [
        {
            name_of(path): str(leaf.sharding.spec)
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree["projector"])[0]
        }
        for tree in (student, teacher)
    ]
    return {name: [specs[0][name], specs[1].get(name)] for name in specs[0]}


def test_the_teacher_is_split_as_its_student(tmp_path):
    from processes import run_python

    done = run_python(__file__, tmp_path / "out.json", devices=8)
    assert done.returncode == 0, done.stderr
    specs = json.loads((tmp_path / "out.json").read_text())
    assert specs and all(student == teacher for student, teacher in specs.values())
    assert any("fsdp" in student for student, _ in specs.values())


if __name__ == "__main__":
    with open(sys.argv[1], "w") as file:
        json.dump(splits(), file)
