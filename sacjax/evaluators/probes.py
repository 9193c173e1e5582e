"""Probes: how well a simple classifier predicts labels from a frozen encoder's vectors."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sacjax import oversampling
from sacjax.errors import UserError

Balance = Literal["none", "weights", "over", "smote", "borderline_smote", "adasyn"]
"""What a linear probe does about classes of unequal size: weights lets the rare ones weigh more;
the others are of `oversampling`."""

REGULARIZATION = tuple(10.0**k for k in range(-4, 3))  # values of C to choose from
FOLDS = 5
METRICS = ("accuracy", "balanced_accuracy")  # the latter is the mean of the classes' recalls


def knn(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray | None,
    test_labels: np.ndarray | None,
    neighbours: int = 10,
    metric: str = "accuracy",
) -> float:
    """Returns the accuracy of k-nearest-neighbour classification by cosine distance.

    Without test vectors it is the leave-one-out accuracy on the training vectors.

    Args:
      train, train_labels: vectors [N, D] and their labels [N].
      test, test_labels: vectors [M, D] and their labels [M], or None.
      neighbours: k.
      metric: one of `METRICS`.
    """
    from sklearn.neighbors import KNeighborsClassifier

    others = len(train) - (test is None)
    model = KNeighborsClassifier(min(neighbours, others), metric="cosine").fit(train, train_labels)
    wanted = train_labels if test_labels is None else test_labels
    return _score(model.predict(test), wanted, metric)


def linear(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    seed: int = 0,
    balance: Balance = "none",
    metric: str = "accuracy",
) -> float:
    """Returns the test accuracy of `linear_scores`, with its arguments and errors."""
    scores = linear_scores(train, train_labels, test, test_labels, seed, balance, metric)
    return scores["linear_accuracy"]


def linear_scores(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    seed: int = 0,
    balance: Balance = "none",
    metric: str = "accuracy",
) -> dict[str, float]:
    """Returns the test accuracy of logistic regression on standardized vectors [N, D].

    The strength of its regularization is chosen by stratified 5-fold cross-validation on the
    training vectors where each class has 5 or more, else C = 1. `seed` shuffles the folds. Vectors
    that balance the classes are made within each fold, of its training vectors alone.

    Args:
      train, train_labels: vectors [N, D] and their labels [N].
      test, test_labels: vectors [M, D] and their labels [M].
      seed: of the folds and of made-up vectors.
      balance: what is done about classes of unequal size; see `Balance`.
      metric: one of `METRICS`, by which the regularization is chosen too.

    Returns:
      `linear_accuracy`, by the metric, and `linear_balanced_accuracy`, the mean of the recalls.

    Raises:
      UserError: fewer than two classes to train on, nothing to test, or no imbalanced-learn.
    """
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    check(train_labels, test_labels)
    model = classifier(balance, seed)
    if np.unique(train_labels, return_counts=True)[1].min() >= FOLDS:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        grid = {"logisticregression__C": REGULARIZATION}
        model = GridSearchCV(model, grid, cv=folds, scoring=metric)
    found = _predicted(model, train, train_labels, test)
    return {
        "linear_accuracy": _score(found, test_labels, metric),
        "linear_balanced_accuracy": _score(found, test_labels, "balanced_accuracy"),
    }


def few_shot(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    shots: Sequence[int] = (1, 5, 10, 50),
    draws: int = 5,
    seed: int = 0,
    metric: str = "accuracy",
) -> dict[int, list[float]]:
    """Returns {shot: [test accuracy of each draw]} of logistic regression (C = 1).

    Instead of accuracy it may be another of `METRICS`. It is trained on `shot` random training
    vectors of each class. A class that has fewer gives all it has; shots that no class has are left
    out. Within a draw the vectors of a smaller shot are among those of a larger one.

    Raises:
      UserError: fewer than two classes to train on, nothing to test, or shots or draws that are not
      positive.
    """
    check(train_labels, test_labels)
    if draws < 1 or any(shot < 1 for shot in shots):
        raise UserError(
            f"--shots {' '.join(map(str, shots))} and --draws {draws} must be 1 or more"
        )
    most = int(np.unique(train_labels, return_counts=True)[1].max())
    accuracy: dict[int, list[float]] = {shot: [] for shot in shots if shot <= most}
    for draw in range(draws):
        order = shuffled_classes(train_labels, seed, draw)
        for shot in accuracy:
            kept = np.concatenate([own[:shot] for own in order])
            few = train[kept], train_labels[kept]
            accuracy[shot].append(_fitted_score(classifier(), *few, test, test_labels, metric))
    return accuracy


def all_scores(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    neighbours: int = 10,
    shots: Sequence[int] = (1, 5, 10, 50),
    draws: int = 5,
    seed: int = 0,
    balance: Balance = "none",
    metric: str = "accuracy",
) -> dict[str, Any]:
    """Returns the test accuracies of all probes, or another of `METRICS`, as JSON has them.

    They are `knn_accuracy`, those of `linear_scores`, and `few_shot_accuracy`, {shot: [of each
    draw]}. The arguments and errors are those of `knn`, `linear_scores` and `few_shot`; `balance`
    is of the linear probe alone. Vectors of another encoder of the same clips get the same
    draws.
    """
    four = train, train_labels, test, test_labels
    few = few_shot(*four, shots, draws, seed, metric)
    return {
        "knn_accuracy": knn(*four, neighbours, metric),
        **linear_scores(*four, seed, balance, metric),
        "few_shot_accuracy": {str(shot): values for shot, values in few.items()},
    }


def in_percent(scores: dict[str, Any], neighbours: int) -> dict[str, str]:
    """Returns {probe: accuracy in percent} of `all_scores`, with the deviation over draws."""
    cells = {
        f"{neighbours} nearest neighbours": f"{100 * scores['knn_accuracy']:.1f}",
        "linear probe": f"{100 * scores['linear_accuracy']:.1f}",
    }
    if "linear_balanced_accuracy" in scores:
        cells["linear probe, mean of classes"] = f"{100 * scores['linear_balanced_accuracy']:.1f}"
    for shot, values in scores["few_shot_accuracy"].items():
        draws = 100 * np.asarray(values)
        cells[f"{shot} labels a class"] = f"{draws.mean():.1f} ± {draws.std():.1f}"
    return cells


def shuffled_classes(labels: np.ndarray, seed: int, draw: int) -> list[np.ndarray]:
    """Returns for each class the indices of its vectors, in the random order of a draw."""
    rng = np.random.default_rng([seed, draw])
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


def check(train_labels: np.ndarray, test_labels: np.ndarray) -> None:
    """Raises UserError where there is nothing to train on or to test."""
    for part, labels in (("training", train_labels), ("test", test_labels)):
        if not len(labels):
            raise UserError(
                f"the {part} part has no labelled clip to probe with; see data.fold, data.holdout, "
                "data.path"
            )
    classes = len(np.unique(train_labels))
    if classes < 2:
        raise UserError(f"the training part has {classes} class; a probe needs two or more")


def classifier(balance: Balance = "none", seed: int = 0) -> Any:
    """Returns logistic regression on standardized vectors, to be fitted; see `Balance`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weights = "balanced" if balance == "weights" else None
    head = LogisticRegression(C=1.0, max_iter=1000, class_weight=weights)
    if balance in ("none", "weights"):
        return make_pipeline(StandardScaler(), head)
    oversampling.check_installed()
    from imblearn import FunctionSampler
    from imblearn import pipeline as resampled

    options = dict(sampler=balance, seed=seed)
    sampler = FunctionSampler(func=oversampling.balanced, kw_args=options)
    return resampled.make_pipeline(StandardScaler(), sampler, head)


def _fitted_score(
    model: Any,
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    metric: str,
) -> float:
    return _score(_predicted(model, train, train_labels, test), test_labels, metric)


def _predicted(
    model: Any, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray
) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # With little regularization it may not converge, long after its accuracy has settled.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(train, train_labels).predict(test)


def _score(predicted: np.ndarray, labels: np.ndarray, metric: str) -> float:
    """Returns one of `METRICS`; classes that no clip has do not count in balanced accuracy."""
    right = predicted == labels
    if metric == "balanced_accuracy":
        return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
    return float(np.mean(right))
