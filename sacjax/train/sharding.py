"""Sharding of arrays over a mesh of all devices.

Batches are split over its axes `data` and `fsdp`, parameters over `fsdp` and `tensor`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from sacjax.errors import UserError
from sacjax.train.optimizer import name_of

# (pattern of names, mesh axes of the last dimensions). Attention heads and the hidden layer of the
# MLP are split as in Megatron.
RULES = (
    (r"(attention/(query|key|value)|mlp_in)/kernel$", ("fsdp", "tensor")),
    (r"(attention/out|mlp_out)/kernel$", ("tensor", "fsdp")),
    (r"(attention/(query|key|value)|mlp_in)/bias$", ("tensor",)),
)
SMALL = 4096  # elements; a smaller array is replicated, as it is not worth an all-gather


def make_mesh(mesh: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh over the devices, with the axes of `config.mesh`.

    Args:
      mesh: {axis: devices along it}; -1: all that are left.
      devices: None: all devices of all hosts.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    sizes = dict(mesh)
    devices = jax.devices() if devices is None else devices
    total, fixed = len(devices), int(np.prod([size for size in sizes.values() if size != -1]))
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or total % fixed or (not free and fixed != total):
        raise UserError(
            f"config.mesh {sizes} does not fit {total} devices: the sizes must multiply to it, "
            "one may be -1"
        )
    shape = tuple(total // fixed if size == -1 else size for size in sizes.values())
    return jax.make_mesh(
        shape, tuple(sizes), axis_types=(jax.sharding.AxisType.Auto,) * len(shape), devices=devices
    )


def check_batch(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises UserError if a batch does not divide over the devices that share it."""
    parts = int(np.prod([mesh.shape[axis] for axis in _batch_axes(mesh)]))
    if batch_size % parts:
        raise UserError(
            f"config.{name} is {batch_size}: it must divide by the {parts} devices that share a "
            "batch"
        )


def check_training_batch(name: str, stage: ConfigDict, mesh: Mesh) -> None:
    """Checks that a stage's training batch, and each micro-batch of it, divides over the devices.

    Raises:
      UserError: it does not divide by the number of devices that share a batch.
    """
    check_batch(f"{name}.train.batch_size", stage.train.batch_size, mesh)
    micro = stage.train.batch_size // stage.optimizer.accumulation
    check_batch(f"{name}.train.batch_size / optimizer.accumulation", micro, mesh)


def _batch_axes(mesh: Mesh) -> tuple[str, ...]:
    return tuple(axis for axis in mesh.axis_names if axis != "tensor")


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that each device has as a whole."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of batches: the first axis over all mesh axes except `tensor`."""
    return NamedSharding(mesh, PartitionSpec(_batch_axes(mesh)))


def of_state(shapes: Any, mesh: Mesh) -> Any:
    """Returns the tree of shardings of a tree of shapes.

    The optimizer's state of a parameter has its name, and so its sharding.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec(name_of(path), leaf.shape, mesh.shape)), shapes
    )


def spec(name: str, shape: tuple[int, ...], sizes: Any) -> PartitionSpec:
    """Returns how an array is split over the axes of a mesh.

    The first of `RULES` that matches its name decides; without one, its largest dimension is split
    over `fsdp`. A dimension that does not divide by its axis stays whole, as does a small array.

    Args:
      name: path of the array in the tree, joined by `/`.
      shape: of the array.
      sizes: {axis: devices along it} of the mesh.
    """
    axes: list[str | None] = [None] * len(shape)
    rule = next((axes for pattern, axes in RULES if re.search(pattern, name)), None)
    if rule and len(shape) >= len(rule):
        axes[len(shape) - len(rule) :] = rule
    elif np.prod(shape) >= SMALL:
        whole = [k for k in range(len(shape)) if shape[k] % sizes.get("fsdp", 1) == 0]
        if whole:
            axes[max(whole, key=lambda k: (shape[k], k))] = "fsdp"
    axes = [
        a if a and shape[k] % sizes.get(a, 1) == 0 and sizes.get(a, 1) > 1 else None
        for k, a in enumerate(axes)
    ]
    return PartitionSpec(*axes)


def without_fsdp(shardings: Any) -> Any:
    """Returns a tree of shardings without the axis `fsdp`.

    Parameters have these shardings while they are used, after the all-gather.
    """

    def whole(sharding: NamedSharding) -> NamedSharding:
        axes = (None if axis == "fsdp" else axis for axis in sharding.spec)
        return NamedSharding(sharding.mesh, PartitionSpec(*axes))

    return jax.tree.map(whole, shardings)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """Puts this host's rows of a global batch on its devices.

    The arrays that it returns have the global shape.
    """
    sharding = over_batch(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
