"""What is compiled for: of two equal forms, one is far faster on one platform, one on another."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_target: ContextVar[str] = ContextVar("target", default="")


def platform() -> str:
    """Returns what is compiled for: cpu, gpu or tpu."""
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def compiled_for(target: str) -> Iterator[None]:
    """Says that what is traced inside is for another platform than this machine's.

    Args:
      target: cpu, gpu or tpu.
    """
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)
