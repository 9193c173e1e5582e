"""Names of a step's parts, by which `sacjax plan` and a profile add up what the step costs."""

import re
from typing import Any

import jax

NAMED = re.compile(r"part:([^/()]+)")


def part(name: str) -> Any:
    """Returns a decorator of a function whose operations belong to a part of the step.

    Of parts within each other the innermost counts. The gradient's operations belong to the part
    that they are the gradient of.

    Args:
      name: such as 'attention'.
    """
    return jax.named_scope(f"part:{name}")


def part_of(path: str) -> str:
    """Returns the part of an operation by the path of names that XLA knows it by; '' for none."""
    return next(reversed(NAMED.findall(path)), "")
