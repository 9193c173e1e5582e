"""Losses against PyTorch's and worked values."""

import jax.numpy as jnp
import numpy as np
import pytest

from sacjax import config as config_lib
from sacjax.objectives.classification import Classification

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal([6, 3]).astype(np.float32)
LABELS = np.array([0, 1, 2, 1, 0, 2])
MASK = np.array([1, 1, 1, 0, 1, 1], np.float32)


def loss(label, mask=MASK, counts=(1, 1, 1), train=False, **objective):
    stage = config_lib.stage()
    stage.objective.update(objective)
    batch = dict(
        inputs=jnp.asarray(LOGITS),
        input_length=None,
        label=jnp.asarray(label, jnp.float32),
        mask=jnp.asarray(mask),
    )
    model = lambda inputs, length, rngs=None: inputs
    (total, count), metrics = Classification(stage, ("a", "b", "c"), counts).loss(
        model, batch, "rngs" if train else None
    )
    return float(total / count), {name: float(a / b) for name, (a, b) in metrics.items()}


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


def test_unlabelled_rows_count_nothing():
    label = np.eye(3)[LABELS]
    label[2] = 0
    mask = MASK.copy()
    mask[2] = 0
    assert loss(label)[0] == pytest.approx(loss(np.eye(3)[LABELS], mask)[0])


def test_sigmoid_is_binary_cross_entropy_as_torch():
    torch = pytest.importorskip("torch", reason="torch is the reference")
    label = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    keep = MASK > 0
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS[keep]), torch.tensor(label[keep])
    )
    np.testing.assert_allclose(loss(label, loss="sigmoid")[0], float(expected), rtol=1e-5)
