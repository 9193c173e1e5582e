"""Synthetic vectors of rare classes, by imbalanced-learn: SMOTE and its kin.

An extra: `pip install 'sacjax[imbalance]'`. The vectors are embeddings; between those of two clips
of one class there is, as a rule, another clip's, which cannot be said of their samples.
"""

import functools
import warnings
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from sacjax.errors import UserError

Sampler = Literal["over", "smote", "borderline_smote", "adasyn"]
Vectors = Float[np.ndarray, "clips features"]
Labels = Int[np.ndarray, " clips"]


def balanced(
    x: Vectors, labels: Labels, sampler: Sampler, seed: int = 0, neighbours: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (vectors, labels) with each class as frequent as the most frequent; the given first.

    Args:
      x, labels: vectors [N, D] and their labels.
      sampler: over repeats vectors; smote draws a place between one of them and one of its nearest
        neighbours of the same class (Chawla et al. 2002); borderline_smote starts from those alone
        that have more neighbours of other classes (Han et al. 2005); adasyn from each the more
        often, the more it has (He et al. 2008).
      seed: of the draws.
      neighbours: of the same class, to choose from; fewer where a class has fewer.

    Raises:
      UserError: imbalanced-learn is not installed.
    """
    classes, counts = np.unique(labels, return_counts=True)
    wanted = dict(zip(classes.tolist(), (counts.max() - counts).tolist(), strict=True))
    made = synthetic(x, labels, wanted, sampler, seed, neighbours)
    more = np.repeat(list(made), [len(own) for own in made.values()]).astype(labels.dtype)
    return np.concatenate([x, *made.values()]), np.concatenate([labels, more])


def synthetic(
    x: Vectors,
    labels: Labels,
    wanted: dict[int, int],
    sampler: Sampler,
    seed: int = 0,
    neighbours: int = 5,
) -> dict[int, np.ndarray]:
    """Returns {label: new vectors [n, D]}, n as `wanted` says of each.

    A class none of whose vectors has neighbours of other classes is no case for borderline_smote
    and adasyn: plain SMOTE fills it. A class of one vector has that repeated.

    Args:
      wanted: {label: number}.
      x, labels, sampler, seed, neighbours: as of `balanced`.

    Raises:
      UserError: imbalanced-learn is not installed.
    """
    return {
        label: _of_class(x, labels, label, number, sampler, seed, neighbours)
        for label, number in wanted.items()
    }


def _of_class(
    x: np.ndarray,
    labels: np.ndarray,
    label: int,
    number: int,
    sampler: str,
    seed: int,
    neighbours: int,
) -> np.ndarray:
    own = x[labels == label]
    if not number:
        return x[:0]
    others = min(neighbours, len(own) - 1)
    if sampler == "over" or not others:
        order = np.random.default_rng([seed, label]).permutation(len(own))
        return own[np.resize(order, number)]
    kinds = _samplers()
    rest = (labels == label).astype(int)  # one class against all others
    options: dict[str, Any] = dict(
        sampling_strategy={1: len(own) + number}, random_state=(1000 * seed + label) % 2**32
    )
    made = x[:0]
    if sampler == "borderline_smote":
        near = min(10, len(x) - 1)
        made = _new(kinds[sampler](k_neighbors=others, m_neighbors=near, **options), x, rest)
    elif sampler == "adasyn":
        made = _new(kinds[sampler](n_neighbors=others, **options), x, rest)
    if not len(made):
        made = _new(kinds["smote"](k_neighbors=others, **options), x, rest)
    return np.resize(made, (number, x.shape[1]))  # adasyn's are about as many


def _new(sampler: Any, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns what a sampler adds to vectors; nothing where it finds none to start from."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # more than the most frequent class has
            return sampler.fit_resample(x, labels)[0][len(x) :]
    except (ValueError, RuntimeError) as error:
        if "No samples will be generated" in str(error) or "Not any neigbours" in str(error):
            return x[:0]
        raise


def check_installed() -> None:
    """Raises UserError where imbalanced-learn is not installed."""
    _samplers()


@functools.cache
def _samplers() -> dict[str, Any]:
    try:
        from imblearn.over_sampling import ADASYN, SMOTE, BorderlineSMOTE
    except ImportError:
        raise UserError(
            "SMOTE and its kin need imbalanced-learn: pip install 'sacjax[imbalance]'"
        ) from None
    return {"smote": SMOTE, "borderline_smote": BorderlineSMOTE, "adasyn": ADASYN}
