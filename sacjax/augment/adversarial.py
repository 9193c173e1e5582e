"""Adversarial examples: the small change of a clip that raises the loss most, as an augmentation.

`dict(name='fgsm', epsilon=0.1, probability=0.5)` in a list of augmentations changes the clips at
that place of the list, by what the train step finds: `attack(gradient, keys, shape, **options) →
offset`, an array of that shape, each row's within a ball of radius epsilon around zero. The
gradient is that of the loss which the step then minimizes, with the same dropout and the same
draws of the other augmentations.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Offset = Float[Array, "batch time *bands"]
Gradient = Callable[[Offset], Offset]
"""Offset → gradient of the summed loss by it."""

Norm = Literal["linf", "l2"]


def fgsm(
    gradient: Gradient,
    keys: Key[Array, " batch"],
    shape: tuple[int, ...],
    *,
    epsilon: float = 0.01,
    norm: Norm = "linf",
) -> Offset:
    """Moves each clip by epsilon up the gradient of its loss (fast gradient sign method).

    Goodfellow et al. 2015: epsilon · sign(gradient).

    Args:
      epsilon: radius of the ball. Of waves in shares of full scale, of spectrograms in their units
        after normalization, such as standard deviations.
      norm: of the ball. linf: no sample or cell changes by more; l2: the clip as a whole, and the
        move is along the gradient itself (Miyato et al. 2017).
    """
    return epsilon * steepest(gradient(jnp.zeros(shape)), norm)


def pgd(
    gradient: Gradient,
    keys: Key[Array, " batch"],
    shape: tuple[int, ...],
    *,
    epsilon: float = 0.01,
    norm: Norm = "linf",
    steps: int = 5,
    step: float = 0.0,
    random_start: bool = True,
) -> Offset:
    """Climbs each clip's loss in several steps that stay in a ball (projected gradient).

    Madry et al. 2018. Each step is one more forward and backward pass of the model.

    Args:
      epsilon, norm: as of `fgsm`.
      steps: gradients to follow, one after the other.
      step: length of one; 0: 2.5 · epsilon / steps, as theirs.
      random_start: from a random place in the ball, else from the clip itself.
    """
    step = step or 2.5 * epsilon / steps
    start = jnp.zeros(shape)
    if random_start:
        draw = lambda key: jax.random.uniform(key, shape[1:], minval=-epsilon, maxval=epsilon)
        start = projected(jax.vmap(draw)(keys), epsilon, norm)

    def move(_: Any, offset: Offset) -> Offset:
        return projected(offset + step * steepest(gradient(offset), norm), epsilon, norm)

    return jax.lax.fori_loop(0, steps, move, start)


def steepest(gradient: Offset, norm: Norm) -> Offset:
    """Returns the step of norm 1 a row that raises the loss most; zeros where nothing does.

    So does a row whose gradient is not finite.
    """
    good = jnp.isfinite(gradient).all(tuple(range(1, gradient.ndim)), keepdims=True)
    gradient = jnp.where(good, gradient, 0)
    if norm == "linf":
        return jnp.sign(gradient)
    # Scaled first, as the squares of small gradients would vanish.
    largest = jnp.abs(gradient).max(tuple(range(1, gradient.ndim)), keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    size = _size(scaled)
    return scaled / jnp.where(size > 0, size, 1)


def projected(offset: Offset, epsilon: float, norm: Norm) -> Offset:
    """Returns the nearest offset whose rows lie in the ball of radius epsilon."""
    if norm == "linf":
        return jnp.clip(offset, -epsilon, epsilon)
    size = _size(offset)
    return offset * jnp.minimum(1, epsilon / jnp.where(size > 0, size, 1))


def _size(x: jax.Array) -> jax.Array:
    """Returns the Euclidean norm of each row, [B, 1, …] of as many axes."""
    return jnp.sqrt((x**2).sum(tuple(range(1, x.ndim)), keepdims=True))
