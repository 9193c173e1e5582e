"""Encoders by name, and the classifier around them.

An encoder is an `nnx.Module` with `input_kind` ('waveform' or 'spectrogram'), `features` (D) and
`encoder(inputs, lengths, rngs=None) -> EncoderOutput(frames [B, T', D], lengths [B])`; its constructor's keyword
arguments are the keys of `config.model.encoder`.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from sacjax.config import options
from sacjax.errors import UserError, nearest
from sacjax.layers.pooling import Pooling
from sacjax.models.audionet import AudioNet
from sacjax.models.base import EncoderOutput
from sacjax.models.classifier import Classifier
from sacjax.models.resnet import SpectrogramResNet
from sacjax.models.small_cnn import SmallCNN
from sacjax.models.wav2vec2 import Wav2Vec2

ENCODERS: dict[str, Any] = {
    "audionet": AudioNet,
    "spectrogram_resnet": SpectrogramResNet,
    "small_cnn": SmallCNN,
    "wav2vec2": Wav2Vec2,
}
RESERVED = ("num_features", "dtype", "rngs")  # given by `build`

__all__ = ["ENCODERS", "AudioNet", "Classifier", "EncoderOutput", "Pooling", "SmallCNN", "SpectrogramResNet",
           "Wav2Vec2", "build", "build_encoder", "check", "input_kind"]  # fmt: skip


def input_kind(model: ConfigDict) -> str:
    """Returns what the configured encoder takes: 'waveform' or 'spectrogram'."""
    return ENCODERS[model.name].input_kind


def check(model: ConfigDict) -> None:
    """Raises UserError for an unknown encoder, or an option that its constructor does not have or that has a wrong type or value."""
    if model.name not in ENCODERS:
        raise UserError(f"model.name is '{model.name}'{nearest(model.name, ENCODERS)}")
    options.check(
        "model.encoder", model.name, model.encoder, ENCODERS[model.name].__init__, RESERVED
    )
    # Values are checked where they are used; nothing is allocated. Dtype and pooling by `build`.
    nnx.eval_shape(lambda: build(model, num_classes=2, num_features=64, rngs=nnx.Rngs(0)))


def build(model: ConfigDict, *, num_classes: int, num_features: int, rngs: nnx.Rngs) -> Any:
    """Returns the classifier that `config.model` describes.

    Args:
      num_classes: C of its logits.
      num_features: mel bins (or MFCC) of its input; waveform encoders do not use it.
    """
    encoder = build_encoder(model, num_features=num_features, rngs=rngs)
    return Classifier(
        encoder, pooling=model.pooling, layers=model.layers, projection=model.projection, dropout=model.dropout,
        num_classes=num_classes, dtype=jnp.dtype(model.dtype), rngs=rngs,
    )  # fmt: skip


def width(model: ConfigDict) -> int:
    """Returns D of the configured encoder's frames; nothing is allocated."""
    return nnx.eval_shape(lambda: build_encoder(model, num_features=64, rngs=nnx.Rngs(0))).features


def build_encoder(model: ConfigDict, *, num_features: int, rngs: nnx.Rngs) -> Any:
    """Returns the encoder alone."""
    dtype = jnp.dtype(model.dtype)
    return ENCODERS[model.name](
        **model.encoder.to_dict(), num_features=num_features, dtype=dtype, rngs=rngs
    )
