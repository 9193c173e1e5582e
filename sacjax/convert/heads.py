"""The head that most of transformers' audio classifiers share, and how it is read and written.

It is a linear map of the frames (`projector`), their mean, and a linear map (`classifier`); with
`use_weighted_layer_sum` the frames are a weighted sum of the states of all layers.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from flax import nnx

from sacjax.convert.base import Entry, label_config, linear
from sacjax.errors import UserError
from sacjax.models.base import Encoder
from sacjax.models.classifier import Classifier

BIAS = "classifier.bias"


def build_classifier(
    encoder: Encoder, config: dict[str, Any], classes: int, rngs: nnx.Rngs
) -> Classifier:
    """Returns the classifier that a config.json describes, around an encoder."""
    return Classifier(
        encoder,
        pooling="mean",
        layers="weighted" if config.get("use_weighted_layer_sum") else "last",
        projection=config["classifier_proj_size"],
        num_classes=classes,
        rngs=rngs,
    )


def classifier_entries(model: Classifier) -> Iterator[Entry]:
    """Yields the tensors of the head."""
    if model.layer_weights is not None:
        yield Entry("layer_weights", ("layer_weights",))
    if model.project is not None:
        yield from linear("projector", ("project",))
    yield from linear("classifier", ("head",))


def classifier_config(
    model: Classifier, class_names: tuple[str, ...], multi_label: bool
) -> dict[str, Any]:
    """Returns what config.json tells of the head. Raises UserError for what theirs does not have.

    Args:
      model: ours.
      class_names: () = LABEL_0, LABEL_1, ….
      multi_label: whether a clip may have several labels.
    """
    good = dict(
        pooling=(model.pooling.kind, "mean"),
        head_norm=(model.head_norm is not None, False),
        hidden=(0 if model.hidden is None else model.hidden.out_features, 0),
    )
    for name, (value, wanted) in good.items():
        if value != wanted:
            raise UserError(
                f"model.{name}={value} has no counterpart in transformers: only {wanted} is written"
            )
    width = model.encoder.features if model.project is None else model.project.out_features
    config = label_config(class_names, model.head.out_features, multi_label)
    weighted = model.layer_weights is not None
    return config | dict(use_weighted_layer_sum=weighted, classifier_proj_size=width)


def identity_projector(model: Any) -> dict[str, np.ndarray]:
    """Returns an identity as the projection of a classifier without one."""
    if not isinstance(model, Classifier) or model.project is not None:
        return {}
    width = model.encoder.features
    return {
        "projector.weight": np.eye(width, dtype=np.float32),
        "projector.bias": np.zeros(width, np.float32),
    }
