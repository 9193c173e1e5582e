"""What is compiled for."""

import jax
import pytest

from sacjax.layers.platform import compiled_for, platform


def test_this_machines_unless_another_is_named():
    assert platform() == jax.default_backend()
    with compiled_for("tpu"):
        assert platform() == "tpu"
        with pytest.raises(ValueError), compiled_for("gpu"):
            assert platform() == "gpu"
            raise ValueError
        assert platform() == "tpu"
    assert platform() == jax.default_backend()
