"""Where arrays live: a mesh of all devices, batches split over it, parameters on every device."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from sacjax.errors import UserError


def make_mesh(mesh: ConfigDict) -> Mesh:
    """Returns a mesh over all devices of all hosts, with the axes of `config.mesh` (`data=-1`: all devices).

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    sizes = dict(mesh)
    total, fixed = jax.device_count(), int(np.prod([size for size in sizes.values() if size != -1]))
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or total % fixed or (not free and fixed != total):
        raise UserError(
            f"config.mesh {sizes} does not fit {total} devices: the sizes must multiply to it, one may be -1"
        )
    shape = tuple(total // fixed if size == -1 else size for size in sizes.values())
    return jax.make_mesh(shape, tuple(sizes), axis_types=(jax.sharding.AxisType.Auto,) * len(shape))


def check_batch(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises UserError where a batch does not divide over the devices."""
    if batch_size % mesh.size:
        raise UserError(f"config.{name} is {batch_size}: it must divide by the {mesh.size} devices")


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters: a copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """Puts this host's rows of a global batch on its devices; the result's arrays have the global shape."""
    sharding = over_batch(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
