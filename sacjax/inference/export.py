"""A trained model as one file, the front end inside: StableHLO for JAX, ONNX for onnxruntime.

Neither needs sacjax or the config. Beside it, `model.json` says what goes in and what comes out.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from jax.errors import InconclusiveDimensionOperation

from sacjax import io
from sacjax.context import Context
from sacjax.data import sources, splits
from sacjax.errors import UserError
from sacjax.inference.embedder import file_batches, unlabelled
from sacjax.inference.model import Model
from sacjax.layers.platform import compiled_for
from sacjax.onnx import quantize, translate
from sacjax.views import make_views

PLATFORMS = ("cpu", "cuda", "tpu")
LEAST_FRAMES = 32  # of a clip, so that a ResNet's strides leave some
PROGRAMS = {"stablehlo": "model.stablehlo", "onnx": "model.onnx"}
ABOUT, PAGE = "model.json", "index.html"
CALIBRATION = 64  # training clips, of which the ranges of int8 are taken
LARGEST = 2**31 - 2**24  # bytes of parameters: a file of either kind holds 2 GB
# Of the npm package onnxruntime-web: what the page loads.
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def function_of(model: Model) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns what the file computes, its parameters as constants.

    It takes audio [B, T] in [-1, 1] and valid samples [B], and gives the probabilities [B, C] of a
    classifier, or the embeddings [B, D] of an encoder that was trained without labels.
    """
    views = make_views(model.stage_config, len(model.labels))
    graphdef, variables = nnx.split(model.module)
    objective = model.objective

    def one(audio: jax.Array, length: jax.Array) -> jax.Array:
        batch = views(unlabelled(audio[None], length[None]))
        module = nnx.merge(graphdef, variables)
        if model.is_classifier:
            logits = objective.predict(module, batch, Context())[0] / objective.temperature
            sigmoid = objective.options.loss == "sigmoid"
            return jax.nn.sigmoid(logits) if sigmoid else jax.nn.softmax(logits)
        return objective.embed(module, batch, Context())[0]

    return jax.vmap(one)  # so that no layer meets a symbol for the number of clips


def to_stablehlo(model: Model) -> tuple[bytes, int]:
    """Compiles a model for any number of clips, and for clips of any length where it can be.

    Returns:
      (the serialized program, of how many samples T must be a multiple; 0: T must be a window).

    Raises:
      UserError: flatbuffers is not installed.
    """

    def program(*arguments: jax.ShapeDtypeStruct) -> Any:
        return export.export(jax.jit(function_of(model)), platforms=PLATFORMS)(*arguments)

    exported, multiple = _of_any_length(model, program)
    try:
        return bytes(exported.serialize()), multiple
    except ImportError:
        raise UserError("an export needs flatbuffers: pip install 'sacjax[export]'") from None


def to_onnx(model: Model) -> tuple[Any, int]:
    """Translates a model for any number of clips, and for clips of any length where it can be.

    Its inputs are named `audio` and `length`, its output is `describe`'s.

    Returns:
      (the `onnx.ModelProto`, of how many samples T must be a multiple; 0: T must be a window).

    Raises:
      UserError: onnx is not installed, or the model computes what is not known there.
    """
    output = "probabilities" if model.is_classifier else "embeddings"

    def program(audio: jax.ShapeDtypeStruct, length: jax.ShapeDtypeStruct) -> Any:
        named = {"audio": audio, "length": length}
        with compiled_for("cpu"):  # other platforms' forms have primitives of their own
            return translate.to_onnx(function_of(model), named, output)

    return _of_any_length(model, program)


def _of_any_length(
    model: Model, program: Callable[[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct], Any]
) -> tuple[Any, int]:
    """Returns (`program(audio, length)`, of how many samples T must be a multiple, or 0)."""
    step, window = int(model.stage_config.frontend.hop_length), window_of(model)
    fewest = min(LEAST_FRAMES, window // step)

    def of(shape: str, *constraints: str) -> Any:
        audio = export.symbolic_shape(shape, constraints=constraints)
        struct = jax.ShapeDtypeStruct
        return program(struct(audio, jnp.float32), struct(audio[:1], jnp.int32))

    try:
        return of(f"clips, {step}*frames", f"frames >= {fewest}"), step
    except (InconclusiveDimensionOperation, TypeError, ValueError):  # a layer counts its frames
        return of(f"clips, {window}"), 0


def window_of(model: Model) -> int:
    """Returns the samples that the model heard at a time when it was trained."""
    return round(model.stage_config.data.seconds * model.sample_rate)


def describe(model: Model, multiple: int) -> dict[str, Any]:
    """Returns what a user of the file must know; `multiple` is that of `to_stablehlo`."""
    return {
        "sample_rate": model.sample_rate,
        "channel": model.channel,
        "pad": model.stage_config.data.pad,
        "window_samples": window_of(model),
        "samples_multiple_of": multiple,
        "output": "probabilities" if model.is_classifier else "embeddings",
        "labels": list(model.labels) if model.is_classifier else [],
        "multi_label": model.multi_label,
    }


def training_clips(model: Model, multiple: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields windows of clips that the model was trained on, as inputs of its ONNX file.

    Args:
      model: whose config says where its clips are.
      multiple: of `to_onnx`.

    Raises:
      UserError: the clips are not there.
    """
    data = model.stage_config.data
    recordings = sources.load(data)
    indices = splits.split(recordings, data)["train"]
    # From the first to the last: a folder's clips come label by label.
    places = np.linspace(0, len(indices) - 1, min(CALIBRATION, len(indices)))
    some = indices[places.astype(int)]
    for batch in file_batches(recordings, some, model.stage_config):
        rows = batch["mask"] > 0
        if rows.any():
            audio = batch["audio"][rows]
            beyond = -audio.shape[1] % multiple if multiple else 0
            padded = np.pad(audio, ((0, 0), (0, beyond))).astype(np.float32) / 32768
            yield {"audio": padded, "length": batch["length"][rows].astype(np.int32)}


def write(
    model: Model, folder: Path, form: str = "stablehlo", *, int8: bool = False, runtime: str = ""
) -> dict[str, Any]:
    """Writes the program and what describes it to a folder; returns the description.

    Args:
      model: what is exported.
      folder: of the files; made where it is not there.
      form: 'stablehlo' or 'onnx'.
      int8: an ONNX file of int8 weights and activations, calibrated on training clips.
      runtime: the folder of the npm package onnxruntime-web: a page that labels the microphone is
        written too, for onnx.

    Raises:
      UserError: a folder that has files already, a model too large for a file, int8 of a converted
        model, which has no training clips, or what the form needs is not installed or there.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not an empty folder: choose another one")
    size = sum(x.nbytes for x in jax.tree.leaves(nnx.state(model.module.encoder)))
    if size > LARGEST:
        raise UserError(
            f"the encoder has {size / 1e9:.1f} GB of parameters, and an exported file holds 2 GB"
        )
    if form != "onnx" and (int8 or runtime):
        raise UserError(f"{'--int8' if int8 else '--page'} is for --format=onnx")
    if int8 and not model.step:  # its config would name the default data, synthesized clips
        raise UserError(
            "--int8 takes its ranges from the clips that a model was trained on, and this one was "
            "converted and has none here: fine-tune it first, or leave --int8 out"
        )
    if runtime and not model.is_classifier:
        raise UserError("--page shows labels, and this model was trained without any")
    files = _runtime_files(Path(runtime)) if runtime else []
    if int8 and next(training_clips(model, 0), None) is None:  # told before minutes of translation
        raise UserError("--int8: none of the clips that the model was trained on can be read")
    if form == "onnx":
        made, multiple = to_onnx(model)
        if int8:
            made = quantize.quantize(made, training_clips(model, multiple))
        program = made.SerializeToString()
    else:
        program, multiple = to_stablehlo(model)
    about = describe(model, multiple)
    folder.mkdir(parents=True, exist_ok=True)
    io.write_bytes(folder / PROGRAMS[form], program)
    io.write_text(folder / ABOUT, json.dumps(about, indent=1) + "\n")
    for file in files:
        io.write_bytes(folder / file.name, file.read_bytes())
    if runtime:
        page = Path(__file__).with_name("microphone.html")
        io.write_text(folder / PAGE, page.read_text(encoding="utf-8"))
    return about


def _runtime_files(package: Path) -> list[Path]:
    """Returns the files of onnxruntime-web that the page loads.

    Raises:
      UserError: one is not in the package.
    """
    files = [package / "dist" / name for name in RUNTIME]
    for file in files:
        if not file.is_file():
            raise UserError(
                f"--page: there is no {file}: npm install onnxruntime-web, and give "
                "node_modules/onnxruntime-web"
            )
    return files
