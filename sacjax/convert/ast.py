"""AST, the Audio Spectrogram Transformer (Gong et al. 2021), as transformers has it.

Its input is a log-mel of Kaldi's filter bank, brought to (x - mean) / (2 std); see `front_end`.
"""

from collections.abc import Collection, Iterator
from typing import Any, cast

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax.convert.base import (
    Change,
    Entry,
    Family,
    Kind,
    Loaded,
    encoder_of,
    label_config,
    linear,
    norm,
    turn,
)
from sacjax.errors import UserError
from sacjax.models.base import Encoder
from sacjax.models.classifier import Classifier
from sacjax.models.spectrogram_transformer import SpectrogramTransformer

MODEL_TYPE = "audio-spectrogram-transformer"
PREFIX = "audio_spectrogram_transformer."
OPTIONS = {  # of the encoder, ours: theirs
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "stride_frames": "time_stride",
    "stride_bands": "frequency_stride",
    "max_frames": "max_length",
    "qkv_bias": "qkv_bias",
    "norm_epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
DEFAULTS = {  # of transformers' ASTConfig, for keys that a config.json does not have
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "patch_size": 16,
    "qkv_bias": True,
    "frequency_stride": 10,
    "time_stride": 10,
    "max_length": 1024,
    "num_mel_bins": 128,
}
FIXED = dict(  # what AST is beside its config.json
    positions="learned", class_tokens=2, output="class", pre_norm=True
)
AUDIOSET = dict(mean=-4.2677393, std=4.5689974)  # of the preprocessor, where it does not tell


class ASTFamily(Family):
    """AST: patches of a log-mel, a class token and DeiT's distillation token."""

    encoder = "spectrogram_transformer"
    written = (SpectrogramTransformer, Classifier)
    architectures = {
        MODEL_TYPE: {"ASTModel": "bare", "ASTForAudioClassification": "classification"}
    }
    class_bias = "classifier.dense.bias"

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns a config.json with transformers' defaults where keys are absent."""
        if config.get("hidden_act", "gelu") != "gelu":
            raise UserError(f"hidden_act is {config['hidden_act']!r}; only 'gelu' is supported")
        return DEFAULTS | config

    def num_features(self, config: dict[str, Any]) -> int:
        """Returns the mel bins of the input."""
        return int(config["num_mel_bins"])

    def encoder_options(
        self, config: dict[str, Any], preprocessor: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the options of `SpectrogramTransformer` that fit a checkpoint."""
        options = {ours: config[theirs] for ours, theirs in OPTIONS.items()}
        size = config["patch_size"]
        bands, frames = size if isinstance(size, list | tuple) else (size, size)
        return options | dict(patch_frames=frames, patch_bands=bands) | FIXED

    def front_end(
        self, config: dict[str, Any], sample_rate: int, preprocessor: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the `frontend` that comes nearest to its feature extractor's."""
        return front_end(self.num_features(config), sample_rate, preprocessor)

    def build(
        self, kind: Kind, encoder: Encoder, config: dict[str, Any], classes: int, rngs: nnx.Rngs
    ) -> Any:
        """Returns the encoder, or a `Classifier` of it."""
        if kind == "bare":
            return encoder
        return Classifier(encoder, pooling="mean", head_norm=True, num_classes=classes, rngs=rngs)

    def entries(self, model: Any, model_type: str, names: Collection[str] = ()) -> Iterator[Entry]:
        """Yields every tensor of a model; when reading, the mask embedding too, which is fresh."""
        bare = isinstance(model, SpectrogramTransformer)
        path: tuple = () if bare else ("encoder",)
        encoder = cast(SpectrogramTransformer, encoder_of(model))
        if names:
            yield Entry("mask_embedding", (*path, "mask_embedding"), absent=_mask_embedding)
        yield from _encoder_entries(encoder, "" if bare else PREFIX, path)
        if not bare:
            yield from norm("classifier.layernorm", ("head_norm",))
            yield from linear("classifier.dense", ("head",))

    def describe(self, stage: ConfigDict, loaded: Loaded) -> None:
        """Sets in a stage what would build a checkpoint's head."""
        if loaded.kind == "classification":
            stage.model.pooling, stage.model.head_norm = "mean", True
        else:
            stage.objective.name = "masked_autoencoder"

    def config(
        self, model: Any, class_names: tuple[str, ...], model_type: str, multi_label: bool
    ) -> dict[str, Any]:
        """Returns the config.json of a model. Raises UserError for what AST does not have."""
        encoder = cast(SpectrogramTransformer, encoder_of(model))
        o = encoder.options
        for name, value in FIXED.items():
            if o[name] != value and name != "output":
                raise UserError(
                    f"model.encoder.{name}={o[name]} has no counterpart in transformers' AST: "
                    f"only {value} is written"
                )
        config: dict[str, Any] = {theirs: o[ours] for ours, theirs in OPTIONS.items()}
        frames, bands = encoder.patch
        config |= dict(
            model_type=MODEL_TYPE,
            architectures=["ASTModel"],
            patch_size=frames if frames == bands else [bands, frames],
            time_stride=encoder.stride[0],
            frequency_stride=encoder.stride[1],
            num_mel_bins=encoder.num_features,
            hidden_act="gelu",
            torch_dtype="float32",
        )
        if not isinstance(model, Classifier):
            return config
        _check_head(model)
        config |= label_config(class_names, model.head.out_features, multi_label)
        return config | dict(architectures=["ASTForAudioClassification"])

    def preprocessor(
        self, model: Any, sample_rate: int, frontend: ConfigDict | None = None
    ) -> dict[str, Any]:
        """Returns the preprocessor_config.json of a model.

        Args:
          model: as `build` returns it.
          sample_rate: Hz.
          frontend: of the model's stage. Its mean and deviation are told where they are global.
            Without it do_normalize is off, as nothing is known of them.

        Raises:
          UserError: `frontend` is not near to what ASTFeatureExtractor computes.
        """
        encoder = cast(SpectrogramTransformer, encoder_of(model))
        statistics, known = AUDIOSET, False
        if frontend is not None:
            statistics = dict(mean=frontend.mean, std=frontend.std / 2)
            known = frontend.normalize == "global"
            config, told = {"num_mel_bins": encoder.num_features}, {"do_normalize": known}
            self.require_front_end(config, sample_rate, statistics | told, frontend)
        return dict(
            feature_extractor_type="ASTFeatureExtractor",
            do_normalize=known,
            num_mel_bins=encoder.num_features,
            max_length=encoder.settings.max_frames,
            sampling_rate=sample_rate,
            feature_size=1,
            padding_side="right",
            padding_value=0.0,
            return_attention_mask=False,
            **statistics,
        )


def front_end(
    bands: int, sample_rate: int, preprocessor: dict[str, Any]
) -> dict[str, int | float | str | bool | None]:
    """Returns the `frontend` that comes nearest to AST's feature extractor.

    That is Kaldi's filter bank: windows of 25 ms every 10 ms (here within 32 ms of sound), less
    their mean (not here), pre-emphasis (here of the whole clip), power, mels that are triangles in
    mels (here in Hz), natural logarithm; then (x - mean) / (2 std). It pads with zeros to
    `max_length` before that; here padding is left out.

    Args:
      bands: mel bins.
      sample_rate: Hz.
      preprocessor: preprocessor_config.json, of which `mean` and `std` are taken.
    """
    statistics = AUDIOSET | preprocessor
    normalized = preprocessor.get("do_normalize", True)
    return dict(
        repeat_seconds=0.0,
        n_fft=2 ** int(np.ceil(np.log2(0.025 * sample_rate))),
        win_length=round(0.025 * sample_rate),
        hop_length=round(0.010 * sample_rate),
        center=False,
        n_mels=bands,
        fmin=20.0,
        fmax=0.0,
        htk=True,
        mel_norm="none",
        power=2.0,
        log="natural",
        floor=float(np.finfo(np.float32).eps),
        top_db=None,
        preemphasis=0.97,
        normalize="global" if normalized else "none",
        mean=float(statistics["mean"]),
        std=2 * float(statistics["std"]),
    )


def _check_head(model: Classifier) -> None:
    """Raises UserError for a head that AST does not have."""
    encoder = cast(SpectrogramTransformer, model.encoder)
    good = dict(
        pooling=(model.pooling.kind, "mean"),
        layers=("weighted" if model.layer_weights is not None else "last", "last"),
        projection=(0 if model.project is None else model.project.out_features, 0),
        head_norm=(model.head_norm is not None, True),
        hidden=(0 if model.hidden is None else model.hidden.out_features, 0),
    )
    good["encoder.output"] = (encoder.settings.output, "class")
    for name, (value, wanted) in good.items():
        if value != wanted:
            raise UserError(
                f"model.{name}={value} has no counterpart in transformers' AST: only {wanted} is "
                "written"
            )


def _encoder_entries(encoder: SpectrogramTransformer, prefix: str, path: tuple) -> Iterator[Entry]:
    at = f"{prefix}embeddings"
    flat, deep = np.ravel, lambda x: x.reshape(1, 1, -1)
    classes = (*path, "class_embedding")
    yield Entry(f"{at}.cls_token", classes, 0, flat, deep)
    yield Entry(f"{at}.distillation_token", classes, 1, flat, deep)
    load, save = _positions(encoder)
    yield Entry(f"{at}.position_embeddings", (*path, "positions"), None, load, save)
    load, save = _kernel(encoder.patch)
    name = f"{at}.patch_embeddings.projection"
    yield Entry(f"{name}.weight", (*path, "embed", "kernel"), None, load, save)
    yield Entry(f"{name}.bias", (*path, "embed", "bias"))
    yield from norm(f"{prefix}layernorm", (*path, "transformer", "final_norm"))
    for i in range(encoder.depth):
        yield from _layer_entries(
            encoder, f"{prefix}encoder.layer.{i}", (*path, "transformer", "layers"), i
        )


def _layer_entries(
    encoder: SpectrogramTransformer, name: str, own: tuple, layer: int
) -> Iterator[Entry]:
    for part in ("query", "key", "value"):
        weight = f"{name}.attention.attention.{part}"
        yield Entry(f"{weight}.weight", (*own, "attention", part, "kernel"), layer, turn, turn)
        if encoder.settings.qkv_bias:
            yield Entry(f"{weight}.bias", (*own, "attention", part, "bias"), layer)
    yield from linear(f"{name}.attention.output.dense", (*own, "attention", "out"), layer)
    yield from norm(f"{name}.layernorm_before", (*own, "attention_norm"), layer)
    yield from linear(f"{name}.intermediate.dense", (*own, "mlp_in"), layer)
    yield from linear(f"{name}.output.dense", (*own, "mlp_out"), layer)
    yield from norm(f"{name}.layernorm_after", (*own, "mlp_norm"), layer)


def _kernel(patch: tuple[int, int]) -> tuple[Change, Change]:
    """Returns how the patches' kernel is brought here and back: [D, 1, bands, frames] ↔ [P, D]."""

    def load(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x[:, 0].transpose(2, 1, 0).reshape(-1, len(x)))

    def save(x: np.ndarray) -> np.ndarray:
        return x.reshape(*patch, -1).transpose(2, 1, 0)[:, None]

    return load, save


def _positions(encoder: SpectrogramTransformer) -> tuple[Change, Change]:
    """Returns how positions are brought here and back.

    Theirs go through the bands one after the other, each in time. Of more columns than ours have,
    the first are taken; fewer are interpolated in time.
    """
    classes, bands = encoder.classes, encoder.bands
    columns = (len(cast(Any, encoder.positions)) - classes) // bands

    def load(x: np.ndarray) -> np.ndarray:
        grid = x[0, classes:].reshape(bands, -1, x.shape[-1]).transpose(1, 0, 2)
        grid = fit(grid, columns)
        return np.concatenate([x[0, :classes], grid.reshape(-1, x.shape[-1])])

    def save(x: np.ndarray) -> np.ndarray:
        grid = x[classes:].reshape(columns, bands, -1).transpose(1, 0, 2)
        return np.concatenate([x[:classes], grid.reshape(columns * bands, -1)])[None]

    return load, save


def fit(grid: np.ndarray, columns: int) -> np.ndarray:
    """Returns positions [columns, bands, D] of [other columns, bands, D].

    Of more columns the first are taken, as the encoder does with a shorter clip; fewer are
    interpolated linearly, as by PyTorch's `interpolate` with align_corners=False.
    """
    if columns <= len(grid):
        return grid[:columns]
    places = (np.arange(columns) + 0.5) * len(grid) / columns - 0.5
    places = np.clip(places, 0, len(grid) - 1)
    low = np.floor(places).astype(int)
    share = (places - low)[:, None, None].astype(grid.dtype)
    high = np.minimum(low + 1, len(grid) - 1)
    return (1 - share) * grid[low] + share * grid[high]


def _mask_embedding(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a fresh mask embedding, which AST does not have."""
    return np.random.default_rng(0).normal(0, 0.02, shape).astype(np.float32)
