"""Distillation: worked values of its losses, and a student of each kind of teacher."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick_stages import share_trainers
from workdirs import write_workdir

from sacjax import config as config_lib
from sacjax import inference, init_from, objectives, stages
from sacjax.config import identity
from sacjax.errors import UserError
from sacjax.objectives.distillation import feature_loss, soft_loss
from sacjax.train import lr_find, sharding
from sacjax.train.trainer import make_trainer

EVEN, UNEVEN = jnp.array([[0.0, 0.0]]), jnp.log(jnp.array([[3.0, 1.0]]))  # 1/2 1/2, 3/4 1/4
DIVERGENCE = 0.5 * np.log(4 / 3)  # of the first from the second


def test_soft_labels_as_worked_out():
    np.testing.assert_allclose(soft_loss(UNEVEN, EVEN, 1.0), DIVERGENCE, rtol=1e-5)
    np.testing.assert_allclose(soft_loss(2 * UNEVEN, EVEN, 2.0), 4 * DIVERGENCE, rtol=1e-5)
    np.testing.assert_allclose(soft_loss(UNEVEN + 5, UNEVEN, 3.0), 0, atol=1e-5)
    one_each = jnp.log(jnp.array([[3.0, 3.0]]))  # sigmoids of 3/4
    np.testing.assert_allclose(soft_loss(one_each, EVEN, 1.0, several=True), DIVERGENCE, rtol=1e-5)


def test_at_a_high_temperature_the_gradient_is_that_of_equal_logits():
    """Hinton et al. 2015, equation 4: (z − v) / N of logits with mean 0, after T² times."""
    z, v = jnp.array([[1.0, -2.0, 1.0]]), jnp.array([[0.5, 0.5, -1.0]])
    of_student, of_teacher = jax.grad(lambda z, v: soft_loss(z, v, 1000.0)[0], (0, 1))(z, v)
    np.testing.assert_allclose(of_student, (z - v) / 3, atol=2e-3)
    assert not of_teacher.any()


def test_features_as_worked_out():
    a, b = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[0.0, 2.0], [2.0, 0.0]])
    np.testing.assert_allclose(feature_loss(a, b, "mse"), [(9 + 4) / 2, 0.5], rtol=1e-6)
    np.testing.assert_allclose(feature_loss(a, b, "cosine"), [1 - 0.8, 0], atol=1e-6)


def config_of(teacher, steps=1, **options):
    """Returns a config of a student of half a second at 8 kHz; as those of `workdirs`."""
    c = config_lib.default(student=config_lib.stage())
    s = c.student
    s.data.update(source="synthetic", examples=160, sample_rate=8000, seconds=0.5, cache=True)
    s.frontend.update(n_fft=256, hop_length=128, n_mels=16)
    s.model.name, s.objective.name = "small_cnn", "distillation"
    with s.unlocked():
        s.model.encoder = dict(channels=(4, 4), hidden=8)
        s.objective.options = dict(teacher=str(teacher)) | options
    s.train.update(batch_size=16, steps=steps, log_every=steps, evaluate_every=10**6)
    s.eval.update(batch_size=32, splits=("test",))
    s.optimizer.learning_rate, c.tensorboard = 1e-2, False
    return c


def random_batch():
    """Returns 16 labelled clips of noise, each of another loudness and length."""
    rng = np.random.default_rng(0)
    audio = np.linspace(6000, 600, 16)[:, None] * rng.standard_normal([16, 4000])
    rows = np.arange(16, dtype=np.int32)
    return dict(
        audio=audio.clip(-32768, 32767).astype(np.int16),
        length=np.linspace(2000, 4000, 16).astype(np.int32),
        label=rows,
        index=rows,
        mask=np.ones(16, np.float32),
    )


@pytest.mark.parametrize(
    ("encoder", "objective", "options"),
    [
        ("small_cnn", "classification", dict(alpha=1.0)),
        ("wav2vec2", "classification", dict(match="features", distance="cosine")),
        ("small_cnn", "simclr", dict(match="features")),
    ],
)
def test_a_student_comes_nearer_to_any_teacher(encoder, objective, options, tmp_path):
    taught = write_workdir(tmp_path / "teacher", encoder, objective)
    stage = init_from.resolve(config_of(tmp_path / "teacher", 40, **options)).student
    trained = inference.load(tmp_path / "teacher")
    made = objectives.build(stage, trained.labels, np.ones(len(trained.labels)))
    made.trained = trained
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1}, jax.devices()[:1])
    trainer = make_trainer(made, stage, mesh, 100, 0)
    state, soft = trainer.init(None, made.prepare(None)), []
    batch = sharding.put_batch(random_batch(), mesh)
    for _ in range(4):
        for _ in range(10):
            state = trainer.step(state, batch)
        total, count = trainer.evaluate(state, batch)["soft"]
        soft.append(float(total / count))
    assert soft[-1] < 0.8 * soft[0]

    whole = taught if objective == "classification" else taught.encoder
    kept, given = nnx.as_pure(state.buffers["teacher"]), nnx.as_pure(nnx.state(whole))
    for name in kept:  # the teacher stays what it was, and nothing of it is learned
        jax.tree.map(np.testing.assert_array_equal, kept[name], given[name])
    assert "encoder" in state.params and "teacher" not in state.params


def test_a_run_whose_teacher_is_an_earlier_stage(tmp_path, monkeypatch):
    share_trainers(monkeypatch)
    c = config_of("teacher")
    teacher = c.student.copy_and_resolve_references()
    with teacher.unlocked():
        teacher.objective.name, teacher.objective.options = "classification", dict()
    teacher.eval.splits = ()
    both = config_lib.default(teacher=teacher, student=c.student)
    both.tensorboard = False
    stages.run(both, tmp_path)
    taught, student = (inference.load_trained(tmp_path, None, name) for name in both.stages)
    np.testing.assert_array_equal(taught.module.head.kernel, student.module.teacher.head.kernel)
    clip = np.random.default_rng(0).normal(0, 0.1, 4000)
    assert student.predict(clip).probabilities.shape == (1, 20)


def test_a_run_of_an_earlier_version_is_the_same_and_its_teacher_hears_the_same():
    student = config_of("teacher").student
    teacher = student.copy_and_resolve_references()
    with teacher.unlocked():
        teacher.objective = dict(name="classification", options=dict())
    config = config_lib.default(teacher=teacher, student=student)
    here = json.loads(config_lib.to_json(init_from.resolve(config)))
    there = json.loads(json.dumps(here))
    network = there["student"]["objective"]["options"]["network"]
    for where in (there["teacher"], there["student"], network):
        del where["frontend"]["repeat_seconds"], where["model"]["projection"]
    assert identity.difference(there, here) is None
    read = config_lib.from_json(json.dumps(there)).student
    assert objectives.build(read, ("a", "b")).hears_the_same


def test_what_cannot_be_learned_from_is_said(tmp_path):
    workdir = tmp_path / "teacher"
    write_workdir(workdir, "wav2vec2")
    for change, message in (
        (lambda s: setattr(s.objective, "options", dict()), "teacher is"),
        (lambda s: s.objective.options.update(alpha=2.0), "alpha"),
        (lambda s: s.data.update(sample_rate=16000), "8000 Hz"),
        (lambda s: s.objective.options.update(teacher="hf:model"), "workdir of sacjax"),
        (lambda s: s.augment.update(spectrogram=(dict(name="mixup"),)), "leave out mixup"),
    ):
        c = config_of(workdir)
        with c.student.unlocked():
            change(c.student)
        with pytest.raises(UserError, match=message):
            init_from.resolve(config_lib.check(c))
    write_workdir(tmp_path / "simclr", "small_cnn", "simclr")
    with pytest.raises(UserError, match="match=features"):
        init_from.resolve(config_of(tmp_path / "simclr"))


def test_another_loss_and_other_labels_are_refused(tmp_path):
    write_workdir(tmp_path / "teacher", "small_cnn")
    with pytest.raises(UserError, match="options.loss is sigmoid, but .* trained with softmax"):
        stages.run(config_of(tmp_path / "teacher", loss="sigmoid"), tmp_path / "run")
    labels = tmp_path / "teacher" / "checkpoints" / "supervised" / "labels.json"
    labels.write_text(labels.read_text().replace("rain", "snow"))
    with pytest.raises(UserError, match="other labels"):
        stages.run(config_of(tmp_path / "teacher"), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(data=dict(name="music")), "teacher=teacher has other labels"),
        (dict(objective=dict(options=dict(loss="sigmoid"))), "was trained with sigmoid"),
    ],
)
def test_a_teacher_that_does_not_fit_is_told_before_it_trains(change, message, tmp_path):
    c = config_of("teacher")
    teacher = c.student.copy_and_resolve_references()
    with teacher.unlocked():
        teacher.objective.name, teacher.objective.options = "classification", dict()
        teacher.update(change)
    with pytest.raises(UserError, match=message):
        stages.run(config_lib.default(teacher=teacher, student=c.student), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_learning_rate_is_not_sought_below_a_teacher_that_has_not_trained():
    c = config_of("teacher")
    teacher = c.student.copy_and_resolve_references()
    with teacher.unlocked():
        teacher.objective.name, teacher.objective.options = "classification", dict()
    both = config_lib.default(teacher=teacher, student=c.student)
    with pytest.raises(UserError, match="student.objective.options.teacher is 'teacher', which"):
        lr_find.find(both, "student", 1e-5, 1.0, 5)
