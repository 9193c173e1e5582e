"""Whisper of transformers, in terms of `Whisper`: its encoder, bare or as an audio classifier.

Of a whole model the decoder is not read; a bare encoder is written as transformers' WhisperEncoder.
"""

from collections.abc import Collection, Iterator
from typing import Any, cast

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax.convert.base import Entry, Family, Kind, Loaded, encoder_of, linear, norm, turn
from sacjax.convert.heads import (
    BIAS,
    build_classifier,
    classifier_config,
    classifier_entries,
    identity_projector,
)
from sacjax.errors import UserError
from sacjax.models.base import Encoder
from sacjax.models.classifier import Classifier
from sacjax.models.whisper import Whisper

PREFIXES = ("model.encoder.", "encoder.", "")
OPTIONS = {  # of the encoder, ours: theirs
    "width": "d_model",
    "depth": "encoder_layers",
    "heads": "encoder_attention_heads",
    "mlp_width": "encoder_ffn_dim",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "layer_drop": "encoder_layerdrop",
}
DEFAULTS = {  # of transformers' WhisperConfig, for keys that a config.json does not have
    "num_mel_bins": 80,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "encoder_layerdrop": 0.0,
    "d_model": 384,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "max_source_positions": 1500,
    "classifier_proj_size": 256,
}
FEATURES = dict(n_fft=400, hop_length=160)  # of WhisperFeatureExtractor, where it does not tell


class WhisperFamily(Family):
    """Whisper's encoder: a log-mel of 30 s, of which what follows the clip is silence."""

    encoder = "whisper"
    written = (Whisper, Classifier)
    architectures = {
        "whisper": {
            "WhisperModel": "bare",
            "WhisperEncoder": "bare",
            "WhisperForConditionalGeneration": "bare",
            "WhisperForAudioClassification": "classification",
        }
    }
    class_bias = BIAS

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns a config.json with transformers' defaults where keys are absent."""
        if config.get("activation_function", "gelu") != "gelu":
            raise UserError(
                f"activation_function is {config['activation_function']!r}; only 'gelu' is "
                "supported"
            )
        return DEFAULTS | config

    def num_features(self, config: dict[str, Any]) -> int:
        """Returns the mel bins of the input."""
        return int(config["num_mel_bins"])

    def encoder_options(
        self, config: dict[str, Any], preprocessor: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the options of `Whisper` that fit a checkpoint."""
        options = {ours: config[theirs] for ours, theirs in OPTIONS.items()}
        return options | dict(max_frames=2 * config["max_source_positions"])

    def front_end(
        self, config: dict[str, Any], sample_rate: int, preprocessor: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the `frontend` that is Whisper's: decibels, brought to (x + 40 dB) / 40 dB.

        That is (log10 of the power + 4) / 4, at the most 8 below the clip's largest.
        """
        told = FEATURES | {key: preprocessor[key] for key in FEATURES if key in preprocessor}
        return told | dict(
            repeat_seconds=0.0,
            win_length=0,
            window="hann",
            center=True,
            pad_mode="reflect",
            n_mels=self.num_features(config),
            fmin=0.0,
            fmax=8000.0,
            htk=False,
            mel_norm="slaney",
            power=2.0,
            log="db",
            floor=1e-10,
            ref=1.0,
            top_db=80.0,
            n_mfcc=0,
            preemphasis=0.0,
            normalize="global",
            mean=-40.0,
            std=40.0,
        )

    def leaves_out(self, name: str) -> bool:
        """Returns whether a tensor is the decoder's."""
        return name.startswith(("decoder.", "model.decoder.", "proj_out."))

    def build(
        self, kind: Kind, encoder: Encoder, config: dict[str, Any], classes: int, rngs: nnx.Rngs
    ) -> Any:
        """Returns the encoder, or a `Classifier` of it."""
        return encoder if kind == "bare" else build_classifier(encoder, config, classes, rngs)

    def entries(self, model: Any, model_type: str, names: Collection[str] = ()) -> Iterator[Entry]:
        """Yields every tensor of a model.

        When reading, also the mask embedding, which is fresh, and biases of the keys, which Whisper
        does without: they are zero, and whatever they are, they change nothing.
        """
        bare = isinstance(model, Whisper)
        prefix, path = ("", ()) if bare else ("encoder.", ("encoder",))
        if names:
            prefix = next((p for p in PREFIXES if f"{p}conv1.weight" in names), prefix)
        encoder = cast(Whisper, encoder_of(model))
        yield from _encoder_entries(encoder, prefix, path, reading=bool(names))
        if not bare:
            yield from classifier_entries(model)

    def describe(self, stage: ConfigDict, loaded: Loaded) -> None:
        """Sets in a stage what would build a checkpoint's head, and the clip's length."""
        frames, hop = loaded.encoder_options["max_frames"], stage.frontend.hop_length
        stage.data.seconds = frames * hop / loaded.sample_rate
        if loaded.kind == "classification":
            stage.model.layers = "last" if loaded.model.layer_weights is None else "weighted"
            stage.model.projection = loaded.model.project.out_features
        else:
            stage.objective.name = "hubert"

    def config(
        self, model: Any, class_names: tuple[str, ...], model_type: str, multi_label: bool
    ) -> dict[str, Any]:
        """Returns the config.json of a model. Raises UserError for what Whisper does not have."""
        encoder = cast(Whisper, encoder_of(model))
        o = encoder.options
        if o["padding"] != "silence":
            raise UserError(
                f"model.encoder.padding={o['padding']} has no counterpart in transformers' "
                "Whisper: only silence is written"
            )
        config: dict[str, Any] = {theirs: o[ours] for ours, theirs in OPTIONS.items()}
        config |= dict(
            model_type="whisper",
            architectures=["WhisperEncoder"],
            num_mel_bins=encoder.num_features,
            num_hidden_layers=o["depth"],
            max_source_positions=o["max_frames"] // 2,
            activation_function="gelu",
            torch_dtype="float32",
        )
        if not isinstance(model, Classifier):
            return config
        config |= classifier_config(model, class_names, multi_label)
        return config | dict(architectures=["WhisperForAudioClassification"])

    def preprocessor(
        self, model: Any, sample_rate: int, frontend: ConfigDict | None = None
    ) -> dict[str, Any]:
        """Returns the preprocessor_config.json of a model.

        Raises:
          UserError: `frontend` is none that WhisperFeatureExtractor computes.
        """
        encoder = cast(Whisper, encoder_of(model))
        told = FEATURES
        if frontend is not None:
            told = {key: frontend[key] for key in FEATURES}
            config = {"num_mel_bins": encoder.num_features}
            self.require_front_end(config, sample_rate, told, frontend)
        frames = encoder.settings.max_frames
        return told | dict(
            feature_extractor_type="WhisperFeatureExtractor",
            feature_size=encoder.num_features,
            chunk_length=-(-frames * told["hop_length"] // sample_rate),
            sampling_rate=sample_rate,
            padding_side="right",
            padding_value=0.0,
            return_attention_mask=False,
        )

    def additional_tensors(self, model: Any) -> dict[str, np.ndarray]:
        """Returns an identity as the projection of a classifier without one."""
        return identity_projector(model)


def _encoder_entries(encoder: Whisper, prefix: str, path: tuple, reading: bool) -> Iterator[Entry]:
    if reading:
        yield Entry("mask_embedding", (*path, "mask_embedding"), absent=_mask_embedding)
    for name in ("conv1", "conv2"):
        yield Entry(f"{prefix}{name}.weight", (*path, name, "kernel"), None, turn, turn)
        yield Entry(f"{prefix}{name}.bias", (*path, name, "bias"))
    count = encoder.settings.max_frames // 2
    yield Entry(f"{prefix}embed_positions.weight", (*path, "positions"), load=lambda x: x[:count])
    yield from norm(f"{prefix}layer_norm", (*path, "transformer", "final_norm"))
    for i in range(encoder.depth):
        name, own = f"{prefix}layers.{i}", (*path, "transformer", "layers")
        for theirs, ours in {"q_proj": "query", "v_proj": "value", "out_proj": "out"}.items():
            yield from linear(f"{name}.self_attn.{theirs}", (*own, "attention", ours), i)
        key = f"{name}.self_attn.k_proj"
        yield Entry(f"{key}.weight", (*own, "attention", "key", "kernel"), i, turn, turn)
        if reading:
            zero = lambda shape: np.zeros(shape, np.float32)
            yield Entry(f"{key}.bias", (*own, "attention", "key", "bias"), i, absent=zero)
        yield from norm(f"{name}.self_attn_layer_norm", (*own, "attention_norm"), i)
        yield from linear(f"{name}.fc1", (*own, "mlp_in"), i)
        yield from linear(f"{name}.fc2", (*own, "mlp_out"), i)
        yield from norm(f"{name}.final_layer_norm", (*own, "mlp_norm"), i)


def _mask_embedding(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a fresh mask embedding, which Whisper does not have."""
    return np.random.default_rng(0).normal(0, 0.02, shape).astype(np.float32)
