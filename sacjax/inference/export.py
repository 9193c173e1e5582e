"""A trained model as one StableHLO file, the front end inside: it runs wherever JAX does.

The file is `jax.export`'s: it needs neither sacjax nor the config. Beside it, `model.json` says
what goes in and what comes out.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export
from jax.errors import InconclusiveDimensionOperation

from sacjax import io
from sacjax.context import Context
from sacjax.errors import UserError
from sacjax.inference.embedder import unlabelled
from sacjax.inference.model import Model
from sacjax.views import make_views

PLATFORMS = ("cpu", "cuda", "tpu")
LEAST_FRAMES = 32  # of a clip, so that a ResNet's strides leave some
PROGRAM, ABOUT = "model.stablehlo", "model.json"


def function_of(model: Model) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns what the file computes, its parameters as constants.

    It takes audio [B, T] in [-1, 1] and valid samples [B], and gives the probabilities [B, C] of a
    classifier, or the embeddings [B, D] of an encoder that was trained without labels.
    """
    views = make_views(model.stage_config, len(model.labels))
    graphdef, variables = nnx.split(model.module)
    objective = model.objective
    final = jax.nn.sigmoid if model.multi_label else jax.nn.softmax

    def one(audio: jax.Array, length: jax.Array) -> jax.Array:
        batch = views(unlabelled(audio[None], length[None]))
        module = nnx.merge(graphdef, variables)
        if model.is_classifier:
            return final(objective.predict(module, batch, Context())[0] / objective.temperature)
        return objective.embed(module, batch, Context())[0]

    return jax.vmap(one)  # so that no layer meets a symbol for the number of clips


def to_stablehlo(model: Model) -> tuple[bytes, int]:
    """Compiles a model for any number of clips, and for clips of any length where it can be.

    Returns:
      (the serialized program, of how many samples T must be a multiple; 0: T must be a window).

    Raises:
      UserError: flatbuffers is not installed.
    """
    step, window = int(model.stage_config.frontend.hop_length), window_of(model)
    fewest = min(LEAST_FRAMES, window // step)
    try:
        return _program(model, f"clips, {step}*frames", [f"frames >= {fewest}"]), step
    except (InconclusiveDimensionOperation, TypeError, ValueError):  # a layer counts its frames
        return _program(model, f"clips, {window}", []), 0


def _program(model: Model, shape: str, constraints: list[str]) -> bytes:
    audio = export.symbolic_shape(shape, constraints=constraints)
    struct = jax.ShapeDtypeStruct
    arguments = struct(audio, jnp.float32), struct(audio[:1], jnp.int32)
    program = export.export(jax.jit(function_of(model)), platforms=PLATFORMS)(*arguments)
    try:
        return bytes(program.serialize())
    except ImportError:
        raise UserError("an export needs flatbuffers: pip install 'sacjax[export]'") from None


def window_of(model: Model) -> int:
    """Returns the samples that the model heard at a time when it was trained."""
    return round(model.stage_config.data.seconds * model.sample_rate)


def describe(model: Model, multiple: int) -> dict[str, Any]:
    """Returns what a user of the file must know; `multiple` is that of `to_stablehlo`."""
    return {
        "sample_rate": model.sample_rate,
        "window_samples": window_of(model),
        "samples_multiple_of": multiple,
        "output": "probabilities" if model.is_classifier else "embeddings",
        "labels": list(model.labels) if model.is_classifier else [],
        "multi_label": model.multi_label,
    }


def write(model: Model, folder: Path) -> dict[str, Any]:
    """Writes the program and what describes it to a folder; returns the description.

    Raises:
      UserError: a folder that has files already, or flatbuffers that are not installed.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not an empty folder: choose another one")
    program, multiple = to_stablehlo(model)
    about = describe(model, multiple)
    folder.mkdir(parents=True, exist_ok=True)
    with io.writing(folder / PROGRAM) as file:
        file.write(program)
    io.write_text(folder / ABOUT, json.dumps(about, indent=1) + "\n")
    return about
