"""Checkpoints of transformers: config.json, preprocessor_config.json and model.safetensors."""

import json
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from launch.benchmarks.fuzz_cases import mutate
from sacjax.convert import huggingface
from sacjax.models.classifier import Classifier
from sacjax.models.wav2vec2 import Wav2Vec2

ENCODER: dict[str, Any] = dict(
    size="tiny",
    conv_channels=(16,) * 3,
    conv_kernels=(10, 3, 3),
    conv_strides=(5, 2, 2),
    positional_kernel=16,
    positional_groups=4,
)


def corpus(folder: Path) -> None:
    """Writes a bare encoder and a classifier, both tiny."""

    def classifier() -> Classifier:
        rngs = nnx.Rngs(0)
        encoder = Wav2Vec2(**ENCODER, rngs=rngs)
        return Classifier(encoder, pooling="mean", projection=16, num_classes=3, rngs=rngs)

    rng = np.random.default_rng(0)
    for name, make in (
        ("bare", lambda: Wav2Vec2(**ENCODER, rngs=nnx.Rngs(0))),
        ("head", classifier),
    ):
        graphdef, params, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)  # type: ignore[misc]
        values = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rest)
        huggingface.save_huggingface(nnx.merge(graphdef, values, zeros), folder / name)


def check(rng: np.random.Generator, originals: Path, folder: Path) -> str:
    """Loads a checkpoint of which one file, or two, are mutated."""
    source = originals / mutate.pick(rng, ("bare", "head"))
    mutated = mutate.pick(
        rng, (("config",), ("tensors",), ("config", "tensors"), ("preprocessor",))
    )
    for path in source.iterdir():
        content = path.read_bytes()
        if path.name.split(".")[0].split("_")[0] in mutated:
            content = mutate.json_bytes(rng, json.loads(content))
        elif path.suffix == ".safetensors" and "tensors" in mutated:
            content = mutate_tensors(rng, content)
        (folder / path.name).write_bytes(content)
    huggingface.load_huggingface(folder)
    return ""


def mutate_tensors(rng: np.random.Generator, content: bytes) -> bytes:
    """Returns a safetensors file with mutated bytes, or with entries of its header mutated."""
    if rng.random() < 0.5:
        return mutate.of_bytes(rng, content)
    (size,) = struct.unpack("<Q", content[:8])
    header = mutate.json_bytes(rng, json.loads(content[8 : 8 + size]))
    return struct.pack("<Q", len(header)) + header + content[8 + size :]
