"""A place in a network whose values can be seen, and shifted, from outside: for Grad-CAM.

An encoder calls `tap` on what its last convolutions made. Outside of `tapped` it does nothing.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

from jaxtyping import Array, Float

Use = Callable[[Float[Array, "..."]], Float[Array, "..."]]

_USE: contextvars.ContextVar[Use | None] = contextvars.ContextVar("tap", default=None)


def tap(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns x, or what the function of `tapped` makes of it."""
    use = _USE.get()
    return x if use is None else use(x)


@contextlib.contextmanager
def tapped(use: Use) -> Iterator[None]:
    """Calls `use` on what goes through each `tap`, and puts what it returns in its place."""
    token = _USE.set(use)
    try:
        yield
    finally:
        _USE.reset(token)
