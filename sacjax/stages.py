"""Runs the stages of a config in a workdir, one after the other, and writes what came of them."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sacjax import config as config_lib
from sacjax import console, evaluators, io, objectives
from sacjax.checks import (
    check_done,
    check_leaks,
    check_parts,
    check_same_clips,
    tell_of_late_thaws,
)
from sacjax.config import identity
from sacjax.data import pipeline, sources, splits
from sacjax.data.bad_files import BadFiles
from sacjax.data.recordings import Recordings
from sacjax.errors import UserError
from sacjax.evaluators.calibration import calibrate
from sacjax.evaluators.predictions import own_rows, write_predictions
from sacjax.evaluators.suspects import Analysis, analyse
from sacjax.init_from import (
    check_labels,
    has_begun,
    pretrained_of,
    resolve,
    trained_encoder,
    trained_model,
)
from sacjax.train import hooks, sharding
from sacjax.train.checkpoint_files import has_checkpoint, write_labels, write_temperature
from sacjax.train.loop import Task, epoch_examples, fit, total_steps
from sacjax.train.state import Pretrained, TrainState
from sacjax.train.trainer import Trainer, make_trainer

Results = dict[str, dict[str, float]]


def run(config: ConfigDict, workdir: str | Path) -> Results:
    """Trains and evaluates every stage; the same call again resumes, and returns when all is done.

    Returns:
      {stage: {'part/metric': value}}, as written to `<workdir>/results.json`.

    Raises:
      UserError: a bad config or data set, a workdir that cannot be written or holds another
        experiment.
    """
    workdir = io.to_path(workdir)
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
        check_leaks(config, prepared)
        check_done(config, workdir, results, prepared)
    except UserError:
        if new and not io.in_bucket(workdir):  # a mistake leaves no empty folder behind
            with contextlib.suppress(OSError):
                workdir.rmdir()
        raise
    if jax.process_index() == 0:
        io.write_text(workdir / "config.json", config_lib.to_json(config))
    for stage in prepared.values():
        results[stage.name] = stage.run(results)
    if jax.process_index() == 0:
        console.print_summary(config, workdir, results)
    return results


class Stage:
    """One stage: its data, its objective and its compiled functions."""

    def __init__(
        self,
        name: str,
        config: ConfigDict,
        mesh: Mesh,
        workdir: Path,
        recordings: Recordings,
        parts: dict[str, np.ndarray],
    ):
        """Takes a stage's data; `prepare` makes the rest."""
        self.name, self.config, self.mesh, self.workdir = name, config, mesh, workdir
        self.stage, self.recordings, self.parts = config[name], recordings, parts
        self.clips = splits.digest(recordings, parts["train"])
        counts = splits.class_counts(recordings, parts["train"])
        self.objective = objectives.build(self.stage, recordings.class_names, counts)
        self.evaluators = evaluators.build(self.stage)
        judged = [parts[part] for part in self.stage.eval.splits if len(parts[part])]
        for evaluator in self.evaluators if judged else []:
            evaluator.check_clips(recordings, np.concatenate(judged))
        self.trainer: Any = None
        self.pretrained: Pretrained | None = None  # shapes alone, of a stage that has yet to train

    @classmethod
    def prepare(
        cls, name: str, config: ConfigDict, mesh: Mesh, workdir: Path, earlier: dict[str, "Stage"]
    ) -> "Stage":
        """Loads and splits the data and checks what can be checked without compiling.

        Args:
          name: the stage.
          config: the whole config.
          mesh: of devices.
          workdir: where the stage will write.
          earlier: the stages that will have run before it.

        Raises:
          UserError: batches that do not divide over the devices, bad data, patterns or weights that
            do not fit the model.
        """
        stage = config[name]
        sharding.check_training_batch(name, stage, mesh)
        sharding.check_batch(f"{name}.eval.batch_size", stage.eval.batch_size, mesh)
        same = [s for s in earlier.values() if sources.same(s.stage.data, stage.data)]
        try:
            recordings = same[0].recordings if same else sources.load(stage.data)
            parts = splits.split(recordings, stage.data)
        except UserError as error:  # sources do not know the stage's name
            known = str(error).startswith("data.")
            raise UserError(f"config.{name}.{error}" if known else str(error)) from error
        check_parts(name, stage, recordings, parts)
        if stage.data.path and Path(stage.data.path).absolute() == io.absolute(workdir):
            raise UserError(
                f"--workdir {workdir} is config.{name}.data.path: choose another folder for what "
                "is written"
            )
        prepared = cls(name, config, mesh, workdir, recordings, parts)
        check_labels(prepared.objective, name, config, workdir)
        check_same_clips(prepared.clips, name, workdir)
        if teacher := earlier.get(prepared.objective.source(stage)):
            prepared.objective.check_source(teacher.objective.class_names, teacher.stage)
        if stage.init_from in earlier:
            prepared.pretrained = earlier[stage.init_from].shapes()
        elif not has_checkpoint(workdir, name):  # else it goes on from there
            prepared.pretrained = pretrained_of(stage, config, workdir)
        examples = epoch_examples(recordings, parts["train"], stage.data, config.seed)
        steps, _ = total_steps(stage.train, examples)
        tell_of_late_thaws(name, stage, steps)
        prepared.trainer = make_trainer(
            prepared.objective, stage, mesh, steps, config.seed, prepared.pretrained
        )
        return prepared

    def shapes(self) -> Pretrained:
        """Returns the shapes of what this stage will hand over."""
        state = self.trainer.state_shapes
        return Pretrained(self.name, state.params, state.buffers)

    def run(self, earlier: Results) -> dict[str, float]:
        """Trains, evaluates and reports; returns {'part/metric': value}."""
        first = jax.process_index() == 0
        if first:
            sizes = ", ".join(f"{len(index)} {part}" for part, index in self.parts.items())
            classes = len(self.recordings.class_names)
            print(f"{self.name}: {len(self.recordings)} clips ({sizes}), {classes} classes")
            write_labels(self.workdir, self.name, self.recordings.class_names, self.clips)
        task = Task(
            self.name,
            self.stage,
            self.config,
            self.objective,
            self.trainer,
            self.recordings,
            self.parts["train"],
            self.mesh,
            self.workdir,
            self.start,
        )
        try:
            state, checkpoints = fit(task, hooks.default_hooks(self.validate))
        except UserError:  # a collapse, or a loss that is not finite: the curves tell how it came
            if first:
                from sacjax import report

                report.write(self.workdir, self.name, self.config, earlier, [], self.recordings)
            raise
        best, last = checkpoints.best(), checkpoints.latest()
        chosen = best if self.stage.eval.checkpoint == "best" and best is not None else last
        # Each of the two that may be loaded has a temperature of its own.
        others = {best, last} - {None, chosen} if self.stage.eval.temperature else set()
        for step in (*others, chosen):
            if step != int(state.step):
                state, _ = checkpoints.restore(self.trainer.state_shapes, step)
            if step != chosen:
                self.calibrate(state)
        checkpoints.close()
        return self.conclude(state, earlier)

    def conclude(self, state: TrainState, earlier: Results) -> dict[str, float]:
        """Evaluates and reports a trained state; returns {'part/metric': value}."""
        first = jax.process_index() == 0
        results: dict[str, float] = {}
        rows: dict[str, Sequence[dict[str, Any]]] = {}
        judged = self.judged(state)
        if self.stage.eval.temperature:
            results["validation/temperature"] = self.calibrate(state)
        for part in self.stage.eval.splits:
            scores = evaluators.judge(self.evaluators, judged, part, final=True)
            results |= scores.values
            rows[part] = scores.rows
        analysis = None
        if self.stage.eval.analysis and any(map(len, rows.values())):
            analysis = analyse(judged, self.last_part(rows))
        self.write_samples(state)
        if first:
            if not results:
                print(f"{self.name}: nothing was evaluated, for {console.why_nothing(self.stage)}")
            self.finish(earlier | {self.name: results}, rows, analysis)
        return results

    def calibrate(self, state: TrainState) -> float:
        """Fits and writes the temperature of a state's logits, and leaves it to the objective."""
        temperature = calibrate(self.judged(state))
        if jax.process_index() == 0:
            write_temperature(self.workdir, self.name, temperature, int(state.step))
        return temperature

    def write_samples(self, state: TrainState) -> None:
        """Writes the sounds that the objective gives of a few clips of the last part judged."""
        from sacjax.report import samples

        parts = [self.parts[name] for name in self.stage.eval.splits]
        clips = parts[-1][: samples.MOST] if parts else np.zeros(0, int)
        if type(self.objective).samples is objectives.Objective.samples or not len(clips):
            return
        batch = next(eval_batches(self.recordings, clips, self.stage, self.workdir))
        made = self.trainer.samples(state, sharding.put_batch(batch, self.mesh))
        made = {name: own_rows(sounds) for name, sounds in made.items()}
        if jax.process_index() == 0:
            names, rate = self.recordings.names, self.stage.data.sample_rate
            samples.write(self.workdir / "samples" / self.name, made, batch, names, rate)

    def start(self) -> tuple[Pretrained | None, dict[str, Any]]:
        """Returns the pretrained encoder and the objective's artifacts.

        It keeps no reference to the encoder, so that its memory can be freed.
        """
        pretrained, self.pretrained = self.pretrained, None
        if self.stage.init_from in self.config.stages:
            pretrained = pretrained_of(self.stage, self.config, self.workdir)
        if source := self.objective.source(self.stage):
            load = trained_model if self.objective.whole_source else trained_encoder
            self.objective.trained = load(source, self.config, self.workdir)
        elif self.objective.needs_start:
            options = self.stage.model.encoder.to_dict()
            where = self.stage.init_from
            self.objective.trained = trained_encoder(where, self.config, self.workdir, options)
        artifacts = self.objective.prepare(self.heard)
        self.objective.trained = None
        return pretrained, artifacts

    def batches(self) -> Iterator[dict[str, Any]]:
        """Returns the stage's training batches from the first on, without end."""
        return iter(
            pipeline.train_batches(
                self.recordings,
                self.parts["train"],
                self.stage.data,
                self.stage.train.batch_size,
                self.config.seed,
                jax.process_index(),
                jax.process_count(),
                self.objective.needs_labels,
            ),
        )

    def heard(self) -> Iterator[dict[str, Any]]:
        """Yields `batches` for an objective's preparation, which reads until it has enough.

        Raises UserError where more of the clips than `data.max_bad_fraction` are bad: it would
        else never end.
        """
        bad = BadFiles(self.workdir, self.recordings, self.stage.data.max_bad_fraction)
        for batch in self.batches():
            bad.note(batch)
            yield batch

    def judged(self, state: TrainState) -> evaluators.Judged:
        """Returns the model of a state with this stage's data, for evaluators."""
        trainer: Trainer = self.trainer

        def on_mesh(apply: Any) -> Any:
            return lambda batch: apply(state, sharding.put_batch(batch, self.mesh))

        return evaluators.Judged(
            stage=self.stage,
            seed=self.config.seed,
            objective=self.objective,
            recordings=self.recordings,
            parts=self.parts,
            batches=lambda indices: eval_batches(
                self.recordings, indices, self.stage, self.workdir
            ),
            logits=on_mesh(trainer.predict),
            embeddings=on_mesh(trainer.embed),
            sums=on_mesh(trainer.evaluate),
            losses=on_mesh(trainer.losses),
        )

    def validate(self, state: TrainState) -> dict[str, float]:
        """Returns the metrics during training: of the validation part, where there is one.

        Where there is none, probes leave out each training clip in turn.
        """
        part, chosen = "validation", self.evaluators
        if not len(self.parts[part]):
            part = "train"
            chosen = [e for e in chosen if isinstance(e, evaluators.NeighbourProbe)]
        return evaluators.judge(chosen, self.judged(state), part, final=False).values

    def last_part(self, rows: dict[str, Sequence[dict[str, Any]]]) -> Sequence[dict[str, Any]]:
        """Returns the predictions of the part that the report shows."""
        return rows[self.stage.eval.splits[-1]] if rows else []

    def finish(
        self,
        results: Results,
        rows: dict[str, Sequence[dict[str, Any]]],
        analysis: Analysis | None,
    ) -> None:
        """Writes predictions, report and, last, results: a stage with results is done.

        Args:
          results: of all stages so far.
          rows: {part: its predictions}.
          analysis: of the training part's embeddings, if there is one.
        """
        from sacjax import report  # here: it draws, which the first step need not wait for

        names, several = self.recordings.class_names, self.stage.data.multi_label
        if any(map(len, rows.values())):
            paths = [self.workdir / "predictions.csv"]
            if len(self.config.stages) > 1:  # the report compares the stages clip by clip
                paths.append(report.predictions_path(self.workdir, self.name))
                io.make_folder(paths[-1].parent)
            for path in paths:
                all_rows = itertools.chain.from_iterable(rows.values())
                write_predictions(path, all_rows, names, multi_label=several)
        last = self.last_part(rows)
        report.write(self.workdir, self.name, self.config, results, last, self.recordings, analysis)
        io.write_json(self.workdir / "results.json", results)
        console.print_scores(self.name, results[self.name], self.stage, self.objective)


def eval_batches(
    recordings: Recordings, indices: np.ndarray, stage: ConfigDict, workdir: Path
) -> Iterator[dict[str, Any]]:
    """Yields this host's evaluation batches, and lists clips that cannot be decoded."""
    bad = BadFiles(workdir, recordings, stage.data.max_bad_fraction)
    for batch in pipeline.eval_batches(
        recordings,
        indices,
        stage.data,
        stage.eval.batch_size,
        stage.eval.overlap,
        jax.process_index(),
        jax.process_count(),
    ):
        bad.note(batch)
        yield batch
    bad.flush()


def read_results(workdir: Path) -> Results:
    """Returns the results of the stages that are done."""
    path = io.to_path(workdir) / "results.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError where the workdir cannot be written or holds another experiment."""
    io.check_folder(workdir, "--workdir")
    path = workdir / "config.json"
    if path.is_file() and has_begun(workdir):
        old, new = json.loads(path.read_text()), json.loads(config_lib.to_json(config))
        if not identity.same(old, new):
            difference = identity.difference(old, new)
            raise UserError(
                f"--workdir {workdir} holds a different experiment: {difference}; choose another "
                "folder"
            )
