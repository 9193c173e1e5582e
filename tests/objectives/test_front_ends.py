"""Which objectives may train a front end with their encoder."""

import pytest
from family import FAMILY, config_of

from sacjax import config as config_lib
from sacjax.errors import UserError
from sacjax.objectives import OBJECTIVES


@pytest.mark.parametrize("name", FAMILY)
def test_targets_made_of_features_need_a_front_end_that_does_not_learn(name):
    config = config_of(name)
    config.pretrain.model.frontend = "pcen"
    if OBJECTIVES[name].hears_targets:
        with pytest.raises(UserError, match="model.frontend is 'pcen': .* choose mel"):
            config_lib.check(config)
    elif name != "inversion":  # it needs spectrograms, and says so
        config_lib.check(config)
