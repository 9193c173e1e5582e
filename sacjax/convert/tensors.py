"""Safetensors files, and the tensors of a model by the names that a family gives them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sacjax.convert.base import Entry
from sacjax.errors import UserError


def read_tensors(path: Path, leaves_out: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Returns {name: float32 array} of model.safetensors, or of the shards that its index names.

    Args:
      path: the folder.
      leaves_out: tells of a name whether its tensor is not read.

    Raises:
      UserError: there is neither, or a file is not whole.
    """
    tensors: dict[str, np.ndarray] = {}
    for file in _files(path):
        try:
            with safe_open(file, framework="flax") as opened:
                for name in opened.keys():  # noqa: SIM118
                    if not leaves_out(name):
                        tensors[name] = np.asarray(opened.get_tensor(name), np.float32)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{file}: not a whole safetensors file: {error}") from error
    return tensors


def _files(path: Path) -> list[Path]:
    """Returns the safetensors files of a folder. Raises UserError where there are none."""
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError) as error:
            raise UserError(f"{index}: cannot be read: {error}") from error
        if any(Path(name).name != name for name in names):
            raise UserError(f"{index}: names files outside its folder")
        return [path / name for name in names]
    hint = (
        "; pickled weights are not read: save them with safe_serialization"
        if list(path.glob("*.bin"))
        else ""
    )
    raise UserError(f"{path}: there is no model.safetensors in it{hint}")


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes model.safetensors into a folder."""
    # Not by `save_file`, whose file nobody else could read.
    (path / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))


def tensors_of(model: Any, table: Iterable[Entry]) -> dict[str, np.ndarray]:
    """Returns {their name: float32 array} of a model."""
    flat = {name: variable.get_value() for name, variable in nnx.to_flat_state(nnx.state(model))}
    tensors = {}
    for e in table:
        value = flat[e.ours] if e.layer is None else flat[e.ours][e.layer]
        tensors[e.theirs] = np.ascontiguousarray(e.save(np.asarray(value, np.float32)))
    return tensors


def fill(model: Any, table: list[Entry], tensors: dict[str, np.ndarray], path: Path) -> None:
    """Puts the tensors of a folder into an abstract model.

    Raises:
      UserError: tensors are missing, unknown or of another shape; it lists them.
    """
    _check_names(table, tensors, path)
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    stacks: dict[tuple, dict[int, np.ndarray]] = {}
    wrong = []
    for e in table:
        shape = flat[e.ours].shape if e.layer is None else flat[e.ours].shape[1:]
        value = _value(e, tensors, shape)
        if value.shape != shape:
            wrong.append(f"{e.theirs} {tensors[e.theirs].shape}")
        stacks.setdefault(e.ours, {})[0 if e.layer is None else e.layer] = value
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} tensors have another shape than config.json says: {_some(wrong)}"
        )
    stacked = {e.ours for e in table if e.layer is not None}
    for ours, values in stacks.items():
        layers = [values[k] for k in sorted(values)]
        whole = np.stack(layers) if ours in stacked else layers[0]
        flat[ours] = flat[ours].replace(jnp.asarray(whole))
    for ours, variable in flat.items():  # what a checkpoint does not have, such as random keys
        if isinstance(variable.get_value(), jax.ShapeDtypeStruct):
            raise AssertionError(f"{ours} was not filled")
    nnx.update(model, nnx.from_flat_state(list(flat.items())))


def _check_names(table: list[Entry], tensors: dict[str, np.ndarray], path: Path) -> None:
    """Raises UserError that lists the tensors that are missing or unknown."""
    missing = [e.theirs for e in table if e.theirs not in tensors and e.absent is None]
    unknown = sorted(set(tensors) - {e.theirs for e in table})
    parts = [
        f"{len(some)} {what}: {_some(some)}"
        for what, some in (("missing", missing), ("unknown", unknown))
        if some
    ]
    if parts:
        raise UserError(f"{path}: its tensors are not those of its config.json; {'; '.join(parts)}")


def _value(entry: Entry, tensors: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Returns a tensor as we have it; [] where it cannot be brought into that form."""
    if entry.theirs not in tensors and entry.absent is not None:
        return entry.absent(shape)
    try:
        return entry.load(tensors[entry.theirs])
    except ValueError:
        return np.zeros([])


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
