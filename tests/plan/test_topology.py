"""Names of machines."""

import jax
import pytest

from sacjax.errors import UserError
from sacjax.plan import flops
from sacjax.plan.topology import CHIPS, Topology, find_topology, gpu_count


@pytest.mark.parametrize("name", ["v5e", "v9z:4x4", "h100:2x2", "v5ex8", "8x8"])
def test_a_topology_that_is_not_known(name):
    with pytest.raises(UserError, match="--topology is"):
        find_topology(name)


def test_gpus_are_simulated_devices():
    assert gpu_count("h100x64") == 64 and gpu_count("l40sx8") == 8
    assert gpu_count("v5e:4x4") == 0 and gpu_count("nonsense") == 0
    found = find_topology("l40sx1")
    assert found == Topology("l40sx1", CHIPS["l40s"], jax.devices("cpu")[:1])
    assert not found.on_tpu and not found.counts_cycles
    with pytest.raises(UserError, match="h100x4096: only .* simulated devices"):
        find_topology("h100x4096")


def test_every_chip_has_a_peak_that_a_device_of_its_kind_finds():
    assert all(flops.peak_of(chip.kind) == flops.PEAKS[chip.kind] for chip in CHIPS.values())
    assert CHIPS["l4"].kind == "NVIDIA L4" and CHIPS["l40s"].kind == "NVIDIA L40S"
