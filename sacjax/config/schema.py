"""Assembles a config from the options of each component, and checks it before compilation."""

from ml_collections import ConfigDict

from sacjax.config import options
from sacjax.errors import UserError, nearest

# Sub-configs whose keys depend on a name beside them, whose owner checks them.
OPEN = ("model.encoder", "model.frontend_options", "objective.options")


OF_ENCODER = ("name", "encoder", "frontend", "frontend_options")  # `models.check` checks them


def groups() -> dict[str, type]:
    """Returns {group of keys: the frozen dataclass that defines and checks them}."""
    from sacjax import augment, evaluators, frontend
    from sacjax.data import options as data
    from sacjax.models import classifier
    from sacjax.train import optimizer
    from sacjax.train import options as train

    return {
        "data": data.Options,
        "augment": augment.Options,
        "frontend": frontend.Options,
        "model": classifier.Options,
        "optimizer": optimizer.Options,
        "train": train.Options,
        "eval": evaluators.Options,
    }


def stage() -> ConfigDict:
    """Returns the defaults of one stage: what it reads, what it trains, how it is judged."""
    c = ConfigDict()
    for group, kind in groups().items():
        c[group] = options.defaults(kind)
    c.model.name = "spectrogram_resnet"  # see `sacjax list encoders`
    c.model.encoder = dict()  # options of that encoder
    c.model.frontend = "mel"  # or one that learns, see `sacjax list frontends`
    c.model.frontend_options = dict()  # options of that front end
    c.objective = dict(
        name="classification",  # see `sacjax list objectives`
        options=dict(),  # of that objective
    )
    c.init_from = ""  # source of the encoder: an earlier stage, a workdir, or hf:FOLDER
    return c


def default(**stages: ConfigDict) -> ConfigDict:
    """Returns a whole config, locked, with the given stages in order (default: `supervised`)."""
    stages = stages or {"supervised": stage()}
    c = ConfigDict(dict(seed=0, stages=tuple(stages)))
    c.transductive = False  # True: a stage without labels may hear a later stage's test clips
    # Devices along each axis; -1 = all that are left. Along `data` a device has all parameters and
    # a part of the batch; along `fsdp` a part of both; along `tensor` a part of each Transformer
    # layer and the same rows of the batch.
    c.mesh = dict(data=-1, fsdp=1, tensor=1)
    c.checkpoint = dict(
        every=0,  # steps; 0 = at each evaluation
        keep=2,
        asynchronous=True,
    )
    c.tensorboard = True
    c.profile = False  # True: a jax.profiler trace of five steps under <workdir>/profile
    for name, sub in stages.items():
        c[name] = sub
    return c.lock()


def check(config: ConfigDict) -> ConfigDict:
    """Checks values before anything compiles; returns the config.

    Raises:
      UserError: a bad value; it names the key.
    """
    from sacjax import objectives

    if not isinstance(config.stages, tuple) or not config.stages:
        raise UserError("config.stages is empty: name at least one stage")
    for number, name in enumerate(config.stages):
        if name not in config:
            raise UserError(
                f"config.stages names '{name}' but there is no config.{name}{nearest(name, config)}"
            )
        try:
            check_stage(config[name])
        except UserError as error:  # the checks do not know the stage's name
            raise UserError(f"config.{name}.{error}") from error
        if config[name].init_from in config.stages[number:]:
            raise UserError(
                f"config.{name}.init_from is '{config[name].init_from}', which does not run before "
                f"{name}: name an earlier stage, a workdir, or hf: and a checkpoint's folder"
            )
        kind = objectives.OBJECTIVES[config[name].objective.name]
        source = kind.source(config[name])
        if source in config.stages[number:]:
            key = f"config.{name}.objective.options.{kind.source_option}"
            raise UserError(
                f"{key} is '{source}', which does not run before {name}: name an earlier stage"
            )
    for axis, size in config.mesh.items():
        if size == 0 or size < -1:
            raise UserError(
                f"config.mesh.{axis} is {size}: give a number of devices, or -1 for all that are "
                "left"
            )
    if config.checkpoint.every < 0 or config.checkpoint.keep < 1:
        raise UserError("config.checkpoint: every must not be negative, and keep be 1 or more")
    return config


def check_stage(c: ConfigDict) -> None:
    """Checks one stage. Raises UserError that begins with the key, such as `data.seconds is …`."""
    from sacjax import augment, evaluators, models, objectives
    from sacjax.models import front_end

    for group, kind in groups().items():
        names = {field for field in c[group] if not (group == "model" and field in OF_ENCODER)}
        given = {field: c[group][field] for field in names}
        options.check(group, group, given, kind)
        kind(**given)
    if c.train.batch_size % c.optimizer.accumulation:
        raise UserError(
            f"train.batch_size {c.train.batch_size} does not divide by optimizer.accumulation "
            f"{c.optimizer.accumulation}"
        )
    low, high, half = c.frontend.fmin, c.frontend.fmax, c.data.sample_rate / 2
    if max(low, high) > half or 0 < high <= low:
        raise UserError(
            f"frontend: fmin {low} and fmax {high} must rise and stay within half of "
            f"data.sample_rate {c.data.sample_rate}"
        )
    models.check(c.model)
    objectives.check(c)
    objectives.OBJECTIVES[c.objective.name].Options(**c.objective.options)  # checks their values
    front_end.check_stage(c, objectives.OBJECTIVES[c.objective.name].needs_labels)
    evaluators.check(c)
    augment.check(c.augment.waveform, "waveform")
    augment.check(c.augment.spectrogram, "spectrogram")
    augment.check_attacks(c.augment, models.input_kind(c.model), front_end.learns(c.model))
