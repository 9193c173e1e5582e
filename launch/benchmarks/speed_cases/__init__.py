"""The cases of the speed benchmark, a file for each part, with the peers' side of it."""

from collections.abc import Callable, Iterator

from launch.benchmarks.speed_cases import (
    commands,
    finetuning,
    first_step,
    front_end,
    inference,
    input_pipeline,
    log_mel,
    pretraining,
    resnet,
    together,
)
from launch.benchmarks.speed_cases.case import Case, Sizes

PARTS: dict[str, Callable[[Sizes], Iterator[Case]]] = {
    "a": pretraining.cases,
    "b": finetuning.cases,
    "c": inference.cases,
    "d": log_mel.cases,
    "e": input_pipeline.cases,
    "f": front_end.cases,
    "g": first_step.cases,
    "h": resnet.cases,
    "i": commands.cases,
    "j": together.cases,
}
OTHER_LIBRARIES = "abcdh"  # the parts whose peers compute by another library
