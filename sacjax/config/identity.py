"""Decides whether two configs describe the same experiment, to resume runs or pool them.

The functions take configs as `config.json` holds them: plain dicts, without stages that do not run.
A key that was added to sacjax since a config was written counts as its default.
"""

import json
from collections.abc import Mapping
from typing import Any

from sacjax.config.loading import from_json, to_json
from sacjax.config.schema import check
from sacjax.errors import UserError

Config = Mapping[str, Any]

# Keys of a config, and of a stage's `data`, that change how a run executes, not what it learns.
CARRIED_OUT = ("mesh", "checkpoint", "profile", "tensorboard")
CARRIED_OUT_DATA = ("cache", "workers", "prefetch", "max_bad_fraction")


def learned(config: Config) -> dict[str, Any]:
    """Returns a config without the keys that change only how a run executes."""
    kept = {key: value for key, value in config.items() if key not in CARRIED_OUT}
    for name in config["stages"]:
        data = {k: v for k, v in config[name]["data"].items() if k not in CARRIED_OUT_DATA}
        kept[name] = {**config[name], "data": data}
    return kept


def cross_validated(config: Config) -> dict[str, Any]:
    """Returns what all runs of one cross-validation share: `learned`, without what differs.

    The runs differ in the seed; in the fold that the last stage holds out, also in earlier stages
    that hold out the same one; in `data.split_seed`, where it draws which labels are kept; and in
    the workdir that a stage starts from, as each fold has its own pretrained encoder.
    """
    kept = learned(config)
    kept.pop("seed", None)
    held_out = kept[config["stages"][-1]]["data"].get("fold")
    for name in config["stages"]:
        data = dict(kept[name]["data"])
        if data.get("fold") and data["fold"] == held_out:
            data["fold"] = "the one held out"
        if data.get("labels_per_class") or data.get("label_fraction", 1.0) < 1:
            data.pop("split_seed", None)
        kept[name] = {**kept[name], "data": data}
        source = kept[name].get("init_from", "")
        if source and source not in config["stages"] and not source.startswith("hf:"):
            kept[name]["init_from"] = "a workdir"
    return kept


def same(a: Config, b: Config, *, across_folds: bool = False) -> bool:
    """Returns whether two configs describe the same experiment; arguments as of `difference`."""
    return difference(a, b, across_folds=across_folds) is None


def difference(a: Config, b: Config, *, across_folds: bool = False) -> str | None:
    """Returns the first key in which two experiments differ, with both values, or None.

    Args:
      a: the config that the message calls "there".
      b: the config that it calls "here".
      across_folds: whether runs of one cross-validation count as the same; see `cross_validated`.
    """
    kept = cross_validated if across_folds else learned
    compare = lambda a, b: _difference(_plain(kept(a)), _plain(kept(b)), "config")
    return compare(a, b) and compare(_complete(a), _complete(b))


def _complete(config: Config) -> Config:
    """Returns a config of an earlier version with the defaults of the keys added since then."""
    try:
        return json.loads(to_json(check(from_json(json.dumps(config)))))
    except UserError:  # a key that there is not any more, or a value out of range
        return config


def _plain(value: Any) -> Any:
    """Returns a value as JSON would read it back: with lists for tuples."""
    return json.loads(json.dumps(value))


def _difference(a: Any, b: Any, path: str) -> str | None:
    if a == b:
        return None
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return f"{path} is {json.dumps(a)} there and {json.dumps(b)} here"
    for key in sorted(set(a) | set(b)):
        if key not in a or key not in b:
            there, here = ("absent" if key not in c else json.dumps(c[key]) for c in (a, b))
            return f"{path}.{key} is {there} there and {here} here"
        found = _difference(a[key], b[key], f"{path}.{key}")
        if found:
            return found
    return None
