"""CLAP's audio tower (Wu et al. 2023) of transformers, in terms of `HTSAT`.

Of a whole CLAP neither the text's tower nor the projections are read.
"""

from collections.abc import Collection, Iterator
from typing import Any, cast

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax.convert.base import Entry, Family, Kind, Loaded, encoder_of, linear, norm, turn
from sacjax.errors import UserError
from sacjax.models.base import Encoder
from sacjax.models.hts_at import HTSAT, relative_index

PREFIXES = ("audio_model.audio_encoder.", "audio_encoder.")
OPTIONS = {  # of the encoder, ours: theirs
    "width": "patch_embeds_hidden_size",
    "depths": "depths",
    "heads": "num_attention_heads",
    "mlp_ratio": "mlp_ratio",
    "window": "window_size",
    "patch": "patch_size",
    "picture": "spec_size",
    "qkv_bias": "qkv_bias",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "stochastic_depth": "drop_path_rate",
    "fusion": "enable_fusion",
    "fusion_reduction": "aff_block_r",
}
DEFAULTS = {  # of transformers' ClapAudioConfig, for keys that a config.json does not have
    "window_size": 8,
    "num_mel_bins": 64,
    "spec_size": 256,
    "patch_size": 4,
    "patch_stride": (4, 4),
    "depths": (2, 2, 6, 2),
    "num_attention_heads": (4, 8, 16, 32),
    "hidden_dropout_prob": 0.1,
    "patch_embeds_hidden_size": 96,
    "drop_path_rate": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "qkv_bias": True,
    "mlp_ratio": 4.0,
    "enable_fusion": False,
    "aff_block_r": 4,
}
SUPPORTED = {  # values that the encoder has; where a key is absent, transformers has the same
    "hidden_act": "gelu",
    "patch_embed_input_channels": 1,
    "flatten_patch_embeds": True,
    "enable_patch_layer_norm": True,
    "layer_norm_eps": 1e-5,
}
SECONDS = 10
FEATURES = {  # of ClapFeatureExtractor as the towers were trained, ours: theirs
    "n_fft": ("fft_window_size", 1024),
    "hop_length": ("hop_length", 480),
    "fmin": ("frequency_min", 50.0),
    "fmax": ("frequency_max", 14000.0),
}


class ClapFamily(Family):
    """CLAP's audio tower, HTS-AT, with fusion of long clips or without."""

    encoder = "hts_at"
    written = (HTSAT,)
    architectures = {
        "clap_audio_model": {"ClapAudioModel": "bare", "ClapAudioModelWithProjection": "bare"},
        "clap": {"ClapModel": "bare", "ClapAudioModelWithProjection": "bare"},
    }
    class_bias = ""

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns what a config.json tells of the audio tower, completed by the defaults."""
        own = config.get("audio_config", config)
        for key, value in SUPPORTED.items():
            if own.get(key, value) != value:
                raise UserError(f"{key} is {own[key]!r}; only {value!r} is supported")
        kept = {key: config[key] for key in ("model_type", "architectures") if key in config}
        config = DEFAULTS | own | kept
        if config["enable_fusion"] and own.get("fusion_type") == "channel_map":
            raise UserError("fusion_type is 'channel_map'; only 'aff_2d' is supported")
        stride = config["patch_stride"]
        if list(np.broadcast_to(stride, 2)) != [config["patch_size"]] * 2:
            raise UserError(f"patch_stride is {stride}; only that of patch_size is supported")
        return config

    def num_features(self, config: dict[str, Any]) -> int:
        """Returns the mel bins of the input."""
        return int(config["num_mel_bins"])

    def encoder_options(
        self, config: dict[str, Any], preprocessor: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the options of `HTSAT` that fit a checkpoint."""
        options = {ours: config[theirs] for ours, theirs in OPTIONS.items()}
        options |= {key: tuple(options[key]) for key in ("depths", "heads")}
        rate = preprocessor.get("sampling_rate", 48000)
        hop = preprocessor.get("hop_length", FEATURES["hop_length"][1])
        seconds = preprocessor.get("max_length_s", SECONDS)
        return options | dict(max_frames=int(seconds * rate) // hop + 1)

    def front_end(
        self, config: dict[str, Any], sample_rate: int, preprocessor: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the `frontend` that is CLAP's: decibels of mels.

        They are Slaney's without fusion, HTK's without a norm with it.
        """
        told = {
            ours: type(value)(preprocessor.get(key, value))
            for ours, (key, value) in FEATURES.items()
        }
        fusion = config.get("enable_fusion", False)
        return told | dict(
            repeat_seconds=preprocessor.get("max_length_s", SECONDS) * 1.0,
            win_length=0,
            window="hann",
            center=True,
            pad_mode="reflect",
            n_mels=self.num_features(config),
            htk=fusion,
            mel_norm="none" if fusion else "slaney",
            power=2.0,
            log="db",
            floor=1e-10,
            ref=1.0,
            top_db=None,
            n_mfcc=0,
            preemphasis=0.0,
            normalize="none",
        )

    def leaves_out(self, name: str) -> bool:
        """Returns whether a tensor is not of the audio tower, or no parameter."""
        inside = name.startswith(PREFIXES)
        return not inside or name.endswith(("relative_position_index", "num_batches_tracked"))

    def build(
        self, kind: Kind, encoder: Encoder, config: dict[str, Any], classes: int, rngs: nnx.Rngs
    ) -> Any:
        """Returns the encoder."""
        return encoder

    def entries(self, model: Any, model_type: str, names: Collection[str] = ()) -> Iterator[Entry]:
        """Yields every tensor of an encoder."""
        prefix = next((p for p in PREFIXES if f"{p}norm.weight" in names), "audio_encoder.")
        yield from norm(f"{prefix}batch_norm", ("batch_norm",))
        yield Entry(f"{prefix}batch_norm.running_mean", ("batch_norm", "mean"))
        yield Entry(f"{prefix}batch_norm.running_var", ("batch_norm", "var"))
        kernel = ("embed", "kernel")
        yield Entry(f"{prefix}patch_embed.proj.weight", kernel, None, _image, _image_back)
        yield Entry(f"{prefix}patch_embed.proj.bias", ("embed", "bias"))
        yield from norm(f"{prefix}patch_embed.norm", ("embed_norm",))
        yield from norm(f"{prefix}norm", ("norm",))
        if model.settings.fusion:
            yield from _fusion_entries(f"{prefix}patch_embed")
        for k, depth in enumerate(model.settings.depths):
            for j in range(depth):
                name = f"{prefix}layers.{k}.blocks.{j}"
                yield from _block_entries(name, ("stages", k, j), model.settings.qkv_bias)
            if k < len(model.settings.depths) - 1:
                name = f"{prefix}layers.{k}.downsample"
                yield from norm(f"{name}.norm", ("merges", k, "norm"))
                path = ("merges", k, "reduction", "kernel")
                yield Entry(f"{name}.reduction.weight", path, None, turn, turn)

    def describe(self, stage: ConfigDict, loaded: Loaded) -> None:
        """Sets the clip's length, and an objective for any encoder, as there is no head.

        Of a tower with fusion it is three times as long as what the others hear.
        """
        times = 3.0 if loaded.config["enable_fusion"] else 1.0
        stage.data.seconds = loaded.preprocessor.get("max_length_s", SECONDS) * times
        stage.objective.name = "simclr"

    def config(
        self, model: Any, class_names: tuple[str, ...], model_type: str, multi_label: bool
    ) -> dict[str, Any]:
        """Returns the config.json of an encoder."""
        encoder = cast(HTSAT, encoder_of(model))
        o = vars(encoder.settings)
        config: dict[str, Any] = {theirs: o[ours] for ours, theirs in OPTIONS.items()}
        config |= {key: list(v) for key, v in config.items() if isinstance(v, tuple)}
        return config | dict(
            model_type="clap_audio_model",
            architectures=["ClapAudioModel"],
            num_mel_bins=encoder.num_features,
            patch_stride=[o["patch"]] * 2,
            hidden_size=encoder.features,
            num_hidden_layers=len(o["depths"]),
            fusion_type="aff_2d" if o["fusion"] else None,
            hidden_act="gelu",
            torch_dtype="float32",
        )

    def preprocessor(
        self, model: Any, sample_rate: int, frontend: ConfigDict | None = None
    ) -> dict[str, Any]:
        """Returns the preprocessor_config.json of a model.

        Raises:
          UserError: `frontend` is none that ClapFeatureExtractor computes.
        """
        encoder = cast(HTSAT, encoder_of(model))
        fusion = encoder.settings.fusion
        told = {key: value for key, value in FEATURES.values()}
        if frontend is not None:
            told = {key: frontend[ours] for ours, (key, _) in FEATURES.items()}
        seconds = (encoder.settings.max_frames - 1) * told["hop_length"] / sample_rate
        if frontend is not None:
            its = ConfigDict(frontend.to_dict())
            its.repeat_seconds = its.repeat_seconds or seconds  # else the encoder repeats frames
            config = {"num_mel_bins": encoder.num_features, "enable_fusion": fusion}
            self.require_front_end(config, sample_rate, told | {"max_length_s": seconds}, its)
        return told | dict(
            feature_extractor_type="ClapFeatureExtractor",
            feature_size=encoder.num_features,
            sampling_rate=sample_rate,
            max_length_s=int(seconds) if seconds == int(seconds) else seconds,
            truncation="fusion" if fusion else "rand_trunc",
            padding="repeatpad",
            padding_value=0.0,
            return_attention_mask=False,
        )

    def additional_tensors(self, model: Any) -> dict[str, np.ndarray]:
        """Returns buffers of theirs that are no parameters."""
        encoder = cast(HTSAT, encoder_of(model))
        norms = ["batch_norm"]
        if encoder.settings.fusion:
            norms += [f"patch_embed.{name}" for _, name in _fusion_parts(("norm_in", "norm_out"))]
        tensors = {
            f"audio_encoder.{name}.num_batches_tracked": np.zeros([], np.int64) for name in norms
        }
        for k, stage in enumerate(encoder.stages):
            for j, block in enumerate(stage):
                name = f"audio_encoder.layers.{k}.blocks.{j}.attention.self.relative_position_index"
                tensors[name] = relative_index(block.window).astype(np.int64)
        return tensors


GATES = {"local": ("local_att", 0), "whole": ("global_att", 1)}  # ours: theirs, their first layer
LAYERS = {"linear_in": 0, "norm_in": 1, "linear_out": 3, "norm_out": 4}


def _fusion_parts(layers: Collection[str]) -> Iterator[tuple[tuple, str]]:
    """Yields (our path, their name below `patch_embed`) of layers of both gates."""
    for gate, (name, first) in GATES.items():
        for layer in layers:
            path = ("fusion", gate, layer)
            yield path, f"fusion_model.{name}.{first + LAYERS[layer]}"


def _fusion_entries(name: str) -> Iterator[Entry]:
    kernel = ("fusion", "embed", "kernel")
    yield Entry(f"{name}.mel_conv2d.weight", kernel, None, _image, _image_back)
    yield Entry(f"{name}.mel_conv2d.bias", ("fusion", "embed", "bias"))
    for path, theirs in _fusion_parts(("linear_in", "linear_out")):
        yield Entry(f"{name}.{theirs}.weight", (*path, "kernel"), None, _point, _point_back)
        yield Entry(f"{name}.{theirs}.bias", (*path, "bias"))
    for path, theirs in _fusion_parts(("norm_in", "norm_out")):
        yield from norm(f"{name}.{theirs}", path)
        yield Entry(f"{name}.{theirs}.running_mean", (*path, "mean"))
        yield Entry(f"{name}.{theirs}.running_var", (*path, "var"))


def _block_entries(name: str, own: tuple, qkv_bias: bool) -> Iterator[Entry]:
    for part in ("query", "key", "value"):
        weight = f"{name}.attention.self.{part}"
        yield Entry(f"{weight}.weight", (*own, "attention", part, "kernel"), None, turn, turn)
        if qkv_bias:
            yield Entry(f"{weight}.bias", (*own, "attention", part, "bias"))
    table = f"{name}.attention.self.relative_position_bias_table"
    yield Entry(table, (*own, "attention", "table"))
    yield from linear(f"{name}.attention.output.dense", (*own, "attention", "out"))
    yield from norm(f"{name}.layernorm_before", (*own, "attention_norm"))
    yield from norm(f"{name}.layernorm_after", (*own, "mlp_norm"))
    yield from linear(f"{name}.intermediate.dense", (*own, "mlp_in"))
    yield from linear(f"{name}.output.dense", (*own, "mlp_out"))


def _image(x: np.ndarray) -> np.ndarray:
    """Returns a kernel [out, in, height, width] as [height, width, in, out]."""
    return np.ascontiguousarray(x.transpose(2, 3, 1, 0))


def _image_back(x: np.ndarray) -> np.ndarray:
    return x.transpose(3, 2, 0, 1)


def _point(x: np.ndarray) -> np.ndarray:
    """Returns a kernel [out, in, 1, 1] as that of a linear map [in, out]."""
    return np.ascontiguousarray(x[:, :, 0, 0].T)


def _point_back(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.T)[:, :, None, None]
