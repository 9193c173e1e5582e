"""Loads a config file, applies overrides, writes and reads a workdir's config."""

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

from sacjax.config.schema import OPEN, check, default, stage
from sacjax.errors import UserError, nearest

# Keys of `objective.options` in what earlier versions wrote, and what they are called now.
RENAMED = {"flat_patience": "collapse_patience", "silence_patience": "collapse_patience"}


def load(spec: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> ConfigDict:
    """Reads `path[:arg]`, applies `--config.key=value` overrides in order and checks the result.

    Raises:
      UserError: a missing file, an error inside it, an unknown key (the nearest known is named), a
      wrong type or value.
    """
    path, _, arg = str(spec).partition(":")
    if not Path(path).is_file():
        checkout = Path(path).parts[:1] == ("configs",) and not Path("configs").is_dir()
        where = "; configs/ is in the checkout of sacjax: give its whole path" if checkout else ""
        raise UserError(f"--config: there is no file {path}{where}")
    module_spec = importlib.util.spec_from_file_location("sacjax_config_file", path)
    assert module_spec and module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if arg and not inspect.signature(module.get_config).parameters:
            raise UserError(f"it takes no argument, so ':{arg}' means nothing")
        config = module.get_config(arg) if arg else module.get_config()
        if not isinstance(config, ConfigDict):
            raise UserError(f"get_config returns {type(config).__name__}: return a config")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except AttributeError as error:  # ConfigDict's own; its last line names the nearest key
        lines = str(error).strip("'\"").replace("\\n", "\n").splitlines() or [type(error).__name__]
        hint = f"; {lines[-1]}" if lines[-1].startswith("Did you") else ""
        raise UserError(f"{path}: {lines[0].split('. Other fields')[0]}{hint}") from error
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    return override(config, overrides)


def override(config: ConfigDict, overrides: list[str] | tuple[str, ...]) -> ConfigDict:
    """Applies `--config.key=value` strings in order, in place, and checks the result.

    Raises UserError as `load` does.
    """
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
            f"--{key}: replace the tuple config.{parent} as a whole, or a field of one of its "
            "entries"
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
    if node.get_type(path[-1]) is str and not isinstance(value, str):
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
        known: Any = node if isinstance(node, ConfigDict | dict) else {}
        for stage in known.get("stages", ()) if not parent else ():
            if part in known[stage]:
                raise UserError(f"--config.{part}: it belongs to a stage: --config.{stage}.{part}")
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
    """Returns the stage that `--stage` names, by default the first. Raises UserError."""
    name = given or config.stages[0]
    if name not in config.stages:
        raise UserError(f"--stage is '{name}'{nearest(name, config.stages)}")
    return name


def overrides_from(unknown: list[str]) -> list[str]:
    """Returns the unparsed words of a command line as `--config.key=value` strings.

    Raises UserError for anything else.
    """
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
    """Parses `'esc10,fold=2'` against typed defaults: a bare word sets a flag.

    Raises UserError for an unknown word.
    """
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
    """Returns the folder of real recordings: `$SACJAX_DATA`, or else `../shared/data`.

    The configs and benchmarks of published data sets read from it.
    """
    return os.environ.get("SACJAX_DATA", os.path.join("..", "shared", "data"))


def local_data(name: str) -> str:
    """Returns a data set's folder under `data_root()`, or '' where there is none.

    A config whose `data.path` is '' downloads the data set.
    """
    folder = os.path.join(data_root(), name)
    return folder if os.path.isdir(folder) else ""


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON with sorted keys, as a workdir keeps it.

    Stages that the config does not run are left out.
    """
    kept = {
        key: value
        for key, value in config.to_dict().items()
        if key in config.stages or not _is_stage(value)
    }
    return json.dumps(kept, indent=1, sort_keys=True) + "\n"


def _is_stage(value: Any) -> bool:
    return isinstance(value, dict) and "objective" in value


def from_json(text: str) -> ConfigDict:
    """Reads what `to_json` wrote, also in an earlier version of sacjax.

    Keys added since then get their defaults, and renamed ones their new names.
    """
    try:
        config = ConfigDict(_as_tuples(json.loads(text)))
        if not isinstance(config.stages, tuple) or not all(s in config for s in config.stages):
            raise KeyError("stages")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"config.json is damaged: {type(error).__name__}: {error}") from error
    _fill(config, default(**{name: stage() for name in config.stages}), "config")
    for name in config.stages:
        _update_options(config[name].objective.options, f"config.{name}.objective.options")
    return config.lock()


def _update_options(given: ConfigDict, where: str) -> None:
    """Renames an objective's options, and fills what they tell of a teacher as `_fill` does."""
    for old in RENAMED.keys() & set(given):
        given[RENAMED[old]] = given[old]
        del given[old]
    network = given.get("network")
    if isinstance(network, ConfigDict) and "frontend" in network:
        fresh = stage()
        told = ConfigDict(dict(model=fresh.model, frontend=fresh.frontend))
        _fill(network, told, f"{where}.network")


def _fill(given: ConfigDict, fresh: ConfigDict, where: str) -> None:
    """Gives missing keys their defaults. Raises UserError for a value of another kind."""
    for key, value in fresh.items():
        if key not in given:
            given[key] = value
        kind = fresh.get_type(key)  # object, of a key with several
        kinds = (int, float) if kind is float else kind
        if not isinstance(given[key], kinds):
            raise UserError(f"config.json is damaged: {where}.{key} is {given[key]!r}")
        if kind is object:  # else an override could not be of another kind than what was written
            its = given[key]
            with given.unlocked():  # a whole group of defaults is locked
                del given[key]
                given[key] = FieldReference(its, field_type=object)
        if isinstance(value, ConfigDict):
            _fill(given[key], value, f"{where}.{key}")


def _as_tuples(value: Any) -> Any:
    """Returns a JSON value with its lists turned into tuples."""
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
