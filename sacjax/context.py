"""What a call of a model or an objective gets beside its arrays."""

from typing import NamedTuple

import jax


class Context(NamedTuple):
    """Says whether a call trains, with which random key, and how far the schedule has come.

    A NamedTuple is a pytree, so a context goes through `jax.jit` and `jax.checkpoint` like any
    array.
    """

    key: jax.Array | None = None
    """Typed random key of this call; None outside training."""

    progress: jax.Array | float = 0.0
    """Steps of the learning-rate schedule so far, float32 []."""

    @property
    def train(self) -> bool:
        """Whether this is a training step: dropout is on, batch norm uses batch statistics."""
        return self.key is not None

    def rng(self, number: int) -> jax.Array | None:
        """Returns the key of this call's draw `number`, or None outside training."""
        return None if self.key is None else jax.random.fold_in(self.key, number)

    def child(self, number: int) -> "Context":
        """Returns the context of an inner call, whose draws do not repeat those of this one."""
        return self._replace(key=self.rng(number))
