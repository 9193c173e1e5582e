"""Options of a component: the fields of a frozen dataclass, given as keys of a config."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from sacjax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of a component's options: checks the type of each field, then calls `check`.

    A subclass is a frozen dataclass too. A field annotated `Literal[...]` takes one of its values.
    An int given for a float becomes one, and a list given for a tuple becomes a tuple, so that
    equal options compare and hash as equal.
    """

    where: ClassVar[str] = ""
    """The config key that holds the options, as messages name it."""

    # It checks its own fields, with a UserError, so jaxtyping's hook in the tests must not.
    __no_type_check__ = True

    def __post_init__(self) -> None:
        """Raises UserError that names the field whose value does not fit."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check_value(f"{self.where}.{field.name}", value, field.type, field.default)
            object.__setattr__(self, field.name, _as_annotated(value, field.type))
        self.check()

    def check(self) -> None:
        """Raises UserError for values out of range, or that do not fit together."""

    def require(self, condition: bool, name: str, wanted: str, value: Any = None) -> None:
        """Raises UserError unless a condition holds.

        Args:
          condition: what must hold.
          name: the option that the message names.
          wanted: what the message asks for.
          value: what the message shows as its value, instead of the option's own.
        """
        if not condition:
            value = getattr(self, name) if value is None else value
            raise UserError(f"{self.where}.{name} is {value!r}: {wanted}")

    def require_positive(self, *names: str) -> None:
        """Raises UserError unless each of the options is finite and greater than 0, or None."""
        for name in names:
            value = getattr(self, name)
            self.require(value is None or 0 < value < float("inf"), name, "it must be positive")

    def require_not_negative(self, *names: str) -> None:
        """Raises UserError unless each of the options is finite and not negative."""
        for name in names:
            good = 0 <= getattr(self, name) < float("inf")
            self.require(good, name, "it must be a finite number that is not negative")

    def require_rates(self, *names: str) -> None:
        """Raises UserError unless each of the options is a rate of dropping: from 0 to below 1."""
        for name in names:
            self.require(0 <= getattr(self, name) < 1, name, "it must be at least 0 and below 1")

    def require_shares(self, *names: str) -> None:
        """Raises UserError unless each of the options lies between 0 and 1."""
        for name in names:
            self.require(0 <= getattr(self, name) <= 1, name, "it must lie between 0 and 1")


def defaults(kind: type) -> ConfigDict:
    """Returns the defaults of options as a config. A key of several types accepts any type."""
    c = ConfigDict()
    for field in dataclasses.fields(kind):
        several = len(_kinds(field.type)) > 1
        c[field.name] = (
            FieldReference(field.default, field_type=object) if several else field.default
        )
    return c


def check(where: str, owner: str, given: Mapping[str, Any], constructor: Callable) -> None:
    """Checks the names and types of the options in an open sub-config.

    Args:
      where: the config key that holds the options.
      owner: the name of the component, for the message.
      given: the options set, by name.
      constructor: a dataclass or a function, whose parameters are the known options.

    Raises:
      UserError: an option that the constructor does not have, or whose value does not fit.
    """
    if not isinstance(given, Mapping | ConfigDict):
        raise UserError(
            f"{where} is {given!r}: expected its keys, such as --config.….{where}.key=1"
        )
    known = inspect.signature(constructor).parameters
    for name, value in given.items():
        if name not in known:
            clear = ""
            if where == "model.encoder":
                clear = "; model.encoder={} clears what a config sets for another encoder"
            hint = nearest(name, known)
            raise UserError(f"{where}.{name}: {owner} has no such option{hint}{clear}")
        check_value(f"{where}.{name}", value, known[name].annotation, known[name].default)


def check_value(key: str, value: Any, annotation: Any, example: Any) -> None:
    """Raises UserError, with an example, for a value that does not fit its annotation."""
    if fits(value, annotation):
        return
    choices = [c for kind in _kinds(annotation) if _is_choice(kind) for c in typing.get_args(kind)]
    if choices:
        hint = (
            nearest(value, choices)
            if isinstance(value, str) and isinstance(choices[0], str)
            else ""
        )
        listed = f": choose one of {', '.join(map(str, choices))}"
        raise UserError(f"{key} is {value!r}{hint if 'did you mean' in hint else listed}")
    wanted = getattr(annotation, "__name__", None) or str(annotation)
    raise UserError(f"{key} is {value!r}: expected {wanted}, such as {example!r}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value has its annotated type; an int is a float too, but a bool is neither."""
    return any(_fits_one(value, kind) for kind in _kinds(annotation))


def _fits_one(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if _is_choice(kind):
        return any(value == c and type(value) is type(c) for c in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return isinstance(value, tuple | list) and all(fits(v, item) for v in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation alone."""
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if union else (annotation,)


def _is_choice(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal


def _as_annotated(value: Any, annotation: Any) -> Any:
    """Converts an int to an annotated float, and a list to a tuple; the value must fit."""
    kinds = _kinds(annotation)
    if isinstance(value, list):
        return tuple(value)
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and float in kinds
        and int not in kinds
    ):
        return float(value)
    return value
