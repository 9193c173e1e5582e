"""What a kind of fuzzed input is."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[3]


class Case(NamedTuple):
    """A kind of input.

    `corpus(folder)` writes what is mutated, once. `check(rng, corpus, folder)` writes a mutated
    input into the empty `folder`, reads it as a user's command would, and returns why it was
    refused, '' where it was taken. It raises UserError, which is a refusal too; anything else that
    it raises is a finding.
    """

    inputs: int  # how many, where nobody says
    corpus: Callable[[Path], None]
    check: Callable[[np.random.Generator, Path, Path], str]
