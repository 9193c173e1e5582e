"""Configs: override strings, lines of config files, and the config.json of a workdir."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from launch.benchmarks.fuzz_cases import mutate
from launch.benchmarks.fuzz_cases.case import ROOT
from sacjax import config as config_lib
from sacjax import inference
from sacjax.train.checkpoint_files import write_labels

# Small ones, which take no time to check.
SPECS = ("configs/folder.py", "configs/synthetic/resnet.py", "configs/fsdd/wav2vec2.py")


def corpus(folder: Path) -> None:
    """Writes the config.json of each."""
    for k, spec in enumerate(SPECS):
        config = config_lib.load(str(ROOT / spec))
        (folder / f"{k}.json").write_text(config_lib.to_json(config))


def leaves(value: Any, path: str = "config") -> list[str]:
    """Returns the keys of a config, with points."""
    if not isinstance(value, dict):
        return [path]
    return [path, *(leaf for key, item in value.items() for leaf in leaves(item, f"{path}.{key}"))]


def check(rng: np.random.Generator, originals: Path, folder: Path) -> str:
    """Loads a mutated config in one of three ways."""
    number = int(rng.integers(len(SPECS)))
    saved = json.loads((originals / f"{number}.json").read_text())
    how = rng.random()
    if how < 0.6:
        overrides = [override(rng, saved) for _ in range(int(rng.integers(1, 3)))]
        (folder / "overrides.txt").write_text("\n".join(map(ascii, overrides)))  # to look at
        config_lib.load(str(ROOT / SPECS[number]), overrides)
    elif how < 0.75:
        lines = (ROOT / SPECS[number]).read_text().splitlines()
        del lines[int(rng.integers(len(lines)))]
        (folder / "config.py").write_text("\n".join(lines) + "\n")
        config_lib.load(str(folder / "config.py"))
    else:
        write_workdir(folder, saved["stages"], mutate.json_bytes(rng, saved))
        config, _ = inference.trained_stage(folder)
        config_lib.check(config)
    return ""


def override(rng: np.random.Generator, saved: dict[str, Any]) -> str:
    """Returns an override string whose key, value or form may be wrong."""
    key = mutate.pick(rng, leaves(saved))
    if rng.random() < 0.2:
        key = mutate.of_bytes(rng, key.encode()).decode("utf-8", "replace")
    value = mutate.pick(rng, (*mutate.TEXTS, *map(repr, mutate.VALUES)))
    form = mutate.pick(rng, ("--{}={}",) * 8 + ("{}={}", "--{} {}", "--{}", "--config.{}={}"))
    return form.format(key, value)


def write_workdir(folder: Path, stages: list[str], content: bytes) -> None:
    """Writes a workdir that looks as if each stage had a checkpoint."""
    (folder / "config.json").write_bytes(content)
    for stage in stages:
        (folder / "checkpoints" / stage / "10").mkdir(parents=True)
        write_labels(folder, stage, ("a", "b"))
