"""Machines to plan for, by name: `v5e:16x16` is a TPU slice, `h100x64` are 64 GPUs."""

import os
import re
from typing import Any, NamedTuple

import jax

from sacjax.errors import UserError, first_line

GIB = 2**30
NAME = re.compile(
    r"([a-z]\w*?)(?::(\d+(?:x\d+)+)|x(\d+))"
)  # chip, then TPU slice or number of GPUs


class Chip(NamedTuple):
    """A device as its vendor describes it."""

    kind: str  # a name of `flops.PEAKS`
    memory: float  # bytes
    link: float  # bytes/s that it sends to others, one way, over all its links
    hertz: float = 0.0  # TPU: of the clock; the peak over the multiply-adds of a cycle


# TPU: Google Cloud's pages of each version (HBM, inter-chip interconnect). GPU: NVIDIA's data
# sheets (memory; NVLink or, of L4 and L40S, PCIe: half of what they state is each way).
CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, 300e9, 1.05e9),
    "v5e": Chip("TPU v5 lite", 16 * GIB, 200e9, 1.503e9),
    "v5p": Chip("TPU v5", 95 * GIB, 600e9, 1.75e9),
    "v6e": Chip("TPU v6 lite", 32 * GIB, 448e9, 1.75e9),
    "a100": Chip("NVIDIA A100", 80e9, 300e9),
    "h100": Chip("NVIDIA H100", 80e9, 450e9),
    "h200": Chip("NVIDIA H200", 141e9, 450e9),
    "l4": Chip("NVIDIA L4", 24e9, 32e9),
    "l40s": Chip("NVIDIA L40S", 48e9, 32e9),
}


class Topology(NamedTuple):
    """A TPU slice, or a cluster of GPUs of one kind."""

    name: str
    chip: Chip
    devices: list[Any]  # of libtpu's description, or simulated ones on the CPU

    @property
    def on_tpu(self) -> bool:
        """Whether libtpu compiles for it."""
        return self.chip.hertz > 0

    @property
    def counts_cycles(self) -> bool:
        """Whether the compiler's cycles tell the time; those of a quick compilation do not."""
        return self.on_tpu and jax.config.values["jax_exec_time_optimization_effort"] >= 0


def gpu_count(name: str) -> int:
    """Returns the GPUs of a topology's name: 64 of `h100x64`; 0 for a TPU slice or no name at all.

    As many CPU devices stand for them (`jax_num_cpu_devices`), to be set before JAX starts.
    """
    match = NAME.fullmatch(name)
    return int(match[3] or 0) if match else 0


def find_topology(name: str) -> Topology:
    """Returns a topology by its name: `v5e:16x16`, `v4:4x4x4`, `h100x64`.

    Raises:
      UserError: a chip that is not known, a slice that libtpu does not have, no libtpu, or fewer
        simulated devices than GPUs.
    """
    match = NAME.fullmatch(name)
    chip = CHIPS.get(match[1]) if match else None
    if match is None or chip is None or (chip.hertz > 0) != bool(match[2]):
        raise UserError(
            f"--topology is '{name}': give a TPU slice such as v5e:16x16 or GPUs such as h100x64; "
            f"known are {', '.join(CHIPS)}"
        )
    if match[2]:
        return Topology(name, chip, _tpu_slice(name))
    devices, count = jax.devices("cpu"), int(match[3])
    if len(devices) < count:
        raise UserError(
            f"--topology {name}: only {len(devices)} simulated devices; "
            "set jax_num_cpu_devices before JAX starts"
        )
    return Topology(name, chip, devices[:count])


def _tpu_slice(name: str) -> list[Any]:
    """Returns the devices of a TPU slice as libtpu describes it. Raises UserError."""
    from jax.experimental import topologies

    # libtpu would ask a metadata server that is not there, and refuse to load while another
    # process holds the TPU; it only compiles here.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    one_device_a_chip = name.startswith(("v4:", "v5p:"))
    options = {"chip_config_name": "megacore"} if one_device_a_chip else {}
    try:
        return list(topologies.get_topology_desc(name, platform="tpu", **options).devices)
    except Exception as error:  # libtpu is absent, or does not know the shape: each its own
        raise UserError(
            f"--topology {name}: {first_line(error)} "
            "(TPU slices need libtpu: pip install -e '.[tpu]')"
        ) from error
