"""Encoders by name, and the classifier around them.

An encoder is an `nnx.Module` with `input_kind` ('waveform' or 'spectrogram'), `features` (D) and
`encoder(inputs, lengths, rngs=None) -> EncoderOutput(frames [B, T', D], lengths [B])`; its constructor's keyword
arguments are the keys of `config.model.encoder`.
"""

import inspect
import types
import typing
from typing import Any

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from sacjax.errors import UserError, nearest
from sacjax.models.audionet import AudioNet
from sacjax.models.base import EncoderOutput
from sacjax.models.classifier import Classifier
from sacjax.models.pooling import Pooling
from sacjax.models.resnet import SpectrogramResNet
from sacjax.models.small_cnn import SmallCNN

ENCODERS: dict[str, Any] = {"audionet": AudioNet, "spectrogram_resnet": SpectrogramResNet, "small_cnn": SmallCNN}
RESERVED = ("self", "num_features", "dtype", "rngs")  # given by `build`

__all__ = ["ENCODERS", "AudioNet", "Classifier", "EncoderOutput", "Pooling", "SmallCNN", "SpectrogramResNet",
           "build", "check", "input_kind"]  # fmt: skip


def input_kind(model: ConfigDict) -> str:
    """Returns what the configured encoder takes: 'waveform' or 'spectrogram'."""
    return ENCODERS[model.name].input_kind


def check(model: ConfigDict) -> None:
    """Raises UserError for an unknown encoder, or an option that its constructor does not have or that has a wrong type or value."""
    if model.name not in ENCODERS:
        raise UserError(f"model.name is '{model.name}'{nearest(model.name, ENCODERS)}")
    parameters = inspect.signature(ENCODERS[model.name].__init__).parameters
    options = {name: p for name, p in parameters.items() if name not in RESERVED}
    for name, value in model.encoder.items():
        if name not in options:
            raise UserError(f"model.encoder.{name}: {model.name} has no such option{nearest(name, options)}")
        if not _fits(value, options[name].annotation):
            wanted = getattr(options[name].annotation, "__name__", None) or str(options[name].annotation)
            raise UserError(f"model.encoder.{name} is {value!r}: expected {wanted}, such as {options[name].default!r}")
    # Values are checked where they are used; nothing is allocated. Dtype and pooling by `build`.
    nnx.eval_shape(lambda: build(model, num_classes=2, num_features=64, rngs=nnx.Rngs(0)))


def _fits(value: Any, annotation: Any) -> bool:
    """Whether an option's value has its annotated type; an int is a float too, but a bool is neither."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    for kind in kinds:
        if typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            if isinstance(value, tuple | list) and all(_fits(v, item) for v in value):
                return True
        elif isinstance(value, bool):
            if kind is bool:
                return True
        elif isinstance(value, kind) or (kind is float and isinstance(value, int)):
            return True
    return False


def build(model: ConfigDict, *, num_classes: int, num_features: int, rngs: nnx.Rngs) -> Any:
    """Returns the classifier that `config.model` describes.

    Args:
      num_classes: C of its logits.
      num_features: mel bins (or MFCC) of its input; waveform encoders do not use it.
    """
    dtype = jnp.dtype(model.dtype)
    encoder = ENCODERS[model.name](**model.encoder.to_dict(), num_features=num_features, dtype=dtype, rngs=rngs)
    return Classifier(
        encoder, pooling=model.pooling, dropout=model.dropout, num_classes=num_classes, dtype=dtype, rngs=rngs
    )
