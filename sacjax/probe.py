"""Probes of frozen encoders."""

import numpy as np


def knn(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, neighbours: int = 10
) -> float:
    """Returns the accuracy of the majority of the nearest training vectors [N, D] by cosine distance."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(neighbours, len(train)), metric="cosine").fit(train, train_labels)
    return float(model.score(test, test_labels))
