"""(f) The front end's share of a training step."""

from collections.abc import Iterator

from launch.benchmarks.speed_cases.case import Case, Run, Sizes, same_for
from launch.benchmarks.speed_cases.ours import Ours, resnet_config, shape_of


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yields the case."""
    ours = Ours(resnet_config(sizes), "supervised")
    peers: dict[str, Run] = {"the whole training step": ours.step}
    what = f"log-mel + SpecAugment in a ResNet-18 step, {shape_of(ours)}"
    yield Case(what, ours.features, peers, same_for(peers, 0.10), share=True)
