"""What a step computes, and what the devices could: for the log's model FLOP/s and share of the peak (MFU)."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PEAKS = {  # start of the device kind: FLOP/s of dense bfloat16 matrix products, from the vendors' data sheets
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,
}


def of_jaxpr(jaxpr: Any) -> float:
    """Returns the floating-point operations of the matrix products and convolutions of a jaxpr; loops count each time round.

    A `while` whose trip count nobody knows counts once, a `cond` by its dearest branch.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        out = np.prod(eqn.outvars[0].aval.shape, dtype=float) if eqn.outvars else 0.0
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += (
                2 * out * np.prod([eqn.invars[0].aval.shape[k] for k in contracted], dtype=float)
            )
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * out * np.prod(kernel, dtype=float) / features
        else:
            inner = [of_jaxpr(sub) for value in eqn.params.values() for sub in _jaxprs(value)]
            if inner:
                times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
                total += times * (max(inner) if eqn.primitive.name == "cond" else sum(inner))
    return total


def _jaxprs(value: Any) -> list[Any]:
    """Returns the jaxprs in a parameter of an equation."""
    if isinstance(value, tuple | list):
        return [sub for item in value for sub in _jaxprs(item)]
    value = getattr(value, "jaxpr", value)
    return [value] if hasattr(value, "eqns") else []


def peak() -> float:
    """Returns the FLOP/s that all devices together are capable of: by their kind, else as a float32 matrix product measures."""
    kind = jax.devices()[0].device_kind
    known = [rate for start, rate in PEAKS.items() if kind.startswith(start)]
    return known[0] * jax.device_count() if known else _measured() * jax.process_count()


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
