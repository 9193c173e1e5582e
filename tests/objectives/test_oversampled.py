"""A head with synthetic vectors: worked losses, and a run on folders of unequal size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sounds import write
from workdirs import config_of, write_workdir

from sacjax import config as config_lib
from sacjax import inference, objectives, stages
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.objectives import oversampled
from sacjax.objectives.oversampled import OversampledOptions, drawn, lacking_vectors
from sacjax.views import View

FREEZE = (("^encoder/", 0),)


def test_what_classes_lack_and_their_vectors():
    x = np.arange(30, dtype=np.float32)[:, None] * np.ones(2, np.float32)
    labels = np.repeat([0, 2, 3], [18, 9, 3])
    made = lacking_vectors(x, labels, 4, OversampledOptions(vectors=5))
    np.testing.assert_allclose(made["lacking"], np.asarray([0, 0, 9, 15]) / 30, rtol=1e-6)
    assert made["synthetic"].shape == (4, 5, 2) and not made["synthetic"][:2].any()
    assert (made["synthetic"][2] >= 18).all() and (made["synthetic"][2] <= 26).all()
    assert (made["synthetic"][3] >= 27).all() and (made["synthetic"][3] <= 29).all()


def test_draws_are_of_classes_by_what_they_lack():
    synthetic = jnp.asarray([[[0.0], [0.5]], [[1.0], [1.5]], [[2.0], [2.5]]])
    vectors, labels = drawn(jax.random.key(0), synthetic, jnp.asarray([0.0, 0.3, 0.1]), 4000)
    shares = np.bincount(labels, minlength=3) / 4000
    np.testing.assert_allclose(shares, [0, 0.75, 0.25], atol=0.03)
    np.testing.assert_array_equal(np.floor(vectors[:, 0]), labels)
    assert abs(np.mean(np.asarray(vectors[:, 0]) % 1 == 0.5) - 0.5) < 0.03


def stage_of(start="earlier", **options):
    stage = config_of("small_cnn").supervised
    stage.init_from, stage.optimizer.freeze = str(start), FREEZE
    with stage.objective.unlocked():
        stage.objective.update(name="oversampled", options=options)
    return stage


def cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


def test_the_loss_is_that_of_clips_and_of_what_stands_for_the_lacking():
    objective = objectives.build(stage_of(vectors=2), ("a", "b", "c"), np.ones(3))
    rng = np.random.default_rng(0)
    one = rng.normal(size=[1, 8]).astype(np.float32)
    artifacts = {
        "synthetic": np.stack([one * 0, one * 0, one]).repeat(2, 1),
        "lacking": np.asarray([0, 0, 0.75], np.float32),
    }
    model = objective.build(nnx.Rngs(0), artifacts)
    frames, label = rng.normal(size=[4, 20, 16]).astype(np.float32), np.asarray([0, 1, 2, 0])
    view = View(jnp.asarray(frames), jnp.full(4, 20))
    batch = dict(
        views=(view,),
        label=jnp.asarray(np.eye(3, dtype=np.float32)[label]),
        mask=jnp.asarray([1.0, 1, 1, 0]),
        labelled=jnp.asarray([1.0, 1, 0, 1]),
    )
    of_clips = cross_entropy(model(*view), label)[:2].sum()
    plain = objective.loss(model, batch, Context())
    np.testing.assert_allclose([plain.total, plain.count], [of_clips, 2], rtol=1e-5)
    trained = objective.loss(model, batch, Context(jax.random.key(0)))
    of_lacking = cross_entropy(model.classify(jnp.asarray(one)), [2])[0]
    total = of_clips + 0.75 * 2 * of_lacking  # two known clips, and 0.75 lacking to each
    np.testing.assert_allclose([trained.total, trained.count], [total, 3.5], rtol=1e-5)
    assert trained.metrics["accuracy"][1] == 2


def test_an_attack_has_the_slope_of_the_loss():
    objective = objectives.build(stage_of(sampler="over"), ("a", "b"), np.ones(2))
    model = objective.build(nnx.Rngs(0))
    frames = jnp.asarray(np.random.default_rng(0).normal(size=[4, 20, 16]), jnp.float32)
    known = dict(
        label=jnp.eye(2)[jnp.asarray([0, 1, 1, 0])], mask=jnp.ones(4), labelled=jnp.ones(4)
    )

    @jax.jit
    def loss(x):
        batch = dict(views=(View(x, jnp.full(4, 20)),), **known)
        return objective.loss(model, batch, Context(jax.random.key(0))).total

    slope = jax.grad(loss)(frames)
    size = float(jnp.sqrt((slope**2).sum()))
    rise = loss(frames + 0.01 * slope / size) - loss(frames - 0.01 * slope / size)
    np.testing.assert_allclose(rise / 0.02, size, rtol=0.02)


def clips_of(stage, indices, labels, mask):
    size = round(stage.data.seconds * stage.data.sample_rate)
    return dict(
        audio=np.full([len(indices), size], 0.1, np.float32),
        length=np.full(len(indices), size, np.int32),
        label=np.asarray(labels, np.int32),
        mask=np.asarray(mask, np.float32),
        index=np.asarray(indices, np.int32),
    )


def test_batches_without_a_label_or_with_bad_files_alone_do_not_end_the_epoch():
    objective = objectives.build(stage_of(sampler="over"), ("a", "b"), np.ones(2))
    objective.trained = objective.build(nnx.Rngs(0)).encoder
    clips = functools.partial(clips_of, objective.stage)
    unlabelled, bad = clips([0, 1], [-1, -1], [1, 1]), clips([2, 3], [0, 1], [0, 0])
    found = objective.embedded([unlabelled, bad, clips([4, 5], [0, 1], [1, 1]), unlabelled])
    np.testing.assert_array_equal(found[1], [0, 1])
    with pytest.raises(UserError, match="no clip to train on has a label and can be read"):
        objective.embedded([unlabelled, bad, unlabelled])


def test_clips_that_other_hosts_have_read_count(monkeypatch):
    """Of two hosts one reads about half of an epoch, and perhaps no clip of a rare class."""
    other = np.array([5, 1, -1]), np.array([[5.0], [1.0], [-1.0]], np.float32), np.array([2, 0, -1])

    def gather(own):
        theirs = other if isinstance(own, tuple) else np.asarray(2)
        return jax.tree.map(lambda a, b: np.stack([a, b]), own, theirs)

    monkeypatch.setattr(oversampled.multihost_utils, "process_allgather", gather)
    own = np.array([3, 1, 0]), np.array([[3.0], [1.0], [0.0]], np.float32), np.array([1, 0, 0])
    index, vectors, labels = oversampled.of_all_hosts(*own)
    assert index.tolist() == [0, 1, 3, 5] and vectors[:, 0].tolist() == [0, 1, 3, 5]
    assert labels.tolist() == [0, 0, 1, 2]


def test_a_run_on_unequal_folders_leaves_the_encoder_and_is_read_again(tmp_path):
    rng = np.random.default_rng(0)
    for label, count in {"many": 14, "few": 3}.items():
        for k in range(count):
            loud = 0.1 * (1 + (label == "few")) * rng.standard_normal(4000)
            write(tmp_path / "data" / "train" / label / f"{k}.wav", loud)
        write(tmp_path / "data" / "test" / label / "x.wav", loud)
    trained = write_workdir(tmp_path / "start", "small_cnn")
    stage = stage_of(tmp_path / "start", sampler="adasyn", vectors=6)
    stage.data.update(source="folder", path=str(tmp_path / "data"), validation_fraction=0.0)
    stage.train.update(steps=2, evaluate_every=2)
    config = config_lib.default(supervised=stage)
    config.tensorboard = False
    stages.run(config, tmp_path / "run")
    model = inference.load(tmp_path / "run")
    np.testing.assert_allclose(model.module.lacking[...], [11 / 17, 0], rtol=1e-6)
    synthetic = np.asarray(model.module.synthetic[...])
    own = model.embed([str(p) for p in sorted((tmp_path / "data/train/few").iterdir())])
    assert (synthetic[0] >= own.min(0) - 1e-4).all() and (synthetic[0] <= own.max(0) + 1e-4).all()
    assert synthetic[0].std(0).max() > 0 and not synthetic[1].any()
    for name in ("dense", "conv1"):
        before, after = (getattr(m.encoder, name).kernel[...] for m in (trained, model.module))
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(init_from=""), "init_from is empty"),
        (lambda s: s.optimizer.update(freeze=(("^encoder/conv", 0),)), "needs a frozen encoder"),
        (lambda s: s.optimizer.update(freeze=(("^encoder/", 9),)), "needs a frozen encoder"),
        (lambda s: s.model.update(pooling="attention"), "model.pooling is 'attention'"),
        (lambda s: s.data.update(balance="over"), "data.balance is 'over'"),
        (lambda s: s.objective.options.update(class_weights="balanced"), "class_weights"),
    ],
)
def test_what_does_not_fit_is_told(change, message):
    stage = stage_of(class_weights="none")
    change(stage)
    with pytest.raises(UserError, match=message):
        config_lib.check(config_lib.default(supervised=stage))
