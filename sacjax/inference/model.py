"""A trained model, ready to label and embed sound."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import errors, io, objectives
from sacjax.context import Context
from sacjax.convert import huggingface
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.evaluators.predictions import predict
from sacjax.inference.embedder import (
    Embedder,
    Layer,
    embed_recordings,
    embed_recordings_by_frames,
    file_batches,
    note_errors,
    unlabelled,
)
from sacjax.inference.sounds import Sounds, as_recordings
from sacjax.objectives.base import build_encoder
from sacjax.train import sharding
from sacjax.train.checkpoint_files import has_checkpoint, read_labels, read_temperature
from sacjax.train.trained import restore_model
from sacjax.views import make_views


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Labels of N sounds."""

    labels: tuple[str, ...]
    """The C label names."""

    probabilities: np.ndarray
    """float64 [N, C]; rows of a sound that could not be read are NaN."""

    names: list[str]
    """The N files, or the numbers of arrays."""

    bad: dict[str, str]
    """{name: reason} of the sounds that could not be read."""

    def __len__(self) -> int:
        """Returns N."""
        return len(self.names)

    def top(self, k: int = 1) -> list[list[tuple[str, float]]]:
        """Returns each sound's `k` most probable (label, probability); [] where it was not read."""
        rows: list[list[tuple[str, float]]] = []
        for name, p in zip(self.names, self.probabilities, strict=True):
            read = name not in self.bad
            best = np.argsort(-p, kind="stable")[: k if read else 0]
            rows.append([(self.labels[i], float(p[i])) for i in best])
        return rows


class EncoderAlone(nnx.Module):
    """An encoder where an objective's model is wanted."""

    def __init__(self, encoder: Any):
        """Takes the encoder."""
        self.encoder = encoder


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained model. `sacjax.load` gives it."""

    config: ConfigDict
    """The whole config of its run."""

    stage: str
    """The stage that trained it."""

    labels: tuple[str, ...]
    """Label names in the order of `probabilities`; of a pretrained encoder, its data set's."""

    objective: Any
    module: Any
    """The objective's `nnx.Module`, with `.encoder`."""

    step: int | None = None
    """The update that its checkpoint is of; None or 0: it was not trained here, but converted."""

    sharding: Any = None
    """Where its variables are; None: one device."""

    @property
    def stage_config(self) -> ConfigDict:
        """The config of the stage that trained it."""
        return self.config[self.stage]

    @property
    def sample_rate(self) -> int:
        """Hz, to which every sound is resampled."""
        return int(self.stage_config.data.sample_rate)

    @property
    def channel(self) -> int | str:
        """The channel that it hears, from 0 on, or 'mix'."""
        return self.stage_config.data.channel

    @property
    def multi_label(self) -> bool:
        """Whether a clip may have several labels."""
        return bool(self.stage_config.data.multi_label)

    @property
    def is_classifier(self) -> bool:
        """Whether it gives labels."""
        return bool(self.objective.needs_labels)

    def predict(self, sounds: Sounds, sample_rate: int | None = None) -> Predictions:
        """Returns the labels of sounds.

        Args:
          sounds: a file or folder, a list of them, an array of samples in [-1, 1] (float [T], or
            int16), or a list of arrays. Any length: long sounds are heard in overlapping windows.
          sample_rate: of arrays, Hz; None: the model's own.

        Raises:
          UserError: a model without labels, a missing file, or an array that is no sound.
        """
        if not self.is_classifier:
            raise UserError(
                f"stage {self.stage} was trained without labels and cannot give any: fine-tune it "
                "(init_from), or use embed or probe"
            )
        recordings = self._recordings(sounds, sample_rate)
        bad: dict[int, str] = {}
        probabilities = self.probabilities(recordings, np.arange(len(recordings)), bad)
        names = recordings.names
        return Predictions(self.labels, probabilities, names, {names[k]: bad[k] for k in bad})

    def embed(
        self,
        sounds: Sounds,
        sample_rate: int | None = None,
        *,
        layer: Layer = -1,
        seconds: float = 0,
        pooling: str = "mean",
    ) -> np.ndarray:
        """Returns a vector for each sound, float32 [N, D]: the encoder's frames, pooled.

        Rows of a sound that could not be read are NaN, and a warning says why.

        Args:
          sounds, sample_rate: as of `predict`.
          layer: -1: the encoder's output; k: its k-th hidden state; 'mean': the mean of all.
          seconds: length of a window; 0: the same as in training.
          pooling: of frames: mean, max, mean_max, statistics or grid; see `layers.Pooling`.

        Raises:
          UserError: a missing sound, or a layer or a pooling that there is not.
        """
        recordings = self._recordings(sounds, sample_rate)
        bad: dict[int, str] = {}
        embedder = self.embedder(layer, seconds, pooling)
        vectors, seen = embed_recordings(embedder, recordings, np.arange(len(recordings)), bad)
        _warn(recordings, bad)
        return np.where(seen[:, None], vectors, np.float32(np.nan))

    def embed_frames(
        self,
        sounds: Sounds,
        sample_rate: int | None = None,
        *,
        layer: Layer = -1,
        seconds: float = 0,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns (vectors float32 [T, D], their times [T] in seconds) of each sound.

        A sound that could not be read has no frames, T = 0, and a warning says why. The arguments
        and errors are those of `embed`.
        """
        recordings = self._recordings(sounds, sample_rate)
        bad: dict[int, str] = {}
        embedder = self.embedder(layer, seconds)
        found = embed_recordings_by_frames(embedder, recordings, bad)
        _warn(recordings, bad)
        none = np.zeros([0, embedder.features], np.float32), np.zeros(0)
        return [found.get(k, none) for k in range(len(recordings))]

    def _recordings(self, sounds: Sounds, sample_rate: int | None) -> Recordings:
        rate = sample_rate or self.sample_rate
        return as_recordings(sounds, rate, self.labels, self.channel)

    def embedder(self, layer: Layer = -1, seconds: float = 0, pooling: str = "mean") -> Embedder:
        """Returns its encoder as a function from sound to vectors; see `embed`."""
        if not 0 <= seconds < float("inf"):
            raise UserError(f"--seconds is {seconds:g}: it must be more than 0, and finite")
        stage = self.stage_config.copy_and_resolve_references()
        stage.data.seconds = seconds or stage.data.seconds
        return Embedder(stage, self.module.encoder, layer, pooling)

    def probabilities(
        self, recordings: Recordings, indices: np.ndarray, bad: dict[int, str]
    ) -> np.ndarray:
        """Returns [n, C]; NaN where a recording cannot be read, with the reason in `bad`."""

        def apply(batch: dict[str, Any]) -> Any:
            note_errors(batch, bad)
            return self.logits(batch["audio"], batch["length"])

        batches = file_batches(recordings, indices, self.stage_config)
        logits, seen = predict(apply, batches, indices, len(self.labels))
        return np.where(seen[:, None], self.objective.probabilities(logits), np.nan)

    @functools.cached_property
    def logits(self) -> Callable[[Any, Any], jax.Array]:
        """(audio int16 | float32 [B, T], valid samples [B]) → logits float32 [B, C], jitted."""
        return self._compiled(self.objective.predict)

    @functools.cached_property
    def embeddings(self) -> Callable[[Any, Any], jax.Array]:
        """(audio [B, T], valid samples [B]) → the objective's clip embeddings [B, D], jitted."""
        return self._compiled(self.objective.embed)

    def _compiled(self, function: Callable[..., jax.Array]) -> Callable[[Any, Any], jax.Array]:
        views = make_views(self.stage_config, len(self.labels))
        # The parameters are arguments, not constants, so that compiling stays quick.
        graphdef, variables = nnx.split(self.module)

        @jax.jit
        def apply(variables: Any, audio: jax.Array, length: jax.Array) -> jax.Array:
            batch = views(unlabelled(audio, length))
            return function(nnx.merge(graphdef, variables), batch, Context())

        return lambda audio, length: apply(variables, audio, length)


def _warn(recordings: Recordings, bad: dict[int, str]) -> None:
    """Warns of the sounds that were skipped, as a call of `embed` or `embed_frames`."""
    for k in sorted(bad):
        warnings.warn(f"skipped {recordings.names[k]}: {bad[k]}", stacklevel=3)


def load(where: str | Path, which: str | None = None, stage: str | None = None) -> Model:
    """Loads a trained model.

    Args:
      where: a workdir; `hf:FOLDER` of a checkpoint that transformers' `save_pretrained` wrote; or
        `hf:ORG/NAME`, `hf:ORG/NAME@REVISION` of a hub.
      which: its `best` or `last` checkpoint; None: what its config's `eval.checkpoint` says.
      stage: of the workdir; None: its last stage that has a checkpoint.

    Raises:
      UserError: no workdir or checkpoint there, or one of another model than its config's.
    """
    if (folder := huggingface.folder_of(str(where))) is not None:
        return _from_huggingface(folder)
    return load_trained(where, which, stage)


def _from_huggingface(folder: str) -> Model:
    loaded = huggingface.load_huggingface(folder)
    name = "finetune" if loaded.kind == "classification" else "pretrain"
    stage = huggingface.as_stage(loaded)
    objective = objectives.build(stage, loaded.class_names, np.ones(len(loaded.class_names)))
    config = config_lib.default(**{name: stage})
    module = EncoderAlone(loaded.model) if loaded.kind == "bare" else loaded.model
    return Model(config, name, tuple(loaded.class_names), objective, module)


def load_trained(
    workdir: str | Path,
    which: str | None = None,
    stage: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Model:
    """Loads the model of a workdir; see `load`.

    Args:
      workdir, which, stage: as of `load`.
      mesh: puts it on all devices of a mesh instead of on one.
    """
    workdir = io.to_path(workdir)
    config, stage = trained_stage(workdir, stage)
    labels = read_labels(workdir, stage)
    objective = objectives.build(config[stage], labels, np.ones(len(labels)))
    module = nnx.eval_shape(lambda: objective.build(nnx.Rngs(0)))
    here: Any = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if mesh is not None:
        here = sharding.replicated(mesh)
    module, step = restore_model(
        workdir, stage, module, config[stage], which or config[stage].eval.checkpoint, here
    )
    if objective.needs_labels:
        objective.temperature = read_temperature(workdir, stage, step)
    return Model(config, stage, labels, objective, module, step, here)


def trained_stage(workdir: str | Path, stage: str | None = None) -> tuple[ConfigDict, str]:
    """Returns a workdir's config and the name of its last stage with a checkpoint, or of `stage`.

    Raises:
      UserError: no workdir, or no checkpoint in it.
    """
    workdir = io.to_path(workdir)
    if not (workdir / "config.json").is_file():
        raise UserError(
            f"{workdir}: not a workdir of sacjax (there is no config.json in it); a folder of "
            f"transformers' is hf:{workdir}"
        )
    try:
        config = config_lib.from_json((workdir / "config.json").read_text())
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"{workdir}: {errors.first_line(error)}") from error
    done = [s for s in config.stages if has_checkpoint(workdir, s)]
    if not done or (stage and stage not in done):
        of = f" of stage {stage}" if stage else ""
        raise UserError(f"{workdir}: there is no checkpoint{of} in it")
    return config, stage or done[-1]


def load_classifier(workdir: str | Path, which: str | None = None) -> Model:
    """Returns `load(workdir, which)`. Raises UserError also for a model without labels."""
    model = load(workdir, which)
    if not model.is_classifier:
        raise UserError(
            f"{workdir}: stage {model.stage} was trained without labels and cannot give any: "
            f"fine-tune it (init_from={workdir}), or use sacjax embed or sacjax probe"
        )
    return model


def ensemble(
    loaded: Sequence[Model], sounds: Sounds, sample_rate: int | None = None
) -> Predictions:
    """Returns the mean of several models' probabilities of sounds.

    Raises:
      UserError: models with different labels.
    """
    first = loaded[0]
    if any(m.labels != first.labels or m.multi_label != first.multi_label for m in loaded):
        raise UserError(
            "the checkpoints have different labels, or only some are multi-label; an ensemble "
            "needs the same"
        )
    found = [model.predict(sounds, sample_rate) for model in loaded]
    bad: dict[str, str] = {}
    for one in found:
        bad |= one.bad
    mean = np.mean([one.probabilities for one in found], 0)
    return dataclasses.replace(found[0], probabilities=mean, bad=bad)


def untrained(model: Model, seed: int = 0) -> Model:
    """Returns the same encoder with fresh parameters: what a trained one must beat."""
    encoder = build_encoder(model.stage_config, nnx.Rngs(seed))
    return dataclasses.replace(model, module=EncoderAlone(encoder))
