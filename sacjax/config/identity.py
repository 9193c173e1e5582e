"""When two configs say the same experiment: for resuming a run, and for pooling several.

The functions take configs as `config.json` holds them: plain dicts, without stages that do not run.
"""

import json
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

# Keys of a config, and of a stage's `data`, that say how a run is carried out, not what is learned.
CARRIED_OUT = ("mesh", "checkpoint", "profile", "tensorboard")
CARRIED_OUT_DATA = ("cache", "workers", "prefetch", "max_bad_fraction")


def learned(config: Config) -> dict[str, Any]:
    """Returns a config without what only says how a run is carried out, which may change."""
    kept = {key: value for key, value in config.items() if key not in CARRIED_OUT}
    for name in config["stages"]:
        data = {k: v for k, v in config[name]["data"].items() if k not in CARRIED_OUT_DATA}
        kept[name] = {**config[name], "data": data}
    return kept


def cross_validated(config: Config) -> dict[str, Any]:
    """Returns what the runs of one cross-validation share: `learned`, less what tells them apart.

    That is the seed; the fold that is held out, in every stage that holds out the same one as the
    last stage; `data.split_seed` where it draws which labels are kept; and which workdir a stage
    starts from, for each fold has a pretrained encoder of its own.
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
        start = kept[name].get("init_from", "")
        if start and start not in config["stages"] and not start.startswith("hf:"):
            kept[name]["init_from"] = "a workdir"
    return kept


def same(a: Config, b: Config, *, across_folds: bool = False) -> bool:
    """Returns whether two configs say the same experiment; the arguments are `difference`'s."""
    return difference(a, b, across_folds=across_folds) is None


def difference(a: Config, b: Config, *, across_folds: bool = False) -> str | None:
    """Returns the first key in which two experiments differ with both values, None where none does.

    Args:
      a: what the message calls "there".
      b: what it calls "here".
      across_folds: whether runs of one cross-validation count as the same; see `cross_validated`.
    """
    kept = cross_validated if across_folds else learned
    return _difference(_plain(kept(a)), _plain(kept(b)), "config")


def _plain(value: Any) -> Any:
    """Returns a value as JSON gives it back: lists for tuples."""
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
