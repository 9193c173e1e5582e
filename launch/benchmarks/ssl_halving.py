"""Successive halving: every method runs shortly, the better ones longer.

5 core minutes for every method, 20 for the better half, 60 for the best three and wav2vec 2.0,
which the others are measured by.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

COLUMNS = ("method", "budget_minutes", "development_score", "goes_on")


class Rung(NamedTuple):
    """A budget and who goes on from there."""

    budget: float  # core minutes
    keep: int | None  # of the methods; None: the better half of them
    always: tuple[str, ...] = ()  # who goes on besides


SCHEDULE = (Rung(5, None), Rung(20, 3, ("wav2vec2",)), Rung(60, 0))


def halve(scores: Mapping[str, float], keep: int) -> list[str]:
    """Returns the `keep` methods of the highest scores, the best first; equals by their names."""
    return sorted(scores, key=lambda method: (-scores[method], method))[:keep]


def choose(rung: Rung, scores: Mapping[str, float], methods: Sequence[str]) -> dict[str, str]:
    """Returns {method: why} of those that go on from a rung.

    Args:
      rung: which.
      scores: of the methods that came so far.
      methods: all that began.
    """
    keep = -(-len(scores) // 2) if rung.keep is None else rung.keep
    going = {method: f"among the best {keep} of {len(scores)}" for method in halve(scores, keep)}
    besides = [method for method in rung.always if method in methods and method not in going]
    return going | dict.fromkeys(besides, "which the others are measured by")


def show(rung: Rung, scores: Mapping[str, float], going: Mapping[str, str]) -> str:
    """Returns a line a method: its score in percent, and whether it goes on and why."""
    lines = [f"{rung.budget:g} core minutes, the linear probe's accuracy on development folds:"]
    for method in dict.fromkeys([*halve(scores, len(scores)), *going]):
        score = f"{scores[method]:.1f} %" if method in scores else "left at an earlier budget"
        fate = f"; goes on: {going[method]}" if method in going else ""
        lines.append(f"  {method}: {score}{fate}")
    return "\n".join(lines)


def rows_of(
    rung: Rung, scores: Mapping[str, float], going: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """Returns a rung's rows of the CSV, the best first."""
    return [
        (method, f"{rung.budget:g}", f"{scores[method]:.2f}", "yes" if method in going else "no")
        for method in halve(scores, len(scores))
    ]
