"""sacjax's own TFDS builders, by their names in `data.name`."""

from sacjax.data.tfds_builders.esc50 import Esc50
from sacjax.data.tfds_builders.fsdd import Fsdd

BUILDERS = {"esc50": Esc50, "fsdd": Fsdd}
