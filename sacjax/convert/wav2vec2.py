"""wav2vec 2.0, HuBERT, data2vec-audio and WavLM of transformers, in terms of `Wav2Vec2`.

Bare, ForPreTraining (wav2vec 2.0) and ForSequenceClassification models.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any, cast

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax import objectives
from sacjax.convert import wavlm
from sacjax.convert.base import (
    Entry,
    Family,
    Kind,
    Loaded,
    encoder_of,
    linear,
    norm,
    turn,
)
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
from sacjax.models.wav2vec2 import Wav2Vec2
from sacjax.objectives.wav2vec2 import HUGGINGFACE_OPTIONS, Pretraining, Wav2Vec2Options

CLASS = {
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "data2vec-audio": "Data2VecAudio",
    "wavlm": "WavLM",
}
OPTIONS = {  # of the encoder, ours: theirs
    "conv_channels": "conv_dim",
    "conv_kernels": "conv_kernel",
    "conv_strides": "conv_stride",
    "conv_bias": "conv_bias",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "positional_groups": "num_conv_pos_embedding_groups",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "projection_dropout": "feat_proj_dropout",
    "layer_drop": "layerdrop",
    "mask_span": "mask_time_length",
    "mask_feature_probability": "mask_feature_prob",
    "mask_feature_span": "mask_feature_length",
}
DEFAULTS = {  # of transformers' configs, for keys that a config.json does not have
    "activation_dropout": 0.1,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.1,
    "mask_time_prob": 0.05,
    "mask_feature_length": 10,
    "classifier_proj_size": 256,
}
SUPPORTED = {  # values that the encoder has; where a key is absent, transformers has the same
    "feat_extract_activation": "gelu",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "add_adapter": False,
    "conv_pos_batch_norm": False,
}
STACK = dict(num_conv_pos_embeddings=5, conv_pos_kernel_size=19)  # those of data2vec-audio
# The last hidden state of the pre-norm order is the one after the final norm up to transformers
# 5.15, and the one before it from 5.16 on; both are what weights over layers were trained on.
NORMED_BELOW = (5, 16)


class Wav2Vec2Family(Family):
    """wav2vec 2.0, HuBERT, data2vec-audio and WavLM."""

    encoder = "wav2vec2"
    written = (Wav2Vec2, Pretraining, Classifier)
    architectures = {
        "wav2vec2": {
            "Wav2Vec2Model": "bare",
            "Wav2Vec2ForPreTraining": "pretraining",
            "Wav2Vec2ForSequenceClassification": "classification",
        },
        "hubert": {
            "HubertModel": "bare",
            "HubertForSequenceClassification": "classification",
        },
        "data2vec-audio": {
            "Data2VecAudioModel": "bare",
            "Data2VecAudioForSequenceClassification": "classification",
        },
        "wavlm": {
            "WavLMModel": "bare",
            "WavLMForSequenceClassification": "classification",
        },
    }
    class_bias = BIAS

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns a config.json with transformers' defaults where keys are absent."""
        for key, value in SUPPORTED.items():
            if config.get(key, value) != value:
                raise UserError(f"{key} is {config[key]!r}; only {value!r} is supported")
        own = {"data2vec-audio": STACK, "wavlm": wavlm.DEFAULTS}.get(config["model_type"], {})
        return DEFAULTS | own | config

    def encoder_options(
        self, config: dict[str, Any], preprocessor: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the options of `Wav2Vec2` that fit a checkpoint.

        `normalize_input` is its preprocessor's do_normalize. `normed_last_state` is set where the
        checkpoint has weights over layers, was written by a transformers whose last hidden state is
        normed (5.15 and before), and the order of norms makes that a difference. A config.json
        without `transformers_version` counts as an old one: those that do not tell it are.
        """
        options: dict[str, Any] = {
            ours: config[theirs] for ours, theirs in OPTIONS.items() if theirs in config
        }
        options |= {
            key: tuple(options[key])
            for key in ("conv_channels", "conv_kernels", "conv_strides")
            if key in options
        }
        if config["model_type"] == "wavlm":
            options |= wavlm.options(config)
        options["pre_norm"] = bool(config.get("do_stable_layer_norm", False))
        summed = bool(config.get("use_weighted_layer_sum", False))
        if summed and options["pre_norm"] and _version(config) < NORMED_BELOW:
            options["normed_last_state"] = True
        stack = config["model_type"] == "data2vec-audio"
        options["conv_norm"] = "layer" if stack else config.get("feat_extract_norm", "group")
        options["positional_kernel"] = (
            config["conv_pos_kernel_size"] if stack else config.get("num_conv_pos_embeddings", 128)
        )
        options["positional_layers"] = config["num_conv_pos_embeddings"] if stack else 1
        options["projection_norm"] = bool(config.get("feat_proj_layer_norm", True))
        augment = config.get("apply_spec_augment", True)
        options["mask_probability"] = config["mask_time_prob"] if augment else 0.0
        if not augment:
            options["mask_feature_probability"] = 0.0
        # Where no preprocessor tells: normalized waveforms go with layer norm, raw ones with group
        # norm (fairseq 2839).
        options["normalize_input"] = bool(
            preprocessor.get("do_normalize", options["conv_norm"] == "layer")
        )
        options["feature_gradient_scale"] = 1.0 if options["conv_norm"] == "layer" else 0.1
        return options

    def build(
        self, kind: Kind, encoder: Encoder, config: dict[str, Any], classes: int, rngs: nnx.Rngs
    ) -> Any:
        """Returns the encoder, a `Pretraining` or a `Classifier` of it."""
        if kind == "bare":
            return encoder
        if kind == "pretraining":
            return Pretraining(cast(Wav2Vec2, encoder), objective_options(config), rngs)
        return build_classifier(encoder, config, classes, rngs)

    def entries(self, model: Any, model_type: str, names: Collection[str] = ()) -> Iterator[Entry]:
        """Yields every tensor of a model."""
        old = any(name.endswith("pos_conv_embed.conv.weight_g") for name in names)
        if isinstance(model, Wav2Vec2):
            yield from _encoder_entries(model, old, "", ())
            return
        prefix = f"{model_type.replace('-', '_')}."
        yield from _encoder_entries(model.encoder, old, prefix, ("encoder",))
        if isinstance(model, Pretraining):
            yield from _pretraining_entries(model)
        else:
            yield from classifier_entries(model)

    def describe(self, stage: ConfigDict, loaded: Loaded) -> None:
        """Sets in a stage what would build a checkpoint's head."""
        if loaded.kind == "classification":
            stage.model.layers = "last" if loaded.model.layer_weights is None else "weighted"
            stage.model.projection = loaded.model.project.out_features
            return
        stage.objective.name = next(
            name for name, kind in objectives.OBJECTIVES.items() if kind.Options is Wav2Vec2Options
        )
        if loaded.kind == "pretraining":
            stage.objective.options = ConfigDict(_changed(loaded.model.options))

    def config(
        self, model: Any, class_names: tuple[str, ...], model_type: str, multi_label: bool
    ) -> dict[str, Any]:
        """Returns the config.json of a model."""
        o = cast(Wav2Vec2, encoder_of(model)).options
        model_type = "wavlm" if o["relative_buckets"] else model_type or _model_type(o)
        head = "Model"
        if isinstance(model, Pretraining):
            head = "ForPreTraining"
        elif isinstance(model, Classifier):
            head = "ForSequenceClassification"
        config = _encoder_config(o, masked=isinstance(model, Pretraining))
        config["model_type"] = model_type
        if isinstance(model, Pretraining):
            ours = vars(model.options)
            config |= {theirs: ours[name] for name, theirs in HUGGINGFACE_OPTIONS.items()}
        elif isinstance(model, Classifier):
            config |= _classifier_config(model, class_names, multi_label)
        architecture = CLASS[model_type] + head
        if architecture not in self.architectures[model_type]:
            raise UserError(f"transformers has no {architecture}")
        return config | {"architectures": [architecture]}

    def preprocessor(
        self, model: Any, sample_rate: int, frontend: ConfigDict | None = None
    ) -> dict[str, Any]:
        """Returns the preprocessor_config.json of a model.

        Raises:
          UserError: `frontend` cuts silence, which Wav2Vec2FeatureExtractor does not.
        """
        if frontend is not None:
            self.require_front_end({}, sample_rate, {}, frontend)
        return dict(
            feature_extractor_type="Wav2Vec2FeatureExtractor",
            do_normalize=cast(Wav2Vec2, encoder_of(model)).normalize_input,
            feature_size=1,
            padding_side="right",
            padding_value=0.0,
            sampling_rate=sample_rate,
            # Their group norm models were trained without a mask, ours never see padding.
            return_attention_mask=True,
        )

    def additional_tensors(self, model: Any) -> dict[str, np.ndarray]:
        """Returns an identity as the projection of a classifier without one."""
        return identity_projector(model)


def objective_options(config: dict[str, Any]) -> Wav2Vec2Options:
    """Returns the options of the objective that a config.json tells, ours for what it does not."""
    theirs = HUGGINGFACE_OPTIONS.items()
    return Wav2Vec2Options(**{ours: config[key] for ours, key in theirs if key in config})


def _changed(options: Wav2Vec2Options) -> dict[str, Any]:
    """Returns the options that are not the default."""
    default = Wav2Vec2Options()
    return {key: value for key, value in vars(options).items() if value != getattr(default, key)}


def _version(config: dict[str, Any]) -> tuple[int, int]:
    """Returns (major, minor) of the transformers that wrote a config.json; (0, 0) if not told."""
    found = re.match(r"(\d+)\.(\d+)", str(config.get("transformers_version", "")))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _pretraining_entries(model: Pretraining) -> Iterator[Entry]:
    shape = model.quantizer.codebook.shape
    flat, deep = (1, -1, shape[-1]), tuple(shape)
    yield Entry(
        "quantizer.codevectors",
        ("quantizer", "codebook"),
        load=lambda x: x.reshape(deep),
        save=lambda x: x.reshape(flat),
    )
    yield from linear("quantizer.weight_proj", ("quantizer", "logits"))
    yield from linear("project_hid", ("project_hidden",))
    yield from linear("project_q", ("project_quantized",))


def _encoder_entries(encoder: Wav2Vec2, old: bool, prefix: str, path: tuple) -> Iterator[Entry]:
    """Yields the encoder's tensors.

    Args:
      encoder: ours.
      old: whether the weight norm is spelled as before torch 2: `weight_g`, `weight_v`.
      prefix: of their names, inside a model with a head.
      path: of the encoder in our model.
    """
    for i, conv in enumerate(encoder.conv):
        name = f"{prefix}feature_extractor.conv_layers.{i}"
        yield Entry(f"{name}.conv.weight", (*path, "conv", i, "conv", "kernel"), None, turn, turn)
        if conv.conv.bias is not None:
            yield Entry(f"{name}.conv.bias", (*path, "conv", i, "conv", "bias"))
        if conv.norm is not None:
            yield from norm(f"{name}.layer_norm", (*path, "conv", i, "norm"))
    if encoder.projection.norm is not None:
        yield from norm(f"{prefix}feature_projection.layer_norm", (*path, "projection", "norm"))
    yield from linear(f"{prefix}feature_projection.projection", (*path, "projection", "linear"))
    # transformers leaves it out where its config masks nothing.
    yield Entry(f"{prefix}masked_spec_embed", (*path, "mask_embedding"), absent=_mask_embedding)
    yield from _positional_entries(encoder, old, f"{prefix}encoder.pos_conv_embed", path)
    final = "final_norm" if encoder.transformer.input_norm is None else "input_norm"
    yield from norm(f"{prefix}encoder.layer_norm", (*path, "transformer", final))
    if encoder.transformer.relative is not None:
        yield wavlm.table_entry(f"{prefix}encoder.layers.0.attention", (*path, "transformer"))
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    for i in range(encoder.depth):
        name, own = f"{prefix}encoder.layers.{i}", (*path, "transformer", "layers")
        for theirs, ours in parts.items():
            yield from linear(f"{name}.attention.{theirs}", (*own, "attention", ours), i)
        if encoder.transformer.relative is not None:
            yield from wavlm.gate_entries(f"{name}.attention", (*own, "attention", "gate"), i)
        yield from norm(f"{name}.layer_norm", (*own, "attention_norm"), i)
        yield from linear(f"{name}.feed_forward.intermediate_dense", (*own, "mlp_in"), i)
        yield from linear(f"{name}.feed_forward.output_dense", (*own, "mlp_out"), i)
        yield from norm(f"{name}.final_layer_norm", (*own, "mlp_norm"), i)


def _positional_entries(
    encoder: Wav2Vec2, old: bool, position: str, path: tuple
) -> Iterator[Entry]:
    g, v = (f"parametrizations.weight.original{k}" for k in (0, 1))
    if old:
        g, v = "weight_g", "weight_v"
    for i, layer in enumerate(encoder.positional):
        own = (*path, "positional", i)
        if layer.scale is None:
            name = f"{position}.layers.{i}.conv"
            yield Entry(f"{name}.weight", (*own, "kernel"), None, turn, turn)
        else:
            name = f"{position}.conv"
            yield Entry(
                f"{name}.{g}", (*own, "scale"), None, np.ravel, lambda x: x.reshape(1, 1, -1)
            )
            yield Entry(f"{name}.{v}", (*own, "kernel"), None, turn, turn)
        yield Entry(f"{name}.bias", (*own, "bias"))


def _mask_embedding(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a mask embedding, uniform as theirs is at the start."""
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def _model_type(options: dict[str, Any]) -> str:
    if options["positional_layers"] > 1:
        return "data2vec-audio"
    return "wav2vec2" if options["projection_norm"] else "hubert"


def _encoder_config(o: dict[str, Any], masked: bool) -> dict[str, Any]:
    """Returns what config.json tells of the encoder.

    Args:
      o: the options of `Wav2Vec2`.
      masked: whether the objective masks, whatever the options of fine-tuning say.
    """
    stack = o["positional_layers"] > 1
    config: dict[str, Any] = {theirs: o[ours] for ours, theirs in OPTIONS.items()}
    config |= {key: list(value) for key, value in config.items() if isinstance(value, tuple)}
    # transformers has the mask embedding only where it may be used, and its pretraining ignores the
    # masks that it is given where `apply_spec_augment` is off.
    masks = masked or o["mask_probability"] or o["mask_feature_probability"]
    config |= dict(
        feat_extract_norm=o["conv_norm"],
        do_stable_layer_norm=o["pre_norm"],
        num_feat_extract_layers=len(o["conv_channels"]),
        feat_extract_activation="gelu",
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        feat_proj_layer_norm=o["projection_norm"],
        final_dropout=0.0,
        torch_dtype="float32",
        num_conv_pos_embeddings=o["positional_layers"] if stack else o["positional_kernel"],
        apply_spec_augment=bool(masks),
        mask_time_prob=o["mask_probability"] or 0.05,
    )
    if o["relative_buckets"]:
        config |= wavlm.config(o)
    if stack:
        config["conv_pos_kernel_size"] = o["positional_kernel"]
    return config


def _classifier_config(
    model: Classifier, class_names: tuple[str, ...], multi_label: bool
) -> dict[str, Any]:
    """Returns what config.json tells of a classifier's head. Raises UserError.

    transformers gives the predictions of weights over layers of a pre-norm encoder only in a
    version whose last hidden state is the one that they were trained on; `transformers_version`
    tells such a version.
    """
    config = classifier_config(model, class_names, multi_label)
    if config["use_weighted_layer_sum"]:
        normed = cast(Wav2Vec2, model.encoder).normed_last_state
        config["transformers_version"] = "5.15.0" if normed else "5.16.0"
    return config
