"""Checks the open parts of a config, whose keys are the options of a constructor."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from sacjax.errors import UserError, nearest


def check(
    where: str,
    owner: str,
    given: Mapping[str, Any],
    constructor: Callable,
    reserved: tuple[str, ...] = (),
) -> None:
    """Raises UserError for an option that the constructor does not have, or whose value has another type than it says.

    Args:
      where: the config key that holds the options.
      owner: what the message calls the constructor.
      reserved: parameters that the caller gives.
    """
    parameters = inspect.signature(constructor).parameters
    options = {name: p for name, p in parameters.items() if name not in ("self", *reserved)}
    for name, value in given.items():
        if name not in options:
            raise UserError(f"{where}.{name}: {owner} has no such option{nearest(name, options)}")
        if not fits(value, options[name].annotation):
            wanted = getattr(options[name].annotation, "__name__", None) or str(
                options[name].annotation
            )
            raise UserError(
                f"{where}.{name} is {value!r}: expected {wanted}, such as {options[name].default!r}"
            )


def fits(value: Any, annotation: Any) -> bool:
    """Whether an option's value has its annotated type; an int is a float too, but a bool is neither."""
    kinds = (
        typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    )
    for kind in kinds:
        if typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            if isinstance(value, tuple | list) and all(fits(v, item) for v in value):
                return True
        elif isinstance(value, bool):
            if kind is bool:
                return True
        elif isinstance(value, kind) or (kind is float and isinstance(value, int)):
            return True
    return False
