"""Encoders by name, and the classifier around them. `sacjax.models.base` has the contract."""

import dataclasses
from typing import Any, Literal

import flax.nnx as nnx
import jax.numpy as jnp
from ml_collections import ConfigDict

from sacjax.config import options
from sacjax.errors import UserError, nearest
from sacjax.layers.pooling import Pooling
from sacjax.models import front_end
from sacjax.models.audionet import AudioNet
from sacjax.models.autoencoder import Autoencoder
from sacjax.models.base import Encoder, EncoderOutput, TokenEncoder, Tokens
from sacjax.models.causal_transformer import CausalTransformer
from sacjax.models.classifier import Classifier, check_layers
from sacjax.models.convnext import ConvNeXtTiny
from sacjax.models.efficientnet import EfficientNetB0
from sacjax.models.gru import GRU
from sacjax.models.hts_at import HTSAT
from sacjax.models.inception import InceptionV3
from sacjax.models.resnet import SpectrogramResNet
from sacjax.models.small_cnn import SmallCNN
from sacjax.models.spectrogram_transformer import SpectrogramTransformer
from sacjax.models.vgg import VGG11
from sacjax.models.wav2vec2 import Wav2Vec2
from sacjax.models.whisper import Whisper

ENCODERS: dict[str, type[Encoder]] = {
    "audionet": AudioNet,
    "causal_transformer": CausalTransformer,
    "convnext_tiny": ConvNeXtTiny,
    "efficientnet_b0": EfficientNetB0,
    "gru": GRU,
    "autoencoder": Autoencoder,
    "hts_at": HTSAT,
    "inception_v3": InceptionV3,
    "spectrogram_resnet": SpectrogramResNet,
    "small_cnn": SmallCNN,
    "spectrogram_transformer": SpectrogramTransformer,
    "vgg11": VGG11,
    "wav2vec2": Wav2Vec2,
    "whisper": Whisper,
}

__all__ = [
    "ENCODERS",
    "GRU",
    "AudioNet",
    "CausalTransformer",
    "Autoencoder",
    "Classifier",
    "ConvNeXtTiny",
    "EfficientNetB0",
    "Encoder",
    "HTSAT",
    "InceptionV3",
    "EncoderOutput",
    "Pooling",
    "SmallCNN",
    "SpectrogramResNet",
    "SpectrogramTransformer",
    "TokenEncoder",
    "Tokens",
    "VGG11",
    "Wav2Vec2",
    "Whisper",
    "build",
    "build_encoder",
    "check",
    "input_kind",
    "width",
]


def input_kind(model: ConfigDict) -> Literal["waveform", "spectrogram"]:
    """Returns what the configured encoder takes: behind a front end that learns, the waveform."""
    return "waveform" if front_end.learns(model) else ENCODERS[model.name].input_kind


def check(model: ConfigDict) -> None:
    """Raises UserError for an unknown encoder or options that do not fit; nothing is built."""
    if model.name not in ENCODERS:
        raise UserError(f"model.name is '{model.name}'{nearest(model.name, ENCODERS)}")
    encoder = ENCODERS[model.name]
    options.check("model.encoder", model.name, model.encoder, encoder.Options)
    encoder.Options(**model.encoder.to_dict())
    check_layers(Classifier.Options(**_around(model)).layers, encoder)
    front_end.check(model, encoder)


def build(
    model: ConfigDict,
    *,
    num_classes: int,
    num_features: int,
    rngs: nnx.Rngs,
    stage: ConfigDict | None = None,
) -> Classifier:
    """Returns the classifier that `config.model` describes.

    Args:
      model: the config.
      num_classes: C of its logits.
      num_features: mel bins or MFCC of its input; encoders of waveforms do not use it.
      rngs: of the parameters.
      stage: as of `build_encoder`.
    """
    encoder = build_encoder(model, num_features=num_features, rngs=rngs, stage=stage)
    return Classifier(encoder, num_classes=num_classes, rngs=rngs, **_around(model))


def build_encoder(
    model: ConfigDict, *, num_features: int, rngs: nnx.Rngs, stage: ConfigDict | None = None
) -> Encoder:
    """Returns the encoder alone, with its front end where that learns.

    Args:
      model: the config.
      num_features: mel bins or MFCC of its input; encoders of waveforms do not use it.
      rngs: of the parameters.
      stage: whose `model` it is. A front end that learns is made of its `data.sample_rate`,
        `frontend` and `augment.spectrogram`.
    """
    given = dict(num_features=num_features, dtype=jnp.dtype(model.dtype), rngs=rngs)
    given |= model.encoder.to_dict()
    if not front_end.learns(model):
        return ENCODERS[model.name](**given)
    if stage is None:
        raise ValueError(f"model.frontend={model.frontend} is built of a whole stage")
    return front_end.build(ENCODERS[model.name], stage, **given)


def width(model: ConfigDict) -> int:
    """Returns D of the configured encoder's frames; nothing is allocated."""
    bare = ConfigDict(model.to_dict() | {"frontend": "mel"})  # which does not change it
    return nnx.eval_shape(lambda: build_encoder(bare, num_features=64, rngs=nnx.Rngs(0))).features


def _around(model: ConfigDict) -> dict[str, Any]:
    """Returns the options of the classifier that a config sets."""
    return {
        f.name: model[f.name] for f in dataclasses.fields(Classifier.Options) if f.name in model
    }
