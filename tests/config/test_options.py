"""Options of a part: types, choices, ranges, and what a message says of them."""

import dataclasses
from typing import Any, Literal

import pytest

from sacjax.config import options
from sacjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Tea(options.Options):
    """A part's options."""

    where = "tea"

    kind: Literal["green", "black"] = "green"
    minutes: float = 3.0
    cups: int = 1
    sugar: bool = False
    notes: tuple[str, ...] = ()
    milk: float | None = None
    strength: float | str = 1.0
    layers: Literal[12, 24] = 12

    def check(self) -> None:
        """Raises UserError for no cup."""
        self.require_positive("cups", "milk")
        self.require_not_negative("minutes")


def test_equal_options_compare_and_hash_as_equal():
    assert Tea(minutes=3, notes=["a", "b"]) == Tea(notes=("a", "b"))
    assert hash(Tea(minutes=3, notes=["a"])) == hash(Tea(notes=("a",)))
    assert type(Tea(minutes=4).minutes) is float and type(Tea(strength=2).strength) is float
    assert Tea(milk=None).milk is None and Tea(strength="max").strength == "max"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(kind="gren"), r"tea.kind is 'gren'; did you mean 'green'\?"),
        (dict(kind="x"), "tea.kind is 'x': choose one of green, black"),
        (dict(kind=1), "tea.kind is 1: choose one of green, black"),
        (dict(layers=13), "tea.layers is 13: choose one of 12, 24"),
        (dict(layers=12.0), "tea.layers is 12.0: choose one of 12, 24"),
        (dict(minutes="3"), "tea.minutes is '3': expected float, such as 3.0"),
        (dict(minutes=True), "tea.minutes is True: expected float, such as 3.0"),
        (dict(cups=1.5), "tea.cups is 1.5: expected int, such as 1"),
        (dict(cups=True), "tea.cups is True: expected int, such as 1"),
        (dict(sugar=1), "tea.sugar is 1: expected bool, such as False"),
        (dict(notes="a"), r"tea.notes is 'a': expected .*tuple"),
        (dict(notes=(1,)), r"tea.notes is \(1,\): expected .*tuple"),
        (dict(milk="a"), "tea.milk is 'a': expected float"),
        (dict(milk=0.0), "tea.milk is 0.0: it must be positive"),
        (dict(cups=0), "tea.cups is 0: it must be positive"),
        (dict(minutes=float("inf")), "tea.minutes is inf: it must be a finite number that is not"),
        (dict(minutes=float("nan")), "tea.minutes is nan: it must be a finite number that is not"),
        (dict(minutes=-1.0), "tea.minutes is -1.0: it must be a finite number that is not"),
    ],
)
def test_a_value_that_does_not_fit_names_its_field(given, message):
    with pytest.raises(UserError, match=f"^{message}"):
        Tea(**given)


def test_defaults_are_a_config_whose_types_hold():
    c = options.defaults(Tea)
    assert Tea(**c) == Tea()
    c.milk, c.strength = 2.0, "max"  # keys of several types are bound to none
    c.milk = None
    with pytest.raises(TypeError):
        c.cups = "many"


def make(first: int = 1, second: float = 2.0, anything: Any = None) -> None:
    """A function whose parameters are options."""


def test_names_and_types_of_an_open_group():
    options.check("steam.options", "steam", dict(first=2, second=3, anything=object()), make)
    with pytest.raises(
        UserError, match=r"^steam.options.frist: steam has no such option; did you mean 'first'\?"
    ):
        options.check("steam.options", "steam", dict(frist=1), make)
    with pytest.raises(UserError, match="^steam.options.first is 2.5: expected int, such as 1"):
        options.check("steam.options", "steam", dict(first=2.5), make)


def test_ranges_by_name():
    tea = Tea(minutes=0.5)
    tea.require_rates("minutes"), tea.require_shares("minutes")
    with pytest.raises(UserError, match="tea.minutes is 1.0: it must be at least 0 and below 1"):
        Tea(minutes=1.0).require_rates("minutes")
    Tea(minutes=1.0).require_shares("minutes")
    with pytest.raises(UserError, match="tea.minutes is 1.5: it must lie between 0 and 1"):
        Tea(minutes=1.5).require_shares("minutes")
    with pytest.raises(UserError, match="tea.minutes is 90: an hour at the most"):
        tea.require(False, "minutes", "an hour at the most", 90)
