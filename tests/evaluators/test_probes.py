"""Probes on vectors with known answers."""

import numpy as np
import pytest
from imblearn.over_sampling import SMOTE
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from sacjax import oversampling
from sacjax.errors import UserError
from sacjax.evaluators import probes


def clouds(per_class, classes, dim, spread, seed):
    """Gaussian clouds around fixed centres: (vectors [N, dim], labels [N])."""
    centres = np.random.default_rng(99).standard_normal([classes, dim])
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    return centres[labels] + spread * rng.standard_normal([len(labels), dim]), labels


def test_nearest_neighbours_as_worked_by_hand():
    train = np.array([[1.0, 0], [10, 1], [0, 1], [1, 10]])
    test = np.array([[5.0, 1], [0.1, 3], [0.1, 4]])
    labels = np.array([0, 0, 1, 1])
    assert probes.knn(train, labels, test, np.array([0, 1, 0]), 2) == pytest.approx(2 / 3)
    assert (
        probes.knn(train, labels, None, None, 1) == 1.0
    )  # each one's neighbour is the other of its class
    assert (
        probes.knn(train, np.array([0, 1, 1, 0]), None, None, 1) == 0.0
    )  # its own neighbour it would be right


def test_the_linear_probe_standardizes():
    """One small dimension tells the classes, one large one tells nothing."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    vectors = np.stack([1e-4 * (2 * labels - 1), 1e3 * rng.standard_normal(80)], 1)
    assert probes.linear(vectors[:40], labels[:40], vectors[40:], labels[40:], 0) == 1.0
    plain = LogisticRegression().fit(vectors[:40], labels[:40]).score(vectors[40:], labels[40:])
    assert plain < 0.8


def test_regularization_is_chosen_on_the_training_vectors():
    """Many dimensions, of which two tell: C = 1 overfits.

    The choice must not see the test vectors.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    vectors = rng.standard_normal([400, 100])
    vectors[:, :2] += (labels[:, None] - 0.5) * 1.6
    four = vectors[:80], labels[:80], vectors[80:], labels[80:]
    chosen = probes.linear(*four, 0)
    (fixed,) = probes.few_shot(*four, (40,), 1, 0)[40]  # the same classifier with C = 1
    assert chosen > fixed + 0.03
    halves = [
        probes.linear(vectors[:80], labels[:80], vectors[k::2], labels[k::2], 0) for k in (80, 81)
    ]
    assert np.mean(halves) == pytest.approx(chosen)


def test_few_training_vectors_take_c_1():
    train, labels = clouds(4, 3, 20, 2.0, 1)  # fewer than five a class: no folds
    test, answers = clouds(50, 3, 20, 2.0, 2)
    centre, scale = train.mean(0), train.std(0)
    want = LogisticRegression(C=1.0, max_iter=1000).fit((train - centre) / scale, labels)
    want = want.score((test - centre) / scale, answers)
    assert probes.linear(train, labels, test, answers, 0) == pytest.approx(want) and 0.4 < want < 1


def uneven(seed=1):
    """Two clouds that overlap, 60 vectors of one class and 4 of the other, and as many of each."""
    many, few = clouds(60, 2, 6, 1.5, seed)[0].reshape(2, 60, 6)
    train = np.concatenate([many, few[:4]])
    return train, np.repeat([0, 1], [60, 4]), *clouds(50, 2, 6, 1.5, seed + 1)


def test_rare_classes_weigh_more_or_get_vectors_made_of_standardized_ones():
    train, labels, test, answers = uneven()
    scaler = StandardScaler().fit(train)  # four vectors of a class: no folds
    x, others = scaler.transform(train), scaler.transform(test)
    filled = SMOTE(random_state=7001, k_neighbors=3).fit_resample(x, labels)
    heads = {
        "none": LogisticRegression().fit(x, labels),
        "weights": LogisticRegression(class_weight="balanced").fit(x, labels),
        "smote": LogisticRegression().fit(*filled),
    }
    found = {}
    for balance, head in heads.items():
        found[balance] = probes.linear_scores(train, labels, test, answers, 7, balance)
        predicted = head.predict(others)
        assert found[balance] == {
            "linear_accuracy": pytest.approx(np.mean(predicted == answers)),
            "linear_balanced_accuracy": pytest.approx(balanced_accuracy_score(answers, predicted)),
        }
    for balance in ("weights", "smote"):
        assert found[balance]["linear_accuracy"] > found["none"]["linear_accuracy"] + 0.05


def test_vectors_are_made_of_a_fold_s_training_vectors_alone(monkeypatch):
    train, labels = clouds(10, 2, 6, 1.5, 1)
    labels[10:15] = 0
    sizes = []
    plain = oversampling.balanced
    monkeypatch.setattr(
        oversampling,
        "balanced",
        lambda x, *args, **kw: sizes.append(len(x)) or plain(x, *args, **kw),
    )
    probes.linear(train, labels, train, labels, 0, "smote")
    folds = len(probes.REGULARIZATION) * probes.FOLDS
    assert sizes == [16] * folds + [20]


def test_draws_of_few_shots(monkeypatch):
    labels = np.repeat([0, 1, 2], [30, 3, 10])
    train = np.arange(len(labels))[:, None]  # each vector is its place
    taken = []

    def record(model, vectors, own, test, answers, metric):
        assert np.array_equal(own, labels[vectors[:, 0]])
        taken.append(vectors[:, 0].tolist())
        return len(taken)

    monkeypatch.setattr(probes, "_fitted_score", record)
    result = probes.few_shot(train, labels, train, labels, (1, 5), 3, 7)
    assert result == {1: [1, 3, 5], 5: [2, 4, 6]}
    ones, fives = taken[::2], taken[1::2]
    for one, five in zip(ones, fives, strict=True):
        assert np.bincount(labels[one]).tolist() == [1, 1, 1] and np.bincount(
            labels[five]
        ).tolist() == [5, 3, 5]
        assert set(one) < set(five) and len(set(five)) == 13
    assert fives[0] != fives[1] != fives[2]
    taken.clear()
    probes.few_shot(train, labels, train, labels, (5,), 3, 7)
    assert taken == fives  # neither chance nor the other shots change a draw
    assert list(probes.few_shot(train, labels, train, labels, (30, 31), 1, 7)) == [
        30
    ]  # no class has 31
    taken.clear()
    probes.few_shot(train, labels, train, labels, (5,), 3, 8)
    assert taken != fives


def test_more_labels_help():
    train, labels = clouds(60, 4, 30, 2.5, 1)
    test, answers = clouds(100, 4, 30, 2.5, 2)
    result = probes.few_shot(train, labels, test, answers, (1, 50), 4, 0)
    assert (
        len(result[1]) == 4
        and np.mean(result[50]) > np.mean(result[1]) + 0.15
        and len(set(result[1])) > 1
    )


def test_what_cannot_be_probed():
    vectors, labels = clouds(3, 2, 4, 1.0, 1)
    with pytest.raises(UserError, match="training part has no labelled clip"):
        probes.linear(vectors[:0], labels[:0], vectors, labels)
    with pytest.raises(UserError, match="test part has no labelled clip"):
        probes.few_shot(vectors, labels, vectors[:0], labels[:0])
    with pytest.raises(UserError, match="training part has 1 class"):
        probes.linear(vectors[:3], labels[:3], vectors, labels)
    with pytest.raises(UserError, match="--draws 0"):
        probes.few_shot(vectors, labels, vectors, labels, (1,), 0)


def test_balanced_accuracy_counts_classes_alike():
    """As scikit-learn has it, of the same predictions; one class is five times the other."""
    from sklearn.metrics import balanced_accuracy_score

    x, labels = clouds(60, 2, 4, 2.0, 0)
    kept = np.r_[0:60, 60:72]
    x, labels = x[kept], labels[kept]
    model = LogisticRegression(max_iter=1000)
    standard = (x - x.mean(0)) / x.std(0)
    predicted = model.fit(standard, labels).predict(standard)
    wanted = balanced_accuracy_score(labels, predicted)
    four = x, labels, x, labels
    (got,) = probes.few_shot(*four, (60,), 1, metric="balanced_accuracy")[60]
    (plain,) = probes.few_shot(*four, (60,), 1)[60]
    assert got == pytest.approx(wanted) and plain == pytest.approx((predicted == labels).mean())
    assert plain > got + 0.02
    # Of three neighbours among all, the rare class never has most.
    far = np.array([[1.0, 0.0]] * 5 + [[1.0, 0.1]])
    six = np.array([0] * 5 + [1])
    assert probes.knn(far, six, far, six, 3, "balanced_accuracy") == pytest.approx(0.5)
    assert probes.knn(far, six, far, six, 3) == pytest.approx(5 / 6)
