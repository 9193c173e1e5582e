"""The keys of a config's `train`: the length of training, the batch size, intervals."""

import dataclasses

from sacjax.config import options as options_lib


@dataclasses.dataclass(frozen=True)
class Options(options_lib.Options):
    """`train` of a stage."""

    where = "train"

    batch_size: int = 64  # over all devices and hosts
    epochs: float = 10.0
    steps: int = 0  # > 0: instead of epochs
    log_every: int = 20  # steps
    evaluate_every: int = 0  # steps; 0 = once an epoch, and not more often than log_every
    early_stopping: int = 0  # evaluations without a better eval.best; 0 = off
    max_skipped: int = 10  # updates in a row that are not finite, after which it goes back, once

    def check(self) -> None:
        """Raises UserError for a value out of range, or if neither epochs nor steps are set."""
        self.require_positive("batch_size", "log_every", "max_skipped")
        self.require_not_negative("steps", "evaluate_every", "early_stopping")
        good = self.steps > 0 or 0 < self.epochs < float("inf")
        self.require(good, "epochs", "set epochs or steps above 0")
