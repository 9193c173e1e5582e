"""The runs of the fair table, a command each: who asks for them is ssl.py.

Each function returns the runs that have no result yet, in their folder or in the table, so that
what is there is not run again. Each run is one command of configs/ssl.py.
"""

import csv
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from launch.benchmarks import jobs, ssl_table
from launch.benchmarks.ssl_table import ALL, TASKS, Cell, Found
from sacjax import config as config_lib
from sacjax.errors import UserError

CONFIG = "configs/ssl.py"
WARM = 6  # updates until all is compiled and decoded
COLUMNS_OF_A_BATCH = ("audio", "length", "label", "index", "mask")


class Pretraining(NamedTuple):
    """An encoder that a method pretrains."""

    task: str
    method: str
    encoder: str
    corpus: str
    budget: float  # core minutes
    fold: int = 0  # whose training part it hears; 0: speech alone, the same for all folds and tasks

    def workdir(self, runs: Path) -> Path:
        """Returns where it is trained; encoders of speech alone are shared by tasks."""
        where = (
            "speech" if self.corpus == "speech" else f"{self.task}_{self.corpus}_fold{self.fold}"
        )
        return runs / where / f"{self.method}_{self.encoder}_{self.budget:g}min"

    def cell(self, task: str, protocol: str, shots: int) -> Cell:
        """Returns what the table calls this encoder's accuracies on a task."""
        corpus = "speech+train" if self.corpus == "both" else self.corpus
        labels = ssl_table.labels_of(shots)
        named = (self.method, self.encoder, corpus, f"{self.budget:g}")
        return Cell(task, protocol, labels, *named)

    def spec(self, steps: int, runs: Path) -> str:
        """Returns the config of so many updates."""
        both = self.corpus == "both"
        corpus = str(manifest(self.task, self.fold, runs)) if both else self.corpus
        task = "fsdd" if self.corpus == "speech" else self.task
        return (
            f"{CONFIG}:task={task},method={self.method},encoder={self.encoder},"
            f"fold={self.fold or 1},corpus={corpus},steps={steps},stages=pretrain"
        )


def manifest(task: str, fold: int, runs: Path) -> Path:
    """Writes the list of all speech and of a fold's training clips, once; returns its path."""
    path = runs / f"{task}_fold{fold}.csv"
    if path.is_file():
        return path
    root = Path(config_lib.data_root())
    if task == "fsdd":
        clips = sorted((root / "fsdd" / "recordings").glob("*.wav"))
        speakers = sorted({clip.stem.split("_")[1] for clip in clips})
        train = [clip for clip in clips if clip.stem.split("_")[1] != speakers[fold - 1]]
    elif task == "ravdess":
        with open(root / "ravdess" / "manifest.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["fold"]) != fold]
        train = [root / "ravdess" / row["filename"] for row in rows]
    else:
        raise UserError(f"--corpus both: {task} is no speech")
    speech = sorted((root / "speech").rglob("*.ogg"))
    path.parent.mkdir(parents=True, exist_ok=True)
    jobs.write_whole(path, "\n".join(["filename", *map(str, [*speech, *train])]) + "\n")
    return path


def measure(spec: str, updates: int = 6) -> float:
    """Returns the CPU seconds of one update of a config's first stage, on real batches."""
    import jax

    from sacjax import stages
    from sacjax.train import sharding

    config = config_lib.load(spec)
    mesh = sharding.make_mesh(config.mesh)
    stage = stages.Stage.prepare(config.stages[0], config, mesh, Path("/nonexistent"), {})
    state = stage.trainer.init(*stage.start())
    # Two batches' clips, which are decoded once and then kept, as most updates of a run find them.
    stage.parts["train"] = stage.parts["train"][: 2 * stage.stage.train.batch_size]
    batches = stage.batches()
    for update in range(updates + WARM):
        if update == WARM:
            jax.block_until_ready(state)
            began = time.process_time()
        batch = {key: value for key, value in next(batches).items() if key in COLUMNS_OF_A_BATCH}
        state = stage.trainer.step(state, sharding.put_batch(batch, mesh))
    jax.block_until_ready(state)
    return (time.process_time() - began) / updates


def steps_of(pretraining: Pretraining, runs: Path) -> int:
    """Returns the updates of a budget. Their cost is measured once and kept in `costs.json`."""
    path = runs / "costs.json"
    costs = json.loads(path.read_text()) if path.is_file() else {}
    p = pretraining
    key = f"{p.method}_{p.encoder}_{'speech' if p.corpus != 'train' else p.task}"
    if key not in costs:
        spec = p._replace(corpus="speech" if p.corpus == "both" else p.corpus).spec(100, runs)
        command = [sys.executable, str(Path(__file__).with_name("ssl.py")), "--measure", spec]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{spec} cannot be measured: {done.stderr.strip().splitlines()[-1:]}")
        costs[key] = float(done.stdout.split()[-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        jobs.write_whole(path, json.dumps(costs, indent=1, sort_keys=True) + "\n")
    return max(round(60 * p.budget / costs[key]), 20)


def training(spec: str, workdir: Path, overrides: list[str]) -> list[jobs.Job]:
    """Returns the job of a training, or none where it is finished."""
    if (workdir / "results.json").is_file():
        return []
    command = jobs.training(spec, workdir, overrides)
    return [jobs.Job(spec, command, workdir, workdir.with_name(workdir.name + ".log"))]


def pretraining_job(pretraining: Pretraining, runs: Path) -> list[jobs.Job]:
    """Returns the job that trains an encoder, or none where it is there."""
    workdir = pretraining.workdir(runs)
    if (workdir / "results.json").is_file():
        return []
    return training(pretraining.spec(steps_of(pretraining, runs), runs), workdir, [])


def missing(kept: Found, cell: Cell, folds: Iterable[int], draws: Iterable[int]) -> list[tuple]:
    """Returns each (draw, fold) of which the table keeps no accuracy yet."""
    there = kept.get(cell, {})
    return [(d, f) for d, f in itertools.product(draws, folds) if (f, d) not in there]


def finetuning_jobs(
    task: str,
    pretraining: Pretraining,
    folds: Iterable[int],
    shots: int,
    draws: int,
    runs: Path,
    kept: Found,
) -> list[jobs.Job]:
    """Returns the runs that fine-tune an encoder and have no result yet."""
    found = []
    cell = pretraining.cell(task, "finetune", shots)
    for draw, fold in missing(kept, cell, folds, range(draws)):
        encoder = of_fold(pretraining, fold).workdir(runs)
        workdir = encoder / f"{task}_finetune_{shots}" / f"fold{fold}_draw{draw}"
        spec = labelled("finetune", task, pretraining, fold, shots, draw)
        found += training(spec, workdir, [f"--config.finetune.init_from={encoder}"])
    return found


def scratch_jobs(
    task: str,
    encoder: str,
    folds: Iterable[int],
    shots: int,
    draws: int,
    runs: Path,
    kept: Found,
) -> list[jobs.Job]:
    """Returns the runs that train an encoder on the labels alone and have no result yet."""
    found = []
    nobody = Pretraining(task, "simclr", encoder, "none", 0)
    cell = nobody._replace(method="scratch").cell(task, "finetune", shots)
    for draw, fold in missing(kept, cell, folds, range(draws)):
        workdir = runs / f"{task}_scratch_{encoder}_{shots}" / f"fold{fold}_draw{draw}"
        spec = labelled("scratch", task, nobody, fold, shots, draw)
        found += training(spec, workdir, [])
    return found


def labelled(stage: str, task: str, p: Pretraining, fold: int, shots: int, draw: int) -> str:
    """Returns the config of a stage on so many labels a class."""
    who = f"task={task},method={p.method},encoder={p.encoder}"
    return f"{CONFIG}:{who},fold={fold},shots={shots},draw={draw},stages={stage}"


def of_fold(pretraining: Pretraining, fold: int) -> Pretraining:
    """Returns the pretraining that heard a fold's training part, or speech alone."""
    return pretraining if pretraining.corpus == "speech" else pretraining._replace(fold=fold)


def probing_jobs(
    task: str, pretraining: Pretraining, folds: Iterable[int], draws: int, runs: Path, kept: Found
) -> list[jobs.Job]:
    """Returns the probes of a frozen encoder that have no result yet, the untrained one beside."""
    unprobed = missing(kept, pretraining.cell(task, "knn", ALL), folds, (0,))
    names = {fold: f"{task}_probe_fold{fold}" for _, fold in unprobed}
    paths = {f: of_fold(pretraining, f).workdir(runs) / f"{names[f]}.json" for f in names}
    return [
        _probe(task, pretraining, fold, draws, path, [])
        for fold, path in paths.items()
        if not path.is_file()
    ]


def untrained_jobs(
    task: str,
    pretrainings: Iterable[Pretraining],
    folds: Iterable[int],
    draws: int,
    seeds: int,
    runs: Path,
    kept: Found,
) -> list[jobs.Job]:
    """Returns the probes of untrained encoders by further seeds that have no result yet.

    `sacjax probe --random` draws one untrained network beside a pretrained one, of seed 0 in
    `probing_jobs`. So a pretraining of each kind of encoder is probed again by each further seed,
    which says nothing new of the pretrained one.
    """
    found = []
    kinds = {p.encoder: p for p in reversed(list(pretrainings))}  # the first of each
    for p in kinds.values():
        cell = Pretraining(task, "untrained", p.encoder, "none", 0).cell(task, "knn", ALL)
        for seed, fold in missing(kept, cell, folds, range(1, seeds)):
            name = f"{task}_probe_fold{fold}_seed{seed}.json"
            if not any(runs.glob(f"*/*_{p.encoder}_*min/{name}")):
                path = of_fold(p, fold).workdir(runs) / name
                found.append(_probe(task, p, fold, draws, path, ["--seed", str(seed)]))
    return found


def _probe(
    task: str, p: Pretraining, fold: int, draws: int, path: Path, more: list[str]
) -> jobs.Job:
    """Returns the job that writes a probe."""
    shots = [str(shot) for shot in TASKS[task].shots if shot]
    spec = labelled("finetune", task, p, fold, ALL, 0)
    command = [sys.executable, "-m", "sacjax", "probe", "--checkpoint", str(path.parent)]
    command += ["--config", spec, "--random", "--shots", *shots, "--draws", str(draws)]
    command += ["--pooling", TASKS[task].pooling, "--output", str(path), *more]
    return jobs.Job(f"{path.stem} of {path.parent.name}", command, path, path.with_suffix(".log"))
