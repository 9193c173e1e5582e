"""What a case of the speed benchmark is, and on how much it is measured."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]
CLASSES = 20
Run = Callable[[], float | None]  # does the work once; returns seconds where it measures them


class Sizes(NamedTuple):
    """What is measured on."""

    encoder: str = "base"
    clips: int = 2  # of a training step of wav2vec 2.0
    inference_clips: int = 8
    seconds: float = 5.0
    spectrograms: int = 32
    width: int = 64  # of the ResNet's first stage
    resnet_clips: int = 16
    files: int = 40  # of each format
    long_files: int = 8
    long_parts: int = 12  # clips that a long file is made of
    batch: int = 16  # of the input pipeline
    batches: int = 20


SMALL = Sizes("mini", 2, 2, 0.5, 4, 4, 2, 20, 2, 2, 2, 3)


class Case(NamedTuple):
    """One thing to measure."""

    what: str
    ours: Run
    peers: dict[str, Run]
    targets: dict[str, float] = {}  # {peer: how many times faster ours shall be}
    clips: int = 0  # of a run, where clips a second tell more than seconds
    # The figure is ours as a share of the peer's time, the target the most that it may be.
    share: bool = False
    seconds: float = 0.0  # the most that ours may take, where that is the target


def same_for(peers: dict[str, Run], target: float) -> dict[str, float]:
    """Returns that target for each of the peers."""
    return dict.fromkeys(peers, target)
