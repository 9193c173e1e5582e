"""Losses against PyTorch's and worked values; metrics against those of an evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sacjax import config as config_lib
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.evaluators.scores import scores
from sacjax.objectives.classification import Classification
from sacjax.views import View, read_labels

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal([6, 3]).astype(np.float32)
LABELS = np.array([0, 1, 2, 1, 0, 2])
MASK = np.array([1, 1, 1, 0, 1, 1], np.float32)
NAMES = ("a", "b", "c")
SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)


def objective_of(counts=(1, 1, 1), multi_label=False, **options):
    stage = config_lib.stage()
    stage.data.multi_label = multi_label
    stage.objective.options = options
    return Classification(stage, NAMES, counts)


def loss_of(objective, label, logits=LOGITS, mask=MASK, labelled=None, train=False):
    """Returns the Loss of given logits; labels [B, C], all known unless told."""
    batch = dict(
        views=(View(jnp.asarray(logits), None),),
        label=jnp.asarray(label, jnp.float32),
        labelled=jnp.ones(len(label)) if labelled is None else jnp.asarray(labelled, jnp.float32),
        mask=jnp.asarray(mask),
    )
    model = lambda inputs, lengths, ctx: inputs
    return objective.loss(model, batch, Context(jax.random.key(0) if train else None))


def loss(label, mask=MASK, counts=(1, 1, 1), train=False, **options):
    """Returns (mean loss, {metric: mean})."""
    found = loss_of(objective_of(counts, **options), label, mask=mask, train=train)
    return float(found.total / found.count), means(found)


def means(found):
    return {name: float(a / b) for name, (a, b) in found.metrics.items()}


def torch_loss(labels, **kwargs):
    torch = pytest.importorskip("torch", reason="torch is the reference")
    keep = MASK > 0
    return float(
        torch.nn.functional.cross_entropy(
            torch.tensor(LOGITS[keep]), torch.tensor(np.asarray(labels)[keep]), **kwargs
        )
    )


def test_softmax_leaves_masked_rows_out():
    value, metrics = loss(np.eye(3)[LABELS])
    np.testing.assert_allclose(value, torch_loss(LABELS), rtol=1e-5)
    keep = MASK > 0
    assert metrics["accuracy"] == pytest.approx((LOGITS.argmax(-1) == LABELS)[keep].mean())


def test_label_smoothing_as_torch_and_only_in_training():
    value, _ = loss(np.eye(3)[LABELS], train=True, label_smoothing=0.1)
    np.testing.assert_allclose(value, torch_loss(LABELS, label_smoothing=0.1), rtol=1e-5)
    assert loss(np.eye(3)[LABELS], label_smoothing=0.1)[0] == loss(np.eye(3)[LABELS])[0]


def test_balanced_class_weights_as_torch():
    torch = pytest.importorskip("torch", reason="torch is the reference")
    counts = np.array([10, 20, 70])
    weight = torch.tensor(100 / (3 * counts), dtype=torch.float32)
    value, _ = loss(np.eye(3)[LABELS], counts=counts, class_weights="balanced")
    np.testing.assert_allclose(value, torch_loss(LABELS, weight=weight), rtol=1e-5)


def test_soft_labels_mix_the_losses():
    a, b = np.eye(3)[LABELS], np.eye(3)[LABELS[::-1]]
    mixed = loss(0.3 * a + 0.7 * b)[0]
    assert mixed == pytest.approx(0.3 * loss(a)[0] + 0.7 * loss(b)[0], rel=1e-5)


def binary(label, keep):
    torch = pytest.importorskip("torch", reason="torch is the reference")
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    return float(entropy(torch.tensor(LOGITS[keep]), torch.tensor(label[keep])))


def test_sigmoid_is_binary_cross_entropy_as_torch():
    np.testing.assert_allclose(
        loss(SEVERAL, loss="sigmoid")[0], binary(SEVERAL, MASK > 0), rtol=1e-5
    )


# Unknown labels


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "several"])
def test_rows_without_a_label_have_no_loss_no_gradient_and_no_part_in_the_accuracy(kind):
    """The labels come as a batch has them: −1, or a row of −1 of several labels."""
    options = dict(loss="softmax" if kind == "softmax" else "sigmoid")
    several = kind == "several"
    objective = objective_of(multi_label=several, **options)
    given = SEVERAL.copy() if several else LABELS.astype(np.int32)
    given[2] = -1
    label, labelled = read_labels(jnp.asarray(given), 3)
    without = MASK * (np.arange(6) != 2)
    known = SEVERAL if several else np.eye(3, dtype=np.float32)[LABELS]
    found = loss_of(objective, label, labelled=labelled)
    want = loss_of(objective, known, mask=without)
    assert found.count == want.count == 4
    np.testing.assert_allclose(found.total, want.total, rtol=1e-6)
    assert means(found) == pytest.approx(means(want))
    grad = jax.grad(lambda logits: loss_of(objective, label, logits, labelled=labelled).total)(
        jnp.asarray(LOGITS)
    )
    grad = np.asarray(grad)
    assert not grad[2].any() and grad[[0, 1, 4, 5]].any(1).all()


def test_a_clip_that_is_known_to_have_no_label_counts():
    """Row 1 of `SEVERAL` is of zeros: every class is known to be absent."""
    objective = objective_of(multi_label=True, loss="sigmoid")
    label, labelled = read_labels(jnp.asarray(SEVERAL), 3)
    found = loss_of(objective, label, labelled=labelled)
    assert found.count == 5 == found.metrics["accuracy"][1]
    np.testing.assert_allclose(found.total / 5, binary(SEVERAL, MASK > 0), rtol=1e-5)
    grad = jax.grad(lambda logits: loss_of(objective, label, logits, labelled=labelled).total)(
        jnp.asarray(LOGITS)
    )
    assert (np.asarray(grad[1]) > 0).all()


# One definition of a metric


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "several"])
def test_loss_and_accuracy_of_training_are_those_of_an_evaluation(kind):
    """Of the same logits; some of them are 0, which is a probability of a half."""
    rng = np.random.default_rng(1)
    logits = rng.standard_normal([200, 3]).astype(np.float32)
    logits[rng.uniform(size=logits.shape) < 0.1] = 0
    truth = rng.integers(0, 3, 200)
    label = np.eye(3, dtype=np.float32)[truth]
    if kind == "several":
        truth = label = (rng.uniform(size=[200, 3]) < 0.3).astype(np.float32)
    options = dict(loss="softmax" if kind == "softmax" else "sigmoid")
    objective = objective_of(multi_label=kind == "several", **options)
    trained = means(loss_of(objective, label, logits, np.ones(200, np.float32), train=True))
    probabilities = objective.probabilities(logits.astype(np.float64))
    sigmoid = objective.options.loss == "sigmoid"
    judged = scores(probabilities, truth, NAMES, bootstrap=0, sigmoid=sigmoid)
    assert set(trained) == {"loss", "accuracy"}
    for name, value in trained.items():
        assert value == pytest.approx(judged[name], rel=1e-5), name


def test_several_labels_need_sigmoid():
    stage = config_lib.stage()
    stage.data.multi_label = True
    with pytest.raises(UserError, match="multi_label=True needs objective.options.loss=sigmoid"):
        config_lib.check(config_lib.default(supervised=stage))
    stage.objective.options = dict(loss="sigmoid")
    config_lib.check(config_lib.default(supervised=stage))
