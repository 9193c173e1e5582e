"""Real FFTs over the last axis that leave a batch split over devices where it is.

XLA's partitioner (openxla/xla#24, in JAX 0.10) gathers the whole batch on every device before any
FFT, and each device then transforms all of it. Here each device transforms its own rows. To be
vmapped and reverse-differentiated like `jnp.fft`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Complex, Float

Function = Callable[[jax.Array], jax.Array]


def rfft(
    x: Float[Array, "*rows samples"], n: int | None = None
) -> Complex[Array, "*rows frequencies"]:
    """Returns the FFT of real x [..., T], cut or zero-padded to n samples: [..., n // 2 + 1].

    Args:
      x: real signals.
      n: samples that are transformed; None: T.
    """
    if jax.device_count() == 1:
        return jnp.fft.rfft(x, n)
    return _differentiable(jnp.fft.rfft, n or x.shape[-1], x.shape[-1])(x)


def irfft(x: Complex[Array, "*rows frequencies"], n: int) -> Float[Array, "*rows samples"]:
    """Returns the real [..., n] of which [..., n // 2 + 1] is the FFT.

    Args:
      x: the FFT of real signals.
      n: their samples.
    """
    if jax.device_count() == 1:
        return jnp.fft.irfft(x, n)
    return _differentiable(jnp.fft.irfft, n, x.shape[-1])(x)


@functools.cache
def _differentiable(transform: Any, n: int, size: int) -> Function:
    def forward(x: jax.Array) -> jax.Array:
        return transform(x, n)

    def backward(ct: jax.Array) -> jax.Array:
        dtype = jnp.float32 if transform is jnp.fft.rfft else jnp.complex64
        return jax.linear_transpose(forward, jax.ShapeDtypeStruct((*ct.shape[:-1], size), dtype))(
            ct
        )[0]

    local, local_backward = _each_row(forward), _each_row(backward)
    function = jax.custom_vjp(local)
    function.defvjp(lambda x: (local(x), None), lambda _, ct: (local_backward(ct),))
    return function


def _each_row(f: Function) -> Function:
    """Returns f, a function of the last axis alone, computed where the rows are."""

    def sharding(mesh: Any, shape: Any) -> NamedSharding:
        spec = tuple(shape.sharding.spec) + (None,) * len(shape.shape)
        return NamedSharding(mesh, PartitionSpec(*spec[: len(shape.shape) - 1], None))

    def partition(mesh: Any, args: Any, result: Any) -> tuple:
        where = sharding(mesh, args[0])
        return mesh, f, where, (where,)

    op = custom_partitioning(lambda x: f(x))
    op.def_partition(
        partition,
        infer_sharding_from_operands=lambda mesh, args, result: sharding(mesh, args[0]),
        sharding_rule="... i -> ... j",
        need_replication_factors=("i", "j"),
    )
    mapped = custom_vmap(lambda x: op(x))
    mapped.def_vmap(
        lambda axis_size, in_batched, x: (mapped(x), True)
    )  # the new axis comes first: one more row axis
    return mapped
