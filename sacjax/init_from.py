"""Where a stage's weights come from: an earlier stage, another workdir, or `hf:`.

That is `hf:FOLDER` of transformers, or `hf:ORG/NAME@REVISION` of a hub.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import inference, models, objectives
from sacjax.convert import huggingface
from sacjax.errors import UserError
from sacjax.train.checkpoint_files import complete, has_checkpoint, read_labels
from sacjax.train.state import Pretrained, split_model


def pretrained_of(stage: ConfigDict, config: ConfigDict, workdir: Path) -> Pretrained | None:
    """Returns the encoder that `stage.init_from` names: an earlier stage's, a workdir's or `hf:`'s.

    Of another stage it is that of the checkpoint which that stage was evaluated by.
    """
    where = stage.init_from
    if not where:
        return None
    options = stage.model.encoder.to_dict()
    _, params, buffers = split_model(trained_encoder(where, config, workdir, options))
    # On the host, so that a mesh of any devices can take them.
    params, buffers = jax.device_get((params, buffers))
    return Pretrained(where, {"encoder": params}, {"encoder": buffers})


def trained_encoder(
    where: str, config: ConfigDict, workdir: Path, options: dict[str, Any] | None = None
) -> Any:
    """Returns the encoder of an earlier stage of the run in `workdir`, of a workdir or `hf:PATH`.

    Of another stage it is that of the checkpoint which that stage was evaluated by. A checkpoint of
    `hf:PATH` is read with `options` of the encoder, such as fewer positions or input channels.
    """
    if (folder := huggingface.folder_of(where)) is not None:
        model = huggingface.load_huggingface(folder, **(options or {})).model
    else:
        model = trained_model(where, config, workdir).module
    return getattr(model, "encoder", model)


def trained_model(where: str, config: ConfigDict, workdir: Path) -> inference.Model:
    """Returns the model of an earlier stage of the run in `workdir`, or of another workdir."""
    if where in config.stages:
        return inference.load_trained(workdir, None, where)
    return inference.load_trained(where, None)


def check_labels(objective: Any, name: str, config: ConfigDict, workdir: Path) -> None:
    """Raises UserError where a stage that trains has other labels than what it goes on from.

    That is its own checkpoint, or else the model that its objective learns from.

    Args:
      objective: of the stage, which knows the labels of its data.
      name: of the stage.
      config: the whole config.
      workdir: of the run.
    """
    source = objective.source(config[name]) if objective.whole_source else ""
    if has_checkpoint(workdir, name):
        known, here = read_labels(workdir, name), objective.class_names
        if objective.needs_labels and known != here:
            other = sorted(set(known) ^ set(here)) or here
            raise UserError(
                f"config.{name}.data: its labels are others than when the run in {workdir} began, "
                f"such as {other[0]!r}: give it the data set that it had, or another --workdir"
            )
    elif source and source not in config.stages:
        its, stage = inference.trained_stage(source)
        objective.check_source(read_labels(source, stage), its[stage])


def resolve(config: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """Returns the config with encoders that come from a workdir or `hf:PATH` filled in.

    Options of `model.encoder` that the config sets itself stay, with a warning where a checkpoint's
    input normalization or front end is another one. A workdir that has begun with the same
    `init_from` knows them, so that its run can go on where the checkpoint is not there any more.

    Raises:
      UserError: a folder that cannot be read, another encoder, or another sample rate than the one
        that it was trained at.
    """
    config = config_lib.from_json(config_lib.to_json(config))
    begun = workdir / "config.json" if workdir and has_begun(workdir) else None
    saved: dict[str, Any] = {}
    if begun and begun.is_file():
        saved = config_lib.from_json(begun.read_text()).to_dict()
    for name in config.stages:
        stage = config[name]
        kind = objectives.OBJECTIVES[stage.objective.name]
        if source := kind.source(stage):
            fill_in = _resolve_whole if kind.whole_source else _resolve_source
            fill_in(name, source, config, saved)
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
    given = stage.model.encoder.to_dict()
    source = _source_of(stage.init_from, config, stage.data.sample_rate)
    options = {} if stage.init_from in config.stages else source.options
    if stage.model.name != source.kind:
        raise UserError(
            f"config.{name}.init_from={stage.init_from} needs config.{name}.model.name="
            f"{source.kind}"
        )
    for key, its in source.hearing.items():
        if stage.model.to_dict()[key] != its:
            raise UserError(
                f"config.{name}.init_from={stage.init_from} needs config.{name}.model.{key}={its}"
            )
    if source.rate != stage.data.sample_rate:
        raise UserError(
            f"config.{name}.data.sample_rate is {stage.data.sample_rate}, but "
            f"{stage.init_from} was trained at {source.rate} Hz: set it to that"
        )
    other = {} if stage.init_from in config.stages else _other(source.frontend, stage.frontend)
    if other and source.hearing["frontend"] == "mel" and jax.process_index() == 0:
        print(
            f"warning: config.{name}.frontend is another one than that of {stage.init_from}, which "
            f"has {', '.join(f'{key}={value!r}' for key, value in other.items())}"
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


def _other(its: dict[str, Any], frontend: ConfigDict) -> dict[str, Any]:
    """Returns what differs of a source's front end from a stage's `frontend`."""
    ours = frontend.to_dict()
    return {key: value for key, value in its.items() if ours[key] != value}


class Source(NamedTuple):
    """What a stage needs to know of the encoder of another."""

    kind: str
    """Its name."""

    options: dict[str, Any]
    rate: int
    """Hz, at which it was trained."""

    frontend: dict[str, Any]
    """Of its stage, or what a checkpoint tells of it; {} where it takes waveforms."""

    hearing: dict[str, Any]
    """`model.frontend` and `model.frontend_options`: its front end, where that learns."""


def _source_of(where: str, config: ConfigDict, rate: int) -> Source:
    """Returns what there is to know of the encoder of a stage, a workdir or `hf:PATH`.

    `rate` is that of a folder that does not tell it.
    """
    path = huggingface.folder_of(where)
    if path is not None:
        preprocessor = huggingface.read_preprocessor(path)
        rate = preprocessor.get("sampling_rate", rate)
        kind, options = huggingface.encoder_name(path), huggingface.encoder_options(path)
        front_end = huggingface.front_end(path, rate)
        return Source(kind, options, rate, front_end, {"frontend": "mel", "frontend_options": {}})
    inside = where in config.stages
    other, its_name = (config, where) if inside else inference.trained_stage(where)
    stage = other[its_name]
    model, frontend = stage.model.to_dict(), stage.frontend.to_dict()
    hearing = {key: model[key] for key in ("frontend", "frontend_options")}
    return Source(model["name"], model["encoder"], stage.data.sample_rate, frontend, hearing)


def _resolve_source(name: str, where: str, config: ConfigDict, saved: dict[str, Any]) -> None:
    """Tells a stage's objective which network its targets come from.

    Raises:
      UserError: a network that hears something else than the stage's encoder.
    """
    stage = config[name]
    begun = saved.get(name, {}).get("objective", {}).get("options", {})
    if where not in config.stages and begun.get("targets") == where:
        network = begun["network"]
    else:
        source, model = _source_of(where, config, stage.data.sample_rate), stage.model
        kinds = models.ENCODERS[source.kind].input_kind, models.input_kind(model)
        key = f"config.{name}.objective.options.targets={where}"
        if kinds[0] != kinds[1]:
            raise UserError(f"{key} hears a {kinds[0]}, model.name={model.name} a {kinds[1]}")
        if source.hearing["frontend"] != "mel":
            raise UserError(
                f"{key} hears by a front end of its own: targets need model.frontend=mel"
            )
        if source.rate != stage.data.sample_rate:
            raise UserError(
                f"{key} was trained at {source.rate} Hz: set config.{name}.data.sample_rate to that"
            )
        if kinds[0] == "spectrogram" and (
            not source.frontend or _other(source.frontend, stage.frontend)
        ):
            raise UserError(f"{key} has another front end: set config.{name}.frontend to the same")
        network = dict(name=source.kind, encoder=source.options)
    with stage.objective.unlocked():
        stage.objective.options.network = network


def _resolve_whole(name: str, where: str, config: ConfigDict, saved: dict[str, Any]) -> None:
    """Tells a stage's objective how the model that it learns from is built and hears.

    Raises:
      UserError: a model of another sample rate, or none of sacjax.
    """
    stage = config[name]
    option = objectives.OBJECTIVES[stage.objective.name].source_option
    key = f"config.{name}.objective.options.{option}={where}"
    begun = saved.get(name, {}).get("objective", {}).get("options", {})
    if where not in config.stages and begun.get(option) == where:
        network = begun["network"]
    elif huggingface.folder_of(where) is not None:
        raise UserError(f"{key}: give a workdir of sacjax, such as one that was fine-tuned from it")
    else:
        inside = where in config.stages
        other, its_name = (config, where) if inside else inference.trained_stage(where)
        its, labelled = other[its_name], objectives.OBJECTIVES[other[its_name].objective.name]
        if its.data.sample_rate != stage.data.sample_rate:
            raise UserError(
                f"{key} was trained at {its.data.sample_rate} Hz: set "
                f"config.{name}.data.sample_rate to that"
            )
        network = dict(
            model=its.model.to_dict(),
            frontend=its.frontend.to_dict(),
            classifier=labelled.needs_labels,
        )
    with stage.objective.unlocked():
        stage.objective.options.network = network


def has_begun(workdir: Path) -> bool:
    """Returns whether there is anything to lose: a checkpoint, or results."""
    stages = workdir / "checkpoints"
    folders = stages.iterdir() if stages.is_dir() else ()
    return any(map(complete, folders)) or (workdir / "results.json").is_file()
