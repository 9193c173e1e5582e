"""Where a stage's weights come from: an earlier stage, another workdir, or `hf:FOLDER`."""

import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import inference
from sacjax.convert import huggingface
from sacjax.errors import UserError
from sacjax.train.checkpoint_files import complete
from sacjax.train.state import Pretrained, split_model


def pretrained_of(stage: ConfigDict, config: ConfigDict, workdir: Path) -> Pretrained | None:
    """Returns the encoder that `stage.init_from` names: an earlier stage's, a workdir's or `hf:`'s.

    Of another stage it is that of the checkpoint which that stage was evaluated by.
    """
    where = stage.init_from
    if not where:
        return None
    if (folder := huggingface.folder_of(where)) is not None:
        model = huggingface.load_huggingface(folder).model
    elif where in config.stages:
        model = inference.load_trained(workdir, None, where).module
    else:
        model = inference.load_trained(where, None).module
    _, params, buffers = split_model(getattr(model, "encoder", model))
    # On the host, so that a mesh of any devices can take them.
    params, buffers = jax.device_get((params, buffers))
    return Pretrained(where, {"encoder": params}, {"encoder": buffers})


def resolve(config: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """Returns the config with encoders that come from a workdir or `hf:PATH` filled in.

    Options of `model.encoder` that the config sets itself stay, with a warning where a checkpoint's
    input normalization is another one. A workdir that has begun with the same `init_from` knows
    them, so that its run can go on where the checkpoint is not there any more.

    Raises:
      UserError: a folder that cannot be read, another encoder, or another sample rate than the one
        that it was trained at.
    """
    config = config_lib.from_json(config_lib.to_json(config))
    begun = workdir / "config.json" if workdir and has_begun(workdir) else None
    saved = json.loads(begun.read_text()) if begun and begun.is_file() else {}
    for name in config.stages:
        stage = config[name]
        if not stage.init_from:
            continue
        inside = stage.init_from in config.stages
        if not inside and name in saved and saved[name]["init_from"] == stage.init_from:
            options = saved[name]["model"]["encoder"]
        else:
            options = _source_options(name, config)
        with stage.model.unlocked():
            stage.model.encoder = options | stage.model.encoder.to_dict()
    return config_lib.check(config)


def _source_options(name: str, config: ConfigDict) -> dict[str, Any]:
    """Returns the encoder options of what a stage starts from. Raises UserError as `resolve`."""
    stage = config[name]
    inside = stage.init_from in config.stages
    given, path = stage.model.encoder.to_dict(), huggingface.folder_of(stage.init_from)
    heard: dict[str, Any] = {"frontend": "mel", "frontend_options": {}}
    if path is not None:
        kind, options = huggingface.encoder_name(path), huggingface.encoder_options(path)
        preprocessor = huggingface.read_preprocessor(path)
        rate = preprocessor.get("sampling_rate", stage.data.sample_rate)
    else:
        other, its_name = (
            (config, stage.init_from) if inside else inference.trained_stage(stage.init_from)
        )
        kind, rate = other[its_name].model.name, other[its_name].data.sample_rate
        heard = {key: other[its_name].model.to_dict()[key] for key in heard}
        options = {} if inside else other[its_name].model.encoder.to_dict()
    if stage.model.name != kind:
        raise UserError(
            f"config.{name}.init_from={stage.init_from} needs config.{name}.model.name={kind}"
        )
    for key, its in heard.items():
        if stage.model.to_dict()[key] != its:
            raise UserError(
                f"config.{name}.init_from={stage.init_from} needs config.{name}.model.{key}={its}"
            )
    if rate != stage.data.sample_rate:
        raise UserError(
            f"config.{name}.data.sample_rate is {stage.data.sample_rate}, but "
            f"{path or stage.init_from} was trained at {rate} Hz: set it to that"
        )
    normalized = options.get("normalize_input")
    differs = normalized is not None and given.get("normalize_input", normalized) != normalized
    if differs and jax.process_index() == 0:
        print(
            f"warning: config.{name}.model.encoder.normalize_input is {given['normalize_input']}, "
            f"the checkpoint's do_normalize {normalized}: it was trained on the other kind of "
            "waveforms"
        )
    return options


def has_begun(workdir: Path) -> bool:
    """Returns whether there is anything to lose: a checkpoint, or results."""
    stages = workdir / "checkpoints"
    folders = stages.iterdir() if stages.is_dir() else ()
    return any(map(complete, folders)) or (workdir / "results.json").is_file()
