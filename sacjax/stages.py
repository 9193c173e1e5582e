"""Runs the stages of a config in a workdir, one after the other, and writes what came of them."""

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import objectives, report
from sacjax.commands import probe
from sacjax.convert import huggingface
from sacjax.data import pipeline, sources, splits
from sacjax.data.bad_files import BadFiles
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.evaluators import evaluate
from sacjax.train import checkpoint, metrics, sharding
from sacjax.train.loop import (
    Program,
    Start,
    TrainState,
    epoch_examples,
    fit,
    make_program,
    total_steps,
)

Results = dict[str, dict[str, float]]
# Keys of a config, and of a stage's data, that change nothing that is learned.
HOW = ("mesh", "checkpoint", "profile", "tensorboard")
HOW_DATA = ("cache", "workers", "prefetch", "max_bad_fraction")


def run(config: ConfigDict, workdir: str | Path) -> Results:
    """Trains and evaluates every stage; the same call again resumes, and returns at once when all is done.

    Returns:
      {stage: {'part/metric': value}}, as written to `<workdir>/results.json`.

    Raises:
      UserError: a bad config or data set, a workdir that cannot be written or holds another experiment.
    """
    workdir = Path(workdir)
    config = resolve(config, workdir)
    mesh = sharding.make_mesh(config.mesh)
    new = not workdir.exists()
    _check_workdir(config, workdir)
    results = read_results(workdir)
    todo = [name for name in config.stages if name not in results]
    if not todo:
        print(f"{workdir}: already finished; results.json holds its results")
        return results
    # All stages are checked before the first one compiles.
    prepared: dict[str, Stage] = {}
    try:
        for name in todo:
            prepared[name] = Stage.prepare(name, config, mesh, workdir, prepared)
    except UserError:
        if new:  # a mistake leaves no empty folder behind
            with contextlib.suppress(OSError):
                workdir.rmdir()
        raise
    if jax.process_index() == 0:
        _write(workdir / "config.json", config_lib.to_json(config))
    for stage in prepared.values():
        results[stage.name] = stage.run(results)
    if jax.process_index() == 0:
        judged = [name for name in config.stages if "test/accuracy" in results[name]]
        if len(judged) > 1:
            figures = (f"{name} {100 * results[name]['test/accuracy']:.1f} %" for name in judged)
            print(f"test accuracy: {', '.join(figures)}")
        bad = workdir / "bad_files.csv"
        skipped = (
            f"; {len(bad.read_text().splitlines()) - 1} files were skipped, see bad_files.csv"
            if bad.is_file()
            else ""
        )
        written = [
            name
            for name in ("results.json", "predictions.csv", "report.html")
            if (workdir / name).is_file()
        ]
        print(f"{workdir}: {', '.join(written)}, plots/{skipped}")
    return results


class Stage:
    """One stage: its data, its objective and its program."""

    def __init__(
        self,
        name: str,
        config: ConfigDict,
        mesh: Mesh,
        workdir: Path,
        recordings: Recordings,
        parts: dict,
    ):
        self.name, self.config, self.mesh, self.workdir = name, config, mesh, workdir
        self.stage, self.recordings, self.parts = config[name], recordings, parts
        counts = splits.class_counts(recordings, parts["train"])
        self.objective = objectives.build(self.stage, recordings.class_names, counts)
        self.start: Start | None = (
            None  # shapes alone where they are an earlier stage's that has yet to train
        )
        self.program: Any = None

    @classmethod
    def prepare(
        cls, name: str, config: ConfigDict, mesh: Mesh, workdir: Path, earlier: dict[str, "Stage"]
    ) -> "Stage":
        """Loads and splits the data and checks what can be checked without compiling.

        Args:
          earlier: the stages that will have run before it.

        Raises:
          UserError: batches that do not divide over the devices, bad data, patterns or weights that do not fit the model.
        """
        stage = config[name]
        sharding.check_training_batch(name, stage, mesh)
        sharding.check_batch(f"{name}.eval.batch_size", stage.eval.batch_size, mesh)
        recordings = sources.load(stage.data)
        parts = splits.split(recordings, stage.data)
        if stage.data.path and Path(stage.data.path).absolute() == workdir.absolute():
            raise UserError(
                f"--workdir {workdir} is config.{name}.data.path: choose another folder for what is written"
            )
        if not len(parts["train"]):
            raise UserError(
                f"config.{name}.data: the training part is empty; see data.fold, data.holdout"
            )
        if (
            objectives.OBJECTIVES[stage.objective.name].needs_labels
            and len(recordings.class_names) < 2
        ):
            folders = "; a sub-folder is a label" if stage.data.source == "folder" else ""
            raise UserError(
                f"config.{name}.data: {len(recordings.class_names)} class found; a classifier needs two or more{folders}"
            )
        prepared = cls(name, config, mesh, workdir, recordings, parts)
        if stage.init_from in earlier:
            prepared.start = earlier[stage.init_from].shapes()
        elif not checkpoint.has_checkpoint(workdir, name):  # else it goes on from there
            prepared.start = start_from(stage, config, workdir)
        steps, _ = total_steps(
            stage.train, epoch_examples(recordings, parts["train"], stage.data, config.seed)
        )
        prepared.program = make_program(
            prepared.objective, stage, mesh, steps, config.seed, prepared.start
        )
        return prepared

    def shapes(self) -> Start:
        """Returns the shapes of what this stage will hand over."""
        model = nnx.eval_shape(lambda: self.objective.build(nnx.Rngs(0)))
        _, params, extra = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
        return Start(self.name, nnx.as_pure(params), nnx.as_pure(extra))

    def run(self, earlier: Results) -> dict[str, float]:
        """Trains, evaluates and reports; returns {'part/metric': value}."""
        first = jax.process_index() == 0
        if first:
            sizes = ", ".join(f"{len(index)} {part}" for part, index in self.parts.items())
            print(
                f"{self.name}: {len(self.recordings)} clips ({sizes}), {len(self.recordings.class_names)} classes"
            )
            checkpoint.write_labels(self.workdir, self.name, self.recordings.class_names)
        program = self.program

        def validate(state: TrainState) -> dict[str, float]:
            if not len(self.parts["validation"]) and not self.objective.needs_labels:
                return self.knn_scores(program, state, "train")
            return self.scores(program, state, "validation", intervals=False)[0]

        try:
            state, checkpoints = fit(
                self.name, self.stage, self.config, self.objective, program, self.recordings, self.parts["train"],
                validate, self.mesh, self.workdir, self.take_start,
            )  # fmt: skip
        except UserError:  # a collapse, or a loss that is not finite: the curves tell how it came
            if first:
                report.write(self.workdir, self.name, self.config, earlier, [], self.recordings)
            raise
        if self.stage.eval.checkpoint == "best" and checkpoints.best() is not None:
            state, _ = checkpoints.restore(state, checkpoints.best())
        checkpoints.close()
        results: dict[str, float] = {}
        table: list[dict] = []
        for part in self.stage.eval.splits:
            scores, rows = self.scores(program, state, part, intervals=True)
            results |= scores
            table += rows
        if first and not results:
            print(
                f"{self.name}: nothing was evaluated, for no clip is in {' or '.join(self.stage.eval.splits)}"
            )
        if first:
            self.finish(earlier | {self.name: results}, table)
        return results

    def take_start(self) -> Start | None:
        """Returns what to start from, and lets go of it."""
        start, self.start = self.start, None
        return (
            start_from(self.stage, self.config, self.workdir)
            if self.stage.init_from in self.config.stages
            else start
        )

    def scores(
        self, program: Program, state: TrainState, part: str, intervals: bool
    ) -> tuple[dict[str, float], list[dict]]:
        """Evaluates a part: ({'part/metric': value}, a row of the predictions table a clip)."""
        indices = self.parts[part]
        if not len(indices):
            return {}, []
        if not self.objective.needs_labels:
            return self.unlabelled_scores(program, state, part), []
        logits, seen = predict(
            lambda batch: program.predict(state, batch),
            self.recordings,
            indices,
            self.stage,
            self.mesh,
            self.workdir,
        )
        return score_part(
            part, self.objective.probabilities(logits), seen, self.recordings, indices, self.stage, self.config.seed,
            intervals,
        )  # fmt: skip

    def unlabelled_scores(self, program: Program, state: TrainState, part: str) -> dict[str, float]:
        """Evaluates a part by the objective itself and, if `probe_examples`, by a nearest-neighbour probe."""
        total: Any = None
        for batch in eval_batches(self.recordings, self.parts[part], self.stage, self.workdir):
            sums = jax.device_get(program.evaluate(state, sharding.put_batch(batch, self.mesh)))
            total = sums if total is None else metrics.add(total, sums)
        scores = {
            f"{part}/{name}": value for name, value in self.objective.summarize(total).items()
        }
        return scores | self.knn_scores(program, state, part)

    def knn_scores(self, program: Program, state: TrainState, part: str) -> dict[str, float]:
        """Returns the accuracy of nearest neighbours among up to `probe_examples` labelled training clips.

        Those of the training part itself are each left out in turn. Nothing where there are no two classes.
        """
        labels = splits.first_labels(self.recordings)
        train, test = (self.parts[name][labels[self.parts[name]] >= 0] for name in ("train", part))
        most = self.objective.options.probe_examples
        train = np.random.default_rng(self.config.seed).permutation(train)[
            :most
        ]  # the same ones at each evaluation
        if len(set(labels[train])) < 2 or not len(test):
            return {}
        both = train if part == "train" else np.concatenate([train, test])
        vectors, seen = predict(
            lambda batch: program.predict(state, batch), self.recordings, both, self.stage, self.mesh, self.workdir,
            self.objective.features,
        )  # fmt: skip
        train, test = train[seen[train]], test[seen[test]]
        held_out: tuple[Any, Any] = (
            (None, None) if part == "train" else (vectors[test], labels[test])
        )
        neighbours = self.objective.options.probe_neighbours
        return {
            f"{part}/knn_accuracy": probe.knn(
                vectors[train], labels[train], *held_out, neighbours=neighbours
            )
        }

    def finish(self, results: Results, table: list[dict]) -> None:
        """Writes predictions, report and, last, results: a stage with results is done."""
        last = [row for row in table if row["split"] == self.stage.eval.splits[-1]]
        names, several = self.recordings.class_names, self.stage.data.multi_label
        if self.objective.needs_labels:
            evaluate.write_predictions(
                self.workdir / "predictions.csv", table, names, multi_label=several
            )
        report.write(self.workdir, self.name, self.config, results, last, self.recordings)
        _write(self.workdir / "results.json", json.dumps(results, indent=1, sort_keys=True) + "\n")
        print_scores(self.name, results[self.name], self.stage)


def predict(
    apply: Callable[[dict], Any],
    recordings: Recordings,
    indices: np.ndarray,
    stage: ConfigDict,
    mesh: Mesh,
    workdir: Path,
    width: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits [N, C] averaged over windows, seen [N] bool) for all N recordings; only `indices` are read.

    `width` is C where it is not the number of classes.
    """
    batches = eval_batches(recordings, indices, stage, workdir)
    return evaluate.predict(
        lambda batch: apply(sharding.put_batch(batch, mesh)), batches, len(recordings),
        width or len(recordings.class_names),
    )  # fmt: skip


def eval_batches(
    recordings: Recordings, indices: np.ndarray, stage: ConfigDict, workdir: Path
) -> Iterator[dict]:
    """Yields this host's evaluation batches of some recordings, and lists those that cannot be decoded."""
    bad = BadFiles(workdir, recordings, stage.data.max_bad_fraction)
    for batch in pipeline.eval_batches(
        recordings, indices, stage.data, stage.eval.batch_size, stage.eval.overlap,
        jax.process_index(), jax.process_count(),
    ):  # fmt: skip
        bad.note(batch)
        yield batch
    bad.flush()


def score_part(
    part: str,
    probabilities: np.ndarray,
    seen: np.ndarray,
    recordings: Recordings,
    indices: np.ndarray,
    stage: ConfigDict,
    seed: int,
    intervals: bool = True,
) -> tuple[dict[str, float], list[dict]]:
    """Returns ({'part/metric': value}, prediction rows) of the labelled, decodable clips of a part."""
    labels = pipeline.label_array(recordings, stage.data.multi_label)
    known = np.asarray(labels.any(-1) if stage.data.multi_label else labels >= 0)
    counted = indices[(seen & known)[indices]]
    scores = {}
    if len(counted):
        scores = evaluate.scores(
            probabilities[counted], labels[counted], recordings.class_names, top_k=stage.eval.top_k, seed=seed,
            bootstrap=1000 if intervals else 0,
        )  # fmt: skip
    rows = [
        {
            "file": recordings.names[i],
            "split": part,
            "label": "|".join(recordings.labels[i]),
            "probabilities": probabilities[i],
            "index": int(i),
        }
        for i in indices
        if seen[i]
    ]
    return {f"{part}/{name}": value for name, value in scores.items()}, rows


def evaluate_workdirs(
    workdirs: list[str],
    overrides: list[str],
    split: str,
    which: str = "best",
    output: str | None = None,
) -> dict[str, float]:
    """Evaluates trained workdirs, several as an ensemble (mean probabilities), and writes scores and predictions.

    Args:
      overrides: `--config.<stage>.data.…=…` strings, to read another data set with the same labels.
      split: train, validation, test, or all.
      which: the best or the last checkpoint.
      output: folder for `scores.json` and `predictions.csv`; default `<first workdir>/eval/<split>`.

    Raises:
      UserError: an unknown split or label, an empty part, or workdirs with different labels.
    """
    models = [checkpoint.load_classifier(workdir, which, everywhere=True) for workdir in workdirs]
    folder = Path(output) if output else Path(workdirs[0]) / "eval" / split
    names = models[0].class_names
    first: tuple[Recordings, np.ndarray, ConfigDict] | None = None
    total, seen = np.zeros([]), np.zeros([], bool)
    for workdir, trained in zip(workdirs, models, strict=True):
        if trained.class_names != names:
            raise UserError(
                f"{workdir}: its labels differ from those of {workdirs[0]}; an ensemble needs the same"
            )
        stage = config_lib.override(trained.config, overrides)[trained.stage]
        recordings = sources.load(stage.data).with_classes(names)
        parts = splits.split(recordings, stage.data)
        parts["all"] = np.arange(len(recordings))
        if split not in parts:
            raise UserError(f"--split is '{split}'; choose one of {', '.join(parts)}")
        if not len(parts[split]):
            raise UserError(f"--split {split}: that part of the data set is empty; try --split all")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--output {folder}: cannot be written: {error.strerror}; choose another folder"
            ) from error
        mesh = sharding.make_mesh(trained.config.mesh)
        apply = functools.partial(_apply, trained)
        logits, ok = predict(apply, recordings, parts[split], stage, mesh, folder)
        probabilities = trained.probabilities(logits)
        if first is None:
            total, seen, first = probabilities, ok, (recordings, parts[split], stage)
        elif recordings.names != first[0].names or not np.array_equal(parts[split], first[1]):
            raise UserError(
                f"{workdir}: its {split} part differs from that of {workdirs[0]}; an ensemble needs the same clips"
            )
        else:
            total, seen = total + probabilities, seen & ok
    assert first is not None  # argparse asks for one workdir or more
    recordings, indices, stage = first
    scores, table = score_part(
        split, total / len(models), seen, recordings, indices, stage, models[0].config.seed
    )
    evaluate.write_predictions(
        folder / "predictions.csv", table, names, multi_label=stage.data.multi_label
    )
    _write(folder / "scores.json", json.dumps(scores, indent=1, sort_keys=True) + "\n")
    if not scores:
        print(f"no clip of the {split} part has a label: there are predictions, but no scores")
    for name, value in scores.items():
        if "/f1/" not in name and "/precision/" not in name and "/recall/" not in name:
            print(f"{name:40s} {value:.4f}")
    print(f"written to {folder}")
    return scores


def _apply(trained: checkpoint.Trained, batch: dict) -> Any:
    return trained.apply(batch["audio"], batch["length"])


def start_from(stage: ConfigDict, config: ConfigDict, workdir: Path) -> Start | None:
    """Returns the variables that `stage.init_from` names: an earlier stage's, a workdir's, or `hf:` and a checkpoint's folder.

    Those of the checkpoint that the other stage was evaluated by, as its `eval.checkpoint` says.
    """
    where = stage.init_from
    if not where:
        return None
    if (folder := huggingface.folder_of(where)) is not None:
        model = huggingface.load_huggingface(folder).model
    elif where in config.stages:
        model = checkpoint.load_trained(workdir, None, where).model
    else:
        model = checkpoint.load_trained(where, None).model
    encoder = getattr(model, "encoder", model)
    _, params, extra = nnx.split(encoder, nnx.Param, ...)  # type: ignore[misc]
    # On the host, so that a mesh of any devices can take them.
    params, extra = jax.device_get((nnx.as_pure(params), nnx.as_pure(extra)))
    return Start(where, {"encoder": params}, {"encoder": extra})


def resolve(config: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """Returns the config with the encoders of stages that start from a workdir or `hf:PATH` filled in from what is there.

    Options of `model.encoder` that the config sets itself stay, with a warning where a checkpoint's input normalization is another one. A
    workdir that has begun with the same `init_from` knows them, so that its run can go on where the checkpoint is not there any more.

    Raises:
      UserError: a folder that cannot be read, another encoder, or a sample rate that is not the one that it was trained at.
    """
    config = config_lib.from_json(config_lib.to_json(config))
    begun = workdir / "config.json" if workdir and _has_begun(workdir) else None
    saved = json.loads(begun.read_text()) if begun and begun.is_file() else {}
    for name in config.stages:
        stage = config[name]
        inside = stage.init_from in config.stages
        if not stage.init_from:
            continue
        if not inside and name in saved and saved[name]["init_from"] == stage.init_from:
            with stage.model.unlocked():
                stage.model.encoder = (
                    saved[name]["model"]["encoder"] | stage.model.encoder.to_dict()
                )
            continue
        given, path = stage.model.encoder.to_dict(), huggingface.folder_of(stage.init_from)
        if path is not None:
            kind, options = "wav2vec2", huggingface.encoder_options(path)
            rate = huggingface.read_preprocessor(path).get("sampling_rate", stage.data.sample_rate)
        else:
            other, its_name = (
                (config, stage.init_from) if inside else checkpoint.trained_stage(stage.init_from)
            )
            kind, rate = other[its_name].model.name, other[its_name].data.sample_rate
            options = {} if inside else other[its_name].model.encoder.to_dict()
        if stage.model.name != kind:
            raise UserError(
                f"config.{name}.init_from={stage.init_from} needs config.{name}.model.name={kind}"
            )
        if rate != stage.data.sample_rate:
            raise UserError(
                f"config.{name}.data.sample_rate is {stage.data.sample_rate}, but {path or stage.init_from} was trained at {rate} Hz: "
                "set it to that"
            )
        normalized = options.get("normalize_input")
        differs = normalized is not None and given.get("normalize_input", normalized) != normalized
        if differs and jax.process_index() == 0:
            print(
                f"warning: config.{name}.model.encoder.normalize_input is {given['normalize_input']}, the checkpoint's "
                f"do_normalize {normalized}: it was trained on the other kind of waveforms"
            )
        with stage.model.unlocked():
            stage.model.encoder = options | given
    return config_lib.check(config)


def print_scores(name: str, scores: dict[str, float], stage: ConfigDict) -> None:
    """Prints a stage's main figures."""
    for part in stage.eval.splits:
        if stage.data.multi_label and f"{part}/mean_average_precision" in scores:
            print(
                f"{name}: {part} mean average precision {100 * scores[f'{part}/mean_average_precision']:.2f} %, "
                f"macro F1 {100 * scores[f'{part}/macro_f1']:.2f} %"
            )
        elif f"{part}/accuracy" in scores:
            low, high = (100 * scores[f"{part}/accuracy_{end}"] for end in ("low", "high"))
            interval = f" (95 % interval {low:.1f} to {high:.1f})"
            print(
                f"{name}: {part} accuracy {100 * scores[f'{part}/accuracy']:.2f} %{interval}, "
                f"macro F1 {100 * scores[f'{part}/macro_f1']:.2f} %"
            )
        elif f"{part}/contrastive_accuracy" in scores:
            value = {
                key.split("/", 1)[1]: number
                for key, number in scores.items()
                if key.startswith(f"{part}/")
            }
            knn = (
                f", k-nearest neighbours {100 * value['knn_accuracy']:.1f} %"
                if "knn_accuracy" in value
                else ""
            )
            print(
                f"{name}: {part} contrastive accuracy {100 * value['contrastive_accuracy']:.1f} % (chance "
                f"{100 * value['chance_accuracy']:.1f} %), code perplexity {value.get('code_perplexity_1', 0.0):.1f}{knn}"
            )
            if value["contrastive_accuracy"] < 1.1 * max(
                value["chance_accuracy"], value["shuffled_accuracy"]
            ):
                print(
                    f"warning: {name} has not learned to tell frames apart; what usually helps: more steps, and "
                    "optimizer.freeze=(('encoder/conv', N),), which holds the convolutions still until the Transformer can predict"
                )


def read_results(workdir: Path) -> Results:
    """Returns the results of the stages that are done."""
    path = Path(workdir) / "results.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError where the workdir cannot be written or holds another experiment that has saved something."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable.{os.getpid()}.{time.time_ns()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--workdir {workdir}: cannot be written: {error.strerror}; choose another folder"
        ) from error
    path = workdir / "config.json"
    if path.is_file() and _has_begun(workdir):
        old, new = (
            _learned(json.loads(text)) for text in (path.read_text(), config_lib.to_json(config))
        )
        if old != new:
            raise UserError(
                f"--workdir {workdir} holds a different experiment: {_difference(old, new)}; choose another folder"
            )


def _learned(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns a config without what says how a run is carried out and not what is learned: that may change when it goes on."""
    kept = {key: value for key, value in saved.items() if key not in HOW}
    for name in kept["stages"]:
        data = {key: value for key, value in kept[name]["data"].items() if key not in HOW_DATA}
        kept[name] = kept[name] | {"data": data}
    return kept


def _has_begun(workdir: Path) -> bool:
    """Returns whether there is anything to lose: a checkpoint, or results."""
    stages = workdir / "checkpoints"
    saved = (
        any(checkpoint.complete(folder) for folder in stages.iterdir())
        if stages.is_dir()
        else False
    )
    return saved or (workdir / "results.json").is_file()


def _difference(old: Any, new: Any, path: str = "config") -> str:
    """Returns the first key in which two configs differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key) or (key in old) != (key in new):
                return _difference(old.get(key), new.get(key), f"{path}.{key}")
    return f"{path} is {json.dumps(old)} there and {json.dumps(new)} here"


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
