"""Parts of a step, by what JAX tells the compiler of each operation."""

import re

import jax
import jax.numpy as jnp

from sacjax.parts import part, part_of


@part("inner")
def inner(x):
    return jnp.sin(x)


@part("outer")
def outer(x):
    return inner(x).sum() * jnp.cosh(x).sum()


def test_operations_and_their_gradients_belong_to_the_innermost_part():
    def gradient(x):
        scanned = lambda x: jax.lax.scan(lambda c, _: (c + outer(x), None), 0.0, None, 3)[0]
        return jnp.tanh(jax.grad(scanned)(x))

    text = jax.jit(gradient).lower(jnp.ones(4)).as_text(debug_info=True)
    paths = re.findall(r'^#loc\S* = loc\("([^"]+)"', text, re.MULTILINE)

    def parts(operation):
        return {part_of(path) for path in paths if path.endswith(f"/{operation}")}

    assert parts("sin") == parts("cos") == {"inner"}
    assert parts("cosh") == parts("sinh") == {"outer"}
    assert parts("tanh") == {""}
