"""Configs: the description of an experiment as data.

A config file is Python with `get_config(arg='')` that returns `config.default(...)` with some
leaves set. It is code: run only files that you trust. `path:arg` hands `arg` to `get_config`;
`--config.a.b=value` overrides a leaf. Each group of keys is the `Options` of the component that
reads it; see `schema`.
"""

from sacjax.config.loading import (
    add_flags,
    data_root,
    from_flags,
    from_json,
    load,
    local_data,
    override,
    overrides_from,
    parse_arg,
    stage_name,
    to_json,
)
from sacjax.config.schema import check, default, stage

__all__ = [
    "add_flags",
    "check",
    "data_root",
    "default",
    "from_flags",
    "from_json",
    "load",
    "local_data",
    "override",
    "overrides_from",
    "parse_arg",
    "stage",
    "stage_name",
    "to_json",
]
