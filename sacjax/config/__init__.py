"""The schema of a config: every key with its default and meaning, loading, overriding and checking.

A config file is Python with `get_config(arg='')` that returns `config.default(...)` with some leaves set. It is code:
run only files that you trust. `path:arg` hands `arg` to `get_config`; `--config.a.b=value` overrides a leaf.
"""

import argparse
import ast
import importlib.util
import inspect
import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from sacjax.errors import UserError, nearest

# Sub-configs whose keys are a constructor's options; the models and objectives check them.
OPEN = ("model.encoder", "objective.options")


def stage() -> ConfigDict:
    """Returns the defaults of one stage: what it reads, what it trains, how it is judged."""
    c = ConfigDict()
    c.data = dict(
        source="synthetic",  # folder | manifest | tfds | arrayrecord | synthetic
        path="",  # folder of labels, manifest file, published layout of a TFDS builder, or ArrayRecord folder
        name="",  # tfds: the data set's name, such as 'esc50/esc10'
        data_dir="",  # tfds: where prepared data sets are kept ('' = TFDS's default)
        examples=2048,  # synthetic: clips in all
        sample_rate=16000,  # Hz; everything is resampled to it
        seconds=1.0,  # length of a training crop and of an evaluation window
        crop="random",  # random | center | start (training)
        # zero | repeat | reflect: what follows a clip shorter than `seconds`. Encoders do not hear
        # zeros (the clip's length is the true one); repeats and reflections are part of the clip.
        pad="zero",
        multi_label=False,  # several labels a clip: sigmoid, BCE
        empty_label="unknown",  # unknown | none: what an empty label cell says (manifest, multi_label)
        # Regular expression: its first group (or the whole match) in a file's name is the clip's
        # group, such as r'spk(\d+)'. A group stays in one part of a split. '' = what the data says.
        group_pattern="",
        fold=0,  # k: test on official fold k, train on the others; 0: no folds
        holdout=(
            0.6,
            0.2,
            0.2,
        ),  # train, validation, test shares where the data set has no split of its own
        validation_fraction=0.2,  # validation share of the non-test part under folds and official splits
        split_seed=0,  # which random split
        labels_per_class=0,  # keep so many training clips a class; 0 = all
        label_fraction=1.0,  # keep this share of the training clips
        balance="none",  # none | over | under: sampling of classes
        cache=False,  # keep decoded int16 clips in host memory
        on_device=False,  # keep the decoded training clips in the devices' memory and crop them there
        workers=0,  # decoding processes; 0 = threads of this process
        prefetch=2,  # batches made ahead
        max_bad_fraction=0.05,  # stop when more of the clips than this cannot be decoded
        allow_outside_root=False,  # manifest: let paths leave the manifest's folder
    )
    c.augment = dict(
        waveform=(),  # tuple of dict(name=…, probability=…, **options), in order; see sacjax/augment
        spectrogram=(),
    )
    c.frontend = dict(
        n_fft=1024, win_length=0, hop_length=256, window="hann", center=True, pad_mode="reflect",
        n_mels=64, fmin=0.0, fmax=0.0,  # Hz; 0 = half the sample rate
        htk=False, mel_norm="slaney", power=2.0,
        log="db",  # natural | log10 | db
        floor=1e-10,
        ref=FieldReference(1.0, field_type=object),  # 0 dB: a power, or 'max' of the clip
        top_db=FieldReference(80.0, field_type=object),  # decibels below the maximum to keep, or None
        n_mfcc=0,  # > 0: so many MFCC instead of mel bins
        preemphasis=0.0,
        normalize="clip",  # none | clip | band | global
        mean=0.0, std=1.0,  # for global
    )  # fmt: skip
    c.model = dict(
        name="spectrogram_resnet",  # audionet | spectrogram_resnet | small_cnn | wav2vec2
        encoder=dict(),  # options of that encoder's constructor
        layers="last",  # last | weighted: a learned weighted sum over the encoder's layers (wav2vec2)
        projection=0,  # > 0: features of a linear map before pooling
        pooling="mean",  # mean | max | mean_max | attention | statistics
        dropout=0.0,  # before the head
        dtype="float32",  # of the computation; parameters stay float32
    )
    c.objective = dict(
        name="classification",  # classification | contrastive
        options=dict(),  # of that objective; contrastive's are in sacjax/objectives/contrastive.py
        loss="softmax",  # softmax | sigmoid (multi-label, or one-vs-rest)
        label_smoothing=0.0,
        class_weights="none",  # none | balanced
    )
    c.optimizer = dict(
        name="adamw",  # adamw | sgd | adafactor | lion
        learning_rate=1e-3,
        schedule="cosine",  # cosine | linear | constant | exponential | one_cycle
        schedule_frames=0,  # > 0: the schedule counts masked frames seen, so many a step, instead of updates (contrastive)
        schedule_steps=0,  # length of the schedule in its steps; 0 = the updates of the run
        warmup_steps=0,
        warmup_fraction=0.05,  # of all steps, where warmup_steps is 0
        final_fraction=0.01,  # last learning rate as a share of the peak
        momentum=0.9, beta1=0.9, beta2=0.999, eps=1e-8,
        weight_decay=0.01,  # off for biases and norms
        clip_norm=1.0,  # global gradient norm; 0 = off
        accumulation=1,  # micro-batches an update
        ema_decay=0.0,  # > 0: evaluate an exponential moving average of the parameters
        multipliers=(),  # ((pattern of parameter names, factor of the learning rate), …); the first that matches
        layer_decay=1.0,  # < 1: layer i of L learns at layer_decay^(L - i) of the rate, what is below the stack at ^(L + 1)
        freeze=(),  # ((pattern, step at which it thaws; 0 = never), …)
    )  # fmt: skip
    c.train = dict(
        batch_size=64,  # over all devices and hosts
        epochs=10.0,
        steps=0,  # > 0: instead of epochs
        log_every=20,
        evaluate_every=0,  # steps; 0 = once an epoch, and not more often than log_every
        early_stopping=0,  # evaluations without a better eval.best; 0 = off
        max_skipped=10,  # updates in a row that are not finite (each is skipped) before it goes back to its last checkpoint, once
    )
    c.eval = dict(
        batch_size=64,
        overlap=0.5,  # of the windows of long clips
        best="validation/accuracy",  # the metric that names the best checkpoint
        best_mode="max",  # max | min
        checkpoint="last",  # last | best: which one the final evaluation uses
        splits=("validation", "test"),  # evaluated at the end; test is never looked at before
        top_k=5,
        mistakes=12,  # most confident mistakes shown in the report
    )
    c.init_from = ""  # whose encoder this stage starts from: an earlier stage, a workdir, or hf:FOLDER of transformers
    return c


def default(**stages: ConfigDict) -> ConfigDict:
    """Returns a whole config, locked, with the given stages in order (default: one called `supervised`)."""
    stages = stages or {"supervised": stage()}
    c = ConfigDict(dict(seed=0, stages=tuple(stages)))
    # Devices along each axis, -1 = all that are left. data: each has all parameters and a part of the batch; fsdp: a part of both;
    # tensor: a part of the Transformer's inside (heads, MLP), and the same rows.
    c.mesh = dict(data=-1, fsdp=1, tensor=1)
    c.checkpoint = dict(every=0, keep=2, asynchronous=True)  # every: steps, 0 = at each evaluation
    c.tensorboard = True
    c.profile = False  # True: a jax.profiler trace of five steps under <workdir>/profile
    for name, sub in stages.items():
        c[name] = sub
    return c.lock()


CHOICES = {
    "data.source": ("folder", "manifest", "tfds", "arrayrecord", "synthetic"),
    "data.crop": ("random", "center", "start"),
    "data.pad": ("zero", "repeat", "reflect"),
    "data.empty_label": ("unknown", "none"),
    "data.balance": ("none", "over", "under"),
    "frontend.pad_mode": ("reflect", "constant"),
    "frontend.log": ("natural", "log10", "db"),
    "frontend.normalize": ("none", "clip", "band", "global"),
    "model.pooling": ("mean", "max", "mean_max", "attention", "statistics"),
    "model.layers": ("last", "weighted"),
    "model.dtype": ("float32", "bfloat16", "float16"),
    "objective.loss": ("softmax", "sigmoid"),
    "objective.class_weights": ("none", "balanced"),
    "optimizer.name": ("adamw", "sgd", "adafactor", "lion"),
    "optimizer.schedule": ("cosine", "linear", "constant", "exponential", "one_cycle"),
    "eval.best_mode": ("max", "min"),
    "eval.checkpoint": ("last", "best"),
}
POSITIVE = ("data.sample_rate", "data.seconds", "data.examples", "frontend.n_fft", "frontend.hop_length",
            "frontend.n_mels", "frontend.floor", "optimizer.accumulation", "train.batch_size", "train.log_every", "train.max_skipped",
            "eval.batch_size", "eval.top_k")  # fmt: skip
SHARES = ("data.validation_fraction", "data.label_fraction", "data.max_bad_fraction", "model.dropout",
          "objective.label_smoothing", "optimizer.warmup_fraction", "optimizer.ema_decay", "optimizer.layer_decay",
          "eval.overlap")  # fmt: skip
NOT_NEGATIVE = ("optimizer.learning_rate", "optimizer.weight_decay", "optimizer.clip_norm", "optimizer.warmup_steps",
                "train.early_stopping", "train.evaluate_every", "eval.mistakes")  # fmt: skip


def check(config: ConfigDict) -> ConfigDict:
    """Checks values before anything compiles; returns the config. Raises UserError naming the key."""
    if not config.stages:
        raise UserError("config.stages is empty: name at least one stage")
    for place, name in enumerate(config.stages):
        if name not in config:
            raise UserError(
                f"config.stages names '{name}' but there is no config.{name}{nearest(name, config)}"
            )
        _check_stage(name, config[name])
        if config[name].init_from in config.stages[place:]:
            raise UserError(
                f"config.{name}.init_from is '{config[name].init_from}', which does not run before {name}: name an earlier stage, "
                "a workdir, or hf: and a checkpoint's folder"
            )
    for axis, size in config.mesh.items():
        if size == 0 or size < -1:
            raise UserError(
                f"config.mesh.{axis} is {size}: give a number of devices, or -1 for all that are left"
            )
    return config


def _check_stage(name: str, c: ConfigDict) -> None:
    from sacjax import augment, models, objectives
    from sacjax.data import groups

    def leaf(key: str) -> Any:
        group, field = key.split(".")
        return c[group][field]

    for key, choices in CHOICES.items():
        if leaf(key) not in choices:
            raise UserError(
                f"config.{name}.{key} is '{leaf(key)}'; choose one of {', '.join(choices)}"
            )
    for key in POSITIVE:
        if not leaf(key) > 0:
            raise UserError(f"config.{name}.{key} is {leaf(key)}: it must be greater than 0")
    for key in NOT_NEGATIVE:
        if not 0 <= leaf(key) < float("inf"):
            raise UserError(
                f"config.{name}.{key} is {leaf(key)}: it must be a finite number that is not negative"
            )
    for key in SHARES:
        if not 0 <= leaf(key) <= 1:
            raise UserError(f"config.{name}.{key} is {leaf(key)}: it must lie between 0 and 1")
    if c.eval.overlap > 0.95:
        raise UserError(f"config.{name}.eval.overlap is {c.eval.overlap}: it must be at most 0.95")
    if len(c.data.holdout) != 3 or min(c.data.holdout) < 0 or abs(sum(c.data.holdout) - 1) > 1e-6:
        raise UserError(
            f"config.{name}.data.holdout is {c.data.holdout}: give three shares that sum to 1"
        )
    if c.train.steps <= 0 and c.train.epochs <= 0:
        raise UserError(f"config.{name}.train: set epochs or steps greater than 0")
    if c.frontend.win_length > c.frontend.n_fft:
        raise UserError(
            f"config.{name}.frontend.win_length is {c.frontend.win_length}: it must not exceed n_fft {c.frontend.n_fft}"
        )
    if (
        max(c.frontend.fmin, c.frontend.fmax) > c.data.sample_rate / 2
        or 0 < c.frontend.fmax <= c.frontend.fmin
    ):
        raise UserError(
            f"config.{name}.frontend: fmin {c.frontend.fmin} and fmax {c.frontend.fmax} must rise and stay within "
            f"half of data.sample_rate {c.data.sample_rate}"
        )
    if c.train.batch_size % c.optimizer.accumulation:
        raise UserError(
            f"config.{name}.train.batch_size {c.train.batch_size} does not divide by "
            f"optimizer.accumulation {c.optimizer.accumulation}"
        )
    if c.data.multi_label and c.objective.loss != "sigmoid":
        raise UserError(
            f"config.{name}.data.multi_label=True needs config.{name}.objective.loss=sigmoid"
        )
    try:
        groups.compile_pattern(c.data.group_pattern)
        models.check(c.model)
        objectives.check(c)
        augment.check(c.augment.waveform, "waveform")
        augment.check(c.augment.spectrogram, "spectrogram")
    except UserError as error:  # they do not know the stage's name
        raise UserError(
            f"config.{name}.{error}" if str(error).startswith(tuple(c)) else f"{error}"
        ) from error
    if c.optimizer.schedule_frames and objectives.OBJECTIVES[c.objective.name].needs_labels:
        raise UserError(
            f"config.{name}.optimizer.schedule_frames counts masked frames: it needs objective.name=contrastive"
        )


def load(spec: str, overrides: list[str] | tuple[str, ...] = ()) -> ConfigDict:
    """Reads `path[:arg]`, applies `--config.key=value` overrides in order and checks the result.

    Raises:
      UserError: a missing file, an error inside it, an unknown key (the nearest known is named), a wrong type or value.
    """
    path, _, arg = spec.partition(":")
    if not Path(path).is_file():
        raise UserError(f"--config: there is no file {path}")
    module_spec = importlib.util.spec_from_file_location("sacjax_config_file", path)
    assert module_spec and module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if arg and not inspect.signature(module.get_config).parameters:
            raise UserError(f"it takes no argument, so ':{arg}' means nothing")
        config = module.get_config(arg) if arg else module.get_config()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except AttributeError as error:  # ConfigDict's own; its last line names the nearest key
        first, *_, last = str(error).strip("'\"").replace("\\n", "\n").splitlines()
        hint = f"; {last}" if last.startswith("Did you") else ""
        raise UserError(f"{path}: {first.split('. Other fields')[0]}{hint}") from error
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    return override(config, overrides)


def override(config: ConfigDict, overrides: list[str] | tuple[str, ...]) -> ConfigDict:
    """Applies `--config.key=value` strings in order, in place, and checks the result. Raises UserError as `load` does."""
    for text in overrides:
        _override(config, text)
    return check(config)


def _override(config: ConfigDict, text: str) -> None:
    key, equals, raw = text.removeprefix("--").partition("=")
    if not equals or not key.startswith("config."):
        raise UserError(f"'{text}' is not understood: overrides read --config.key=value")
    try:
        value = ast.literal_eval(raw)
    except (ValueError, SyntaxError):
        value = raw
    path = key.split(".")[1:]
    node: Any = config
    for depth, part in enumerate(path[:-1]):
        node = _child(node, part, ".".join(path[:depth]))
    parent = ".".join(path[:-1])
    if isinstance(node, tuple | list):
        raise UserError(
            f"--{key}: replace the tuple config.{parent} as a whole, or a field of one of its entries"
        )
    if isinstance(node, dict):  # one augmentation: its options are checked by sacjax.augment
        node[path[-1]] = value
        return
    if path[-1] not in node:
        if not parent.endswith(OPEN):
            raise UserError(f"--{key}: unknown key{nearest(path[-1], node)}")
        with node.unlocked():
            node[path[-1]] = value
        return
    old = node[path[-1]]
    if isinstance(old, ConfigDict) and isinstance(value, dict) and ".".join(path).endswith(OPEN):
        node[path[-1]] = value
        return
    if isinstance(old, ConfigDict):
        raise UserError(f"--{key} is a group of keys: {', '.join(old)}")
    if isinstance(old, str) and not isinstance(value, str):
        value = raw
    if isinstance(old, tuple) and not isinstance(value, tuple | list):
        value = (value,)
    try:
        if isinstance(old, bool) and not isinstance(value, bool):
            raise TypeError
        node[path[-1]] = value
    except TypeError as error:
        raise UserError(f"--{key}={raw}: expected {type(old).__name__}, such as {old}") from error


def _child(node: Any, part: str, parent: str) -> Any:
    where = f"config.{parent}" if parent else "config"
    if isinstance(node, tuple | list):
        if not part.isdigit() or int(part) >= len(node):
            raise UserError(f"--{where}.{part}: {where} has entries 0 to {len(node) - 1}")
        return node[int(part)]
    if not isinstance(node, ConfigDict | dict) or part not in node:
        known = node if isinstance(node, ConfigDict | dict) else ()
        raise UserError(f"--{where}.{part}: unknown key{nearest(part, known)}")
    return node[part]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--config FILE[:ARG]`; overrides `--config.key=value` are left to `parse_known_args`."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="config file; --config.key=value overrides",
    )


def from_flags(args: argparse.Namespace, unknown: list[str]) -> ConfigDict:
    """Returns the config for a command line parsed with `parser.parse_known_args()`.

    `--config.key value` is understood as well as `--config.key=value`.
    """
    return load(args.config, overrides_from(unknown))


def stage_name(config: ConfigDict, given: str | None) -> str:
    """Returns the stage that `--stage` names, the first where it does not. Raises UserError."""
    name = given or config.stages[0]
    if name not in config.stages:
        raise UserError(f"--stage is '{name}'{nearest(name, config.stages)}")
    return name


def overrides_from(unknown: list[str]) -> list[str]:
    """Returns what is left of a command line as `--config.key=value` strings. Raises UserError for anything else."""
    joined: list[str] = []
    for word in unknown:
        if joined and "=" not in joined[-1] and not word.startswith("--"):
            joined[-1] += "=" + word
        elif word.startswith("--config."):
            joined.append(word)
        else:
            raise UserError(f"unknown argument '{word}'")
    return joined


def parse_arg(arg: str, **defaults: Any) -> ConfigDict:
    """Parses `'esc10,fold=2'` against typed defaults: a bare word sets a flag. Raises UserError for an unknown word."""
    values = dict(defaults)
    for word in filter(None, arg.split(",")):
        name, equals, raw = word.partition("=")
        if name not in defaults:
            raise UserError(f"unknown config argument '{name}'{nearest(name, defaults)}")
        try:
            if equals and isinstance(defaults[name], bool):
                values[name] = {"true": True, "1": True, "false": False, "0": False}[raw.lower()]
            else:
                values[name] = type(defaults[name])(raw) if equals else True
        except (ValueError, KeyError) as error:
            raise UserError(
                f"config argument '{word}': expected {type(defaults[name]).__name__}"
            ) from error
    return ConfigDict(values)


def data_root() -> str:
    """Returns the folder with the real recordings that configs and benchmarks read: `$SACJAX_DATA` or `../shared/data`."""
    return os.environ.get("SACJAX_DATA", os.path.join("..", "shared", "data"))


def local_data(name: str) -> str:
    """Returns the folder of a data set under `data_root()`, or '' where it is not there (then it is downloaded)."""
    folder = os.path.join(data_root(), name)
    return folder if os.path.isdir(folder) else ""


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON with sorted keys, as kept in a workdir; without stages that it does not run."""
    kept = {
        key: value
        for key, value in config.to_dict().items()
        if key in config.stages or not _is_stage(value)
    }
    return json.dumps(kept, indent=1, sort_keys=True) + "\n"


def _is_stage(value: Any) -> bool:
    return isinstance(value, dict) and "objective" in value


def from_json(text: str) -> ConfigDict:
    """Reads what `to_json` wrote (JSON's lists become tuples again)."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tuples(item) for key, item in value.items()}
        return tuple(tuples(item) for item in value) if isinstance(value, list) else value

    return ConfigDict(tuples(json.loads(text))).lock()
