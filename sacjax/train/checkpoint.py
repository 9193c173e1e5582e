"""Orbax checkpoints: model, training state, data position and label names, by one manager a stage.

<workdir>/checkpoints/<stage>/labels.json          label names and what the stage needs to build its model
<workdir>/checkpoints/<stage>/<step>/model         parameters, batch statistics, EMA
<workdir>/checkpoints/<stage>/<step>/training      optimizer, step, metric sums
<workdir>/checkpoints/<stage>/<step>/meta          JSON: data position, best metric so far
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import objectives
from sacjax.errors import UserError, first_line
from sacjax.train import sharding
from sacjax.train.optimizer import name_of
from sacjax.views import make_preprocess

MODEL = ("params", "extra", "ema")  # fields of a train state that inference needs


def _flat(tree: Any) -> dict[str, Any]:
    """Returns a tree as {name: leaf}, with '.' for '/' so that names are valid in any store."""
    return {
        name_of(path).replace("/", "."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _unflat(like: Any, flat: dict[str, Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in _flat(like)])


def _split(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (model part, training part) of a train state as name → field."""
    fields = state._asdict()
    return {k: fields[k] for k in MODEL}, {k: v for k, v in fields.items() if k not in MODEL}


class Checkpoints:
    """Saves and restores the train states of one stage; keeps the last few and the best."""

    def __init__(
        self, workdir: Path, stage: str, keep: int = 2, mode: str = "max", asynchronous: bool = True
    ):
        self.folder = Path(workdir).absolute() / "checkpoints" / stage
        policies = ocp.checkpoint_managers
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep),
                        policies.BestN(
                            get_metric_fn=lambda metrics: metrics["best"],
                            reverse=mode == "min",
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                best_fn=lambda metrics: metrics["best"],
                best_mode=mode,
                enable_async_checkpointing=asynchronous,
            ),
        )

    def latest(self) -> int | None:
        """Returns the step of the last complete checkpoint, or None."""
        return self.manager.latest_step()

    def best(self) -> int | None:
        """Returns the step of the checkpoint with the best metric, or None where none has one."""
        return self.manager.best_step()

    def save(self, step: int, state: Any, meta: dict[str, Any], metric: float | None) -> None:
        """Begins to save; returns when the state is copied. A step that is already saved is left alone."""
        if step in self.manager.all_steps():
            return
        model, training = _split(state)
        with self._told():
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(_flat(model)),
                    training=ocp.args.StandardSave(_flat(training)),
                    meta=ocp.args.JsonSave(meta),
                ),
                metrics=None if metric is None else {"best": float(metric)},
            )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tells in one line what keeps a checkpoint from being written, now or in the background."""
        try:
            yield
        except Exception as error:  # Orbax, TensorStore and the file system each raise their own
            good = complete(self.folder)
            last = f"the last good one is of step {max(good)}" if good else "there is none yet"
            raise UserError(
                f"{self.folder}: a checkpoint cannot be written ({first_line(error)}); {last}"
            ) from error

    def restore(self, state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Returns (state, meta) of a step (default: the last that can be read), placed as `state` is.

        Raises:
          UserError: the checkpoint holds another model, or none can be read.
        """
        if step is not None:
            return self._restore(state, step)
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                return self._restore(state, step)
            except UserError:
                raise
            except (
                Exception
            ) as error:  # cut short, or lost in part: whatever the formats raise for that
                print(
                    f"{self.folder / str(step)}: cannot be read, and is removed ({first_line(error)})"
                )
                self.manager.delete(step)
        raise UserError(
            f"{self.folder}: none of its checkpoints can be read; remove it to begin anew"
        )

    def back_before(self, step: int) -> bool:
        """Removes the checkpoints past `step` and returns True; returns False where none would be left."""
        self.wait()
        steps = self.manager.all_steps()
        if min(steps, default=step + 1) > step:
            return False
        for late in steps:
            if late > step:
                self.manager.delete(late)
        return True

    def _restore(self, state: Any, step: int) -> tuple[Any, dict[str, Any]]:
        parts = _split(state)
        flat = [_flat(part) for part in parts]
        abstract = [jax.tree.map(ocp.utils.to_shape_dtype_struct, part) for part in flat]
        _check_same(abstract[0], self._stored(step), self.folder)
        restored = self.manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(abstract[0]),
                training=ocp.args.StandardRestore(abstract[1]),
                meta=ocp.args.JsonRestore(),
            ),
        )
        fields = _unflat(parts[0], restored["model"]) | _unflat(parts[1], restored["training"])
        return type(state)(**fields), restored["meta"]

    def _stored(self, step: int | None) -> dict[str, Any]:
        handler = ocp.StandardCheckpointHandler()
        metadata = handler.metadata(self.folder / str(step) / "model")
        tree = getattr(metadata, "item_metadata", metadata)
        return dict(getattr(tree, "tree", tree))

    def wait(self) -> None:
        """Waits for saves under way. Raises UserError where one has failed."""
        with self._told():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves under way, and ends."""
        self.wait()
        self.manager.close()


def _check_same(wanted: dict[str, Any], stored: dict[str, Any], folder: Path) -> None:
    """Raises UserError for the first parameter that differs in name or shape."""
    for name in sorted(set(wanted) ^ set(stored)):
        where = "the config's model" if name in wanted else "the checkpoint"
        raise UserError(
            f"{folder}: the checkpoint is of another model: '{name}' is only in {where}"
        )
    for name, leaf in wanted.items():
        if tuple(stored[name].shape) != tuple(leaf.shape):
            raise UserError(
                f"{folder}: the checkpoint is of another model: '{name}' has shape {tuple(stored[name].shape)}, "
                f"the config's model {tuple(leaf.shape)}"
            )


def take_encoder(fresh: Any, trained: Any, where: str) -> Any:
    """Returns `fresh` with every variable under `encoder` taken from `trained`.

    Raises:
      UserError: an encoder variable of `fresh` that `trained` lacks, or has in another shape.
    """
    flat, source = _flat(fresh), _flat(trained)
    encoder = {name: leaf for name, leaf in flat.items() if name.startswith("encoder.")}
    _check_same(
        encoder,
        {name: leaf for name, leaf in source.items() if name.startswith("encoder.")},
        Path(where),
    )
    return _unflat(fresh, flat | {name: source[name] for name in encoder})


def write_labels(workdir: Path, stage: str, class_names: tuple[str, ...]) -> None:
    """Writes the label names beside a stage's checkpoints."""
    folder = Path(workdir) / "checkpoints" / stage
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.json").write_text(json.dumps({"class_names": list(class_names)}) + "\n")


def complete(folder: Path) -> list[int]:
    """Returns the steps whose checkpoints are whole; a save under way has a name that is not a number."""
    return (
        [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        if folder.is_dir()
        else []
    )


def has_checkpoint(workdir: str | Path, stage: str) -> bool:
    """Returns whether a stage has a complete checkpoint."""
    folder = Path(workdir) / "checkpoints" / stage
    return (folder / "labels.json").is_file() and bool(complete(folder))


def write_trained(
    workdir: str | Path,
    config: ConfigDict,
    stage: str,
    class_names: tuple[str, ...],
    model: nnx.Module,
) -> None:
    """Writes a workdir that holds a model that was trained elsewhere, for `load_trained`; it counts as finished."""
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    write_labels(workdir, stage, class_names)
    _, params, extra = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    flat = _flat({"params": nnx.as_pure(params), "extra": nnx.as_pure(extra), "ema": None})
    checkpoints = Checkpoints(workdir, stage, asynchronous=False)
    checkpoints.manager.save(0, args=ocp.args.Composite(model=ocp.args.StandardSave(flat)))
    checkpoints.close()
    (workdir / "config.json").write_text(config_lib.to_json(config))
    (workdir / "results.json").write_text(json.dumps({stage: {}}) + "\n")


@dataclasses.dataclass
class Trained:
    """A trained model, ready to label audio."""

    config: ConfigDict
    stage: str
    step: int
    class_names: tuple[str, ...]
    apply: Callable[
        [Any, Any], jax.Array
    ]  # (audio int16 | float32 [B, T], length [B]) -> logits float32 [B, C]
    probabilities: Callable[[np.ndarray], np.ndarray]  # logits -> probabilities
    model: nnx.Module

    @property
    def stage_config(self) -> ConfigDict:
        """The config of the stage that trained it."""
        return self.config[self.stage]

    @property
    def multi_label(self) -> bool:
        """Whether a clip may have several labels."""
        return self.stage_config.data.multi_label


def trained_stage(workdir: str | Path, stage: str | None = None) -> tuple[ConfigDict, str]:
    """Returns a workdir's config and the name of its last stage that has a checkpoint, or of `stage`.

    Raises:
      UserError: no workdir, or no checkpoint in it.
    """
    workdir = Path(workdir)
    if not (workdir / "config.json").is_file():
        raise UserError(
            f"{workdir}: not a workdir of sacjax (there is no config.json in it); a folder of transformers' is hf:{workdir}"
        )
    config = config_lib.from_json((workdir / "config.json").read_text())
    done = [s for s in config.stages if has_checkpoint(workdir, s)]
    if not done or (stage and stage not in done):
        raise UserError(
            f"{workdir}: there is no checkpoint{f' of stage {stage}' if stage else ''} in it"
        )
    return config, stage or done[-1]


def load_trained(
    workdir: str | Path,
    which: str | None = "best",
    stage: str | None = None,
    everywhere: bool = False,
) -> Trained:
    """Loads the model of a workdir's last stage that has a checkpoint, or of `stage`.

    Args:
      which: its `best` or `last` checkpoint; None: what the stage's own `eval.checkpoint` says.
      everywhere: puts it on all devices of the config's mesh instead of on one.

    Raises:
      UserError: no workdir, no checkpoint in it, or one of another model than its config's.
    """
    workdir = Path(workdir)
    config, stage = trained_stage(workdir, stage)
    labels = json.loads((workdir / "checkpoints" / stage / "labels.json").read_text())[
        "class_names"
    ]
    objective = objectives.build(config[stage], tuple(labels), np.ones(len(labels)))
    checkpoints = Checkpoints(workdir, stage, mode=config[stage].eval.best_mode, asynchronous=False)
    step = checkpoints.best() if (which or config[stage].eval.checkpoint) == "best" else None
    step = checkpoints.latest() if step is None else step
    if step is None:
        raise UserError(f"{workdir}: there is no complete checkpoint of stage {stage} in it")
    model = nnx.eval_shape(
        lambda: objective.build(nnx.Rngs(0))
    )  # its shapes; the values come from the checkpoint
    model.eval()
    graphdef, params, extra = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    template = {"params": nnx.as_pure(params), "extra": nnx.as_pure(extra)}
    template["ema"] = template["params"] if config[stage].optimizer.ema_decay else None
    here: Any = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if everywhere:
        here = sharding.replicated(sharding.make_mesh(config.mesh))
    wanted = {
        k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=here) for k, v in _flat(template).items()
    }
    _check_same(wanted, checkpoints._stored(step), checkpoints.folder)
    restored = checkpoints.manager.restore(
        step, args=ocp.args.Composite(model=ocp.args.StandardRestore(wanted))
    )
    checkpoints.close()
    fields = _unflat(template, restored["model"])
    model = nnx.merge(graphdef, fields["ema"] or fields["params"], fields["extra"])
    preprocess = make_preprocess(config[stage], len(labels))

    # The parameters are arguments, not constants, so that compiling stays quick.
    graphdef, variables = nnx.split(model)

    @jax.jit
    def logits(variables: Any, audio: jax.Array, length: jax.Array) -> jax.Array:
        rows = jnp.zeros(audio.shape[0], jnp.int32)
        batch = {
            "audio": audio,
            "length": length,
            "label": rows - 1,
            "mask": rows + 1.0,
            "index": rows,
        }
        return objective.predict(nnx.merge(graphdef, variables), preprocess(batch))

    return Trained(
        config, stage, step, tuple(labels), lambda audio, length: logits(variables, audio, length),
        objective.probabilities, model,
    )  # fmt: skip


def load_classifier(workdir: str | Path, which: str = "best", everywhere: bool = False) -> Trained:
    """Returns `load_trained(workdir, which)`. Raises UserError also where its last stage was trained without labels."""
    trained = load_trained(workdir, which, everywhere=everywhere)
    if not objectives.OBJECTIVES[trained.stage_config.objective.name].needs_labels:
        raise UserError(
            f"{workdir}: stage {trained.stage} was trained without labels and cannot give any: fine-tune it "
            f"(init_from={workdir}), or use sacjax.embed or sacjax.probe"
        )
    return trained
