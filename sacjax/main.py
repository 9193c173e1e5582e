"""Trains and evaluates the stages of a config.

    python -m sacjax.main --config FILE[:ARG] --workdir DIR

The same as `sacjax train`; see `sacjax.commands.train`.
"""

import sys

from sacjax import errors
from sacjax.commands.train import main

if __name__ == "__main__":
    errors.run(lambda: main(sys.argv[1:]))
