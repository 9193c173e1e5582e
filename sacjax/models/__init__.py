"""Encoders by name, and the classifier around them. `sacjax.models.base` has the contract."""

import dataclasses
from typing import Any, Literal

import flax.nnx as nnx
import jax.numpy as jnp
from ml_collections import ConfigDict

from sacjax.config import options
from sacjax.errors import UserError, nearest
from sacjax.layers.pooling import Pooling
from sacjax.models.audionet import AudioNet
from sacjax.models.autoencoder import Autoencoder
from sacjax.models.base import Encoder, EncoderOutput, TokenEncoder, Tokens
from sacjax.models.classifier import Classifier, check_layers
from sacjax.models.resnet import SpectrogramResNet
from sacjax.models.small_cnn import SmallCNN
from sacjax.models.wav2vec2 import Wav2Vec2

ENCODERS: dict[str, type[Encoder]] = {
    "audionet": AudioNet,
    "autoencoder": Autoencoder,
    "spectrogram_resnet": SpectrogramResNet,
    "small_cnn": SmallCNN,
    "wav2vec2": Wav2Vec2,
}

__all__ = [
    "ENCODERS",
    "AudioNet",
    "Autoencoder",
    "Classifier",
    "Encoder",
    "EncoderOutput",
    "Pooling",
    "SmallCNN",
    "SpectrogramResNet",
    "TokenEncoder",
    "Tokens",
    "Wav2Vec2",
    "build",
    "build_encoder",
    "check",
    "input_kind",
    "width",
]


def input_kind(model: ConfigDict) -> Literal["waveform", "spectrogram"]:
    """Returns what the configured encoder takes."""
    return ENCODERS[model.name].input_kind


def check(model: ConfigDict) -> None:
    """Raises UserError for an unknown encoder or options that do not fit; nothing is built."""
    if model.name not in ENCODERS:
        raise UserError(f"model.name is '{model.name}'{nearest(model.name, ENCODERS)}")
    encoder = ENCODERS[model.name]
    options.check("model.encoder", model.name, model.encoder, encoder.Options)
    encoder.Options(**model.encoder.to_dict())
    check_layers(Classifier.Options(**_around(model)).layers, encoder)


def build(model: ConfigDict, *, num_classes: int, num_features: int, rngs: nnx.Rngs) -> Classifier:
    """Returns the classifier that `config.model` describes.

    Args:
      model: the config.
      num_classes: C of its logits.
      num_features: mel bins or MFCC of its input; encoders of waveforms do not use it.
      rngs: of the parameters.
    """
    encoder = build_encoder(model, num_features=num_features, rngs=rngs)
    return Classifier(encoder, num_classes=num_classes, rngs=rngs, **_around(model))


def build_encoder(model: ConfigDict, *, num_features: int, rngs: nnx.Rngs) -> Encoder:
    """Returns the encoder alone."""
    dtype, given = jnp.dtype(model.dtype), model.encoder.to_dict()
    return ENCODERS[model.name](num_features=num_features, dtype=dtype, rngs=rngs, **given)


def width(model: ConfigDict) -> int:
    """Returns D of the configured encoder's frames; nothing is allocated."""
    return nnx.eval_shape(lambda: build_encoder(model, num_features=64, rngs=nnx.Rngs(0))).features


def _around(model: ConfigDict) -> dict[str, Any]:
    """Returns the options of the classifier that a config sets."""
    return {
        f.name: model[f.name] for f in dataclasses.fields(Classifier.Options) if f.name in model
    }
