"""A trained model's values: out of a checkpoint, into one, and into another model's encoder."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import io
from sacjax.errors import UserError
from sacjax.train.checkpoint import Checkpoints, check_same, from_named, named
from sacjax.train.checkpoint_files import write_labels


def take_encoder(fresh: Any, trained: Any, where: str) -> Any:
    """Returns `fresh` with every variable under `encoder` taken from `trained`.

    Raises:
      UserError: an encoder variable of `fresh` that `trained` lacks, or has in another shape.
    """
    leaves, source = named(fresh), named(trained)
    encoder = {name: leaf for name, leaf in leaves.items() if name.startswith("encoder.")}
    check_same(
        encoder,
        {name: leaf for name, leaf in source.items() if name.startswith("encoder.")},
        Path(where),
    )
    return from_named(fresh, leaves | {name: source[name] for name in encoder})


def restore_model(
    workdir: str | Path,
    stage: str,
    module: nnx.Module,
    config: ConfigDict,
    which: str,
    placement: jax.sharding.Sharding,
) -> tuple[nnx.Module, int]:
    """Returns (the module with a checkpoint's values, the checkpoint's step).

    The values are those of the moving average where the stage keeps one.

    Args:
      workdir: of a run.
      stage: the stage's name.
      module: of shapes (`nnx.eval_shape`).
      config: of the stage.
      which: `best`, or `last`, which is also taken where no checkpoint has a metric.
      placement: where all its arrays go.

    Raises:
      UserError: there is no checkpoint, or one of another model.
      Exception: whatever the file system or a library raised.
    """
    checkpoints = Checkpoints(io.to_path(workdir), stage, mode=config.eval.best_mode)
    step = checkpoints.best() if which == "best" else None
    step = checkpoints.latest() if step is None else step
    if step is None:
        raise UserError(f"{workdir}: there is no complete checkpoint of stage {stage} in it")
    graphdef, params, buffers = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
    fields = {"params": nnx.as_pure(params), "buffers": nnx.as_pure(buffers)}
    fields["ema"] = fields["params"] if config.optimizer.ema_decay else None
    shape_of = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement)  # noqa: E731
    fields = checkpoints.restore_fields(jax.tree.map(shape_of, fields), step)
    return nnx.merge(graphdef, fields["ema"] or fields["params"], fields["buffers"]), step


def write_trained(
    workdir: str | Path,
    config: ConfigDict,
    stage: str,
    class_names: tuple[str, ...],
    model: nnx.Module,
) -> None:
    """Writes a workdir with a model that was trained elsewhere; it counts as finished."""
    workdir = io.to_path(workdir)
    io.make_folder(workdir)
    write_labels(workdir, stage, class_names)
    _, params, buffers = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    leaves = named({"params": nnx.as_pure(params), "buffers": nnx.as_pure(buffers), "ema": None})
    checkpoints = Checkpoints(workdir, stage, asynchronous=False)
    checkpoints._write(0, ocp.args.Composite(model=ocp.args.StandardSave(leaves)), None)
    checkpoints.close()
    io.write_text(workdir / "config.json", config_lib.to_json(config))
    io.write_json(workdir / "results.json", {stage: {}})
