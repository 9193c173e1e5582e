"""Checkpoints as transformers' `save_pretrained` writes them: config.json and safetensors.

`FAMILIES` are those that are read and written, each a file that maps its names and options to ours.
Nothing is ever unpickled.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import models
from sacjax.convert import hub
from sacjax.convert.ast import ASTFamily
from sacjax.convert.base import SEVERAL, Family, Loaded, encoder_of
from sacjax.convert.card import model_card
from sacjax.convert.clap import ClapFamily
from sacjax.convert.imagenet import PICTURES
from sacjax.convert.tensors import fill, read_tensors, tensors_of, write_tensors
from sacjax.convert.wav2vec2 import Wav2Vec2Family
from sacjax.convert.whisper import WhisperFamily
from sacjax.errors import UserError, first_line
from sacjax.models import front_end as front_end_lib

FAMILIES: tuple[Family, ...] = (
    ASTFamily(),
    Wav2Vec2Family(),
    WhisperFamily(),
    ClapFamily(),
    *PICTURES,
)


def folder_of(where: str) -> str | None:
    """Returns the folder of `hf:PATH`, as `init_from` and `--checkpoint` name it; else None.

    `hf:ORG/NAME` and `hf:ORG/NAME@REVISION` are downloaded where there is no such folder.

    Raises:
      UserError: as `hub.weights` says, or a model that is not supported: told before its weights
        are downloaded.
    """
    if not where.startswith("hf:"):
        return None
    path = where.removeprefix("hf:")
    source = hub.repository(path)
    if source is None:
        return path
    folder = hub.descriptions(source)
    try:
        encoder_options(folder)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), source.name)) from None
    return str(hub.weights(source))


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
    known = [kind for family in FAMILIES for kind in family.architectures]
    if isinstance(config, dict) and "architecture" in config:  # as timm writes it
        config.setdefault("model_type", config["architecture"])
    if config.get("model_type") not in known:
        raise UserError(
            f"{file}: model_type is '{config.get('model_type')}'; known are {', '.join(known)}"
        )
    try:
        return _family(config).complete(config)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def read_preprocessor(path: str | Path) -> dict[str, Any]:
    """Returns preprocessor_config.json of a folder, or {} where there is none."""
    file = Path(path) / "preprocessor_config.json"
    try:
        return json.loads(file.read_text()) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def encoder_name(path: str | Path) -> str:
    """Returns `model.name` of a folder's checkpoint. Raises UserError as `read_config`."""
    with _readable(path):
        return _family(read_config(path)).encoder


def encoder_options(path: str | Path) -> dict[str, Any]:
    """Returns the options of our encoder that fit a folder's checkpoint.

    Raises:
      UserError: as `read_config` says.
    """
    with _readable(path):
        config = read_config(path)
        return _family(config).encoder_options(config, read_preprocessor(path))


def front_end(path: str | Path, sample_rate: int) -> dict[str, Any]:
    """Returns the `frontend` whose features a folder's encoder takes; {} if it takes waveforms.

    Raises:
      UserError: as `read_config` says.
    """
    with _readable(path):
        config = read_config(path)
        return _family(config).front_end(config, sample_rate, read_preprocessor(path))


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
    family, model_type = _family(config), config["model_type"]
    known = family.architectures[model_type]
    architecture = (config.get("architectures") or list(known))[0]
    if architecture not in known:
        raise UserError(f"{path}: its architecture is {architecture}; known are {', '.join(known)}")
    kind, options = known[architecture], encoder_options(path)
    tensors = read_tensors(path, family.leaves_out)
    count = len(tensors.get(family.class_bias, ()))
    names = _class_names(config, count) if kind == "classification" else ()

    def build() -> Any:
        rngs = nnx.Rngs(0)
        bands = family.num_features(config)
        encoder = models.ENCODERS[family.encoder](
            num_features=bands, **(options | changes), rngs=rngs
        )
        return family.build(kind, encoder, config, len(names), rngs)

    model = nnx.eval_shape(build)
    fill(model, list(family.entries(model, model_type, tensors)), tensors, path)
    preprocessor = read_preprocessor(path)
    rate = int(preprocessor.get("sampling_rate", 16000))
    return Loaded(family, kind, model, options, rate, names, config, preprocessor)


def _family(config: dict[str, Any]) -> Family:
    return next(f for f in FAMILIES if config["model_type"] in f.architectures)


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


def _class_names(config: dict[str, Any], outputs: int) -> tuple[str, ...]:
    """Returns a classifier's labels: LABEL_0, … where config.json does not name them, as theirs.

    Without `id2label` their number is `num_labels` or, where that is absent too, the classifier's.
    """
    labels = config.get("id2label") or {}
    count = len(labels) or config.get("num_labels") or outputs
    return tuple(labels.get(str(k), f"LABEL_{k}") for k in range(count))


def as_stage(loaded: Loaded) -> ConfigDict:
    """Returns the config of a stage that would build a checkpoint's model.

    That of a bare encoder is a pretraining, whose heads would be fresh.
    """
    stage = config_lib.stage()
    stage.data.sample_rate, stage.data.seconds = loaded.sample_rate, 10.0
    stage.model.name = loaded.family.encoder
    stage.model.encoder = ConfigDict(loaded.encoder_options)
    if loaded.kind == "classification" and loaded.config.get("problem_type") == SEVERAL:
        stage.data.multi_label = True
        stage.objective.options = dict(loss="sigmoid")
    front_end = loaded.family.front_end(loaded.config, loaded.sample_rate, loaded.preprocessor)
    stage.frontend.update(front_end)
    loaded.family.describe(stage, loaded)
    return stage


def huggingface_config(
    model: Any, class_names: tuple[str, ...] = (), model_type: str = "", multi_label: bool = False
) -> dict[str, Any]:
    """Returns the config.json of a model.

    Raises:
      UserError: transformers has no counterpart of it.
    """
    return _family_of(model).config(model, class_names, model_type, multi_label)


def _family_of(model: Any) -> Family:
    """Returns the family of a model. Raises UserError where it has none."""
    encoder = encoder_of(model)
    if isinstance(encoder, front_end_lib.Hearing):
        raise UserError(
            f"{type(encoder.front_end).__name__}, a front end that learns, has no counterpart in "
            "transformers: only model.frontend=mel is written"
        )
    written = [family for family in FAMILIES if family.written]
    for family in written:
        if isinstance(encoder, models.ENCODERS[family.encoder]):
            return family
    raise UserError(
        f"{type(encoder).__name__} has no counterpart in transformers: "
        f"only {', '.join(f.encoder for f in written)} encoders are written"
    )


def save_huggingface(
    model: Any,
    path: str | Path,
    *,
    class_names: tuple[str, ...] = (),
    sample_rate: int = 16000,
    model_type: str = "",
    multi_label: bool = False,
    frontend: ConfigDict | None = None,
) -> None:
    """Writes a folder that transformers' `from_pretrained` loads.

    It holds config.json, preprocessor_config.json, model.safetensors and README.md, a model card.

    Args:
      model: an encoder of one of `FAMILIES`, or a model with a head around one that `load` gives.
        Of another objective's model, the encoder.
      path: the folder.
      class_names: label names of a classifier.
      sample_rate: Hz, of what the model was trained on.
      model_type: of config.json, where an encoder has several; default: what the options say.
      multi_label: whether a clip may have several labels: transformers' `problem_type`.
      frontend: of the model's stage, for families that hear spectrograms.

    Raises:
      UserError: a model that transformers has no counterpart of.
    """
    family = _family_of(model)
    if not isinstance(model, family.written):  # heads of other objectives are not written
        named, model = getattr(model, "model_type", ""), encoder_of(model)
        single = getattr(getattr(model, "settings", None), "positional_layers", 0) == 1
        model_type = model_type or (named if single else "")
    config = family.config(model, class_names, model_type, multi_label)
    tensors = tensors_of(model, family.entries(model, config["model_type"]))
    preprocessor = family.preprocessor(model, sample_rate, frontend)
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors | family.additional_tensors(model))
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")
    (path / "README.md").write_text(model_card(config, preprocessor))
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")
