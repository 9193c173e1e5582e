"""What a step computes, and what the devices could: model FLOP/s and their share of the peak (MFU).

Model FLOPs are those that the loss and its gradient need (Chowdhery et al. 2022, appendix B):
matrix products and convolutions, two a multiply-add. What is computed again to save memory
(`jax.checkpoint`) counts once, and the gradient of frozen parameters counts nothing.
"""

import math
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun
from jax.extend.core.primitives import closed_call_p
from jax.interpreters import partial_eval

PEAKS = {  # device: FLOP/s of dense bfloat16 matrix products, from the vendors' data sheets
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,  # v5e
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,  # v6e
}
# What may follow a name of PEAKS in JAX's device kind, such as 'NVIDIA H100 80GB HBM3' and
# 'NVIDIA A100-SXM4-40GB': memory and socket. Anything else is another device, or a part of one.
VARIANT = re.compile(r"([ -](\d+GB|HBM\w+|SXM\d*|PCIE))*", re.IGNORECASE)


def of_jaxpr(jaxpr: Jaxpr) -> float:
    """Returns the FLOPs of the matrix products and convolutions of a jaxpr.

    A loop counts each time round; a `while` whose trip count nobody knows counts once, a `cond` by
    its dearest branch.
    """
    return sum(_of_equation(eqn) for eqn in jaxpr.eqns)


def _of_equation(eqn: JaxprEqn) -> float:
    """Returns the FLOPs of one equation, with those of the jaxprs inside it."""
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = _shape(eqn.invars[0])
        return 2.0 * math.prod(_shape(eqn.outvars[0])) * math.prod(shape[k] for k in contracted)
    if name == "conv_general_dilated":
        kernel = _shape(eqn.invars[1])
        each = math.prod(kernel) / kernel[params["dimension_numbers"].rhs_spec[0]]
        # The gradient of a strided convolution's input has zeros between its positions.
        each /= math.prod(params["lhs_dilation"])
        return 2.0 * math.prod(_shape(eqn.outvars[0])) * each
    inner = [of_jaxpr(sub) for value in params.values() for sub in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _shape(variable: Any) -> tuple[int, ...]:
    """Returns the shape of a variable or constant of a jaxpr."""
    return variable.aval.shape


def _jaxprs(value: Any) -> list[Jaxpr]:
    """Returns the jaxprs in a parameter of an equation."""
    if isinstance(value, tuple | list):
        return [sub for item in value for sub in _jaxprs(item)]
    value = getattr(value, "jaxpr", value)
    return [value] if hasattr(value, "eqns") else []


def of_gradient(loss: ClosedJaxpr, trained: Sequence[bool]) -> float:
    """Returns the FLOPs of a loss and its gradient, as `jax.value_and_grad` computes them.

    They are counted in the jaxpr of the gradient after everything that neither needs is removed.

    Args:
      loss: a jaxpr whose first output is the loss, float []; its other outputs do not count.
      trained: for each of its inputs whether the gradient by it is needed; those beyond the end
        of `trained` are not.
    """
    chosen = [k for k, needed in enumerate(trained) if needed]
    function = jaxpr_as_fun(_without_remat(loss))

    def value(*inputs: Any) -> jax.Array:
        return function(*inputs)[0]

    step = jax.value_and_grad(value, argnums=chosen) if chosen else value
    jaxpr = jax.make_jaxpr(step)(*loss.in_avals).jaxpr
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return of_jaxpr(needed)


def _without_remat(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Returns a jaxpr whose backward pass computes nothing of the forward pass again."""
    return closed.replace(jaxpr=_saving_all(closed.jaxpr))


def _saving_all(jaxpr: Jaxpr) -> Jaxpr:
    return jaxpr.replace(eqns=[_keep_all(eqn) for eqn in jaxpr.eqns])


def _keep_all(eqn: JaxprEqn) -> JaxprEqn:
    """Returns an equation that saves everything: a plain call, where it is a `jax.checkpoint`.

    That has a policy for it, but fails where it is to save complex numbers (JAX 0.10).
    """
    params = {key: _inside(value) for key, value in eqn.params.items()}
    if "policy" in params:
        plain = {"call_jaxpr": ClosedJaxpr(params["jaxpr"], ())}
        return eqn.replace(primitive=closed_call_p, params=plain)
    return eqn.replace(params=params)


def _inside(value: Any) -> Any:
    if isinstance(value, tuple) and all(isinstance(item, ClosedJaxpr) for item in value):
        return tuple(map(_without_remat, value))  # the branches of a `cond`
    if isinstance(value, ClosedJaxpr):
        return _without_remat(value)
    return _saving_all(value) if isinstance(value, Jaxpr) else value


def peak() -> float:
    """Returns the FLOP/s that all devices together are capable of.

    By the data sheet of their kind; where it is not known, as a float32 matrix product measures.
    """
    known = peak_of(jax.devices()[0].device_kind)
    return known * jax.device_count() if known else _measured() * jax.process_count()


def peak_of(kind: str) -> float | None:
    """Returns the FLOP/s of a device of a kind, as JAX spells it; None: it is not in `PEAKS`."""
    for name in sorted(PEAKS, key=len, reverse=True):  # 'NVIDIA H100 PCIe' before 'NVIDIA H100'
        if kind.startswith(name) and VARIANT.fullmatch(kind, len(name)):
            return PEAKS[name]
    return None


def _measured(size: int = 1024) -> float:
    a = jnp.ones([size, size], jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)
