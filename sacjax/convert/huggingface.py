"""wav2vec 2.0, HuBERT and data2vec-audio checkpoints as transformers' `save_pretrained` writes.

A folder with config.json and safetensors. Read: bare, ForPreTraining (wav2vec 2.0) and
ForSequenceClassification models. Nothing is ever unpickled.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.errors import UserError, first_line
from sacjax.models.classifier import Classifier
from sacjax.models.wav2vec2 import Wav2Vec2
from sacjax.objectives.wav2vec2 import HUGGINGFACE_OPTIONS, Pretraining, Wav2Vec2Options

PREFIX = {"wav2vec2": "wav2vec2.", "hubert": "hubert.", "data2vec-audio": "data2vec_audio."}
CLASS = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "data2vec-audio": "Data2VecAudio"}
HEADS = {
    "Model": "bare",
    "ForPreTraining": "pretraining",
    "ForSequenceClassification": "classification",
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
STACK = dict(num_conv_pos_embeddings=5, conv_pos_kernel_size=19)  # those of data2vec-audio
SEVERAL = "multi_label_classification"
# The last hidden state of the pre-norm order is the one after the final norm up to transformers
# 5.15, and the one before it from 5.16 on; both are what weights over layers were trained on.
NORMED_BELOW = (5, 16)
Change = Callable[[np.ndarray], np.ndarray]


class Loaded(NamedTuple):
    """A checkpoint in our terms."""

    kind: str  # bare | pretraining | classification
    model: Any  # Wav2Vec2 | Pretraining | Classifier, in evaluation mode
    encoder_options: dict[str, Any]  # of `Wav2Vec2`
    sample_rate: int  # Hz
    class_names: tuple[str, ...]
    config: dict[str, Any]  # config.json


class Entry(NamedTuple):
    """A tensor: its name there, its path and layer here, and how it is brought here and back."""

    theirs: str
    ours: tuple
    layer: int | None
    load: Change
    save: Change


def folder_of(where: str) -> str | None:
    """Returns PATH of `hf:PATH`, as `init_from` and `--checkpoint` name it; else None."""
    return where.removeprefix("hf:") if where.startswith("hf:") else None


def same(x: np.ndarray) -> np.ndarray:
    """Returns it as it is."""
    return x


def turn(x: np.ndarray) -> np.ndarray:
    """Returns it with its axes in reverse: a linear map's, or [out, in, k] ↔ [k, in, out]."""
    return np.ascontiguousarray(x.T)


def entries(
    model: Any, weight_norm: str = "parametrizations", prefix: str = "wav2vec2."
) -> Iterator[Entry]:
    """Yields every tensor of a model.

    Args:
      model: a `Wav2Vec2`, or a `Pretraining` or `Classifier` of one.
      weight_norm: how the weight norm's two tensors are spelled: `parametrizations` (torch 2) or
        `weight_g`.
      prefix: of the encoder's names inside a model with a head.
    """
    if isinstance(model, Wav2Vec2):
        yield from _encoder_entries(model, weight_norm, "", ())
        return
    yield from _encoder_entries(model.encoder, weight_norm, prefix, ("encoder",))
    if isinstance(model, Pretraining):
        shape = model.quantizer.codebook.shape
        flat, deep = (1, -1, shape[-1]), tuple(shape)
        yield Entry(
            "quantizer.codevectors",
            ("quantizer", "codebook"),
            None,
            lambda x: x.reshape(deep),
            lambda x: x.reshape(flat),
        )
        yield from _linear("quantizer.weight_proj", ("quantizer", "logits"))
        yield from _linear("project_hid", ("project_hidden",))
        yield from _linear("project_q", ("project_quantized",))
    else:
        if model.layer_weights is not None:
            yield Entry("layer_weights", ("layer_weights",), None, same, same)
        if model.project is not None:
            yield from _linear("projector", ("project",))
        yield from _linear("classifier", ("head",))


def _linear(theirs: str, ours: tuple, layer: int | None = None) -> Iterator[Entry]:
    yield Entry(f"{theirs}.weight", (*ours, "kernel"), layer, turn, turn)
    yield Entry(f"{theirs}.bias", (*ours, "bias"), layer, same, same)


def _norm(theirs: str, ours: tuple, layer: int | None = None) -> Iterator[Entry]:
    yield Entry(f"{theirs}.weight", (*ours, "scale"), layer, same, same)
    yield Entry(f"{theirs}.bias", (*ours, "bias"), layer, same, same)


def _encoder_entries(
    encoder: Wav2Vec2, weight_norm: str, prefix: str, path: tuple
) -> Iterator[Entry]:
    for i, conv in enumerate(encoder.conv):
        name = f"{prefix}feature_extractor.conv_layers.{i}"
        yield Entry(f"{name}.conv.weight", (*path, "conv", i, "conv", "kernel"), None, turn, turn)
        if conv.conv.bias is not None:
            yield Entry(f"{name}.conv.bias", (*path, "conv", i, "conv", "bias"), None, same, same)
        if conv.norm is not None:
            yield from _norm(f"{name}.layer_norm", (*path, "conv", i, "norm"))
    if encoder.projection.norm is not None:
        yield from _norm(f"{prefix}feature_projection.layer_norm", (*path, "projection", "norm"))
    yield from _linear(f"{prefix}feature_projection.projection", (*path, "projection", "linear"))
    yield Entry(f"{prefix}masked_spec_embed", (*path, "mask_embedding"), None, same, same)
    position = f"{prefix}encoder.pos_conv_embed"
    for i, layer in enumerate(encoder.positional):
        own = (*path, "positional", i)
        if layer.scale is None:
            name = f"{position}.layers.{i}.conv"
            yield Entry(f"{name}.weight", (*own, "kernel"), None, turn, turn)
        else:
            name = f"{position}.conv"
            g, v = {
                "parametrizations": (
                    "parametrizations.weight.original0",
                    "parametrizations.weight.original1",
                ),
                "weight_g": ("weight_g", "weight_v"),
            }[weight_norm]
            yield Entry(
                f"{name}.{g}", (*own, "scale"), None, np.ravel, lambda x: x.reshape(1, 1, -1)
            )
            yield Entry(f"{name}.{v}", (*own, "kernel"), None, turn, turn)
        yield Entry(f"{name}.bias", (*own, "bias"), None, same, same)
    final = "final_norm" if encoder.transformer.input_norm is None else "input_norm"
    yield from _norm(f"{prefix}encoder.layer_norm", (*path, "transformer", final))
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    for i in range(encoder.depth):
        name, own = f"{prefix}encoder.layers.{i}", (*path, "transformer", "layers")
        for theirs, ours in parts.items():
            yield from _linear(f"{name}.attention.{theirs}", (*own, "attention", ours), i)
        yield from _norm(f"{name}.layer_norm", (*own, "attention_norm"), i)
        yield from _linear(f"{name}.feed_forward.intermediate_dense", (*own, "mlp_in"), i)
        yield from _linear(f"{name}.feed_forward.output_dense", (*own, "mlp_out"), i)
        yield from _norm(f"{name}.final_layer_norm", (*own, "mlp_norm"), i)


def read_config(path: str | Path) -> dict[str, Any]:
    """Returns config.json of a folder, with transformers' defaults where keys are absent.

    Raises:
      UserError: there is none, or it is of an architecture that is not supported.
    """
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(
            f"hf:{path}: there is no config.json in it; give a folder that save_pretrained wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    kind = config.get("model_type")
    if kind not in PREFIX:
        raise UserError(f"{file}: model_type is '{kind}'; known are {', '.join(PREFIX)}")
    wanted = {
        "feat_extract_activation": "gelu",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "add_adapter": False,
        "conv_pos_batch_norm": False,
    }
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise UserError(f"{file}: {key} is {config[key]!r}; only {value!r} is supported")
    return DEFAULTS | (STACK if kind == "data2vec-audio" else {}) | config


def read_preprocessor(path: str | Path) -> dict[str, Any]:
    """Returns preprocessor_config.json of a folder, or {} where there is none."""
    file = Path(path) / "preprocessor_config.json"
    try:
        return json.loads(file.read_text()) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def encoder_options(path: str | Path) -> dict[str, Any]:
    """Returns the options of `Wav2Vec2` that fit a folder's checkpoint.

    `normalize_input` is its preprocessor's do_normalize. `normed_last_state` is set where the
    checkpoint has weights over layers, was written by a transformers whose last hidden state is
    normed (5.15 and before), and the order of norms makes that a difference. A config.json without
    `transformers_version` counts as an old one: those that do not tell it are.

    Raises:
      UserError: as `read_config` says.
    """
    with _readable(path):
        return _encoder_options(path)


@contextlib.contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Tells in one line of values in a folder's JSON files that are of another kind than theirs."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"hf:{path}: its config.json or preprocessor_config.json does not describe a model "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def _encoder_options(path: str | Path) -> dict[str, Any]:
    config, preprocessor = read_config(path), read_preprocessor(path)
    options: dict[str, Any] = {
        ours: config[theirs] for ours, theirs in OPTIONS.items() if theirs in config
    }
    options |= {
        key: tuple(options[key])
        for key in ("conv_channels", "conv_kernels", "conv_strides")
        if key in options
    }
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
    # Where no preprocessor tells: normalized waveforms go with layer norm, raw ones with group norm
    # (fairseq 2839).
    options["normalize_input"] = bool(
        preprocessor.get("do_normalize", options["conv_norm"] == "layer")
    )
    options["feature_gradient_scale"] = 1.0 if options["conv_norm"] == "layer" else 0.1
    return options


def _version(config: dict[str, Any]) -> tuple[int, int]:
    """Returns (major, minor) of the transformers that wrote a config.json; (0, 0) if not told."""
    found = re.match(r"(\d+)\.(\d+)", str(config.get("transformers_version", "")))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def load_huggingface(path: str | Path, **changes: Any) -> Loaded:
    """Reads a checkpoint's folder.

    Args:
      path: the folder.
      **changes: encoder options to set otherwise than the checkpoint says, such as `dtype`,
        `remat` or `norm_padding`.

    Raises:
      UserError: a folder without config.json or safetensors, another architecture, a truncated
        file, or tensors that are missing, unknown or of another shape; it lists them.
    """
    with _readable(path):
        return _load(Path(path), changes)


def _load(path: Path, changes: dict[str, Any]) -> Loaded:
    config = read_config(path)
    architecture = (config.get("architectures") or [CLASS[config["model_type"]] + "Model"])[0]
    kind = HEADS.get(architecture.removeprefix(CLASS[config["model_type"]]))
    if kind is None or (kind == "pretraining" and config["model_type"] != "wav2vec2"):
        known = ", ".join(CLASS[config["model_type"]] + head for head in HEADS)
        raise UserError(f"{path}: its architecture is {architecture}; known are {known}")
    options, tensors = encoder_options(path), read_tensors(path)
    names = _class_names(config, tensors) if kind == "classification" else ()

    def build() -> Any:
        rngs = nnx.Rngs(0)
        encoder = Wav2Vec2(**(options | changes), rngs=rngs)
        if kind == "bare":
            return encoder
        if kind == "pretraining":
            return Pretraining(encoder, objective_options(config), rngs)
        weighted = "weighted" if config.get("use_weighted_layer_sum") else "last"
        return Classifier(
            encoder,
            pooling="mean",
            layers=weighted,
            projection=config["classifier_proj_size"],
            num_classes=len(names),
            rngs=rngs,
        )

    model = nnx.eval_shape(build)
    _fill(model, tensors, PREFIX[config["model_type"]], path)
    rate = int(read_preprocessor(path).get("sampling_rate", 16000))
    return Loaded(kind, model, options, rate, names, config)


def _class_names(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Returns a classifier's labels: LABEL_0, … where config.json does not name them, as theirs.

    Without `id2label` their number is `num_labels` or, where that is absent too, the classifier's.
    """
    labels = config.get("id2label") or {}
    count = len(labels) or config.get("num_labels") or len(tensors.get("classifier.bias", ()))
    return tuple(labels.get(str(k), f"LABEL_{k}") for k in range(count))


def objective_options(config: dict[str, Any]) -> Wav2Vec2Options:
    """Returns the options of the objective that a config.json tells, ours for what it does not."""
    theirs = HUGGINGFACE_OPTIONS.items()
    return Wav2Vec2Options(**{ours: config[key] for ours, key in theirs if key in config})


def as_stage(loaded: Loaded) -> ConfigDict:
    """Returns the config of a stage that would build a checkpoint's model.

    That of a bare encoder is a pretraining, whose heads would be fresh.
    """
    stage = config_lib.stage()
    stage.data.sample_rate, stage.data.seconds = loaded.sample_rate, 10.0
    stage.model.name, stage.model.encoder = "wav2vec2", ConfigDict(loaded.encoder_options)
    if loaded.kind == "classification":
        stage.model.layers = "last" if loaded.model.layer_weights is None else "weighted"
        stage.model.projection = loaded.model.project.out_features
        if loaded.config.get("problem_type") == SEVERAL:
            stage.data.multi_label = True
            stage.objective.options = dict(loss="sigmoid")
    else:
        stage.objective.name = next(
            name for name, kind in objectives.OBJECTIVES.items() if kind.Options is Wav2Vec2Options
        )
    if loaded.kind == "pretraining":
        stage.objective.options = ConfigDict(changed(loaded.model.options))
    return stage


def changed(options: Wav2Vec2Options) -> dict[str, Any]:
    """Returns the options that are not the default."""
    default = Wav2Vec2Options()
    return {key: value for key, value in vars(options).items() if value != getattr(default, key)}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns {name: float32 array} of model.safetensors, or of the shards that its index names.

    Raises:
      UserError: there is neither, or a file is not whole.
    """
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if whole.is_file():
        files = [whole]
    elif index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError) as error:
            raise UserError(f"{index}: cannot be read: {error}") from error
        if any(Path(name).name != name for name in names):
            raise UserError(f"{index}: names files outside its folder")
        files = [path / name for name in names]
    else:
        hint = (
            "; pickled weights are not read: save them with safe_serialization"
            if list(path.glob("*.bin"))
            else ""
        )
        raise UserError(f"{path}: there is no model.safetensors in it{hint}")
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        try:
            with safe_open(file, framework="flax") as opened:
                tensors |= {
                    name: np.asarray(opened.get_tensor(name), np.float32) for name in opened.keys()
                }  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{file}: not a whole safetensors file: {error}") from error
    return tensors


def _fill(model: Any, tensors: dict[str, np.ndarray], prefix: str, path: Path) -> None:
    """Puts tensors into an abstract model.

    Raises:
      UserError: tensors are missing, unknown or of another shape; it lists them.
    """
    old = any(name.endswith("pos_conv_embed.conv.weight_g") for name in tensors)
    table = list(entries(model, "weight_g" if old else "parametrizations", prefix))
    _check_names(table, tensors, path)
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    stacks: dict[tuple, dict[int, np.ndarray]] = {}
    wrong = []
    for e in table:
        shape = flat[e.ours].shape if e.layer is None else flat[e.ours].shape[1:]
        value = _value(e, tensors, shape)
        if value.shape != shape:
            wrong.append(f"{e.theirs} {tensors[e.theirs].shape}")
        stacks.setdefault(e.ours, {})[0 if e.layer is None else e.layer] = value
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} tensors have another shape than config.json says: {_some(wrong)}"
        )
    stacked = {e.ours for e in table if e.layer is not None}
    for ours, values in stacks.items():
        layers = [values[k] for k in sorted(values)]
        whole = np.stack(layers) if ours in stacked else layers[0]
        flat[ours] = flat[ours].replace(jnp.asarray(whole))
    for ours, variable in flat.items():  # what a checkpoint does not have, such as random keys
        if isinstance(variable.get_value(), jax.ShapeDtypeStruct):
            raise AssertionError(f"{ours} was not filled")
    nnx.update(model, nnx.from_flat_state(list(flat.items())))


def _optional(entry: Entry) -> bool:
    """Whether transformers leaves a tensor out where its config masks nothing."""
    return entry.theirs.endswith("masked_spec_embed")


def _check_names(table: list[Entry], tensors: dict[str, np.ndarray], path: Path) -> None:
    """Raises UserError that lists the tensors that are missing or unknown."""
    missing = [e.theirs for e in table if e.theirs not in tensors and not _optional(e)]
    unknown = sorted(set(tensors) - {e.theirs for e in table})
    parts = [
        f"{len(some)} {what}: {_some(some)}"
        for what, some in (("missing", missing), ("unknown", unknown))
        if some
    ]
    if parts:
        raise UserError(f"{path}: its tensors are not those of its config.json; {'; '.join(parts)}")


def _value(entry: Entry, tensors: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Returns a tensor as we have it; [] where it cannot be brought into that form."""
    if entry.theirs not in tensors:  # the mask embedding, uniform at the start as theirs is
        return np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    try:
        return entry.load(tensors[entry.theirs])
    except ValueError:
        return np.zeros([])


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def huggingface_config(
    model: Any, class_names: tuple[str, ...] = (), model_type: str = "", multi_label: bool = False
) -> dict[str, Any]:
    """Returns the config.json of a model.

    Raises:
      UserError: transformers has no counterpart of it.
    """
    encoder = model if isinstance(model, Wav2Vec2) else model.encoder
    if not isinstance(encoder, Wav2Vec2):
        raise UserError(
            f"{type(encoder).__name__} has no counterpart in transformers: "
            "only wav2vec2 encoders are written"
        )
    o = encoder.options
    stack = o["positional_layers"] > 1
    model_type = model_type or (
        "data2vec-audio" if stack else "wav2vec2" if o["projection_norm"] else "hubert"
    )
    config: dict[str, Any] = {theirs: o[ours] for ours, theirs in OPTIONS.items()}
    config |= {key: list(value) for key, value in config.items() if isinstance(value, tuple)}
    # transformers has the mask embedding only where it may be used, and its pretraining ignores the
    # masks that it is given where `apply_spec_augment` is off.
    masks = isinstance(model, Pretraining) or o["mask_probability"] or o["mask_feature_probability"]
    config |= dict(
        model_type=model_type,
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
    if stack:
        config["conv_pos_kernel_size"] = o["positional_kernel"]
    head = "Model"
    if isinstance(model, Pretraining):
        head = "ForPreTraining"
        ours = vars(model.options)
        config |= {theirs: ours[name] for name, theirs in HUGGINGFACE_OPTIONS.items()}
    elif isinstance(model, Classifier):
        head = "ForSequenceClassification"
        config |= _classifier_config(model, class_names, multi_label)
    if head == "ForPreTraining" and model_type != "wav2vec2":
        raise UserError(f"transformers has no {CLASS[model_type]}ForPreTraining")
    return config | {"architectures": [CLASS[model_type] + head]}


def _classifier_config(
    model: Classifier, class_names: tuple[str, ...], multi_label: bool
) -> dict[str, Any]:
    """Returns what config.json tells of a classifier's head. Raises UserError."""
    if model.pooling.kind != "mean":
        raise UserError(
            f"model.pooling={model.pooling.kind} has no counterpart in transformers: "
            "only mean is written"
        )
    weighted = model.layer_weights is not None
    encoder: Any = model.encoder
    names = class_names or tuple(f"LABEL_{k}" for k in range(model.head.out_features))
    width = encoder.features if model.project is None else model.project.out_features
    config = dict(
        use_weighted_layer_sum=weighted,
        classifier_proj_size=width,
        id2label={str(k): name for k, name in enumerate(names)},
        label2id={name: k for k, name in enumerate(names)},
        problem_type=SEVERAL if multi_label else "single_label_classification",
    )
    if weighted:  # the version whose last hidden state is that of the model
        config["transformers_version"] = "5.15.0" if encoder.normed_last_state else "5.16.0"
    return config


def save_huggingface(
    model: Any,
    path: str | Path,
    *,
    class_names: tuple[str, ...] = (),
    sample_rate: int = 16000,
    model_type: str = "",
    multi_label: bool = False,
) -> None:
    """Writes a folder that transformers' `from_pretrained` loads.

    It holds config.json, preprocessor_config.json and model.safetensors. transformers gives the
    predictions of weights over layers of a pre-norm encoder only in a version whose last hidden
    state is the one that they were trained on; `transformers_version` tells such a version.

    Args:
      model: a `Wav2Vec2`, `Pretraining` or mean-pooled `Classifier` of one; a classifier without
        projection gets an identity as one. Of another objective's model, the encoder.
      path: the folder.
      class_names: label names of a classifier.
      sample_rate: Hz, of what the model was trained on.
      model_type: wav2vec2, hubert or data2vec-audio; default: what the options say.
      multi_label: whether a clip may have several labels: transformers' `problem_type`.

    Raises:
      UserError: a model that transformers has no counterpart of.
    """
    if not isinstance(model, Wav2Vec2 | Pretraining | Classifier):  # their heads are not written
        named, model = getattr(model, "model_type", ""), model.encoder
        single = isinstance(model, Wav2Vec2) and model.settings.positional_layers == 1
        model_type = model_type or (named if single else "")
    config = huggingface_config(model, class_names, model_type, multi_label)
    encoder = model if isinstance(model, Wav2Vec2) else model.encoder
    flat = {name: variable.get_value() for name, variable in nnx.to_flat_state(nnx.state(model))}
    tensors = {}
    for e in entries(model, prefix=PREFIX[config["model_type"]]):
        value = flat[e.ours] if e.layer is None else flat[e.ours][e.layer]
        tensors[e.theirs] = np.ascontiguousarray(e.save(np.asarray(value, np.float32)))
    if isinstance(model, Classifier) and model.project is None:
        tensors["projector.weight"] = np.eye(encoder.features, dtype=np.float32)
        tensors["projector.bias"] = np.zeros(encoder.features, np.float32)
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    preprocessor = dict(
        feature_extractor_type="Wav2Vec2FeatureExtractor",
        do_normalize=encoder.normalize_input,
        feature_size=1,
        padding_side="right",
        padding_value=0.0,
        sampling_rate=sample_rate,
        # Their group norm models were trained without a mask, ours never see padding.
        return_attention_mask=True,
    )
    # Not by `save_file`, whose file nobody else could read.
    (path / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")
